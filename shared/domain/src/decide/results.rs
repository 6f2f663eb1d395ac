//! What became of effects.

use std::time::Duration;

use crate::association::{
    Association, Binding, GpuWatch, Lease, Link, Loss, Order, OutbidNotice, Phase, PointChoice, Retry, Saved, Target,
    TargetOrigin, Trust,
};
use crate::decide::grow;
use crate::decide::looked::BOOT_PATIENCE;
use crate::decide::rescue;
use crate::effect::EffectKind;
use crate::ids::{Epoch, GpuId};
use crate::observed::{AgentReport, BoundTo, PassTrouble, PointsSeen, RestoreSeen};
use crate::problem::{Problem, ProblemKind};
use crate::reason::Reason;
use crate::units::Timestamp;

/// Targets that a restore may use up before it waits for a person or for better days.
const TARGETS_PER_RESTORE: u8 = 3;

/// Failures of a restore on one target before another target is tried.
const FAILURES_PER_TARGET: u8 = 3;

/// The first wait after a failure; it doubles with each failure in a row. Short, because the commonest failure is a key that takes 10 to 15 s to
/// arrive on a GPU (`reference/vast/vast-api.md` §7).
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The longest wait between two attempts: a user who tops up an account or raises a quota should not wait longer.
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// The longest wait between two attempts to be let in by a GPU: two beats, the lag that is promised anyway.
const LONGEST_WAIT_FOR_A_GPU: Duration = Duration::from_secs(60);

impl Retry {
    /// Nothing went wrong so far.
    pub(crate) fn fresh(now: Timestamp) -> Self {
        Self {
            failures: 0,
            not_before: now,
            problem: String::new(),
        }
    }

    /// Forgets what went wrong.
    pub(super) fn clear(&mut self, now: Timestamp) {
        if self.failures > 0 || !self.problem.is_empty() {
            *self = Self::fresh(now);
        }
    }

    /// Whether the next attempt may be made.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        now >= self.not_before
    }

    /// Something was changed that may be what stood in the way: what waits is tried at once.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        self.not_before = self.not_before.min(now);
    }

    /// Remembers what went wrong, and waits longer each time.
    pub(super) fn note(&mut self, problem: &Problem, now: Timestamp) {
        self.failures = self.failures.saturating_add(1);
        let wait = FIRST_WAIT.saturating_mul(1 << (self.failures - 1).min(10));
        self.not_before = now + wait.min(LONGEST_WAIT);
        self.problem.clone_from(&problem.detail);
    }
}

