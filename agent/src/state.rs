//! What the agent remembers between processes.

use serde::{Deserialize, Serialize};
use warmspare_domain::ids::{AssociationId, CheckpointName, Epoch, GpuId, PathBelow, RecoveryPointId};
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::{
    Bind, Halt, Host, PassFailure, PassReport, Progress, PutBack, RecoveryPoint, Rescue, RestoreStep,
};

use crate::checkpoints::Kept;
use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::marker::{self, Marker};
use crate::watch::protocol::Cursor;

/// So many checkpoints are remembered of a recovery point, the newest.
const MOST_KEPT: usize = 256;

/// The version of every file in this module.
pub const SCHEMA: u32 = 1;

/// Held by a worker and its rsync as long as they may write into `incoming/`.
pub const PASS_LOCK: &str = "lock";
/// Held by a worker and its rsync as long as they push a recovery point.
pub const RESTORE_LOCK: &str = "restore.lock";
/// Held by a worker and its rsync as long as they put a path back onto the GPU.
pub const PUT_BACK_LOCK: &str = "put-back.lock";
/// Held for an instant around every decision that two processes must not take at once.
pub const REQUEST_LOCK: &str = "request.lock";

/// `binding.json`: the GPU that this standby pulls from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The request as it was accepted.
    pub bind: Bind,
    /// Rises with every accepted bind, so that a pass notices one that came meanwhile.
    pub revision: u64,
}

impl BindingFile {
    /// The association served.
    #[must_use]
    pub fn association(&self) -> AssociationId {
        self.bind.association
    }

    /// The epoch of the GPU.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.bind.epoch
    }

    /// What is copied, as options of rsync: the first that fits a name decides.
    #[must_use]
    pub fn filters(&self) -> Vec<String> {
        let includes = self.bind.includes.iter().map(|pattern| format!("--include={pattern}"));
        let excludes = self.bind.excludes.iter().map(|pattern| format!("--exclude={pattern}"));
        includes.chain(excludes).collect()
    }

    /// What the GPU's tree carries when it is the one bound.
    #[must_use]
    pub fn marker(&self) -> Marker {
        Marker {
            schema: marker::SCHEMA,
            association: self.association(),
            epoch: self.epoch(),
        }
    }
}

/// `state.json`: what the last passes came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The highest request number whose pass ended, well or not.
    pub finished: u64,
    /// The last complete pass.
    pub last_complete: Option<PassReport>,
    /// The last pass that did not complete, when none completed since.
    pub last_failure: Option<PassFailure>,
    /// The guard that holds.
    pub halt: Option<Halt>,
    /// A person accepted the source as it is: the deletion guards let one pass through.
    #[serde(default)]
    pub deletions_accepted: bool,
}

impl State {
    /// Notes a pass, or a rescue, that failed now.
    pub fn note_failure(&mut self, error: &AgentError) {
        self.last_failure = Some(PassFailure {
            at: clock::now(),
            kind: error.pass_failure_kind(),
            message: error.message(),
            in_a_row: self.last_failure.as_ref().map_or(0, |failure| failure.in_a_row) + 1,
        });
    }
}

/// `wanted.json`: how many passes were asked for, ever. Written before the worker is told, so that a request outlives everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// The number of the last one.
    #[serde(rename = "number")]
    pub last: u64,
    /// The number of the last one for a last-gasp pass.
    #[serde(default)]
    pub last_gasp: u64,
}

/// `pass.json`: the pass under way. It is there for as long as the pass, so one without a worker tells of a kill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassUnderWay {
    /// The request that it serves, and all before.
    pub number: u64,
    /// When it started.
    pub started_at: Timestamp,
    /// The epoch that it pulls under.
    pub epoch: Epoch,
    /// How far it is.
    pub progress: Progress,
    /// What it fetched so far, as rsync tells while it runs: about what it put on the wire.
    #[serde(default)]
    pub fetched: Bytes,
}

/// `recovery-points/<id>.json`: a recovery point, with the pass that made it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the world is told.
    pub point: RecoveryPoint,
    /// The pass that made it.
    pub report: PassReport,
    /// Whether two names in it may share one file. Then rsync must not write in place: the other name would change too.
    pub hard_links: bool,
    /// The checkpoints that it holds as they were when they were named.
    #[serde(default)]
    pub kept: Vec<Kept>,
}

impl PointFile {
    /// Whether it holds a checkpoint of this name.
    #[must_use]
    pub fn holds(&self, name: &CheckpointName) -> bool {
        self.kept.iter().any(|kept| kept.name == *name)
    }

    /// The newest recovery point up to this one that has a file as it was at some instant, if it has it at all.
    #[must_use]
    pub fn whole_version_of(&self, file: &str) -> Option<RecoveryPointId> {
        let torn = self.report.in_motion.iter().find(|torn| torn.file == file);
        torn.map_or_else(|| Some(self.point.id.clone()), |torn| torn.whole_in.clone())
    }

