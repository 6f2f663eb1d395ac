//! Turns what others said into what decisions and logs need.

use warmspare_domain::observed::{AgentReport, BoundTo, DiskSeen, PassTrouble, PointsSeen, RescueSeen, RestoreSeen};
use warmspare_wire::agent::{Binding, PassFailureKind, RescueActivity, RestoreActivity, Status};

/// The whole chain of an error, in one line, for the one place where it is handled.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// The agent's status, reduced to what decisions need.
#[must_use]
pub fn agent(status: &Status) -> AgentReport {
    AgentReport {
        bound: match &status.binding {
            Binding::Unbound => BoundTo::Nothing,
            Binding::Bound { epoch, .. } => BoundTo::Epoch(*epoch),
        },
        halt: status.halt.as_ref().map(|halt| halt.reason),
        points: if status.points.count > 0 {
            PointsSeen::Some
        } else {
            PointsSeen::None
        },
        trouble: status
            .last_failure
            .as_ref()
            .map_or(PassTrouble::None, |failure| match failure.kind {
                PassFailureKind::GpuUnreachable => PassTrouble::GpuUnreachable,
                PassFailureKind::KeyRefused => PassTrouble::KeyRefused,
                PassFailureKind::ProgramMissing
                | PassFailureKind::DiskFull
                | PassFailureKind::Interrupted
                | PassFailureKind::Halted
                | PassFailureKind::Failed => PassTrouble::Other,
            }),
        restore: match &status.restore {
            RestoreActivity::Never => RestoreSeen::Idle,
            RestoreActivity::Running { epoch, .. } => RestoreSeen::Running(*epoch),
            RestoreActivity::Verified { epoch, .. } => RestoreSeen::Verified(*epoch),
            RestoreActivity::Failed {
                epoch, not_ready: true, ..
            } => RestoreSeen::NotReady(*epoch),
            RestoreActivity::Failed { epoch, .. } => RestoreSeen::Failed(*epoch),
        },
        disk: disk(status),
        rescue: match &status.rescue {
            RescueActivity::Never => RescueSeen::Idle,
            RescueActivity::Running { loss, .. } => RescueSeen::Running(*loss),
            RescueActivity::Complete { loss, .. } => RescueSeen::Complete(*loss),
            RescueActivity::Failed { loss, attempts, .. } => RescueSeen::Failed {
                loss: *loss,
                attempts: *attempts,
            },
            RescueActivity::Refused { loss, .. } => RescueSeen::Refused(*loss),
        },
    }
}

/// A disk is short when there is nothing left to give up for space, or a pass found it full.
fn disk(status: &Status) -> DiskSeen {
    let full = status
        .last_failure
        .as_ref()
        .is_some_and(|failure| failure.kind == PassFailureKind::DiskFull);
    if status.disk.exhausted || full {
        DiskSeen::Short {
            total_gb: u32::try_from(status.disk.total.0 >> 30).unwrap_or(u32::MAX),
        }
    } else {
        DiskSeen::Fine
    }
}
