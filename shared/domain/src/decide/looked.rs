//! What we saw of the world.

use crate::association::{
    Association, Binding, Copying, Link, LossCause, OutbidNotice, Phase, PhaseName, PointChoice, Saved, Target, Trust,
};
use crate::decide::needs::is_wanted;
use crate::decide::requests::{copying_phase, lose, start_releasing, start_restoring};
use crate::decide::rescue;
use crate::decide::results::give_up_target;
use crate::event::Destination;
use crate::observed::{Endpoint, GpuSeen, Observed, PauseCause, Seen, StandbySeen};
use crate::policy::{Failover, WhenDeletedAtVast};
use crate::reason::Reason;
use crate::units::Timestamp;
use crate::warrant::Ground;

/// Complete reads in a row that must miss a GPU before it counts as gone: one short or stale list is no proof.
/// `reference/vast/vast-api.md` §12, rule 3.
pub const ABSENT_READS: u8 = 2;

/// Reads in a row in which a host must be dark before its GPU counts as lost. `reference/vast/vast-api.md` §12, rule 4.
pub const DARK_READS: u8 = 3;

/// How long after its notice an outbid GPU can still be running: 32 s were measured live, so this is ample.
/// Source: `reference/vast/live-interruptions.json`.
const NOTICE_EXPIRES: std::time::Duration = std::time::Duration::from_secs(180);

/// Looks that must find neither machine nor disk before a standby counts as vanished.
const GONE_READS: u8 = 2;

/// How long a target may take from rent to SSH: 210 s is the worst seen live, an image pull can take longer.
/// Sources: `reference/known-failures.md`, `reference/vast/vast-api.md` §8.
pub(super) const BOOT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(15 * 60);

pub(super) fn looked(a: &mut Association, seen: &Seen, now: Timestamp) -> Reason {
    note_standby(a, seen, now);
    let gone = seen.standby == Observed::Absent && seen.disk == Observed::Absent;
    if gone
        && a.standby.gone_reads >= GONE_READS
        && let Some(reason) = standby_vanished(a, now)
    {
        return reason;
    }
    match &a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => watched(a, &seen.gpu, now),
        Phase::Halted { .. } => watched(a, &seen.gpu, now),
        Phase::Holding(_) => held(a, &seen.gpu, now),
        Phase::Restoring { .. } => restoring(a, seen, now),
        Phase::Releasing { .. } | Phase::Released { .. } => Reason::Steady,
    }
}

/// Takes in what the provider says of the standby's machine.
fn note_standby(a: &mut Association, seen: &Seen, now: Timestamp) {
    let standby = &mut a.standby;
    match (&seen.standby, &seen.disk) {
        (Observed::Unknown, _) => return,
        (Observed::Absent, Observed::Absent) if standby.order == crate::association::Order::Landed => {
            standby.gone_reads = standby.gone_reads.saturating_add(1);
        }
        (Observed::Absent | Observed::Present(_), _) => standby.gone_reads = 0,
    }
    let Observed::Present(machine) = &seen.standby else {
        if let Link::Up(endpoint) = &standby.link {
            standby.link = Link::Lost(endpoint.clone());
        }
        return;
    };
    standby.order = crate::association::Order::Landed;
    match (machine, &standby.link) {
        (StandbySeen::Running(endpoint), Link::Up(known) | Link::Lost(known))
            if known.instance == endpoint.instance =>
        {
            // The address changes across a preemption, the key does not: whoever answers there must still prove to be this machine.
            let host_key = known.host_key.clone();
            a.standby.link = Link::Up(Endpoint {
                host_key,
                ..endpoint.clone()
            });
        }
        (StandbySeen::Running(endpoint), Link::None | Link::Up(_) | Link::Lost(_)) => {
            a.standby.link = Link::Up(endpoint.clone());
            a.retry.clear(now);
        }
        (StandbySeen::Booting | StandbySeen::Stopping | StandbySeen::Stopped, Link::Up(endpoint)) => {
            a.standby.link = Link::Lost(endpoint.clone());
        }
        (StandbySeen::Booting | StandbySeen::Stopping | StandbySeen::Stopped, Link::None | Link::Lost(_)) => {}
    }
}