    /// Remembers the checkpoints that it holds.
    pub fn hold(&mut self, kept: Vec<Kept>) {
        self.kept.extend(kept);
        // A GPU may go on naming for as long as nothing changes.
        let more = self.kept.len().saturating_sub(MOST_KEPT);
        self.kept.drain(..more);
        self.point.checkpoints.clear();
        for kept in &self.kept {
            if !self.point.checkpoints.contains(&kept.name) {
                self.point.checkpoints.push(kept.name.clone());
            }
        }
    }

    /// The recovery point of a pass.
    #[must_use]
    pub fn of(report: PassReport, hard_links: bool) -> Self {
        Self {
            schema: SCHEMA,
            point: RecoveryPoint {
                id: report.point.clone(),
                taken_at: report.started_at,
                confirmed_at: report.started_at,
                epoch: report.epoch,
                files: report.files,
                bytes: report.bytes,
                checkpoints: Vec::new(),
            },
            report,
            hard_links,
            kept: Vec::new(),
        }
    }
}

/// `incoming.json`: what `incoming/` was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingFile {
    /// The recovery point it started from; `None` while seeding.
    pub base: Option<RecoveryPointId>,
    /// Whether rsync may have written into it since.
    pub touched: Touched,
    /// The cursor of the dirty pass that touched it: then it differs from its base in nothing that changed before.
    #[serde(default)]
    pub changes_since: Option<Cursor>,
}

/// Whether `incoming/` still equals its base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Touched {
    /// It equals its base.
    No,
    /// A pass started to fill it and did not end.
    Yes,
}

/// `restore.json`: the restore job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Rises with every new job and every new attempt, so that a worker notices that it was replaced.
    pub attempt: u64,
    /// The epoch that the target will have.
    pub epoch: Epoch,
    /// Which recovery point.
    pub point: RecoveryPointId,
    /// Where to.
    pub target: Host,
    /// The directory there.
    pub target_path: String,
    /// When the job was first asked for.
    pub started_at: Timestamp,
    /// How it stands.
    pub stage: RestoreStage,
    /// Which GPU that is, when it was told.
    #[serde(default)]
    pub target_gpu: Option<GpuId>,
    /// Paths that travel before all others.
    #[serde(default)]
    pub first: Vec<PathBelow>,
}

/// How a restore job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStage {
    /// A worker is at it, or was killed.
    Running(RestoreStep),
    /// Equal by checksum.
    Verified {
        /// When.
        ended_at: Timestamp,
    },
    /// Ended without success.
    Failed {
        /// When.
        at: Timestamp,
        /// For a person.
        message: String,
        /// See [`warmspare_wire::agent::RestoreActivity::Failed`].
        #[serde(default)]
        not_ready: bool,
    },
}

/// `rescue.json`: the last rescue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The request as it was accepted.
    pub request: Rescue,
    /// Attempts so far.
    pub attempts: u8,
    /// How it stands.
    pub stage: RescueStage,
}

/// How a rescue stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RescueStage {
    /// A worker is at it, or was killed.
    Running,
    /// In a recovery point.
    Complete {
        /// Which.
        point: RecoveryPointId,
        /// When.
        at: Timestamp,
        /// Files that it brought or changed.
        changed_files: u64,
    },
    /// Broke off.
    Failed {
        /// When.
        at: Timestamp,
        /// For a person.
        message: String,
    },
    /// A guard would not have it.
    Refused {
        /// When.
        at: Timestamp,
        /// For a person.
        message: String,
    },
}

/// `put-back.json`: the last path that was put back onto the GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBackFile {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Rises with every job, so that a worker notices that it was replaced.
    pub attempt: u64,
    /// The request as it was accepted.
    pub request: PutBack,
    /// Which recovery point.
    pub point: RecoveryPointId,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// How it stands.
    pub stage: PutBackStage,
}

/// How such a job stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutBackStage {
    /// A worker is at it, or was killed.
    Running(RestoreStep),
    /// Everything was read back.
    Verified(PutBackProof),
    /// Ended without success.
    Failed {
        /// When.
        at: Timestamp,
        /// For a person.
        message: String,
    },
}

/// What was found when a path was read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PutBackProof {
    /// When.
    pub ended_at: Timestamp,
    /// Regular files at the path in the recovery point.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// Entries that were missing, or set right.
    #[serde(default)]
    pub put: u64,
    /// Entries that were there, differ, and were kept.
    pub kept: u64,
    /// Where lies what made room.
    pub replaced: Option<String>,
}

/// `holds.json`: recovery points that may be downloaded, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// One per permission.
    pub holds: Vec<Hold>,
}

/// One permission to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The recovery point.
    pub point: RecoveryPointId,
    /// When the permission ends.
    pub until: Timestamp,
}