pub(super) fn bound(a: &mut Association, epoch: Epoch, now: Timestamp) -> Reason {
    if epoch != a.epoch {
        return Reason::Fenced;
    }
    match a.phase {
        Phase::Provisioning => {
            a.standby.binding = Binding::Bound;
            a.retry.clear(now);
            a.enter(Phase::Seeding, Reason::StandbyReady, now);
            Reason::StandbyReady
        }
        Phase::Seeding | Phase::Protected => {
            a.standby.binding = Binding::Bound;
            a.retry.clear(now);
            Reason::Steady
        }
        Phase::Holding(_) | Phase::Restoring { .. } | Phase::Halted { .. } => Reason::NotNow,
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

pub(super) fn agent_reported(a: &mut Association, report: &AgentReport, now: Timestamp) -> Reason {
    if let Phase::Releasing { .. } | Phase::Released { .. } = a.phase {
        return Reason::AlreadyReleased;
    }
    if report.points == PointsSeen::Some && is_about_our_standby(a, report.bound) {
        a.saved = Saved::Points;
    }
    if is_about_our_standby(a, report.bound) {
        grow::reported(a, report.disk);
    }
    match &a.phase {
        Phase::Seeding | Phase::Protected => passes_reported(a, report, now),
        Phase::Restoring { .. } => restore_reported(a, report.restore, now),
        Phase::Holding(_) => rescue::reported(a, report, now),
        Phase::Provisioning | Phase::Halted { .. } => Reason::Steady,
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

/// A late word about a standby that vanished tells nothing of what could be restored from the new one.
fn is_about_our_standby(a: &Association, bound: BoundTo) -> bool {
    match bound {
        BoundTo::Nothing => false,
        BoundTo::Epoch(epoch) if epoch >= a.epoch => true,
        // The same standby speaks under its old epoch until it is bound again; a new one is being made or was bound meanwhile.
        BoundTo::Epoch(_) => a.phase != Phase::Provisioning && a.standby.binding != Binding::Bound,
    }
}

fn passes_reported(a: &mut Association, report: &AgentReport, now: Timestamp) -> Reason {
    match report.bound {
        BoundTo::Epoch(epoch) if epoch > a.epoch => return Reason::Fenced,
        BoundTo::Epoch(epoch) if epoch == a.epoch => {}
        BoundTo::Epoch(_) | BoundTo::Nothing => {
            if a.standby.binding == Binding::Bound {
                a.standby.binding = Binding::Stale;
            }
            return Reason::Steady;
        }
    }
    if let Some(halt) = report.halt
        && a.standby.binding == Binding::Bound
    {
        a.enter(
            Phase::Halted {
                since: now,
                reason: halt,
            },
            Reason::Halted(halt),
            now,
        );
        return Reason::Halted(halt);
    }
    match report.trouble {
        // The agent pulls: what went wrong before is over.
        PassTrouble::None if a.standby.binding == Binding::Bound => a.retry.clear(now),
        PassTrouble::None | PassTrouble::Other => {}
        PassTrouble::GpuUnreachable | PassTrouble::KeyRefused => a.watch.trust = Trust::Doubted,
    }
    if a.phase == Phase::Seeding && a.saved == Saved::Points {
        a.enter(Phase::Protected, Reason::FirstRecoveryPoint, now);
        return Reason::FirstRecoveryPoint;
    }
    Reason::Steady
}

fn restore_reported(a: &mut Association, restore: RestoreSeen, now: Timestamp) -> Reason {
    let Phase::Restoring { job, .. } = &a.phase else {
        return Reason::Steady;
    };
    let Target::Gpu { gpu, .. } = job.target else {
        return Reason::Steady;
    };
    let epoch = job.epoch;
    match restore {
        RestoreSeen::Verified(verified) if verified == epoch => {
            move_to(a, gpu, epoch);
            a.enter(Phase::Protected, Reason::RestoreVerified, now);
            a.retry.clear(now);
            Reason::RestoreVerified
        }
        RestoreSeen::Failed(failed) if failed == epoch => restore_failed(a, now),
        RestoreSeen::NotReady(waiting) if waiting == epoch => {
            let problem = Problem {
                kind: ProblemKind::Unreachable,
                detail: "the new GPU cannot be reached, does not let the standby in yet, or has no rsync".to_owned(),
            };
            failed(a, EffectKind::Restore, &problem, now)
        }
        RestoreSeen::Running(running) if running == epoch && a.retry.is_due(now) => {
            a.retry.clear(now);
            Reason::Steady
        }
        RestoreSeen::Idle
        | RestoreSeen::Running(_)
        | RestoreSeen::Verified(_)
        | RestoreSeen::Failed(_)
        | RestoreSeen::NotReady(_) => Reason::Steady,
    }
}

/// The data lives on another GPU from now on. The agent has not been told yet: the next look binds it.
fn move_to(a: &mut Association, gpu: GpuId, epoch: Epoch) {
    if gpu != a.gpu {
        a.superseded.insert(a.gpu);
        a.superseded.remove(&gpu);
    }
    a.gpu = gpu;
    a.epoch = epoch;
    a.watch = GpuWatch::CALM;
    a.standby.binding = Binding::Stale;
}

fn restore_failed(a: &mut Association, now: Timestamp) -> Reason {
    let detail = "the push to the new GPU or its verification failed; what arrived is used again".to_owned();
    a.retry.note(
        &Problem {
            kind: ProblemKind::Failed,
            detail,
        },
        now,
    );
    if a.retry.failures >= FAILURES_PER_TARGET {
        give_up_target(a, now)
    } else {
        Reason::RetryLater
    }
}

/// The push could not even be started, or nobody knows.
fn restore_not_done(a: &mut Association, kind: ProblemKind, problem: &Problem, now: Timestamp) -> Reason {
    let Phase::Restoring { loss, job } = &a.phase else {
        return Reason::RetryLater;
    };
    let Target::Gpu { since, .. } = job.target else {
        return Reason::RetryLater;
    };
    if kind == ProblemKind::NoRecoveryPoint {
        // No target helps. When not even a newest one exists, the disk is not the one that held the data.
        if job.point == PointChoice::Latest {
            a.saved = Saved::Nothing;
        }
        let loss = loss.clone();
        return give_up_restore(a, loss, &problem.detail, now);
    }
    // A GPU that runs may take minutes until it lets us in.
    let patience_is_over = kind != ProblemKind::Unreachable || now.since(since) >= BOOT_PATIENCE;
    if patience_is_over && a.retry.failures >= FAILURES_PER_TARGET {
        give_up_target(a, now)
    } else {
        Reason::RetryLater
    }
}

/// The target is of no use: rents another one, or goes back to holding.
pub(super) fn give_up_target(a: &mut Association, now: Timestamp) -> Reason {
    a.watch = GpuWatch::CALM;
    let Phase::Restoring { loss, job } = &mut a.phase else {
        return Reason::Steady;
    };
    job.failed_targets = job.failed_targets.saturating_add(1);
    match job.target {
        Target::Gpu {
            origin: TargetOrigin::Rented { max_price_per_hour },
            ..
        } if job.failed_targets < TARGETS_PER_RESTORE => {
            // A new epoch: what the agent says of the old target must never pass for the new one.
            a.last_epoch = a.last_epoch.next();
            job.epoch = a.last_epoch;
            job.target = Target::ToRent {
                max_price_per_hour,
                lease: Lease::Free,
            };
            Reason::ReplacementFailed
        }
        Target::Gpu {
            gpu,
            origin: TargetOrigin::Chosen,
            ..
        } => {
            let loss = loss.clone();
            let why = format!("GPU {gpu} could not be restored onto; name another, or have one rented");
            give_up_restore(a, loss, &why, now)
        }
        Target::Gpu { .. } | Target::ToRent { .. } => {
            let loss = loss.clone();
            let why = "no replacement could be brought up; raise the price cap or name a GPU";
            give_up_restore(a, loss, why, now)
        }
    }
}

fn give_up_restore(a: &mut Association, loss: Loss, why: &str, now: Timestamp) -> Reason {
    a.enter(Phase::Holding(loss), Reason::RestoreGivenUp, now);
    a.retry = Retry {
        failures: a.retry.failures.saturating_add(1),
        not_before: now + LONGEST_WAIT,
        problem: why.to_owned(),
    };
    Reason::RestoreGivenUp
}

pub(super) fn last_gasp_accepted(a: &mut Association, now: Timestamp) -> Reason {
    match a.watch.outbid {
        OutbidNotice::Announced => {
            a.watch.outbid = OutbidNotice::PassAsked { at: now };
            Reason::LastGasp
        }
        OutbidNotice::None | OutbidNotice::PassAsked { .. } => Reason::AlreadySo,
    }
}

pub(super) fn standby_unreachable(a: &mut Association) -> Reason {
    if let Link::Up(endpoint) = &a.standby.link {
        a.standby.link = Link::Lost(endpoint.clone());
    }
    Reason::RetryLater
}

pub(super) fn rented(a: &mut Association, epoch: Epoch, gpu: GpuId, now: Timestamp) -> Reason {
    let Phase::Restoring { job, .. } = &mut a.phase else {
        return Reason::NotNow;
    };
    match job.target {
        Target::ToRent { max_price_per_hour, .. } if job.epoch == epoch => {
            job.target = Target::Gpu {
                gpu,
                since: now,
                origin: TargetOrigin::Rented { max_price_per_hour },
            };
            a.retry.clear(now);
            a.watch = GpuWatch::CALM;
            Reason::ReplacementRented
        }
        Target::ToRent { .. } | Target::Gpu { .. } => Reason::AlreadySo,
    }
}

pub(super) fn superseded_gone(a: &mut Association, gpu: GpuId) -> Reason {
    if a.superseded.remove(&gpu) {
        Reason::Superseded
    } else {
        Reason::AlreadySo
    }
}

pub(super) fn standby_refused(a: &mut Association, attempt: u16, problem: &Problem, now: Timestamp) -> Reason {
    if attempt != a.standby.attempt {
        return Reason::AlreadySo;
    }
    match a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {}
        Phase::Holding(_) | Phase::Restoring { .. } | Phase::Halted { .. } => {
            a.retry.note(problem, now);
            return Reason::RetryLater;
        }
        Phase::Releasing { .. } | Phase::Released { .. } => return Reason::AlreadyReleased,
    }
    match a.standby.order {
        // Its disk is in that zone: moving on would leave the data behind.
        Order::Landed => {
            a.retry.note(problem, now);
            Reason::RetryLater
        }
        Order::Never | Order::Sent { .. } => {
            let round = u16::try_from(a.policy.machine.zones.len()).unwrap_or(u16::MAX).max(1);
            if a.standby.attempt.is_multiple_of(round) {
                a.retry.note(problem, now);
            } else {
                a.retry.problem.clone_from(&problem.detail);
            }
            a.next_attempt();
            Reason::NextZone
        }
    }
}

pub(super) fn rent_refused(a: &mut Association, epoch: Epoch, problem: &Problem, now: Timestamp) -> Reason {
    let Phase::Restoring { job, loss } = &mut a.phase else {
        return Reason::NotNow;
    };
    let Target::ToRent { lease, .. } = &mut job.target else {
        return Reason::AlreadySo;
    };
    if job.epoch != epoch {
        return Reason::AlreadySo;
    }
    *lease = Lease::Free;
    if problem.kind == ProblemKind::OutOfCredit {
        let loss = loss.clone();
        return give_up_restore(a, loss, &problem.detail, now);
    }
    a.retry.note(problem, now);
    Reason::RetryLater
}

pub(super) fn failed(a: &mut Association, effect: EffectKind, problem: &Problem, now: Timestamp) -> Reason {
    if let Phase::Released { .. } = a.phase {
        return Reason::AlreadyReleased;
    }
    if effect == EffectKind::Rescue {
        // Never in the way of what else is tried.
        return rescue::failed(a, problem, now);
    }
    if effect == EffectKind::GrowDisk {
        return grow::refused(a, problem, now);
    }
    // A pass is asked for at every beat, whatever became of the last one. What does wait must not wait longer for that: a wish that the
    // agent has yet to learn may be what helps.
    if effect != EffectKind::Sync {
        a.retry.note(problem, now);
    } else if a.retry.failures == 0 {
        a.retry.problem.clone_from(&problem.detail);
    }
    // Every minute without copying is a minute that may be lost, also after rsync was installed on the GPU, say; and a new GPU is paid.
    let starting = effect == EffectKind::Restore && problem.kind == ProblemKind::Unreachable;
    if effect == EffectKind::Bind || starting {
        a.retry.not_before = a.retry.not_before.min(now + LONGEST_WAIT_FOR_A_GPU);
    }
    match (effect, problem.kind) {
        (EffectKind::Bind, ProblemKind::Halted(halt)) => match a.phase {
            Phase::Provisioning | Phase::Seeding | Phase::Protected => {
                a.enter(
                    Phase::Halted {
                        since: now,
                        reason: halt,
                    },
                    Reason::Halted(halt),
                    now,
                );
                // The halt says it, and nothing is tried again.
                a.retry.clear(now);
                Reason::Halted(halt)
            }
            Phase::Holding(_)
            | Phase::Restoring { .. }
            | Phase::Halted { .. }
            | Phase::Releasing { .. }
            | Phase::Released { .. } => Reason::RetryLater,
        },
        (EffectKind::Bind, ProblemKind::Unreachable) => {
            a.watch.trust = Trust::Doubted;
            Reason::RetryLater
        }
        (EffectKind::Bind, ProblemKind::StaleEpoch) => Reason::Fenced,
        // The agent knows nothing of our binding, or of another one: binding again tells which.
        (EffectKind::Sync, ProblemKind::StaleEpoch) => {
            if a.standby.binding == Binding::Bound {
                a.standby.binding = Binding::Stale;
            }
            Reason::Fenced
        }
        (EffectKind::Restore, kind) => restore_not_done(a, kind, problem, now),
        // The answer was lost: the lease runs out by itself, and the next call looks for the label first.
        (EffectKind::RentGpu, _) => Reason::RetryLater,
        (
            EffectKind::CreateStandby
            | EffectKind::StartStandby
            | EffectKind::StopStandby
            | EffectKind::Bind
            | EffectKind::Sync
            | EffectKind::Rescue
            | EffectKind::GrowDisk
            | EffectKind::DestroyRental
            | EffectKind::DestroySuperseded
            | EffectKind::DeleteStandby
            | EffectKind::DeleteDisk,
            _,
        ) => Reason::RetryLater,
    }
}
