//! The one place where warmspare makes up its mind.
//!
//! `requests` takes in what people and tools ask, `looked` what we saw of the world, `results` what became of effects;
//! `rescue` says when a paused GPU's disk is read; `due` derives the effects from the state, `needs` says what to look at next.

use crate::association::{Association, Phase};
use crate::effect::Effect;
use crate::event::Event;
use crate::reason::Reason;
use crate::units::Timestamp;

mod due;
mod grow;
mod looked;
mod needs;
mod requests;
mod rescue;
mod results;

pub use looked::{ABSENT_READS, DARK_READS};
pub use needs::{Needs, needs};
pub use rescue::RESCUE_ATTEMPTS;
pub(crate) use rescue::WINDOW as RESCUE_WINDOW;

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// The association from now on. Commit it before any effect.
    pub next: Association,
    /// What is to be done. Only [`Event::Looked`] makes effects; whatever is lost is derived again at the next look.
    pub effects: Vec<Effect>,
    /// Why.
    pub reason: Reason,
}

/// Decides what happens next to one association. Total: every phase has an answer to every event.
#[must_use]
pub fn decide(association: &Association, event: &Event, now: Timestamp) -> Decision {
    let mut next = association.clone();
    let mut effects = Vec::new();
    // A tombstone stays as it is, whatever comes late.
    if let Phase::Released { .. } = next.phase {
        let reason = Reason::AlreadyReleased;
        return Decision { next, effects, reason };
    }
    let a = &mut next;
    let reason = match event {
        Event::ReleaseRequested { subject } => requests::release(a, *subject, now),
        Event::GpuFailedReported { subject } => requests::failed(a, *subject, now),
        Event::GpuDestroyedReported { subject } => requests::destroyed(a, *subject, now),
        Event::OutbidAnnounced { gpu } => requests::outbid(a, *gpu),
        Event::LookRequested => requests::look(a),
        Event::SyncStopRequested => requests::stop_sync(a),
        Event::SyncStartRequested => requests::start_sync(a, now),
        Event::SourceAccepted => requests::accept_source(a, now),
        Event::RestoreRequested { point, destination } => requests::restore(a, point, *destination, now),
        Event::StandbyWanted => requests::want_standby(a, now),
        Event::PolicyChanged(policy) => requests::change_policy(a, policy, now),
        Event::Looked(seen) => {
            let reason = looked::looked(a, seen, now);
            effects = due::due(a, seen, now);
            if let Phase::Released { ground, .. } = a.phase {
                Reason::Released(ground)
            } else {
                reason
            }
        }
        Event::Bound { epoch } => results::bound(a, *epoch, now),
        Event::AgentReported(report) => results::agent_reported(a, report, now),
        Event::LastGaspAccepted => results::last_gasp_accepted(a, now),
        Event::StandbyUnreachable => results::standby_unreachable(a),
        Event::DiskGrown { attempt, gb } => grow::grown(a, *attempt, *gb, now),
        Event::Rented { epoch, gpu } => results::rented(a, *epoch, *gpu, now),
        Event::SupersededGone { gpu } => results::superseded_gone(a, *gpu),
        Event::StandbyRefused { attempt, problem } => results::standby_refused(a, *attempt, problem, now),
        Event::RentRefused { epoch, problem } => results::rent_refused(a, *epoch, problem, now),
        Event::EffectFailed { effect, problem } => results::failed(a, *effect, problem, now),
    };
    Decision { next, effects, reason }
}
