//! Two versions of the agent protocol meet during every deploy: what schema 1 looks like on the wire is written down here.
//!
//! A failure means that stored or sent messages changed. Either undo it, or raise the schema and add new files.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by its line")]

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{
    Accept, Answer, AuthorizeDownload, Bind, Binding, Call, Change, ChangeKind, Compare, Comparison, DiskSpace,
    Existing, Halt, Host, InMotion, Live, Missed, Outcome, Partial, PassActivity, PassFailure, PassFailureKind,
    PassReport, PassScope, PointChoice, Points, Progress, PutBack, PutBackActivity, RecoveryPoint, Refusal,
    RefusalKind, Request, Rescue, RescueActivity, Restore, RestoreActivity, RestoreStep, RestoreTarget, Source, Status,
    Sync, Traffic, Urgency, Watcher,
};

const AT: Timestamp = Timestamp::from_millis(1_795_441_530_250);

fn association() -> AssociationId {
    AssociationId::of(GpuId::vast(48_927_380))
}

fn host() -> Host {
    Host {
        address: "203.0.113.7".into(),
        port: 40022,
        user: "root".into(),
    }
}

fn point() -> RecoveryPoint {
    RecoveryPoint {
        id: RecoveryPointId::at(AT),
        taken_at: AT,
        confirmed_at: AT,
        epoch: Epoch::FIRST,
        files: 20_000,
        bytes: Bytes(1 << 30),
        checkpoints: vec![],
    }
}

fn calls() -> Vec<Call> {
    let requests = [
        Request::Prepare,
        Request::Bind(Bind {
            association: association(),
            epoch: Epoch::FIRST,
            source: host(),
            source_path: "/workspace".into(),
            accept: Accept::Nothing,
            max_deleted_percent: 50,
            excludes: vec!["/cache/".into()],
            includes: vec![],
            first: vec![],
            before_pass: String::new(),
            bandwidth_kib_per_s: 20_000,
            gpu: None,
        }),
        Request::Sync(Sync {
            epoch: Epoch::FIRST,
            urgency: Urgency::LastGasp,
            wait_ms: 20_000,
            live: Live::Off,
        }),
        Request::Status,
        Request::RecoveryPoints,
        Request::Restore(Restore {
            epoch: Epoch::FIRST.next(),
            point: PointChoice::Latest,
            target: host(),
            target_path: "/workspace".into(),
            first: vec![],
            wait_ms: 0,
            gpu: None,
        }),
        Request::Rescue(Rescue {
            epoch: Epoch::FIRST,
            loss: AT,
            host: host(),
            module: "C.48927380".into(),
            wait_ms: 20_000,
        }),
        Request::AuthorizeDownload(AuthorizeDownload {
            public_key: "ssh-ed25519 AAAA".into(),
            until: AT,
            point: PointChoice::Id(RecoveryPointId::at(AT)),
        }),
    ];
    requests.map(Call::new).into()
}

fn full_status() -> Status {
    let progress = Progress {
        bytes_done: Bytes(1),
        bytes_total: Bytes(2),
        files_done: 3,
        files_total: 4,
        bytes_per_second: 5,
    };
    Status {
        now: AT,
        binding: Binding::Bound {
            association: association(),
            epoch: Epoch::FIRST,
        },
        pass: PassActivity::Running {
            started_at: AT,
            progress,
        },
        last_complete: Some(PassReport {
            started_at: AT,
            ended_at: AT,
            epoch: Epoch::FIRST,
            files: 20_000,
            bytes: Bytes(1 << 30),
            changed_files: 7,
            deleted_files: 1,
            wire_bytes: Bytes(4096),
            kept_back: vec!["log".into()],
            point: RecoveryPointId::at(AT),
            scope: PassScope::Everything,
            missed: 0,
            command_failed: None,
            in_motion: vec![],
        }),
        last_failure: Some(PassFailure {
            at: AT,
            kind: PassFailureKind::Halted,
            message: "copying is halted".into(),
            in_a_row: 2,
        }),
        halt: Some(Halt {
            at: AT,
            reason: HaltReason::MassDeletion,
            detail: "60 of 100 files are gone".into(),
        }),
        points: Points {
            count: 1,
            latest: Some(point()),
            oldest: Some(RecoveryPointId::at(AT)),
            partial: Bytes(0),
        },
        restore: RestoreActivity::Running {
            epoch: Epoch::FIRST.next(),
            point: RecoveryPointId::at(AT),
            step: RestoreStep::Verifying,
            started_at: AT,
            progress,
            first_there_at: None,
        },
        disk: DiskSpace {
            total: Bytes(100),
            free: Bytes(40),
            exhausted: false,
        },
        watcher: Watcher::Unknown,
        missed: Missed::default(),
        live_until: None,
        put_back: PutBackActivity::Never,
        rescue: RescueActivity::Complete {
            loss: AT,
            point: RecoveryPointId::at(AT),
            at: AT,
            changed_files: 3,
        },
        traffic: Traffic {
            today: Bytes(1000),
            last_30_days: Bytes(30_000),
        },
        source: None,
        restore_target: None,
    }
}

