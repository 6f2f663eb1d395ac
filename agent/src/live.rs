//! Live mode: between two calls the worker goes on by itself while something changes, under a lease that every call renews.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{Live, PassReport, Sync};

use crate::bell::Bell;
use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::marker::{Content, Marker, MarkerFound, Tree};
use crate::observer::{Observer, Told};
use crate::process::SELF;
use crate::recovery_points::{self, Sharing, tree_of};
use crate::watch::protocol::{Changes, Question};
use crate::watching::{self, Watching};

/// Without a call for this long the control plane is gone, or has other plans for this GPU.
pub const LEASE: Duration = Duration::from_secs(120);

/// The lag that is aimed at: the 6 s that are promised, less what a pass may take longer than the one before.
const LAG: Duration = Duration::from_secs(5);

/// Passes that take longer than that allows still leave so much from the start of one to the start of the next.
const LEAST: Duration = Duration::from_secs(4);

/// How soon the end of a lease or a newer agent is noticed. Requests, binds and halts ring the bell.
const LOOK_AROUND: Duration = Duration::from_secs(2);

/// `live.json`: until when the agent goes on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    until: Timestamp,
}

/// `confirmed.json`: the newest recovery point still stands, as of an instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    point: RecoveryPointId,
    at: Timestamp,
}

/// Why waiting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something changed, and a pass that costs what changed can fetch it.
    ByChange,
    /// A call asks for a pass, or the lease ended, or there is nobody to wait for any more.
    ToStop,
}

/// Renews the lease, or ends it.
///
/// # Errors
/// When the disk is full or fails.
pub fn renew(dir: &DataDir, sync: &Sync) -> Result<(), AgentError> {
    match sync.live {
        Live::On => {
            let until = clock::now() + LEASE;
            dir.write_json(&dir.file("live.json"), &Lease { until }, Durability::Kill)
        }
        Live::Off => {
            let _ = fs::remove_file(dir.file("live.json"));
            Ok(())
        }
    }
}

/// Until when the agent may go on by itself.
#[must_use]
pub fn leased_until(dir: &DataDir) -> Option<Timestamp> {
    let lease = dir.read_passing_json::<Lease>(&dir.file("live.json"))?;
    let now = clock::now();
    // A clock that was set back must not make a lease last.
    (now < lease.until && lease.until.since(now) <= LEASE).then_some(lease.until)
}

/// Until when passes come without being asked for, as the world is told: only where they cost what changed.
///
/// # Errors
/// When one of the agent's files cannot be read.
pub fn live_until(dir: &DataDir) -> Result<Option<Timestamp>, AgentError> {
    match leased_until(dir) {
        Some(until) => Ok(Goal::find(dir)?.map(|_| until)),
        None => Ok(None),
    }
}

/// The last complete pass, with what live mode confirmed since.
#[must_use]
pub fn with_confirmation(dir: &DataDir, report: PassReport) -> PassReport {
    match dir.read_passing_json::<Confirmed>(&dir.file("confirmed.json")) {
        Some(confirmed) if confirmed.point == report.point && confirmed.at > report.started_at => PassReport {
            started_at: confirmed.at,
            ended_at: report.ended_at.max(confirmed.at),
            ..report
        },
        Some(_) | None => report,
    }
}

/// Waits for the next change, after a pass that started at `started` and has just ended.
///
/// # Errors
/// When one of the agent's files cannot be read.
pub fn wait(dir: &DataDir, bell: &Bell, watching: &mut Watching, started: Instant) -> Result<Woken, AgentError> {
    let Some(goal) = Goal::find(dir)? else {
        return Ok(Woken::ToStop);
    };
    // What a pass brings is as old as its start, and the next one will take about as long.
    let every = LAG.saturating_sub(started.elapsed()).max(LEAST);
    let rest = || every.saturating_sub(started.elapsed());
    let mut asked: Option<Asked> = None;
    let mut changed = false;
    loop {
        bell.silence();
        if goal.is_asked_for(dir)? || !goal.stands(dir)? {
            return Ok(Woken::ToStop);
        }
        if changed {
            if rest().is_zero() {
                return Ok(Woken::ByChange);
            }
            bell.wait(LOOK_AROUND.min(rest()));
            continue;
        }
        let Some(observer) = watching.observer() else {
            return Ok(Woken::ToStop);
        };
        let until = *asked.get_or_insert_with(|| {
            let wait = if rest().is_zero() { every } else { rest() };
            goal.ask(observer, wait)
        });
        match observer.hear(bell.patience(LOOK_AROUND), Some(bell)) {
            Ok(None) if Instant::now() <= until.here + PATIENCE => {}
            Ok(Some(told)) => match goal.meaning(&told) {
                // The watcher looked after its whole wait, so nothing had changed by then. One that answers sooner is none of ours.
                Meaning::Quiet if Instant::now() >= until.here => {
                    goal.confirm(dir, until.clock)?;
                    asked = None;
                }
                Meaning::Quiet | Meaning::Unclear => return Ok(Woken::ToStop),
                Meaning::Change => changed = true,
            },
            // The GPU may be gone; a pass finds out, and says so.
            Ok(None) | Err(_) => {
                watching.hang_up();
                changed = true;
            }
        }
    }
}

