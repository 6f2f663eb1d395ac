//! The rescue pass: what a paused GPU's disk still holds is fetched through its provider, before a replacement is rented.
//!
//! The last-gasp pass saves what was written before the notice, if it completes. What was written after it, or everything since the last
//! pass when the host stopped the GPU at once, is on a disk that its provider hands out for as long as the host is online.

use std::time::Duration;

use crate::association::{Association, Copying, Loss, LossCause, Phase, Rescue, Space};
use crate::effect::Effect;
use crate::observed::{AgentReport, BoundTo, Endpoint, GpuSeen, Observed, RescueSeen};
use crate::problem::{Problem, ProblemKind};
use crate::reason::Reason;
use crate::units::Timestamp;

/// How long a rescue may hold up an automatic failover. A replacement takes 40 s to 10 minutes to come up (`reference/vast/vast-api.md` §8),
/// so two minutes do not make a short outage a long one, and they fetch more than a GB of last changes at 100 Mbit/s.
const HOLDS_UP_FAILOVER: Duration = Duration::from_secs(120);

/// How long a rescue is tried when nobody waits for it, and the standby kept up for it.
pub(crate) const WINDOW: Duration = Duration::from_secs(3600);

/// Attempts before a rescue is over: a provider or a connection that failed three times in half a minute or more stays so for a while.
pub const RESCUE_ATTEMPTS: u8 = 3;

/// Between two attempts: longer than Vast's limit of one such call in 3.5 s, shorter than a beat.
const PAUSE: Duration = Duration::from_secs(10);

/// After an attempt that found the disk full, unless the disk grows: time for a person to allow it, within [`WINDOW`].
const PAUSE_WHEN_FULL: Duration = Duration::from_secs(15 * 60);

/// What a loss begins with. A source that halted or that the user stopped is not read behind their back.
pub(super) fn begin(a: &Association, cause: LossCause, now: Timestamp) -> Rescue {
    let copied = matches!(a.phase, Phase::Provisioning | Phase::Seeding | Phase::Protected);
    if copied && a.copying == Copying::On && cause.leaves_the_disk() {
        Rescue::Wanted {
            failures: 0,
            not_before: now,
            told: 0,
        }
    } else {
        Rescue::Over
    }
}

/// Whether there is still something to fetch and a standby to fetch it to. Not under the epoch of a restore: the data may live elsewhere then.
pub(super) fn is_wanted(a: &Association, now: Timestamp) -> bool {
    let Phase::Holding(loss) = &a.phase else { return false };
    let open = matches!(loss.rescue, Rescue::Wanted { .. }) && loss.cause.leaves_the_disk();
    let landed = a.standby.order == crate::association::Order::Landed;
    open && landed && a.copying == Copying::On && a.last_epoch == a.epoch && now.since(loss.since) < WINDOW
}

/// Whether an automatic failover waits for it. A host that is dark, or a GPU that is gone, is not waited for.
pub(super) fn comes_first(a: &Association, loss: &Loss, gpu: &Observed<GpuSeen>, now: Timestamp) -> bool {
    let promising = match gpu {
        Observed::Present(GpuSeen::Paused(_)) | Observed::Unknown => true,
        Observed::Present(GpuSeen::Running(_) | GpuSeen::Starting | GpuSeen::Dark) | Observed::Absent => false,
    };
    let until = loss.since + HOLDS_UP_FAILOVER;
    let soon = matches!(loss.rescue, Rescue::Wanted { not_before, .. } if not_before < until);
    promising && soon && is_wanted(a, now) && now < until
}

/// The loss with which a restore begins: from here the disk is the past.
pub(super) fn is_over(loss: Loss) -> Loss {
    match loss.rescue {
        Rescue::Wanted { .. } => Loss {
            rescue: Rescue::Over,
            ..loss
        },
        Rescue::Over | Rescue::Complete => loss,
    }
}

pub(super) fn due(a: &Association, endpoint: Endpoint, gpu: &Observed<GpuSeen>, now: Timestamp) -> Option<Effect> {
    let Phase::Holding(loss) = &a.phase else { return None };
    let Rescue::Wanted { not_before, .. } = loss.rescue else {
        return None;
    };
    let paused = matches!(gpu, Observed::Present(GpuSeen::Paused(_)));
    (paused && is_wanted(a, now) && now >= not_before).then_some(Effect::Rescue {
        endpoint,
        gpu: a.gpu,
        epoch: a.epoch,
        loss: loss.since,
    })
}

/// The disk has grown: what waited for room goes on.
pub(super) fn room_was_made(a: &mut Association, now: Timestamp) {
    if let Phase::Holding(loss) = &mut a.phase
        && let Rescue::Wanted { not_before, .. } = &mut loss.rescue
    {
        *not_before = (*not_before).min(now);
    }
}

pub(super) fn reported(a: &mut Association, report: &AgentReport, now: Timestamp) -> Reason {
    let ours = report.bound == BoundTo::Epoch(a.epoch);
    let full = a.standby.disk.space == Space::Short;
    let Phase::Holding(loss) = &mut a.phase else {
        return Reason::Steady;
    };
    let Rescue::Wanted { failures, told, .. } = loss.rescue else {
        return Reason::Steady;
    };
    if !ours {
        return Reason::Steady;
    }
    let (rescue, reason) = match report.rescue {
        RescueSeen::Complete(of) if of == loss.since => (Rescue::Complete, Reason::Rescued),
        RescueSeen::Refused(of) if of == loss.since => (Rescue::Over, Reason::RescueGivenUp),
        RescueSeen::Failed { loss: of, attempts } if of == loss.since && attempts >= RESCUE_ATTEMPTS => {
            (Rescue::Over, Reason::RescueGivenUp)
        }
        RescueSeen::Failed { loss: of, attempts } if of == loss.since && attempts > told && full => (
            Rescue::Wanted {
                failures,
                not_before: now + PAUSE_WHEN_FULL,
                told: attempts,
            },
            Reason::RetryLater,
        ),
        RescueSeen::Idle
        | RescueSeen::Running(_)
        | RescueSeen::Complete(_)
        | RescueSeen::Failed { .. }
        | RescueSeen::Refused(_) => return Reason::Steady,
    };
    loss.rescue = rescue;
    reason
}

pub(super) fn failed(a: &mut Association, problem: &Problem, now: Timestamp) -> Reason {
    let Phase::Holding(loss) = &mut a.phase else {
        return Reason::NotNow;
    };
    let Rescue::Wanted { failures, told, .. } = loss.rescue else {
        return Reason::AlreadySo;
    };
    let for_good = match problem.kind {
        ProblemKind::StaleEpoch | ProblemKind::Halted(_) | ProblemKind::Invalid | ProblemKind::ProgramMissing => true,
        ProblemKind::CapacityExhausted
        | ProblemKind::QuotaExceeded
        | ProblemKind::NameTaken
        | ProblemKind::NoOffer
        | ProblemKind::OutOfCredit
        | ProblemKind::Denied
        | ProblemKind::RateLimited
        | ProblemKind::OutcomeUnknown
        | ProblemKind::Unreachable
        | ProblemKind::NoRecoveryPoint
        | ProblemKind::Failed => false,
    };
    let failures = failures.saturating_add(1);
    if for_good || failures >= RESCUE_ATTEMPTS {
        loss.rescue = Rescue::Over;
        loss.rescue_problem.clone_from(&problem.detail);
        return Reason::RescueGivenUp;
    }
    loss.rescue = Rescue::Wanted {
        failures,
        not_before: now + PAUSE,
        told,
    };
    Reason::RetryLater
}
