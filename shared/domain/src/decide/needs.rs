//! What to look at before the next decision. In a calm beat: nothing, the standby's own pass tells enough.

use crate::association::{Association, Binding, Copying, Link, OutbidNotice, Phase, Saved, Target, Trust};
use crate::decide::rescue;
use crate::ids::GpuId;
use crate::units::Timestamp;

/// What to look at before the next decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Needs {
    /// Ask Vast about this GPU, the one we are bound to.
    pub gpu: Option<GpuId>,
    /// Ask Vast about this GPU, the target of a restore.
    pub target: Option<GpuId>,
    /// Ask Compute Engine about the standby's machine and disk.
    pub standby: bool,
    /// Ask the agent what it holds: the report of its first pass may have been lost with the GPU.
    pub agent: bool,
}

/// Says what to look at before the next decision.
#[must_use]
pub fn needs(a: &Association, now: Timestamp) -> Needs {
    let standby_down = !matches!(a.standby.link, Link::Up(_));
    let none = Needs {
        gpu: None,
        target: None,
        standby: false,
        agent: false,
    };
    match &a.phase {
        Phase::Provisioning | Phase::Seeding | Phase::Protected => {
            let unsure = a.watch.trust == Trust::Doubted
                || a.standby.binding != Binding::Bound
                || a.watch.outbid != OutbidNotice::None
                || a.copying == Copying::Off;
            Needs {
                gpu: unsure.then_some(a.gpu),
                standby: standby_down,
                ..none
            }
        }
        Phase::Halted { .. } => Needs {
            gpu: Some(a.gpu),
            standby: standby_down && is_wanted(a, now),
            ..none
        },
        Phase::Holding(loss) => {
            let may_come_back = loss.cause.heals_by_itself().then_some(a.gpu);
            let idle = now.since(loss.since) >= a.policy.stop_standby_after.duration();
            let standby = match (is_wanted(a, now) || rescue::is_wanted(a, now), idle) {
                (true, _) => standby_down,
                // A standby that did not answer is not a standby that is stopped, and a late order or start may still bring it up.
                (false, true) => true,
                (false, false) => false,
            };
            Needs {
                gpu: may_come_back,
                standby,
                agent: a.saved == Saved::Nothing && !standby_down,
                ..none
            }
        }
        Phase::Restoring { job, loss } => {
            let target = match job.target {
                Target::ToRent { .. } => None,
                Target::Gpu { gpu, .. } => Some(gpu),
            };
            Needs {
                gpu: job.yields_to_a_return(loss).then_some(a.gpu),
                target,
                standby: standby_down,
                ..none
            }
        }
        Phase::Releasing { .. } => Needs { standby: true, ..none },
        Phase::Released { .. } => none,
    }
}

/// Whether somebody downloads from the standby.
pub(super) fn is_wanted(a: &Association, now: Timestamp) -> bool {
    now < a.standby.wanted_until
}