/// The earliest end of the wait that a watcher was asked for: as the clock says, and as time passes here.
#[derive(Debug, Clone, Copy)]
struct Asked {
    clock: Timestamp,
    here: Instant,
}

enum Meaning {
    Quiet,
    Change,
    /// A full scan is needed. It is left to the next call: it may cost more than live mode may.
    Unclear,
}

/// Beyond the wait that was asked for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What live mode goes on from; when it no longer stands, live mode ends.
struct Goal {
    seen: watching::Seen,
    marker: Marker,
    /// Every request up to this number was served.
    finished: u64,
}

impl Goal {
    fn find(dir: &DataDir) -> Result<Option<Self>, AgentError> {
        let (Some(binding), Some(base)) = (dir.binding()?, recovery_points::list(dir)?.pop()) else {
            return Ok(None);
        };
        // The command would run every few seconds, and what it writes would wake us again.
        if !binding.bind.before_pass.is_empty() {
            return Ok(None);
        }
        // With hard links a pass costs what exists; every few seconds that is too much.
        if Sharing::choose(dir, Some(&tree_of(dir, &base.point.id))) == Sharing::HardLinks {
            return Ok(None);
        }
        let seen = watching::trusted(&dir.watch_file(), &binding, Some(&base)).cloned();
        let finished = dir.state()?.finished;
        Ok(seen.map(|seen| Self {
            seen,
            marker: binding.marker(),
            finished,
        }))
    }

    fn is_asked_for(&self, dir: &DataDir) -> Result<bool, AgentError> {
        Ok(dir.requests()?.last > self.finished)
    }

    fn stands(&self, dir: &DataDir) -> Result<bool, AgentError> {
        let halted = dir.state()?.halt.is_some();
        let bound = dir
            .binding()?
            .is_some_and(|binding| binding.revision == self.seen.revision);
        // The data is on its way elsewhere, and the old GPU is never read again.
        let moving = dir.restore_file()?.is_some_and(|job| job.epoch > self.marker.epoch);
        // A newer agent was put in our place: it takes over with the next call.
        let replaced = fs::metadata(SELF).is_ok_and(|found| found.nlink() == 0);
        Ok(bound && !moving && !replaced && !halted && leased_until(dir).is_some())
    }

    /// Asks the watcher to wait for a change.
    fn ask(&self, observer: &mut Observer, wait: Duration) -> Asked {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let wait = Duration::from_millis(wait_ms);
        let asked = Asked {
            clock: clock::now() + wait,
            here: Instant::now() + wait,
        };
        observer.ask(&Question {
            since: Some(self.seen.cursor.clone()),
            wait_ms,
            ..Question::default()
        });
        asked
    }

    fn meaning(&self, told: &Told) -> Meaning {
        // Whatever else the tree is, a pass judges it, and says so.
        let ours = matches!(
            told.reply.tree,
            Tree::Directory { content: Content::Some, marker: MarkerFound::Is(marker), .. } if marker == self.marker
        );
        let quiet = told.paths.is_empty() && told.reply.checkpoints.is_empty();
        match (&told.reply.changes, quiet) {
            (Changes::Complete, true) if ours => Meaning::Quiet,
            (Changes::Complete, _) => Meaning::Change,
            (Changes::HardLinks | Changes::NoCursor | Changes::TooMany | Changes::Starting | Changes::Blind(_), _) => {
                Meaning::Unclear
            }
        }
    }

    fn confirm(&self, dir: &DataDir, at: Timestamp) -> Result<(), AgentError> {
        let confirmed = Confirmed {
            point: self.seen.point.clone(),
            at: at.min(clock::now()),
        };
        dir.write_json(&dir.file("confirmed.json"), &confirmed, Durability::Kill)
    }
}
