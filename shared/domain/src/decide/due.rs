//! The effects that follow from a state and what was just seen.

use std::time::Duration;

use crate::association::{Association, Binding, Copying, Lease, Link, Order, OutbidNotice, Phase, Saved, Target};
use crate::decide::grow;
use crate::decide::needs::is_wanted;
use crate::decide::rescue;
use crate::effect::{Accept, Effect, StandbyRef, Urgency};
use crate::observed::{Endpoint, GpuSeen, Observed, Seen, SshHost, StandbySeen};
use crate::policy::SupersededGpu;
use crate::reason::Reason;
use crate::units::Timestamp;
use crate::warrant::{Ground, ReleaseWarrant};

/// How long an order for a machine may take to show up in the provider's answers after we lost its own answer. Generous: the price
/// of waiting is a tombstone that comes later, the price of not waiting is a machine that bills for ever.
const ORDER_SETTLES: Duration = Duration::from_secs(120);

/// How long a call that rents a GPU can be under way at most; every step of it has a shorter time limit.
const RENT_LEASE: Duration = Duration::from_secs(120);

pub(super) fn due(a: &mut Association, seen: &Seen, now: Timestamp) -> Vec<Effect> {
    let mut effects = Vec::new();
    match a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {
            match standby_up(a, seen, now) {
                Up::Yes(endpoint) => {
                    effects.extend(copy(a, endpoint, seen, now));
                    effects.extend(grow::due(a, now));
                }
                Up::Not(effect) => effects.extend(effect),
            }
            effects.extend(clear_superseded(a, now));
        }
        Phase::Holding(_) => effects.extend(hold(a, seen, now)),
        Phase::Restoring { .. } => effects.extend(restore(a, seen, now)),
        Phase::Halted { .. } => {
            if is_wanted(a, now)
                && let Up::Not(effect) = standby_up(a, seen, now)
            {
                effects.extend(effect);
            }
        }
        Phase::Releasing { warrant, .. } => effects.extend(release(a, seen, warrant, now)),
        Phase::Released { .. } => {}
    }
    effects
}

enum Up {
    Yes(Endpoint),
    Not(Option<Effect>),
}

/// Brings the standby's machine up, or says where it answers.
fn standby_up(a: &mut Association, seen: &Seen, now: Timestamp) -> Up {
    if let Link::Up(endpoint) = &a.standby.link {
        return Up::Yes(endpoint.clone());
    }
    if !a.retry.is_due(now) {
        return Up::Not(None);
    }
    let standby = StandbyRef::of(a);
    match (&seen.standby, &seen.disk) {
        (Observed::Present(StandbySeen::Stopped), _) => Up::Not(Some(Effect::StartStandby { standby })),
        // A machine that vanished is ordered again under its old name, so that its disk, found by name, is attached again.
        (Observed::Absent, Observed::Present(())) => Up::Not(Some(order(a, standby, now))),
        // Neither machine nor disk: fine for a first order. If there once was a disk, `gone_reads` decides.
        (Observed::Absent, Observed::Absent) if a.standby.order != Order::Landed => {
            Up::Not(Some(order(a, standby, now)))
        }
        (Observed::Absent, Observed::Absent | Observed::Unknown)
        | (Observed::Unknown, _)
        | (Observed::Present(StandbySeen::Booting | StandbySeen::Running(_) | StandbySeen::Stopping), _) => {
            Up::Not(None)
        }
    }
}

fn order(a: &mut Association, standby: StandbyRef, now: Timestamp) -> Effect {
    // A machine that once landed keeps `Landed`: its disk must not be left behind by trying another zone.
    if a.standby.order != Order::Landed {
        a.standby.order = Order::Sent { at: now };
    }
    Effect::CreateStandby {
        standby,
        machine: a.policy.machine.clone(),
    }
}

fn copy(a: &Association, endpoint: Endpoint, seen: &Seen, now: Timestamp) -> Option<Effect> {
    if a.copying == Copying::Off {
        return None;
    }
    let urgency = match a.watch.outbid {
        OutbidNotice::Announced => Urgency::LastGasp,
        OutbidNotice::None | OutbidNotice::PassAsked { .. } => Urgency::Due,
    };
    let accept = match a.standby.binding {
        Binding::Bound => {
            return Some(Effect::Sync {
                endpoint,
                epoch: a.epoch,
                urgency,
            });
        }
        Binding::Stale => Accept::Nothing,
        Binding::StaleAndAccepted => Accept::SourceAsItIs,
    };
    if !a.retry.is_due(now) {
        return None;
    }
    let host = running_at(&seen.gpu)?;
    Some(Effect::Bind {
        endpoint,
        gpu: a.gpu,
        host,
        epoch: a.epoch,
        accept,
    })
}

