//! What must hold whatever happens, one function each. Property tests, the exploration and simulations call them after every step.
//!
//! The first half judges one decision; the second half judges what was done to the world, told in [`Deletion`] and [`Inventory`].

use crate::association::{Association, Lease, Order, Phase, Rescue, RestoreJob, Target};
use crate::decide::{ABSENT_READS, Decision};
use crate::effect::{Effect, StandbyRef};
use crate::event::{Event, Subject};
use crate::ids::{Epoch, GpuId};
use crate::observed::{Observed, RestoreSeen, Seen};
use crate::orphan::{Verdict, judge};
use crate::policy::WhenDeletedAtVast;
use crate::units::Timestamp;
use crate::warrant::{Ground, ReleaseWarrant};

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{invariant}: {what}")]
pub struct Broken {
    /// The function that found it.
    pub invariant: &'static str,
    /// What was found.
    pub what: String,
}

/// Whether an invariant holds.
pub type Holds = Result<(), Broken>;

fn holds_if(condition: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Holds {
    if condition {
        Ok(())
    } else {
        Err(Broken {
            invariant,
            what: what(),
        })
    }
}

/// The epoch never falls, neither the bound one nor the highest one given out.
///
/// # Errors
/// When one fell.
pub fn epoch_never_falls(before: &Association, after: &Association) -> Holds {
    let held = after.epoch >= before.epoch && after.last_epoch >= before.last_epoch;
    holds_if(held, "epoch_never_falls", || {
        format!(
            "epoch {} → {}, last epoch {} → {}",
            before.epoch, after.epoch, before.last_epoch, after.last_epoch
        )
    })
}

/// An epoch names one binding or one target for ever: every new one is higher than all that were given out before.
///
/// # Errors
/// When one was used again, or was not entered into `last_epoch`.
pub fn epochs_are_never_reused(before: &Association, after: &Association) -> Holds {
    let (was, is) = (job_epoch(before), job_epoch(after));
    let job_is_new = is == was || is.is_none_or(|epoch| epoch > before.last_epoch);
    let target_kept = is != was || is.is_none() || !target_was_swapped(before, after);
    let bound_is_new = after.epoch == before.epoch || Some(after.epoch) == was || after.epoch > before.last_epoch;
    let gpu_kept = after.epoch != before.epoch || after.gpu == before.gpu;
    let counted = after.epoch <= after.last_epoch && is.is_none_or(|epoch| epoch <= after.last_epoch);
    let held = job_is_new && target_kept && bound_is_new && gpu_kept && counted;
    holds_if(held, "epochs_are_never_reused", || {
        format!(
            "epoch {} → {}, restore {was:?} → {is:?}, last epoch {} → {}",
            before.epoch, after.epoch, before.last_epoch, after.last_epoch
        )
    })
}

fn job(a: &Association) -> Option<&RestoreJob> {
    if let Phase::Restoring { job, .. } = &a.phase {
        Some(job)
    } else {
        None
    }
}

fn job_epoch(a: &Association) -> Option<Epoch> {
    job(a).map(|job| job.epoch)
}

fn target_gpu(a: &Association) -> Option<GpuId> {
    match job(a)?.target {
        Target::Gpu { gpu, .. } => Some(gpu),
        Target::ToRent { .. } => None,
    }
}

fn target_was_swapped(before: &Association, after: &Association) -> bool {
    match (target_gpu(before), target_gpu(after)) {
        (Some(was), is) => is != Some(was),
        (None, _) => false,
    }
}

/// A release is for ever: what releases never copies again, and a tombstone stays as it is.
///
/// # Errors
/// When something was revived.
pub fn tombstone_never_revived(before: &Association, after: &Association) -> Holds {
    let held = match (&before.phase, &after.phase) {
        (Phase::Released { .. }, _) => before == after,
        (Phase::Releasing { .. }, Phase::Releasing { .. } | Phase::Released { .. }) => true,
        (Phase::Releasing { .. }, _) => false,
        _ => true,
    };
    holds_if(held, "tombstone_never_revived", || {
        format!("{} → {}", before.phase.name(), after.phase.name())
    })
}

/// Only a look makes effects, so whatever is lost is derived again.
///
/// # Errors
/// When another event made one.
pub fn only_a_look_makes_effects(event: &Event, decision: &Decision) -> Holds {
    let held = decision.effects.is_empty() || matches!(event, Event::Looked(_));
    holds_if(held, "only_a_look_makes_effects", || {
        format!("{event:?} made {:?}", decision.effects)
    })
}

/// Every effect belongs to the state that was committed before it: its phase, epoch, GPU, standby and warrant.
///
/// # Errors
/// When one does not.
pub fn effects_follow_from_state(decision: &Decision) -> Holds {
    let a = &decision.next;
    for effect in &decision.effects {
        holds_if(follows(a, effect), "effects_follow_from_state", || {
            format!("{effect:?} in phase {} at epoch {}", a.phase.name(), a.epoch)
        })?;
    }
    Ok(())
}

fn follows(a: &Association, effect: &Effect) -> bool {
    let ours = |standby: &StandbyRef| *standby == StandbyRef::of(a);
    let copying = matches!(a.phase, Phase::Provisioning | Phase::Seeding | Phase::Protected);
    let releasing =
        |warrant: &ReleaseWarrant| matches!(&a.phase, Phase::Releasing { warrant: held, .. } if held == warrant);
    match effect {
        Effect::CreateStandby { standby, .. } | Effect::StartStandby { standby } => {
            ours(standby) && !matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. })
        }
        Effect::StopStandby { standby } => ours(standby) && matches!(a.phase, Phase::Holding(_)),
        Effect::Bind { gpu, epoch, .. } => copying && *gpu == a.gpu && *epoch == a.epoch,
        Effect::Sync { epoch, .. } => copying && *epoch == a.epoch,
        Effect::Rescue { gpu, epoch, loss, .. } => {
            let ours = *gpu == a.gpu && *epoch == a.epoch && a.last_epoch == a.epoch;
            ours && matches!(&a.phase, Phase::Holding(held) if held.since == *loss && held.cause.leaves_the_disk())
        }
        Effect::GrowDisk { standby, gb } => {
            let rescuing = matches!(&a.phase, Phase::Holding(loss) if matches!(loss.rescue, Rescue::Wanted { .. }));
            (copying || rescuing) && ours(standby) && *gb > a.disk_gb() && *gb <= a.policy.max_disk_gb
        }
        Effect::RentGpu { epoch, .. } => job_epoch(a) == Some(*epoch) && target_gpu(a).is_none(),
        Effect::Restore { epoch, target, .. } => job_epoch(a) == Some(*epoch) && target_gpu(a) == Some(*target),
        Effect::DestroySuperseded { gpu, warrant } => {
            a.superseded.contains(gpu) && *gpu != a.gpu && warrant.ground() == Ground::VerifiedElsewhere
        }
        Effect::DestroyRental { gpu, .. } => *gpu != a.gpu && target_gpu(a) != Some(*gpu),
        Effect::DeleteStandby { standby, warrant } | Effect::DeleteDisk { standby, warrant } => {
            ours(standby) && releasing(warrant)
        }
    }
}

