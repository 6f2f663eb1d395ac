//! The same verbs for people.

use std::path::{Path, PathBuf};
use std::time::Duration;

use warmspare_domain::ids::{CheckpointName, Epoch};
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{
    Answer, Binding, Host, Outcome, PassActivity, PassScope, PointChoice, PutBackActivity, RecoveryPoint,
    RecoveryPoint as Point, RefusalKind, Request, RestoreActivity, Status,
};

use crate::call;
use crate::checkpoint::{self, Answered};
use crate::data_dir::DataDir;
use crate::error::{AgentError, with_causes};
use crate::verify;

/// Whether to print for people or for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Sentences.
    Words,
    /// One answer as JSON.
    Json,
}

/// Exit codes: done, failed, not yet, halted. Wrong arguments are clap's 2.
const DONE: u8 = 0;
const FAILED: u8 = 1;
const NOT_YET: u8 = 4;
const HALTED: u8 = 3;

/// Does a request and prints its answer; answers the exit code.
#[must_use]
pub fn show(data: &Path, request: &Request, format: Format) -> u8 {
    let answer = call::answer(data, request);
    match format {
        Format::Json => println!("{}", json(&answer)),
        Format::Words => print(&answer.outcome),
    }
    exit_code(request, &answer.outcome)
}

/// Compares a recovery point with a host and prints what differs; answers the exit code.
#[must_use]
pub fn verify(data: &Path, choice: &PointChoice, host: Option<&Host>, path: Option<&str>, format: Format) -> u8 {
    let outcome = DataDir::open(data).and_then(|dir| verify::verify(&dir, choice, host, path));
    match (outcome, format) {
        (Ok((point, found)), Format::Json) => {
            let answer = serde_json::json!({
                "schema": 1, "point": point.point, "differences": found.count, "examples": found.examples,
            });
            println!("{answer}");
            if found.count == 0 { DONE } else { FAILED }
        }
        (Ok((point, found)), Format::Words) if found.count == 0 => {
            let RecoveryPoint { id, files, bytes, .. } = point.point;
            println!("equal: all {files} files ({bytes}) of recovery point {id} were read on both sides");
            DONE
        }
        (Ok((point, found)), Format::Words) => {
            println!(
                "{} entries of recovery point {} are missing or differ there, for example {}",
                found.count, point.point.id, found.examples
            );
            FAILED
        }
        (Err(error), Format::Json) => {
            println!("{}", json(&Answer::new(Outcome::Refused(error.refusal()))));
            refused(&error)
        }
        (Err(error), Format::Words) => {
            eprintln!("{}", error.message());
            refused(&error)
        }
    }
}

/// Asks for a checkpoint, on the GPU, and prints what became of it; answers the exit code.
#[must_use]
pub fn checkpoint(tree: Option<&Path>, name: &CheckpointName, paths: &[PathBuf], wait: Option<Duration>) -> u8 {
    let asked = match checkpoint::ask(tree, name.clone(), paths) {
        Ok(asked) => asked,
        Err(error) => {
            eprintln!("{}", with_causes(&error));
            return FAILED;
        }
    };
    let Some(wait) = wait else {
        println!("checkpoint {name} is asked for; the next pass takes it unless it is changed before");
        return DONE;
    };
    match asked.wait(wait) {
        Answered::Kept(point) => {
            println!("checkpoint {name} is in recovery point {point}");
            DONE
        }
        Answered::Missed(reason) => {
            eprintln!("checkpoint {name} is in no recovery point: {reason}");
            FAILED
        }
        Answered::NotYet => {
            eprintln!(
                "checkpoint {name} was not taken within {} s; it stays asked for. Look at the standby with: warmspare list",
                wait.as_secs()
            );
            NOT_YET
        }
    }
}

/// The epoch bound, for people who leave it out.
#[must_use]
pub fn bound_epoch(data: &Path) -> Epoch {
    let binding = DataDir::open(data).and_then(|dir| dir.binding());
    binding.ok().flatten().map_or(Epoch::FIRST, |binding| binding.epoch())
}

fn refused(error: &AgentError) -> u8 {
    match error.refusal().kind {
        RefusalKind::Halted => HALTED,
        RefusalKind::ForeignAssociation
        | RefusalKind::StaleEpoch
        | RefusalKind::NotBound
        | RefusalKind::NoRecoveryPoint
        | RefusalKind::BadRequest
        | RefusalKind::Unreachable
        | RefusalKind::KeyRefused
        | RefusalKind::ProgramMissing
        | RefusalKind::DiskFull
        | RefusalKind::Failed => FAILED,
    }
}

