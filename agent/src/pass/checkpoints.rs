//! Giving a pass's recovery point the names of the checkpoints that it holds.

use std::path::Path;

use super::Pass;
use crate::checkpoints::{self, Fate, Kept, Wanted};
use crate::error::AgentError;
use crate::process;
use crate::recovery_points;
use crate::state::PointFile;

/// What a pass knows of the checkpoints that were wanted before it began.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    held: Vec<Wanted>,
    answers: Vec<(Wanted, Fate)>,
}

impl Checkpoints {
    /// What the recovery point is to remember.
    pub(super) fn kept(&self) -> Vec<Kept> {
        let kept = |wanted: &Wanted| Kept {
            id: wanted.id.clone(),
            name: wanted.name.clone(),
        };
        self.held.iter().map(kept).collect()
    }
}

impl Pass<'_> {
    /// Judges them against what was copied, which nothing will change any more.
    pub(super) fn judge_checkpoints(&self, tree: &Path) -> Result<Checkpoints, AgentError> {
        let mut judged = Checkpoints::default();
        if self.wanted.is_empty() {
            return Ok(judged);
        }
        let points = recovery_points::list(self.dir)?;
        let (answered, fresh): (Vec<_>, Vec<_>) = (self.wanted.iter().cloned())
            .map(|wanted| (holder(&points, &wanted), wanted))
            .partition(|(holder, _)| holder.is_some());
        // Its answer was lost; the copy may hold other files by now.
        for (point, wanted) in answered {
            judged
                .answers
                .extend(point.map(|point| (wanted, Fate::Kept(point.point.id.clone()))));
        }
        let fresh: Vec<Wanted> = fresh.into_iter().map(|(_, wanted)| wanted).collect();
        let changed = match checkpoints::changed_since(&self.machine, &self.binding.bind.source_path, &fresh) {
            Ok(changed) => changed,
            // The GPU may have stopped right after it gave everything: that pass is worth more than a name.
            Err(error) => {
                process::log(&format!("checkpoints keep waiting: {}", error.message()));
                return Ok(judged);
            }
        };
        for wanted in fresh {
            let changed = changed.iter().find(|(id, _)| *id == wanted.id);
            let reason = changed.map(|(_, file)| format!("{file} changed or went before it was copied"));
            match reason.or_else(|| wanted.differs(tree)) {
                None => judged.held.push(wanted),
                Some(reason) => judged.answers.push((wanted, Fate::Missed(reason))),
            }
        }
        Ok(judged)
    }

    /// Tells the GPU. Where that fails the next pass does it again.
    pub(super) fn answer_checkpoints(&self, judged: Checkpoints, point: &PointFile) {
        let mut fates = judged.answers;
        let id = &point.point.id;
        fates.extend(judged.held.into_iter().map(|wanted| (wanted, Fate::Kept(id.clone()))));
        if fates.is_empty() {
            return;
        }
        for (wanted, fate) in &fates {
            if let Fate::Missed(reason) = fate {
                process::log(&format!("checkpoint {}: {reason}", wanted.name));
            }
        }
        if let Err(error) = checkpoints::answer(&self.machine, &self.binding.bind.source_path, &fates) {
            process::log(&error.message());
        }
    }
}

fn holder<'p>(points: &'p [PointFile], wanted: &Wanted) -> Option<&'p PointFile> {
    points
        .iter()
        .find(|point| point.kept.iter().any(|kept| kept.id == wanted.id))
}
