//! What the standby knows of the watcher on its GPU: where they left off, and whether a pass may rely on it.
//!
//! # Guarantees
//! A cursor is stored only after the recovery point that it belongs to is durable, and only a question that acknowledges it lets
//! the watcher forget. So whatever dies in between, the next pass hears of the same changes again.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{Missed, PassReport, Urgency, Watcher};

use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::observer::{Failed, Observer, Told, patience};
use crate::process;
use crate::ssh::Machine;
use crate::state::{BindingFile, PointFile, SCHEMA};
use crate::watch::protocol::{Changes, Cursor, Have, Question};

/// The safety net: what inotify cannot see is at most this old.
pub const FULL_EVERY: Duration = Duration::from_secs(15 * 60);

/// A GPU that has no watcher is asked again after this long.
const TRY_AGAIN: Duration = Duration::from_secs(5 * 60);

/// How long a pass waits for a watcher that is still listing the tree.
const PATIENCE_MS: u64 = 10_000;

/// `watch.json`: where standby and watcher left off.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the newest recovery point has seen of the watcher's changes.
    pub seen: Option<Seen>,
    /// How the watcher was found.
    pub watcher: Watcher,
    /// When to look for one again, and for which bind that holds.
    pub try_again: Option<(Timestamp, u64)>,
    /// What full scans found that no watcher had told of.
    pub missed: Missed,
}

/// See [`WatchFile::seen`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Up to here the recovery point has everything.
    pub cursor: Cursor,
    /// The recovery point.
    pub point: RecoveryPointId,
    /// The bind that it holds for: another source, or other excludes, and it counts no more.
    pub revision: u64,
    /// When the last full scan of this watcher's life began.
    pub full_at: Timestamp,
}

/// What a pass is to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Every file.
    Everything,
    /// What the watcher told.
    Changes,
    /// Nothing: nothing changed.
    Nothing,
}

/// The session with the watcher, kept for as long as a worker lives.
#[derive(Debug, Default)]
pub struct Watching {
    observer: Option<(u64, Observer)>,
}

impl DataDir {
    /// Where standby and watcher left off.
    #[must_use]
    pub fn watch_file(&self) -> WatchFile {
        // One that cannot be read costs a full scan and nothing else.
        self.read_passing_json(&self.file("watch.json")).unwrap_or_default()
    }

    /// Notes it. Lost in a power failure it costs a full scan; it must not be there before its recovery point, and it is not.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn save_watch_file(&self, file: &WatchFile) -> Result<(), AgentError> {
        self.write_json(&self.file("watch.json"), file, Durability::Kill)
    }
}

impl Watching {
    /// Asks what changed since the newest recovery point. `None` when nobody can tell.
    ///
    /// # Errors
    /// When the GPU cannot be reached.
    pub fn ask(
        &mut self,
        dir: &DataDir,
        machine: &Machine,
        binding: &BindingFile,
        base: Option<&PointFile>,
        urgency: Urgency,
    ) -> Result<Option<Told>, AgentError> {
        let file = dir.watch_file();
        if let Some((at, revision)) = file.try_again
            && revision == binding.revision
            && clock::now() < at
        {
            return Ok(None);
        }
        let question = Question {
            since: trusted(&file, binding, base).map(|seen| seen.cursor.clone()),
            patience_ms: if urgency == Urgency::Due { PATIENCE_MS } else { 0 },
            ..Question::default()
        };
        match self.put(dir, machine, binding, &question, urgency) {
            Ok(told) => {
                note(dir, binding, describe(&told))?;
                Ok(Some(told))
            }
            Err(Failed::Broken(error)) => {
                self.observer = None;
                Err(error)
            }
            Err(Failed::Missing(reason)) => {
                self.observer = None;
                process::log(&format!("no watcher: {reason}"));
                if urgency == Urgency::Due {
                    note(dir, binding, Watcher::Missing { reason })?;
                }
                Ok(None)
            }
        }
    }

    /// Puts one question over the session at hand, or over a fresh one when the watcher has gone meanwhile.
    fn put(
        &mut self,
        dir: &DataDir,
        machine: &Machine,
        binding: &BindingFile,
        question: &Question,
        urgency: Urgency,
    ) -> Result<Told, Failed> {
        if let Some((revision, mut observer)) = self.observer.take()
            && revision == binding.revision
        {
            match observer.query(patience(urgency), question) {
                Ok(told) => {
                    self.observer = Some((revision, observer));
                    return Ok(told);
                }
                Err(Failed::Missing(_)) => {}
                Err(broken @ Failed::Broken(_)) => return Err(broken),
            }
        }
        let mut observer = Observer::attach(dir, machine, &binding.bind.source_path, urgency)?;
        let told = observer.query(patience(urgency), question)?;
        self.observer = Some((binding.revision, observer));
        Ok(told)
    }

