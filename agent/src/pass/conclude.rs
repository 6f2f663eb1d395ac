//! The end of a pass: what was fetched is judged, and only then it becomes a recovery point, or confirms the newest.

use std::fs::File;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_wire::agent::PassReport;

use super::checkpoints::Checkpoints;
use super::{Pass, still_bound};
use crate::changes;
use crate::error::AgentError;
use crate::fetched::Fetched;
use crate::guard::Deletions;
use crate::incoming::{self, Incoming, Start};
use crate::recovery_points::{self, Sharing, tree_of};
use crate::rsync::Transferred;
use crate::state::{IncomingFile, PointFile, REQUEST_LOCK, Touched};
use crate::wish::Wish;

impl Pass<'_> {
    pub(super) fn judge(&self, fetched: &Fetched) -> Result<(), AgentError> {
        let deletions = if self.dir.state()?.deletions_accepted {
            Deletions::Accepted
        } else {
            Deletions::Guarded {
                max_percent: self.binding.bind.max_deleted_percent,
            }
        };
        fetched
            .judge(self.base_files(), deletions)
            .or_else(|tripped| self.judge_without_excluded(fetched, deletions, tripped))
    }

    /// What the user excludes since is not gone. Only for a guard that tripped, because counting takes a walk; where that fails, it holds.
    fn judge_without_excluded(
        &self,
        fetched: &Fetched,
        deletions: Deletions,
        tripped: AgentError,
    ) -> Result<(), AgentError> {
        let filters = self.binding.filters();
        let base = self.base.as_ref().filter(|_| !filters.is_empty());
        let tree = base.map(|base| tree_of(self.dir, &base.point.id));
        let kept = tree.and_then(|tree| changes::files_that_pass(self.dir, &tree, &filters).ok());
        let Some(kept) = kept else { return Err(tripped) };
        let excluded = self.base_files().saturating_sub(kept);
        let without = Fetched {
            deleted: fetched.deleted.saturating_sub(excluded),
            ..fetched.clone()
        };
        without.judge(kept, deletions)
    }

    pub(super) fn conclude(
        &self,
        incoming: &Incoming,
        done: &Transferred,
        fetched: &Fetched,
    ) -> Result<PassReport, AgentError> {
        let checkpoints = self.judge_checkpoints(&incoming.path)?;
        let unchanged = incoming.start == Start::Fresh && done.tally.differences == 0 && fetched.kept_back.is_empty();
        let report = self.report(done, fetched);
        match &self.base {
            Some(base) if unchanged && fetched.deleted == 0 => self.confirm(incoming, base, report, checkpoints),
            Some(_) | None => self.promote(incoming, fetched, report, checkpoints),
        }
    }

    pub(super) fn report(&self, done: &Transferred, fetched: &Fetched) -> PassReport {
        PassReport {
            command_failed: self.command_failed.clone(),
            ..fetched.report(done, &self.under_way)
        }
    }

    fn confirm(
        &self,
        incoming: &Incoming,
        base: &PointFile,
        report: PassReport,
        checkpoints: Checkpoints,
    ) -> Result<PassReport, AgentError> {
        let decision = self.decide()?;
        self.confirm_base(base, &checkpoints)?;
        self.leave_untouched(incoming, base.point.id.clone())?;
        drop(decision);
        self.answer_checkpoints(checkpoints, base);
        Ok(PassReport {
            point: base.point.id.clone(),
            ..report
        })
    }

    pub(super) fn confirm_base(&self, base: &PointFile, checkpoints: &Checkpoints) -> Result<(), AgentError> {
        let mut confirmed = base.clone();
        confirmed.hold(checkpoints.kept());
        confirmed.point.confirmed_at = self.under_way.started_at;
        recovery_points::confirm(self.dir, &confirmed)
    }

    fn promote(
        &self,
        incoming: &Incoming,
        fetched: &Fetched,
        report: PassReport,
        checkpoints: Checkpoints,
    ) -> Result<PassReport, AgentError> {
        recovery_points::make_durable(self.dir, incoming.sharing)?;
        let mut point = PointFile::of(report, fetched.hard_links);
        point.hold(checkpoints.kept());
        let decision = self.decide()?;
        recovery_points::promote(self.dir, &point, incoming.sharing)?;
        self.leave_untouched(incoming, point.point.id.clone())?;
        drop(decision);
        self.answer_checkpoints(checkpoints, &point);
        Ok(point.report)
    }

    /// From here to the end of the guard no bind can come in between: what is made now belongs to the epoch bound now.
    pub(super) fn decide(&self) -> Result<File, AgentError> {
        let decision = self.dir.lock_briefly(REQUEST_LOCK)?;
        match still_bound(self.dir, self.binding.revision) {
            Wish::GoOn => Ok(decision),
            Wish::Stop(reason) => Err(AgentError::Interrupted(reason.into())),
        }
    }

    fn leave_untouched(&self, incoming: &Incoming, equals: RecoveryPointId) -> Result<(), AgentError> {
        match incoming.sharing {
            Sharing::Snapshots => {
                let equal = IncomingFile {
                    base: Some(equals),
                    touched: Touched::No,
                    changes_since: None,
                };
                self.dir
                    .save_incoming_file(&equal, incoming.sharing.durability_of_notes())
            }
            Sharing::HardLinks => incoming::give_up(self.dir),
        }
    }
}