fn exit_code(request: &Request, outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Refused(refusal) if refusal.kind == RefusalKind::Halted => HALTED,
        Outcome::Refused(_) => FAILED,
        Outcome::Status(status) if matches!(request, Request::Sync(_)) => match (&status.halt, &status.last_failure) {
            (Some(_), _) => HALTED,
            (None, Some(_)) => FAILED,
            (None, None) => DONE,
        },
        Outcome::Status(status) if matches!(request, Request::PutBack(_)) => match status.put_back {
            PutBackActivity::Failed { .. } | PutBackActivity::Verified { kept: 1.., .. } => FAILED,
            PutBackActivity::Never | PutBackActivity::Running { .. } | PutBackActivity::Verified { .. } => DONE,
        },
        Outcome::Status(status) if matches!(request, Request::Restore(_)) => match status.restore {
            RestoreActivity::Failed { .. } => FAILED,
            RestoreActivity::Never | RestoreActivity::Running { .. } | RestoreActivity::Verified { .. } => DONE,
        },
        Outcome::Prepared { .. }
        | Outcome::Status(_)
        | Outcome::RecoveryPoints(_)
        | Outcome::Compared(_)
        | Outcome::DownloadAuthorized { .. }
        | Outcome::PartialDownloadAuthorized { .. } => DONE,
    }
}

fn json(answer: &Answer) -> String {
    serde_json::to_string(answer).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

fn print(outcome: &Outcome) {
    match outcome {
        Outcome::Prepared { public_key } => println!("{public_key}"),
        Outcome::Status(status) => print_status(status),
        Outcome::RecoveryPoints(points) => points.iter().for_each(print_point),
        Outcome::Compared(comparison) => print!("{comparison}"),
        Outcome::DownloadAuthorized { point, until } => {
            println!("recovery point {} may be read until {until}", point.id)
        }
        Outcome::PartialDownloadAuthorized { partial, until } => println!(
            "{} files, {} of an unfinished first pass may be read until {until}",
            partial.files, partial.bytes
        ),
        Outcome::Refused(refusal) => eprintln!("{}", refusal.message),
    }
}

fn print_point(point: &Point) {
    let names: String = point.checkpoints.iter().map(|name| format!("  {name}")).collect();
    println!(
        "{}  epoch {}  {} files  {}  unchanged until {}{names}",
        point.id, point.epoch, point.files, point.bytes, point.confirmed_at
    );
}

fn print_status(status: &Status) {
    match &status.binding {
        Binding::Unbound => println!("not bound to a GPU yet"),
        Binding::Bound { association, epoch } => println!("serves {association}, epoch {epoch}"),
    }
    if let Some(halt) = &status.halt {
        println!("HALTED since {}: {} ({})", halt.at, halt.reason, halt.detail);
    }
    match &status.last_complete {
        None => println!(
            "no complete pass yet; {} of an unfinished first one",
            status.points.partial
        ),
        Some(report) => println!(
            "lag {}: {} files, {}; the last pass looked at {}, changed {} and deleted {}",
            seconds(status.now, report.started_at),
            report.files,
            report.bytes,
            scope(report.scope),
            report.changed_files,
            report.deleted_files
        ),
    }
    print_remarks(status);
    print_watcher(status);
    if let PassActivity::Running { started_at, progress } = &status.pass {
        println!("pass under way for {}: {}", seconds(status.now, *started_at), progress);
    }
    if let Some(failure) = &status.last_failure {
        println!(
            "{} failed in a row, last {}: {}",
            failure.in_a_row, failure.at, failure.message
        );
    }
    println!("{} recovery points", status.points.count);
    print_restore(status);
    if status.put_back != PutBackActivity::Never {
        println!("put back: {}", status.put_back);
    }
    println!("disk: {} free of {}", status.disk.free, status.disk.total);
}

fn print_remarks(status: &Status) {
    let Some(report) = &status.last_complete else { return };
    for name in report.kept_back.iter().take(10) {
        println!("keeps its last good version: {name}");
    }
    for torn in report.in_motion.iter().take(10) {
        println!("{torn}");
    }
    if let Some(reason) = &report.command_failed {
        println!(
            "the command before the pass failed, the pass went on: {}",
            reason.escape_debug()
        );
    }
}

fn scope(scope: PassScope) -> &'static str {
    match scope {
        PassScope::Everything => "everything",
        PassScope::Changes => "what the watcher told",
        PassScope::Nothing => "nothing, for the watcher told of no change",
    }
}

fn print_watcher(status: &Status) {
    println!("watcher: {}", status.watcher);
    if let Some(report) = status.last_complete.as_ref().filter(|report| report.missed > 0) {
        println!(
            "the last full scan found {} changes that the watcher had missed",
            report.missed
        );
    }
    if let Some(until) = status.live_until {
        println!("live: goes on by itself until {until}");
    }
}

fn print_restore(status: &Status) {
    match &status.restore {
        RestoreActivity::Never => {}
        RestoreActivity::Running {
            point, step, progress, ..
        } => {
            println!("restore of {point}: {step}, {progress}");
        }
        RestoreActivity::Verified {
            point,
            files,
            bytes,
            ended_at,
            ..
        } => {
            println!("restore of {point}: {files} files ({bytes}) verified at {ended_at}");
        }
        RestoreActivity::Failed { at, message, .. } => println!("restore failed at {at}: {message}"),
    }
}

fn seconds(now: Timestamp, then: Timestamp) -> String {
    format!("{} s", now.since(then).as_secs())
}