/// Machine and disk are both gone. While the GPU lives a new standby is made; otherwise there is nothing left to restore.
fn standby_vanished(a: &mut Association, now: Timestamp) -> Option<Reason> {
    match &a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {
            a.next_attempt();
            // What the vanished one still says, or said, is not about the new one.
            a.take_next_epoch();
            a.enter(Phase::Provisioning, Reason::StandbyVanished, now);
            Some(Reason::StandbyVanished)
        }
        Phase::Restoring { loss, .. } => {
            let loss = loss.clone();
            a.saved = Saved::Nothing;
            a.enter(Phase::Holding(loss), Reason::StandbyVanished, now);
            Some(Reason::StandbyVanished)
        }
        Phase::Holding(_) | Phase::Halted { .. } => {
            a.saved = Saved::Nothing;
            None
        }
        Phase::Releasing { .. } | Phase::Released { .. } => None,
    }
}

/// A GPU that should run: is it lost?
fn watched(a: &mut Association, gpu: &Observed<GpuSeen>, now: Timestamp) -> Reason {
    match gpu {
        Observed::Unknown => Reason::Steady,
        Observed::Absent => {
            a.watch.absent_reads = a.watch.absent_reads.saturating_add(1);
            a.watch.trust = Trust::Doubted;
            match (a.watch.absent_reads >= ABSENT_READS, a.policy.when_deleted_at_vast) {
                (false, _) => Reason::NotYetSure,
                (true, WhenDeletedAtVast::Hold) => lose(a, LossCause::Gone, now),
                (true, WhenDeletedAtVast::Release) => start_releasing(a, Ground::DeletedAtVast, now),
            }
        }
        Observed::Present(GpuSeen::Dark) => {
            a.watch.absent_reads = 0;
            a.watch.dark_reads = a.watch.dark_reads.saturating_add(1);
            a.watch.trust = Trust::Doubted;
            if a.watch.dark_reads >= DARK_READS {
                lose(a, LossCause::HostDark, now)
            } else {
                Reason::NotYetSure
            }
        }
        Observed::Present(GpuSeen::Paused(cause)) => {
            let cause = pause_cause(*cause, a.watch.outbid);
            lose(a, cause, now)
        }
        Observed::Present(GpuSeen::Starting) => {
            a.watch.absent_reads = 0;
            a.watch.dark_reads = 0;
            Reason::Steady
        }
        Observed::Present(GpuSeen::Running(_)) => {
            a.watch.absent_reads = 0;
            a.watch.dark_reads = 0;
            forget_old_notice(a, now);
            // It runs, yet something hinted at trouble: its address or its authorized keys may have changed, so bind it again.
            // An announced stop is different: the GPU runs until it does not.
            if a.watch.trust == Trust::Doubted && a.watch.outbid == OutbidNotice::None {
                a.watch.trust = Trust::Fine;
                if a.standby.binding == Binding::Bound {
                    a.standby.binding = Binding::Stale;
                }
            }
            Reason::Steady
        }
    }
}

/// A GPU that still runs minutes after its notice was rescued, say by a higher bid.
fn forget_old_notice(a: &mut Association, now: Timestamp) {
    let nobody_asks = a.copying == Copying::Off || a.phase.name() == PhaseName::Halted;
    match a.watch.outbid {
        OutbidNotice::PassAsked { at } if now.since(at) >= NOTICE_EXPIRES => a.watch.outbid = OutbidNotice::None,
        // Without copying no last-gasp pass is asked for, so its time runs from here.
        OutbidNotice::Announced if nobody_asks => a.watch.outbid = OutbidNotice::PassAsked { at: now },
        OutbidNotice::None | OutbidNotice::Announced | OutbidNotice::PassAsked { .. } => {}
    }
}