/// The calls that name the GPU, as they are since records can be rebuilt.
fn calls_with_gpu() -> Vec<Call> {
    binds_and_restores(
        |bind| Bind {
            gpu: Some(GpuId::vast(48_927_380)),
            ..bind
        },
        |restore| Restore {
            gpu: Some(GpuId::vast(48_930_001)),
            ..restore
        },
    )
}

/// The calls that bind and that restore, with something that came later.
fn binds_and_restores(bind: impl Fn(Bind) -> Bind, restore: impl Fn(Restore) -> Restore) -> Vec<Call> {
    let changed = |call: Call| match call.request {
        Request::Bind(before) => Some(Request::Bind(bind(before))),
        Request::Restore(before) => Some(Request::Restore(restore(before))),
        Request::Prepare
        | Request::Sync(_)
        | Request::Status
        | Request::RecoveryPoints
        | Request::Compare(_)
        | Request::Rescue(_)
        | Request::PutBack(_)
        | Request::AuthorizeDownload(_) => None,
    };
    calls().into_iter().filter_map(changed).map(Call::new).collect()
}

/// What agents say since records can be rebuilt; one from before says the rest.
fn status_with_source() -> Answer {
    Answer::new(Outcome::Status(Box::new(Status {
        source: Some(Source {
            gpu: Some(GpuId::vast(48_927_380)),
            host: host(),
            path: "/workspace".into(),
            excludes: vec!["*.tmp".into()],
            includes: vec![],
            first: vec![],
            before_pass: String::new(),
            max_deleted_percent: 50,
        }),
        restore_target: Some(RestoreTarget {
            gpu: Some(GpuId::vast(48_930_001)),
            host: host(),
        }),
        ..full_status()
    })))
}

fn answers() -> Vec<Answer> {
    let idle = |restore| {
        Outcome::Status(Box::new(Status {
            pass: PassActivity::Idle,
            last_complete: None,
            last_failure: None,
            halt: None,
            binding: Binding::Unbound,
            restore,
            ..full_status()
        }))
    };
    let progress = Progress::default();
    let rescued = |rescue| {
        Outcome::Status(Box::new(Status {
            rescue,
            ..full_status()
        }))
    };
    let outcomes = [
        Outcome::Prepared {
            public_key: "ssh-ed25519 AAAA".into(),
        },
        Outcome::Status(Box::new(full_status())),
        idle(RestoreActivity::Never),
        idle(RestoreActivity::Verified {
            epoch: Epoch::FIRST.next(),
            point: RecoveryPointId::at(AT),
            started_at: AT,
            ended_at: AT,
            files: 20_000,
            bytes: Bytes(1 << 30),
        }),
        idle(RestoreActivity::Failed {
            epoch: Epoch::FIRST.next(),
            at: AT,
            message: "cannot reach 203.0.113.7".into(),
            not_ready: false,
        }),
        rescued(RescueActivity::Failed {
            loss: AT,
            attempts: 2,
            at: AT,
            message: "cannot reach 203.0.113.7".into(),
        }),
        rescued(RescueActivity::Refused {
            loss: AT,
            at: AT,
            message: "copying is halted".into(),
        }),
        rescued(RescueActivity::Running { loss: AT, progress }),
        Outcome::RecoveryPoints(vec![point()]),
        Outcome::DownloadAuthorized {
            point: point(),
            until: AT,
        },
        Outcome::Refused(Refusal {
            kind: RefusalKind::StaleEpoch,
            message: "epoch 1 is not current".into(),
        }),
    ];
    outcomes.map(Answer::new).into()
}