fn running_at(gpu: &Observed<GpuSeen>) -> Option<SshHost> {
    match gpu {
        Observed::Present(GpuSeen::Running(host)) => Some(host.clone()),
        Observed::Present(GpuSeen::Starting | GpuSeen::Paused(_) | GpuSeen::Dark)
        | Observed::Absent
        | Observed::Unknown => None,
    }
}

/// Destroys the GPUs whose data lives, verified, on the bound one, if the user's policy says so.
fn clear_superseded(a: &Association, now: Timestamp) -> Vec<Effect> {
    let live = a.phase == Phase::Protected && a.standby.binding == Binding::Bound;
    match a.policy.superseded {
        SupersededGpu::Destroy if live && a.retry.is_due(now) => {
            let warrant = ReleaseWarrant::on(Ground::VerifiedElsewhere);
            a.superseded
                .iter()
                .map(|gpu| Effect::DestroySuperseded { gpu: *gpu, warrant })
                .collect()
        }
        SupersededGpu::Destroy | SupersededGpu::Keep => Vec::new(),
    }
}

fn hold(a: &mut Association, seen: &Seen, now: Timestamp) -> Option<Effect> {
    let Phase::Holding(loss) = &a.phase else { return None };
    let idle = now.since(loss.since) >= a.policy.stop_standby_after.duration();
    let rescue = rescue::is_wanted(a, now);
    if is_wanted(a, now) || rescue {
        return match standby_up(a, seen, now) {
            // What is rescued may need more room than there is.
            Up::Yes(endpoint) => {
                let grown = if rescue { grow::due(a, now) } else { None };
                grown.or_else(|| rescue::due(a, endpoint, &seen.gpu, now))
            }
            Up::Not(effect) => effect,
        };
    }
    settle_order(a, seen, now);
    match &seen.standby {
        Observed::Present(StandbySeen::Running(_) | StandbySeen::Booting) if idle && a.retry.is_due(now) => {
            Some(Effect::StopStandby {
                standby: StandbyRef::of(a),
            })
        }
        Observed::Present(_) | Observed::Absent | Observed::Unknown => None,
    }
}

/// An order that was sent and never showed up is over after a while.
fn settle_order(a: &mut Association, seen: &Seen, now: Timestamp) {
    if let Order::Sent { at } = a.standby.order
        && seen.standby == Observed::Absent
        && now.since(at) >= ORDER_SETTLES
    {
        a.standby.order = Order::Never;
    }
}

fn restore(a: &mut Association, seen: &Seen, now: Timestamp) -> Option<Effect> {
    let endpoint = match standby_up(a, seen, now) {
        Up::Yes(endpoint) => endpoint,
        Up::Not(effect) => return effect,
    };
    let due = a.retry.is_due(now);
    let like = a.gpu;
    let Phase::Restoring { job, .. } = &mut a.phase else {
        return None;
    };
    match &mut job.target {
        Target::ToRent {
            max_price_per_hour,
            lease,
        } => {
            let free = match lease {
                Lease::Free => true,
                Lease::Taken { until } => now >= *until,
            };
            if !(free && due) {
                return None;
            }
            *lease = Lease::Taken {
                until: now + RENT_LEASE,
            };
            Some(Effect::RentGpu {
                epoch: job.epoch,
                like,
                max_price_per_hour: *max_price_per_hour,
            })
        }
        Target::Gpu { gpu, .. } => {
            let host = running_at(&seen.target)?;
            let (point, target) = (job.point.clone(), *gpu);
            due.then_some(Effect::Restore {
                endpoint,
                epoch: job.epoch,
                point,
                target,
                host,
            })
        }
    }
}

fn release(a: &mut Association, seen: &Seen, warrant: ReleaseWarrant, now: Timestamp) -> Option<Effect> {
    settle_order(a, seen, now);
    let standby = StandbyRef::of(a);
    let settled = !matches!(a.standby.order, Order::Sent { .. });
    match (&seen.standby, &seen.disk) {
        (Observed::Present(StandbySeen::Stopping), _)
        | (Observed::Unknown, _)
        | (Observed::Absent, Observed::Unknown) => None,
        (Observed::Present(_), _) => a
            .retry
            .is_due(now)
            .then_some(Effect::DeleteStandby { standby, warrant }),
        (Observed::Absent, Observed::Present(())) => {
            a.retry.is_due(now).then_some(Effect::DeleteDisk { standby, warrant })
        }
        (Observed::Absent, Observed::Absent) if settled => {
            let ground = warrant.ground();
            a.saved = Saved::Nothing;
            a.standby.link = Link::None;
            a.enter(Phase::Released { since: now, ground }, Reason::Released(ground), now);
            None
        }
        (Observed::Absent, Observed::Absent) => None,
    }
}