fn pause_cause(cause: PauseCause, notice: OutbidNotice) -> LossCause {
    match (cause, notice) {
        (PauseCause::OutOfCredit, _) => LossCause::OutOfCredit,
        (PauseCause::ContractEnded, _) => LossCause::ContractEnded,
        (PauseCause::OutbidOrStopped, OutbidNotice::None) => LossCause::Paused,
        (PauseCause::OutbidOrStopped, OutbidNotice::Announced | OutbidNotice::PassAsked { .. }) => LossCause::Outbid,
    }
}

/// A GPU that is lost: is it back, or is its time over?
fn held(a: &mut Association, gpu: &Observed<GpuSeen>, now: Timestamp) -> Reason {
    let Phase::Holding(loss) = &a.phase else {
        return Reason::Steady;
    };
    let loss = loss.clone();
    if loss.cause.heals_by_itself() && matches!(gpu, Observed::Present(GpuSeen::Running(_))) {
        return came_back(a, now);
    }
    // Nobody's download is cut off by a date.
    if now.since(loss.since) >= a.policy.retention.duration() && !is_wanted(a, now) {
        return start_releasing(a, Ground::RetentionOver, now);
    }
    if a.policy.failover != Failover::Manual && rescue::comes_first(a, &loss, gpu, now) {
        return Reason::RescueFirst;
    }
    match (a.policy.failover, a.saved) {
        (Failover::Automatic { max_price_per_hour }, Saved::Points)
            if loss.cause.allows_automatic_failover() && a.retry.is_due(now) =>
        {
            let destination = Destination::Rent { max_price_per_hour };
            let loss = rescue::is_over(loss);
            start_restoring(
                a,
                loss,
                PointChoice::Latest,
                destination,
                Reason::AutomaticFailover,
                now,
            );
            Reason::AutomaticFailover
        }
        (Failover::Automatic { .. } | Failover::Manual, Saved::Points | Saved::Nothing) => Reason::Steady,
    }
}

/// The lost GPU runs again: what is on it is copied again.
fn came_back(a: &mut Association, now: Timestamp) -> Reason {
    a.watch = crate::association::GpuWatch::CALM;
    let phase = copying_phase(a);
    if a.last_epoch > a.epoch {
        // A restore was tried meanwhile, and its epoch fences off the passes of the older one.
        a.take_next_epoch();
    } else if a.standby.binding == Binding::Bound {
        // Its address may have changed, and so may the list of keys that it lets in.
        a.standby.binding = Binding::Stale;
    }
    a.enter(phase, Reason::GpuCameBack, now);
    a.retry.clear(now);
    Reason::GpuCameBack
}

/// A restore's target: is it still good, and is one needed still?
fn restoring(a: &mut Association, seen: &Seen, now: Timestamp) -> Reason {
    let Phase::Restoring { job, loss } = &a.phase else {
        return Reason::Steady;
    };
    let Target::Gpu { since, .. } = job.target else {
        let back = matches!(seen.gpu, Observed::Present(GpuSeen::Running(_)));
        return if back && job.yields_to_a_return(loss) {
            came_back(a, now)
        } else {
            Reason::Steady
        };
    };
    match &seen.target {
        Observed::Unknown => Reason::Steady,
        Observed::Present(GpuSeen::Running(_)) => {
            a.watch.absent_reads = 0;
            a.watch.dark_reads = 0;
            Reason::Steady
        }
        // Long after it was rented one such read may be a hiccup, and much may have been pushed already.
        Observed::Present(GpuSeen::Starting | GpuSeen::Dark) => {
            a.watch.dark_reads = a.watch.dark_reads.saturating_add(1);
            if now.since(since) < BOOT_PATIENCE || a.watch.dark_reads < DARK_READS {
                Reason::NotYetSure
            } else {
                give_up_target(a, now)
            }
        }
        Observed::Present(GpuSeen::Paused(_)) => give_up_target(a, now),
        Observed::Absent => {
            a.watch.absent_reads = a.watch.absent_reads.saturating_add(1);
            if a.watch.absent_reads < ABSENT_READS {
                Reason::NotYetSure
            } else {
                give_up_target(a, now)
            }
        }
    }
}