/// A look that brought no answer changes nothing that costs or loses: no loss, no other standby, no order, no deletion, no tombstone.
///
/// # Errors
/// When silence was taken for absence.
pub fn silence_is_not_absence(before: &Association, event: &Event, decision: &Decision) -> Holds {
    let Event::Looked(seen) = event else { return Ok(()) };
    let after = &decision.next;
    let lost = |a: &Association| matches!(a.phase, Phase::Holding(_));
    let gpu_silent = seen.gpu == Observed::Unknown && !lost(before) && job_epoch(before).is_none() && lost(after);
    let counted = seen.gpu == Observed::Unknown
        && after.watch.absent_reads > before.watch.absent_reads
        && job_epoch(before).is_none();
    let standby_silent =
        seen.standby == Observed::Unknown || seen.disk == Observed::Unknown && seen.standby == Observed::Absent;
    let acted = after.standby.attempt != before.standby.attempt
        || matches!(
            (&before.phase, &after.phase),
            (Phase::Releasing { .. }, Phase::Released { .. })
        )
        || decision
            .effects
            .iter()
            .any(|effect| matches!(effect, Effect::CreateStandby { .. } | Effect::DeleteDisk { .. }));
    holds_if(
        !(gpu_silent || counted || standby_silent && acted),
        "silence_is_not_absence",
        || {
            format!(
                "{seen:?}: {} → {}, {:?}",
                before.phase.name(),
                after.phase.name(),
                decision.effects
            )
        },
    )
}

