//! Reporting how the standby stands.

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{
    Binding, PassActivity, PassReport, Points, RecoveryPoint, RestoreActivity, RestoreTarget, Source, Status,
};

use crate::clock;
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::recovery_points;
use crate::state::{BindingFile, PASS_LOCK, PointFile, State};
use crate::{live, put_back, rescue, restore, space, sync, traffic, tree};

/// How the standby stands, for the control plane and for people. Changes nothing.
///
/// # Errors
/// When one of the agent's files cannot be read.
pub fn status(dir: &DataDir) -> Result<Status, AgentError> {
    let state = dir.state()?;
    let bound = dir.binding()?;
    let points = recovery_points::list(dir)?;
    let watch = dir.watch_file();
    let pass = activity(dir, &state)?;
    let last_failure = match (&pass, sync::killed_pass(dir, &state)) {
        (PassActivity::Idle, Some(killed)) => Some(killed),
        (PassActivity::Idle | PassActivity::Running { .. }, _) => state.last_failure.clone(),
    };
    Ok(Status {
        now: clock::now(),
        source: bound.as_ref().map(source),
        binding: binding(bound.as_ref()),
        points: summary(dir, &points, &pass),
        pass,
        last_complete: last_complete(&state, &points).map(|report| live::with_confirmation(dir, report)),
        last_failure,
        halt: state.halt,
        restore_target: dir.restore_file()?.map(|job| RestoreTarget {
            gpu: job.target_gpu,
            host: job.target,
        }),
        restore: restoring(dir)?,
        disk: space::report(dir)?,
        watcher: watch.watcher,
        missed: watch.missed,
        live_until: live::live_until(dir)?,
        rescue: rescue::activity(dir)?,
        put_back: put_back::activity(dir)?,
        traffic: traffic::traffic(dir, clock::now()),
    })
}

/// The recovery points as the world is told, oldest first.
///
/// # Errors
/// When they cannot be read.
pub fn recovery_points(dir: &DataDir) -> Result<Vec<RecoveryPoint>, AgentError> {
    Ok(recovery_points::list(dir)?
        .into_iter()
        .map(|point| point.point)
        .collect())
}

fn binding(bound: Option<&BindingFile>) -> Binding {
    bound.map_or(Binding::Unbound, |binding| Binding::Bound {
        association: binding.association(),
        epoch: binding.epoch(),
    })
}

fn source(binding: &BindingFile) -> Source {
    let bind = &binding.bind;
    Source {
        gpu: bind.gpu,
        host: bind.source.clone(),
        path: bind.source_path.clone(),
        excludes: bind.excludes.clone(),
        includes: bind.includes.clone(),
        first: bind.first.clone(),
        before_pass: bind.before_pass.clone(),
        max_deleted_percent: bind.max_deleted_percent,
    }
}

fn activity(dir: &DataDir, state: &State) -> Result<PassActivity, AgentError> {
    let running = dir.pass_under_way().filter(|pass| pass.number > state.finished);
    Ok(match running {
        Some(pass) if dir.is_locked(PASS_LOCK)? => PassActivity::Running {
            started_at: pass.started_at,
            progress: pass.progress,
        },
        Some(_) | None => PassActivity::Idle,
    })
}

/// The last complete pass, also when its worker was killed after the recovery point and before the note of it.
fn last_complete(state: &State, points: &[PointFile]) -> Option<PassReport> {
    let noted = state.last_complete.as_ref();
    let newest = points.last().map(|point| &point.report);
    noted
        .into_iter()
        .chain(newest)
        .max_by_key(|report| report.started_at)
        .cloned()
}

fn summary(dir: &DataDir, points: &[PointFile], pass: &PassActivity) -> Points {
    let partial = match (points, pass) {
        ([], PassActivity::Running { progress, .. }) => progress.bytes_done,
        ([], PassActivity::Idle) => tree::census(&dir.incoming()).unwrap_or_default().bytes,
        ([_, ..], _) => Bytes(0),
    };
    Points {
        count: points.len() as u64,
        latest: points.last().map(|point| point.point.clone()),
        oldest: points.first().map(|point| point.point.id.clone()),
        partial,
    }
}

fn restoring(dir: &DataDir) -> Result<RestoreActivity, AgentError> {
    match dir.restore_file()? {
        None => Ok(RestoreActivity::Never),
        Some(job) => restore::activity(dir, job),
    }
}