/// Compares with the file both ways. `WRITE_GOLDEN=1` writes a new schema's file; an existing one is never rewritten.
fn check<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, ours: &T) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = serde_json::to_string_pretty(ours).unwrap() + "\n";
    if std::env::var_os("WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, golden, "what we write is not what {name} says");
    let read: T = serde_json::from_str(&golden).unwrap();
    assert_eq!(&read, ours, "what we read from {name} is not what was written");
}

#[test]
fn comparisons_of_schema_1_are_written_and_read_as_ever() {
    let call = Call::new(Request::Compare(Compare {
        from: RecoveryPointId::at(AT),
        to: PointChoice::Latest,
        at_most: 1000,
    }));
    let answer = Answer::new(Outcome::Compared(Box::new(Comparison {
        from: point(),
        to: point(),
        added: 1,
        changed: 0,
        deleted: 1,
        changes: vec![
            Change {
                path: "line\\nbreak".into(),
                kind: ChangeKind::Added,
                bytes_before: None,
                bytes_after: Some(Bytes(7)),
            },
            Change {
                path: "gone".into(),
                kind: ChangeKind::Deleted,
                bytes_before: Some(Bytes(7)),
                bytes_after: None,
            },
        ],
    })));
    check("agent-compare-1.json", &(call, answer));
}

#[test]
fn downloads_of_a_partial_first_pass_of_schema_1_are_written_and_read_as_ever() {
    let call = Call::new(Request::AuthorizeDownload(AuthorizeDownload {
        public_key: "ssh-ed25519 AAAA".into(),
        until: AT,
        point: PointChoice::Partial,
    }));
    let answer = Answer::new(Outcome::PartialDownloadAuthorized {
        partial: Partial {
            files: 12,
            bytes: Bytes(3456),
        },
        until: AT,
    });
    check("agent-partial-1.json", &(call, answer));
}

#[test]
fn files_in_motion_of_schema_1_are_written_and_read_as_ever() {
    let status = full_status();
    let in_motion = [("runs/latest.pt", Some(RecoveryPointId::at(AT))), ("log", None)];
    let last_complete = status.last_complete.clone().map(|report| PassReport {
        in_motion: in_motion
            .map(|(file, whole_in)| InMotion {
                file: file.into(),
                whole_in,
            })
            .into(),
        ..report
    });
    let status = Status {
        last_complete,
        ..status
    };
    check(
        "agent-in-motion-1.json",
        &Answer::new(Outcome::Status(Box::new(status))),
    );
}

#[test]
fn progress_says_bytes_files_rate_and_the_time_left() {
    let mut progress = Progress {
        bytes_done: Bytes(1 << 20),
        bytes_total: Bytes(3 << 20),
        files_done: 1,
        files_total: 4,
        bytes_per_second: 1 << 20,
    };
    let words = progress.to_string();
    assert!(
        words.contains("1 of 4 files") && words.ends_with(", 2 s left"),
        "{words}"
    );
    progress.bytes_per_second = 0;
    assert!(!progress.to_string().contains("left"));
}

#[test]
fn calls_of_schema_1_are_written_and_read_as_ever() {
    check("agent-calls-1.json", &calls());
}

#[test]
fn answers_of_schema_1_are_written_and_read_as_ever() {
    check("agent-answers-1.json", &answers());
}

/// Fields that came later: what does not say them means their default, and older readers pass over them.
#[test]
fn fields_that_came_with_the_watcher_are_written_and_read_as_ever() {
    let live = Call::new(Request::Sync(Sync {
        epoch: Epoch::FIRST,
        urgency: Urgency::Due,
        wait_ms: 20_000,
        live: Live::On,
    }));
    check("agent-call-live-1.json", &live);
    let watchers = [
        Watcher::Starting,
        Watcher::Watching { directories: 1200 },
        Watcher::Missing {
            reason: "the GPU's host allows too few watches".into(),
        },
    ];
    let scopes = [PassScope::Changes, PassScope::Nothing, PassScope::Everything];
    let answers: Vec<_> = watchers
        .into_iter()
        .zip(scopes)
        .map(|(watcher, scope)| {
            let status = full_status();
            let report = status.last_complete.clone().map(|report| PassReport {
                scope,
                missed: 3,
                ..report
            });
            Answer::new(Outcome::Status(Box::new(Status {
                last_complete: report,
                watcher,
                live_until: Some(AT),
                ..status
            })))
        })
        .collect();
    check("agent-answers-watch-1.json", &answers);
}