/// Releasing starts on the user's word about this GPU, on announced retention that ran out, or by the policy on deletions at Vast.
///
/// # Errors
/// When it started on anything else, or says another ground than the real one.
pub fn released_only_on_a_ground(before: &Association, event: &Event, after: &Association, now: Timestamp) -> Holds {
    let Phase::Releasing { warrant, .. } = &after.phase else {
        return Ok(());
    };
    if matches!(before.phase, Phase::Releasing { .. }) {
        return Ok(());
    }
    let held = match (warrant.ground(), event) {
        (Ground::UserRequest, Event::ReleaseRequested { subject }) => match subject {
            Subject::Association => true,
            Subject::Gpu(gpu) => *gpu == before.gpu,
        },
        (Ground::RetentionOver, Event::Looked(_)) => {
            matches!(&before.phase, Phase::Holding(loss) if now.since(loss.since) >= before.policy.retention.duration())
        }
        (Ground::DeletedAtVast, Event::Looked(Seen { gpu, .. })) => {
            *gpu == Observed::Absent
                && before.watch.absent_reads + 1 >= ABSENT_READS
                && before.policy.when_deleted_at_vast == WhenDeletedAtVast::Release
        }
        _ => false,
    };
    holds_if(held, "released_only_on_a_ground", || {
        format!("{event:?} in {} released on: {}", before.phase.name(), warrant.ground())
    })
}

/// A standby that may hold data keeps its attempt; another one is ordered only when the machine never came up, or machine and disk are both gone.
///
/// # Errors
/// When a standby that may hold data was abandoned.
pub fn a_standby_with_data_is_pinned(before: &Association, event: &Event, after: &Association) -> Holds {
    let moved = after.standby.attempt != before.standby.attempt;
    let gone = matches!(event, Event::Looked(_)) && before.standby.gone_reads > 0;
    let held = !moved || before.standby.order != Order::Landed || gone;
    holds_if(held, "a_standby_with_data_is_pinned", || {
        format!("attempt {} was left on {event:?}", before.standby.attempt)
    })
}

/// Two calls that rent a GPU never overlap: each one is covered by a lease that was taken for it.
///
/// # Errors
/// When one is not.
pub fn rent_calls_never_overlap(before: &Association, decision: &Decision, now: Timestamp) -> Holds {
    let rents = decision
        .effects
        .iter()
        .filter(|effect| matches!(effect, Effect::RentGpu { .. }))
        .count();
    if rents == 0 {
        return Ok(());
    }
    let free_before = match lease(before) {
        Some(Lease::Taken { until }) => until <= now,
        Some(Lease::Free) | None => true,
    };
    let taken_after = matches!(lease(&decision.next), Some(Lease::Taken { until }) if until > now);
    holds_if(
        rents == 1 && free_before && taken_after,
        "rent_calls_never_overlap",
        || format!("{rents} calls, lease {:?} → {:?}", lease(before), lease(&decision.next)),
    )
}

fn lease(a: &Association) -> Option<Lease> {
    match job(a)?.target {
        Target::ToRent { lease, .. } => Some(lease),
        Target::Gpu { .. } => None,
    }
}