    /// Asks again over the session at hand: how the tree looks now, and what changed since a cursor, which acknowledges nothing.
    #[must_use]
    pub fn again(&mut self, peek: Option<Cursor>) -> Option<Result<Told, Failed>> {
        self.ask_again(patience(Urgency::Due), peek, Vec::new())
    }

    /// As [`Self::again`]. What is there beyond `have` is handed over before that.
    #[must_use]
    pub fn hand_over(
        &mut self,
        peek: Option<Cursor>,
        have: Vec<Have>,
        urgency: Urgency,
    ) -> Option<Result<Told, Failed>> {
        self.ask_again(patience(urgency), peek, have)
    }

    fn ask_again(&mut self, patience: Duration, peek: Option<Cursor>, have: Vec<Have>) -> Option<Result<Told, Failed>> {
        let (_, observer) = self.observer.as_mut()?;
        let question = Question {
            peek,
            hand: have,
            ..Question::default()
        };
        let told = observer.query(patience, &question);
        if told.is_err() {
            self.observer = None;
        }
        Some(told)
    }

    /// What was asked and answered since the last pass, on the wire, as far as the session at hand knows.
    pub fn take_wire_bytes(&mut self) -> Bytes {
        Bytes(self.observer().map_or(0, Observer::take_wire_bytes))
    }

    /// The session at hand, for whoever waits for the next change.
    pub fn observer(&mut self) -> Option<&mut Observer> {
        self.observer.as_mut().map(|(_, observer)| observer)
    }

    /// Ends the session. The watcher stays.
    pub fn hang_up(&mut self) {
        self.observer = None;
    }
}

/// Decides what a pass looks at.
#[must_use]
pub fn plan(seen: Option<&Seen>, told: Option<&Told>, urgency: Urgency) -> Plan {
    let (Some(told), Some(seen)) = (told, seen) else {
        return Plan::Everything;
    };
    let knows = told.reply.changes == Changes::Complete && told.reply.cursor.is_some();
    if !knows || (urgency == Urgency::Due && is_full_due(seen)) {
        return Plan::Everything;
    }
    if told.paths.is_empty() {
        Plan::Nothing
    } else {
        Plan::Changes
    }
}

/// Whether the safety net is due; also after the clock was set back.
#[must_use]
pub fn is_full_due(seen: &Seen) -> bool {
    let now = clock::now();
    now < seen.full_at || now.since(seen.full_at) >= FULL_EVERY
}

/// The cursor, if it may be relied on: of this bind, and no newer than the newest recovery point.
#[must_use]
pub fn trusted<'a>(file: &'a WatchFile, binding: &BindingFile, base: Option<&PointFile>) -> Option<&'a Seen> {
    file.seen
        .as_ref()
        .filter(|seen| seen.revision == binding.revision && base.is_some_and(|base| base.point.id >= seen.point))
}

/// Notes how far a complete pass went. The recovery point is durable.
///
/// # Errors
/// When the disk is full or fails.
pub fn remember(dir: &DataDir, seen: Option<Seen>) -> Result<(), AgentError> {
    let mut file = dir.watch_file();
    file.schema = SCHEMA;
    file.seen = seen;
    dir.save_watch_file(&file)
}

/// Adds what a full scan found that the watcher had not told of.
///
/// # Errors
/// When the disk is full or fails.
pub fn count_missed(dir: &DataDir, report: &PassReport) -> Result<(), AgentError> {
    if report.missed == 0 {
        return Ok(());
    }
    let mut file = dir.watch_file();
    file.missed.changes += report.missed;
    file.missed.last_at = Some(report.started_at);
    dir.save_watch_file(&file)
}

fn note(dir: &DataDir, binding: &BindingFile, watcher: Watcher) -> Result<(), AgentError> {
    let mut file = dir.watch_file();
    let try_again = match &watcher {
        Watcher::Missing { .. } => Some((clock::now() + TRY_AGAIN, binding.revision)),
        Watcher::Unknown | Watcher::Starting | Watcher::Watching { .. } => None,
    };
    if file.watcher == watcher && file.try_again == try_again {
        return Ok(());
    }
    file.schema = SCHEMA;
    file.watcher = watcher;
    file.try_again = try_again;
    dir.save_watch_file(&file)
}

fn describe(told: &Told) -> Watcher {
    match &told.reply.changes {
        Changes::Starting => Watcher::Starting,
        Changes::Blind(reason) => Watcher::Missing { reason: reason.clone() },
        Changes::Complete | Changes::HardLinks | Changes::NoCursor | Changes::TooMany => Watcher::Watching {
            directories: told.reply.directories,
        },
    }
}
