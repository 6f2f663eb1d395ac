//! What the sweep thinks of a machine that carries our label.

use crate::association::{Association, Phase, Target};
use crate::observed::Found;
use crate::warrant::{Ground, ReleaseWarrant};

/// What is to become of something billable that carries our label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// An association owns it, or may be about to.
    Keep,
    /// It is left over, and this allows its destruction.
    Destroy(ReleaseWarrant),
    /// No association knows it. It may hold the only copy, so it is reported with its price and left alone.
    Report,
}

/// Judges something that carries the label of `association`'s id.
///
/// # Assumptions
/// `association` was read *after* the listing that found it. Attempts and epochs are reserved before anything is ordered under them and never
/// used again, so what is abandoned by then stays abandoned.
#[must_use]
pub fn judge(found: Found, association: Option<&Association>) -> Verdict {
    let Some(a) = association else { return Verdict::Report };
    match found {
        Found::Standby { attempt } => judge_standby(attempt, a),
        Found::Rental { gpu, epoch } => {
            let released = matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. });
            let awaited = match &a.phase {
                Phase::Restoring { job, .. } => match job.target {
                    Target::ToRent { .. } => job.epoch == epoch,
                    Target::Gpu { gpu: target, .. } => target == gpu,
                },
                Phase::Provisioning
                | Phase::Seeding
                | Phase::Protected
                | Phase::Holding(_)
                | Phase::Halted { .. }
                | Phase::Releasing { .. }
                | Phase::Released { .. } => false,
            };
            // Once bound, it is the user's GPU: only they, or the policy on superseded ones, let it go.
            let was_bound = gpu == a.gpu || a.superseded.contains(&gpu);
            let reserved_later = epoch > a.last_epoch && !released;
            if awaited || was_bound || reserved_later {
                Verdict::Keep
            } else {
                Verdict::Destroy(ReleaseWarrant::on(Ground::NeverHeldData))
            }
        }
    }
}

fn judge_standby(attempt: u16, a: &Association) -> Verdict {
    match &a.phase {
        // The phase itself deletes the current one, step by step.
        Phase::Releasing { .. } if attempt == a.standby.attempt => Verdict::Keep,
        Phase::Released { ground, .. } => Verdict::Destroy(ReleaseWarrant::on(*ground)),
        Phase::Provisioning
        | Phase::Seeding
        | Phase::Protected
        | Phase::Holding(_)
        | Phase::Restoring { .. }
        | Phase::Halted { .. }
        | Phase::Releasing { .. } => {
            if attempt < a.standby.attempt {
                Verdict::Destroy(ReleaseWarrant::on(Ground::NeverHeldData))
            } else {
                Verdict::Keep
            }
        }
    }
}