/// The data moves to another GPU only when that GPU was verified under its own epoch.
///
/// # Errors
/// When it moved otherwise.
pub fn moves_only_when_verified(before: &Association, event: &Event, after: &Association) -> Holds {
    if before.gpu == after.gpu {
        return Ok(());
    }
    let reported = match event {
        Event::AgentReported(report) => report.restore,
        Event::ReleaseRequested { .. }
        | Event::GpuFailedReported { .. }
        | Event::GpuDestroyedReported { .. }
        | Event::OutbidAnnounced { .. }
        | Event::LookRequested
        | Event::SyncStopRequested
        | Event::SyncStartRequested
        | Event::SourceAccepted
        | Event::RestoreRequested { .. }
        | Event::StandbyWanted
        | Event::PolicyChanged(_)
        | Event::Looked(_)
        | Event::Bound { .. }
        | Event::LastGaspAccepted
        | Event::StandbyUnreachable
        | Event::DiskGrown { .. }
        | Event::Rented { .. }
        | Event::SupersededGone { .. }
        | Event::StandbyRefused { .. }
        | Event::RentRefused { .. }
        | Event::EffectFailed { .. } => RestoreSeen::Idle,
    };
    let verified = reported == RestoreSeen::Verified(after.epoch)
        && job_epoch(before) == Some(after.epoch)
        && target_gpu(before) == Some(after.gpu);
    holds_if(
        verified && after.superseded.contains(&before.gpu),
        "moves_only_when_verified",
        || format!("{} → {} on {event:?}", before.gpu, after.gpu),
    )
}

/// A request that is repeated changes nothing more.
///
/// # Errors
/// When the second one changed something. Looks and results are counted on purpose (reads in a row, failures in a row) and not judged.
pub fn a_repeated_request_changes_nothing(event: &Event, once: &Association, twice: &Association) -> Holds {
    let request = match event {
        Event::ReleaseRequested { .. }
        | Event::GpuFailedReported { .. }
        | Event::GpuDestroyedReported { .. }
        | Event::OutbidAnnounced { .. }
        | Event::LookRequested
        | Event::SyncStopRequested
        | Event::SyncStartRequested
        | Event::SourceAccepted
        | Event::RestoreRequested { .. }
        | Event::StandbyWanted
        | Event::PolicyChanged(_)
        | Event::Bound { .. }
        | Event::LastGaspAccepted
        | Event::StandbyUnreachable
        | Event::DiskGrown { .. }
        | Event::Rented { .. }
        | Event::SupersededGone { .. } => true,
        Event::Looked(_)
        | Event::AgentReported(_)
        | Event::StandbyRefused { .. }
        | Event::RentRefused { .. }
        | Event::EffectFailed { .. } => false,
    };
    holds_if(!request || once == twice, "a_repeated_request_changes_nothing", || {
        format!("{event:?} twice: {once:?} then {twice:?}")
    })
}

/// Everything that one decision must keep.
///
/// # Errors
/// The first invariant that does not hold.
pub fn check_decision(before: &Association, event: &Event, decision: &Decision, now: Timestamp) -> Holds {
    let after = &decision.next;
    epoch_never_falls(before, after)?;
    epochs_are_never_reused(before, after)?;
    tombstone_never_revived(before, after)?;
    only_a_look_makes_effects(event, decision)?;
    effects_follow_from_state(decision)?;
    silence_is_not_absence(before, event, decision)?;
    released_only_on_a_ground(before, event, after, now)?;
    a_standby_with_data_is_pinned(before, event, after)?;
    rent_calls_never_overlap(before, decision, now)?;
    moves_only_when_verified(before, event, after)
}

/// How many invariants [`check_decision`] asks.
pub const DECISION_INVARIANTS: usize = 10;

/// A disk that is being deleted.
#[derive(Debug, Clone, Copy)]
pub struct Deletion {
    /// Which attempt's.
    pub attempt: u16,
    /// Whether a recovery point is on it.
    pub holds_data: bool,
    /// Whether the user really asked, retention really ran out, or the GPU really was deleted at Vast under a policy that says so.
    pub user_lets_go: bool,
}

/// Nothing deletes a disk with data unless the user, directly or by an announced rule, let it go.
///
/// # Errors
/// When the last copy is being deleted.
pub fn never_the_last_copy(deletion: &Deletion, a: &Association) -> Holds {
    let allowed = deletion.user_lets_go && matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. });
    holds_if(!deletion.holds_data || allowed, "never_the_last_copy", || {
        format!(
            "the disk of attempt {} holds data and is deleted in phase {}",
            deletion.attempt,
            a.phase.name()
        )
    })
}

