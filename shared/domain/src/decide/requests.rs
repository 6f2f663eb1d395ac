//! What people and tools ask for.

use std::time::Duration;

use crate::association::{
    Association, Binding, Copying, Lease, Loss, LossCause, OutbidNotice, Phase, PointChoice, Rescue, RestoreJob, Saved,
    Target, TargetOrigin, Trust,
};
use crate::decide::rescue;
use crate::event::{Destination, Subject};
use crate::ids::GpuId;
use crate::policy::{Policy, SupersededGpu};
use crate::reason::Reason;
use crate::units::Timestamp;
use crate::warrant::{Ground, ReleaseWarrant};

/// How long a stopped standby stays up after somebody asked for a download: an hour per request, renewed by the next one.
const WANTED_FOR: Duration = Duration::from_secs(3600);

/// Whether a request is about the past: a GPU whose data has moved on.
fn is_about_the_past(a: &Association, subject: Subject) -> bool {
    match subject {
        Subject::Association => false,
        Subject::Gpu(gpu) => gpu != a.gpu,
    }
}

pub(super) fn release(a: &mut Association, subject: Subject, now: Timestamp) -> Reason {
    if is_about_the_past(a, subject) {
        return Reason::Superseded;
    }
    match a.phase {
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Restoring { .. }
        | Phase::Halted { .. } => start_releasing(a, Ground::UserRequest, now),
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

pub(super) fn start_releasing(a: &mut Association, ground: Ground, now: Timestamp) -> Reason {
    let reason = Reason::Releasing(ground);
    a.enter(
        Phase::Releasing {
            since: now,
            warrant: ReleaseWarrant::on(ground),
        },
        reason,
        now,
    );
    // Whatever waited for its turn before: until the machine is gone it bills.
    a.retry.clear(now);
    reason
}

pub(super) fn failed(a: &mut Association, subject: Subject, now: Timestamp) -> Reason {
    declare_lost(a, subject, LossCause::ReportedFailed, now)
}

pub(super) fn destroyed(a: &mut Association, subject: Subject, now: Timestamp) -> Reason {
    declare_lost(a, subject, LossCause::ReportedDestroyed, now)
}

fn declare_lost(a: &mut Association, subject: Subject, cause: LossCause, now: Timestamp) -> Reason {
    if is_about_the_past(a, subject) {
        return Reason::Superseded;
    }
    match &mut a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Halted { .. } => lose(a, cause, now),
        // What a tool declares outranks what we inferred: it no longer heals by itself.
        Phase::Holding(loss) | Phase::Restoring { loss, .. } if loss.cause.heals_by_itself() => {
            loss.cause = cause;
            Reason::GpuLost(cause)
        }
        Phase::Holding(_) | Phase::Restoring { .. } => Reason::AlreadySo,
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

pub(super) fn lose(a: &mut Association, cause: LossCause, now: Timestamp) -> Reason {
    let reason = Reason::GpuLost(cause);
    let rescue = rescue::begin(a, cause, now);
    let loss = Loss {
        since: now,
        cause,
        rescue,
        rescue_problem: String::new(),
    };
    a.enter(Phase::Holding(loss), reason, now);
    a.retry.clear(now);
    reason
}

pub(super) fn outbid(a: &mut Association, gpu: GpuId) -> Reason {
    if gpu != a.gpu {
        return Reason::Superseded;
    }
    match (&a.phase, a.watch.outbid) {
        (Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Halted { .. }, OutbidNotice::None) => {
            a.watch.outbid = OutbidNotice::Announced;
            a.watch.trust = Trust::Doubted;
            Reason::LastGasp
        }
        (Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Halted { .. }, OutbidNotice::Announced) => {
            Reason::AlreadySo
        }
        // A second notice after the pass was asked for may be a second outbid: one more pass costs little.
        (
            Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Halted { .. },
            OutbidNotice::PassAsked { .. },
        ) => {
            a.watch.outbid = OutbidNotice::Announced;
            Reason::LastGasp
        }
        // The notice came late, but it tells why the GPU stopped.
        (Phase::Holding(loss), _) if loss.cause == LossCause::Paused => {
            let loss = Loss {
                cause: LossCause::Outbid,
                ..loss.clone()
            };
            a.phase = Phase::Holding(loss);
            Reason::GpuLost(LossCause::Outbid)
        }
        (Phase::Holding(_) | Phase::Restoring { .. }, _) => Reason::AlreadySo,
        (Phase::Releasing { .. } | Phase::Released { .. }, _) => Reason::AlreadyReleased,
    }
}

pub(super) fn look(a: &mut Association) -> Reason {
    match a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {
            a.watch.trust = Trust::Doubted;
            Reason::NotYetSure
        }
        Phase::Holding(_) | Phase::Restoring { .. } | Phase::Halted { .. } | Phase::Releasing { .. } => {
            Reason::AlreadySo
        }
        Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

pub(super) fn stop_sync(a: &mut Association) -> Reason {
    match (&a.phase, a.copying) {
        (Phase::Releasing { .. } | Phase::Released { .. }, _) => Reason::AlreadyReleased,
        (_, Copying::Off) => Reason::AlreadySo,
        (_, Copying::On) => {
            a.copying = Copying::Off;
            Reason::UserAsked
        }
    }
}

pub(super) fn start_sync(a: &mut Association, now: Timestamp) -> Reason {
    match &mut a.phase {
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
        // A halt wants a decision about the source, not a restart.
        Phase::Halted { .. } => Reason::NotNow,
        Phase::Holding(loss) => {
            // What a tool declared, the user takes back: from here the provider's word counts again.
            let declared = !loss.cause.heals_by_itself();
            if declared {
                loss.cause = LossCause::Paused;
            }
            let was_off = a.copying == Copying::Off;
            a.copying = Copying::On;
            a.retry.clear(now);
            if declared || was_off {
                Reason::UserAsked
            } else {
                Reason::AlreadySo
            }
        }
        Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Restoring { .. } => match a.copying {
            Copying::On => Reason::AlreadySo,
            Copying::Off => {
                a.copying = Copying::On;
                Reason::UserAsked
            }
        },
    }
}

pub(super) fn accept_source(a: &mut Association, now: Timestamp) -> Reason {
    match a.phase {
        Phase::Halted { .. } => {
            // A bind that is under way knows nothing of the acceptance; it must not pass for the one that does.
            a.take_next_epoch();
            a.standby.binding = Binding::StaleAndAccepted;
            a.enter(copying_phase(a), Reason::SourceAccepted, now);
            a.retry.clear(now);
            Reason::SourceAccepted
        }
        Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Holding(_) | Phase::Restoring { .. } => {
            Reason::NotNow
        }
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
    }
}

/// The phase in which copying goes on, or starts.
pub(super) fn copying_phase(a: &Association) -> Phase {
    match (a.saved, a.standby.order) {
        (Saved::Points, _) => Phase::Protected,
        (Saved::Nothing, crate::association::Order::Landed) if a.standby.binding != Binding::Stale => Phase::Seeding,
        (Saved::Nothing, _) => Phase::Provisioning,
    }
}

pub(super) fn restore(a: &mut Association, point: &PointChoice, destination: Destination, now: Timestamp) -> Reason {
    // Who asks for the data wants it: should this fail, the retention is announced anew.
    let loss = match &a.phase {
        Phase::Holding(loss) => Loss {
            since: now,
            cause: loss.cause,
            rescue: Rescue::Over,
            rescue_problem: String::new(),
        },
        Phase::Halted { .. } => Loss {
            since: now,
            cause: LossCause::SourceHalted,
            rescue: Rescue::Over,
            rescue_problem: String::new(),
        },
        Phase::Restoring { job, loss } if is_mere_wish(job) && !is_same_wish(job, point, destination) => loss.clone(),
        Phase::Restoring { job, .. } if is_same_destination(job, destination) => return Reason::AlreadySo,
        Phase::Restoring { .. } => return Reason::NotNow,
        Phase::Provisioning | Phase::Seeding | Phase::Protected => return Reason::NotNow,
        Phase::Releasing { .. } | Phase::Released { .. } => return Reason::AlreadyReleased,
    };
    if let Destination::Onto(gpu) = destination
        && a.superseded.contains(&gpu)
        && a.policy.superseded == SupersededGpu::Destroy
    {
        // It is being destroyed; an order to do so may be under way.
        return Reason::Superseded;
    }
    match (a.saved, point) {
        (Saved::Nothing, _) | (Saved::Points, PointChoice::Partial) => Reason::NothingSaved,
        (Saved::Points, PointChoice::Latest | PointChoice::Id(_) | PointChoice::Checkpoint(_)) => {
            start_restoring(a, loss, point.clone(), destination, Reason::UserAsked, now);
            Reason::UserAsked
        }
    }
}

/// Whether no offer was taken for it yet, so that it may still change.
fn is_mere_wish(job: &RestoreJob) -> bool {
    match &job.target {
        Target::ToRent { lease, .. } => *lease == Lease::Free,
        Target::Gpu { .. } => false,
    }
}

/// Whether this asks for the same point on a GPU of the same price.
fn is_same_wish(job: &RestoreJob, point: &PointChoice, destination: Destination) -> bool {
    match (&job.target, destination) {
        (
            Target::ToRent { max_price_per_hour, .. },
            Destination::Rent {
                max_price_per_hour: wanted,
            },
        ) => job.point == *point && *max_price_per_hour == wanted,
        (Target::ToRent { .. } | Target::Gpu { .. }, _) => false,
    }
}

/// Whether a job does what is asked for, but for point and price.
fn is_same_destination(job: &RestoreJob, destination: Destination) -> bool {
    match (&job.target, destination) {
        (Target::ToRent { .. }, Destination::Rent { .. }) => true,
        (Target::Gpu { origin, gpu, .. }, Destination::Onto(wanted)) => {
            *gpu == wanted && *origin == TargetOrigin::Chosen
        }
        (Target::Gpu { origin, .. }, Destination::Rent { .. }) => *origin != TargetOrigin::Chosen,
        (Target::ToRent { .. }, Destination::Onto(_)) => false,
    }
}

pub(super) fn start_restoring(
    a: &mut Association,
    loss: Loss,
    point: PointChoice,
    destination: Destination,
    reason: Reason,
    now: Timestamp,
) {
    a.last_epoch = a.last_epoch.next();
    let target = match destination {
        Destination::Rent { max_price_per_hour } => Target::ToRent {
            max_price_per_hour,
            lease: Lease::Free,
        },
        Destination::Onto(gpu) => Target::Gpu {
            gpu,
            since: now,
            origin: TargetOrigin::Chosen,
        },
    };
    let job = RestoreJob {
        point,
        epoch: a.last_epoch,
        target,
        failed_targets: 0,
    };
    a.enter(Phase::Restoring { loss, job }, reason, now);
    a.retry.clear(now);
}

pub(super) fn want_standby(a: &mut Association, now: Timestamp) -> Reason {
    match a.phase {
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Restoring { .. }
        | Phase::Halted { .. } => {
            a.standby.wanted_until = a.standby.wanted_until.max(now + WANTED_FOR);
            Reason::UserAsked
        }
    }
}

/// The agent learns what to copy when it is bound. A bind that is under way tells it the old wish, so it must not be taken for the new one.
fn relearn_source(a: &mut Association) {
    let accepted = a.standby.binding == Binding::StaleAndAccepted;
    // While a restore runs, its own epoch is the next one to be bound. And the agent rescues under the epoch that it knows; a bind that was
    // under way when the GPU was lost does not count any more.
    let rescuing = matches!(&a.phase, Phase::Holding(loss) if matches!(loss.rescue, Rescue::Wanted { .. }));
    if rescuing || matches!(a.phase, Phase::Restoring { .. }) {
        a.standby.binding = Binding::Stale;
    } else {
        a.take_next_epoch();
    }
    if accepted {
        a.standby.binding = Binding::StaleAndAccepted;
    }
}

pub(super) fn change_policy(a: &mut Association, policy: &Policy, now: Timestamp) -> Reason {
    match a.phase {
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::AlreadyReleased,
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Restoring { .. }
        | Phase::Halted { .. } => {
            if a.policy == *policy {
                return Reason::AlreadySo;
            }
            let same_source = a.policy.source_path == policy.source_path
                && a.policy.excludes == policy.excludes
                && a.policy.includes == policy.includes
                && a.policy.before_pass == policy.before_pass
                && a.policy.max_deleted_percent == policy.max_deleted_percent
                && a.policy.bandwidth_kib_per_s == policy.bandwidth_kib_per_s;
            let first_pass_is_to_come = matches!(a.phase, Phase::Provisioning | Phase::Seeding);
            if !same_source || (first_pass_is_to_come && a.policy.first != policy.first) {
                relearn_source(a);
            }
            a.policy = policy.clone();
            // Elsewhere it would begin a failover, or use up a target.
            if let Phase::Provisioning | Phase::Seeding | Phase::Protected = a.phase {
                a.retry.hurry(now);
            }
            if let Some(refused) = &mut a.standby.disk.refused {
                refused.hurry(now);
            }
            Reason::UserAsked
        }
    }
}
