//! One call in, one answer out.

use std::io::Read;
use std::path::Path;

use warmspare_wire::agent::{Answer, Call, Outcome, Request, SCHEMA};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::status::{recovery_points, status};
use crate::{bind, compare, download, identity, process, put_back, rescue, restore, space, sync};

/// No call is longer: what is, is not one of ours.
const LONGEST: u64 = 1 << 20;

/// Reads a call and answers it. What cannot be understood is answered too, as a refusal.
#[must_use]
pub fn answer_from(data: &Path, input: impl Read) -> Answer {
    let mut bytes = Vec::new();
    let call = input
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(|error| AgentError::io("read the call", error))
        .and_then(|_| read(&bytes));
    match call {
        Ok(call) => answer(data, &call.request),
        Err(error) => refuse(&error),
    }
}

/// Does what a request asks.
#[must_use]
pub fn answer(data: &Path, request: &Request) -> Answer {
    let outcome = DataDir::open(data).and_then(|dir| {
        if let Err(error) = download::remove_expired(&dir) {
            // The next call tries again; a permission that is over is refused by itself.
            process::log(&error.message());
        }
        match perform(&dir, request) {
            // What would help, a larger disk or another wish, must not fail for want of a few bytes.
            Err(AgentError::DiskFull) => {
                space::leave_words(&dir);
                perform(&dir, request)
            }
            outcome => outcome,
        }
    });
    match outcome {
        Ok(outcome) => Answer::new(outcome),
        Err(error) => refuse(&error),
    }
}

fn perform(dir: &DataDir, request: &Request) -> Result<Outcome, AgentError> {
    match request {
        Request::Prepare => Ok(Outcome::Prepared {
            public_key: identity::identity(dir)?,
        }),
        Request::Bind(request) => bind::bind(dir, request).and_then(|()| report(dir)),
        Request::Sync(request) => sync::request(dir, request).and_then(|()| report(dir)),
        Request::Status => report(dir),
        Request::RecoveryPoints => Ok(Outcome::RecoveryPoints(recovery_points(dir)?)),
        Request::Compare(request) => Ok(Outcome::Compared(Box::new(compare::compare(dir, request)?))),
        Request::Rescue(request) => rescue::request(dir, request).and_then(|()| report(dir)),
        Request::Restore(request) => restore::request(dir, request).and_then(|()| report(dir)),
        Request::PutBack(request) => put_back::request(dir, request).and_then(|()| report(dir)),
        Request::AuthorizeDownload(request) => download::authorize(dir, request),
    }
}

fn report(dir: &DataDir) -> Result<Outcome, AgentError> {
    Ok(Outcome::Status(Box::new(status(dir)?)))
}

fn read(bytes: &[u8]) -> Result<Call, AgentError> {
    #[derive(serde::Deserialize)]
    struct Version {
        schema: u32,
    }
    let wrong = |error: serde_json::Error| AgentError::BadRequest(format!("it is not a call: {error}"));
    // The version first: a newer caller may use verbs that this agent cannot even parse.
    let Version { schema } = serde_json::from_slice(bytes).map_err(wrong)?;
    if schema > SCHEMA {
        return Err(AgentError::BadRequest(format!(
            "it has schema {schema}, this agent knows {SCHEMA}; push the newer agent first"
        )));
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

fn refuse(error: &AgentError) -> Answer {
    Answer::new(Outcome::Refused(error.refusal()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmspare_wire::agent::RefusalKind;

    #[test]
    fn what_is_not_a_call_is_refused_by_name() {
        let place = tempfile::tempdir().unwrap();
        let newer = r#"{"schema":99,"request":{"verb":"teleport"}}"#;
        for text in [
            "",
            "{",
            "[]",
            "null",
            r#"{"schema":1}"#,
            r#"{"schema":1,"request":{"verb":"rm"}}"#,
            newer,
        ] {
            let answer = answer_from(place.path(), text.as_bytes());
            let Outcome::Refused(refusal) = answer.outcome else {
                panic!("{text:?} was answered with {:?}", answer.outcome);
            };
            assert_eq!(refusal.kind, RefusalKind::BadRequest, "{text:?}");
        }
    }

    #[test]
    fn a_fresh_standby_reports_that_it_holds_nothing() {
        let place = tempfile::tempdir().unwrap();
        let answer = answer_from(
            &place.path().join("new"),
            br#"{"schema":1,"request":{"verb":"status"}}"#.as_slice(),
        );
        let Outcome::Status(status) = answer.outcome else {
            panic!("{:?}", answer.outcome);
        };
        assert_eq!(status.points.count, 0);
        assert!(status.disk.total.0 > 0);
    }
}