/// A GPU whose data lives elsewhere is never pulled from, and no agent is bound under an older epoch than it had.
///
/// # Errors
/// When one is.
pub fn superseded_is_never_read(a: &Association, pulled_from: GpuId) -> Holds {
    holds_if(!a.superseded.contains(&pulled_from), "superseded_is_never_read", || {
        format!(
            "{pulled_from} was pulled from; the data lives on {} under epoch {}",
            a.gpu, a.epoch
        )
    })
}

/// A push never lands on the GPU that the user already works on again.
///
/// # Errors
/// When it does.
pub fn live_gpu_is_never_overwritten(a: &Association, pushed_to: GpuId, epoch: Epoch) -> Holds {
    let live = matches!(a.phase, Phase::Provisioning | Phase::Seeding | Phase::Protected) && a.gpu == pushed_to;
    holds_if(!live, "live_gpu_is_never_overwritten", || {
        format!(
            "a push of epoch {epoch} landed on {pushed_to}, which is bound under epoch {}",
            a.epoch
        )
    })
}

/// A bound or awaited GPU is never destroyed by us.
///
/// # Errors
/// When it is.
pub fn a_gpu_in_use_is_never_destroyed(a: &Association, destroyed: GpuId) -> Holds {
    let released = matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. });
    let used = a.gpu == destroyed || target_gpu(a) == Some(destroyed) && !released;
    holds_if(!used, "a_gpu_in_use_is_never_destroyed", || {
        format!("{destroyed} was destroyed in phase {}", a.phase.name())
    })
}

/// What one association costs at the providers.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Attempts whose machine exists and runs.
    pub running: Vec<u16>,
    /// Attempts whose machine exists and is stopped.
    pub stopped: Vec<u16>,
    /// Attempts whose disk exists.
    pub disks: Vec<u16>,
    /// GPUs that carry our label, with its epoch.
    pub rentals: Vec<(GpuId, Epoch)>,
}

/// Once calm, at most one standby is paid for, and it is the association's own.
///
/// # Errors
/// When there are more, or another one.
pub fn one_standby_paid(a: &Association, inventory: &Inventory) -> Holds {
    let machines = inventory.running.len() + inventory.stopped.len();
    let own = inventory
        .running
        .iter()
        .chain(&inventory.stopped)
        .chain(&inventory.disks)
        .all(|attempt| *attempt == a.standby.attempt);
    holds_if(
        machines <= 1 && inventory.disks.len() <= 1 && own,
        "one_standby_paid",
        || format!("attempt {} is ours; {inventory:?}", a.standby.attempt),
    )
}

/// Once calm, nothing bills that no association needs.
///
/// # Errors
/// When something does.
pub fn no_orphan(a: &Association, inventory: &Inventory) -> Holds {
    if let Phase::Released { .. } = a.phase {
        let empty = inventory.running.is_empty() && inventory.stopped.is_empty() && inventory.disks.is_empty();
        holds_if(empty, "no_orphan", || {
            format!("released, and still there: {inventory:?}")
        })?;
    }
    for (gpu, epoch) in &inventory.rentals {
        let needed = *gpu == a.gpu || a.superseded.contains(gpu) || target_gpu(a) == Some(*gpu);
        holds_if(needed, "no_orphan", || {
            format!(
                "{gpu}, rented for epoch {epoch}, is of no use in phase {}",
                a.phase.name()
            )
        })?;
    }
    Ok(())
}

/// What the sweep destroys must still be useless to the association as it is now, however old the verdict is.
///
/// # Errors
/// When it is of use.
pub fn a_verdict_stays_true(found: crate::observed::Found, a: &Association) -> Holds {
    holds_if(judge(found, Some(a)) != Verdict::Keep, "a_verdict_stays_true", || {
        format!("{found:?} is destroyed, and is kept in phase {}", a.phase.name())
    })
}