macro_rules! stored {
    ($(#[$doc:meta])* $load:ident, $save:ident, $type:ty, $name:literal) => {
        $(#[$doc])*
        ///
        /// # Errors
        /// When the file is there and cannot be read.
        pub fn $load(&self) -> Result<Option<$type>, AgentError> {
            self.read_json(&self.file($name))
        }

        /// Stores it durably.
        ///
        /// # Errors
        /// When the disk is full or fails; the old one stays.
        pub fn $save(&self, value: &$type) -> Result<(), AgentError> {
            self.write_json(&self.file($name), value, Durability::PowerLoss)
        }
    };
}

impl DataDir {
    stored!(
        /// What the standby is bound to.
        binding, save_binding, BindingFile, "binding.json"
    );
    stored!(
        /// The restore job.
        restore_file, save_restore_file, RestoreFile, "restore.json"
    );
    stored!(
        /// The last rescue.
        rescue_file, save_rescue_file, RescueFile, "rescue.json"
    );
    stored!(
        /// The last path that was put back.
        put_back_file, save_put_back_file, PutBackFile, "put-back.json"
    );
    stored!(
        /// The permissions to download.
        holds, save_holds, Holds, "holds.json"
    );

    /// What the last passes came to; a fresh one where none ran.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn state(&self) -> Result<State, AgentError> {
        let stored = self.read_json(&self.file("state.json"))?;
        Ok(stored.unwrap_or(State {
            schema: SCHEMA,
            ..State::default()
        }))
    }

    /// Changes what the last passes came to; two processes that do so at once do not lose each other's change.
    ///
    /// # Errors
    /// When the disk is full or fails: nothing is changed.
    pub fn update_state(&self, durability: Durability, change: impl FnOnce(&mut State)) -> Result<(), AgentError> {
        let _turn = self.lock_briefly("state.lock")?;
        let mut state = self.state()?;
        let before = state.clone();
        change(&mut state);
        if state == before {
            return Ok(());
        }
        self.write_json(&self.file("state.json"), &state, durability)
    }

    /// How many passes were asked for.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn requests(&self) -> Result<Requests, AgentError> {
        Ok(self.read_json(&self.file("wanted.json"))?.unwrap_or_default())
    }

    /// Stores how many passes were asked for.
    ///
    /// # Errors
    /// When the disk is full or fails; the old one stays.
    pub fn save_requests(&self, value: &Requests, durability: Durability) -> Result<(), AgentError> {
        self.write_json(&self.file("wanted.json"), value, durability)
    }

    /// The pass under way, or the one whose worker was killed.
    #[must_use]
    pub fn pass_under_way(&self) -> Option<PassUnderWay> {
        self.read_passing_json(&self.file("pass.json"))
    }

    /// Notes the pass under way.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn note_pass(&self, pass: &PassUnderWay) -> Result<(), AgentError> {
        self.write_json(&self.file("pass.json"), pass, Durability::Kill)
    }

    /// Notes that no pass is under way any more.
    pub fn forget_pass(&self) {
        let _ = std::fs::remove_file(self.file("pass.json"));
    }

    /// What `incoming/` was made from; `None` also when a power failure tore that.
    ///
    /// # Errors
    /// When the disk cannot tell: then what arrived of a first pass must not be thrown away for it.
    pub fn incoming_file(&self) -> Result<Option<IncomingFile>, AgentError> {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match self.read_json(&self.file("incoming.json")) {
            Err(AgentError::Io { source, .. }) if matches!(source.kind(), InvalidData | UnexpectedEof) => Ok(None),
            read => read,
        }
    }

    /// Stores what `incoming/` was made from.
    ///
    /// # Errors
    /// When the disk is full or fails; the old one stays.
    pub fn save_incoming_file(&self, value: &IncomingFile, durability: Durability) -> Result<(), AgentError> {
        self.write_json(&self.file("incoming.json"), value, durability)
    }

    /// How far the restore is.
    #[must_use]
    pub fn restore_progress(&self) -> Progress {
        self.read_passing_json(&self.file("restore-progress.json"))
            .unwrap_or_default()
    }

    /// Since when all that was to travel first is on the target of this attempt of the restore.
    #[must_use]
    pub fn restore_first_there_at(&self, attempt: u64) -> Option<Timestamp> {
        let noted: (u64, Timestamp) = self.read_passing_json(&self.file("restore-first.json"))?;
        (noted.0 == attempt).then_some(noted.1)
    }

    /// Notes that it is there now.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn note_restore_first_there(&self, attempt: u64) -> Result<(), AgentError> {
        let noted = (attempt, clock::now());
        self.write_json(&self.file("restore-first.json"), &noted, Durability::Kill)
    }

    /// Notes how far the restore is.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn note_restore_progress(&self, progress: &Progress) -> Result<(), AgentError> {
        self.write_json(&self.file("restore-progress.json"), progress, Durability::Kill)
    }
}