#[test]
fn what_the_watcher_missed_is_counted_from_some_version_on() {
    let answer = Answer::new(Outcome::Status(Box::new(Status {
        missed: Missed {
            changes: 4,
            last_at: Some(AT),
        },
        ..full_status()
    })));
    check("agent-answer-missed-1.json", &answer);
}

#[test]
fn the_source_is_told_to_whoever_lost_the_record() {
    check("agent-answer-source-1.json", &status_with_source());
    check("agent-calls-gpu-1.json", &calls_with_gpu());
}

#[test]
fn fields_that_came_with_checkpoints_are_written_and_read_as_ever() {
    let calls = binds_and_restores(
        |bind| Bind {
            includes: vec!["/keep.tmp".into()],
            before_pass: "./dump.sh".into(),
            ..bind
        },
        |restore| Restore {
            point: PointChoice::Checkpoint("epoch-12".parse().unwrap()),
            ..restore
        },
    );
    let status = full_status();
    let named = RecoveryPoint {
        checkpoints: vec!["epoch-12".parse().unwrap()],
        ..point()
    };
    let report = status.last_complete.clone().map(|report| PassReport {
        command_failed: Some("exit code 7".into()),
        ..report
    });
    let source = Source {
        gpu: None,
        host: host(),
        path: "/workspace".into(),
        excludes: vec!["*.tmp".into()],
        includes: vec!["/keep.tmp".into()],
        first: vec![],
        before_pass: "./dump.sh".into(),
        max_deleted_percent: 50,
    };
    let answers = [
        Answer::new(Outcome::Status(Box::new(Status {
            last_complete: report,
            source: Some(source),
            ..status
        }))),
        Answer::new(Outcome::RecoveryPoints(vec![named])),
    ];
    check("agent-checkpoints-1.json", &(calls, answers));
}

#[test]
fn paths_that_travel_first_or_are_put_back_are_written_and_read_as_ever() {
    let first = || ["src", "runs/best.pt"].map(|path| path.parse().unwrap()).into();
    let mut calls = binds_and_restores(
        |bind| Bind { first: first(), ..bind },
        |restore| Restore {
            first: first(),
            ..restore
        },
    );
    let put_back = |point, existing| {
        Call::new(Request::PutBack(PutBack {
            epoch: Epoch::FIRST,
            path: "runs/best.pt".parse().unwrap(),
            point,
            existing,
            wait_ms: 5000,
        }))
    };
    calls.push(put_back(None, Existing::Keep));
    calls.push(put_back(Some(PointChoice::Latest), Existing::Replace));
    let point = RecoveryPointId::at(AT);
    let progress = Progress::default();
    let path = || "runs/best.pt".parse().unwrap();
    let restoring = Status {
        restore: RestoreActivity::Running {
            epoch: Epoch::FIRST.next(),
            point: point.clone(),
            step: RestoreStep::Copying,
            started_at: AT,
            progress,
            first_there_at: Some(AT),
        },
        ..full_status()
    };
    let jobs = [
        PutBackActivity::Running {
            path: path(),
            point: point.clone(),
            step: RestoreStep::Verifying,
            progress,
        },
        PutBackActivity::Verified {
            path: path(),
            point,
            ended_at: AT,
            files: 3,
            bytes: Bytes(1000),
            put: 2,
            kept: 1,
            replaced: Some(".warmspare/replaced/x".into()),
        },
        PutBackActivity::Failed {
            path: path(),
            at: AT,
            message: "the disk is full".into(),
        },
    ];
    let statuses = jobs.map(|put_back| Status {
        put_back,
        ..full_status()
    });
    let answers: Vec<Answer> = [restoring]
        .into_iter()
        .chain(statuses)
        .map(|status| Answer::new(Outcome::Status(Box::new(status))))
        .collect();
    check("agent-put-back-1.json", &(calls, answers));
}
