//! What the agents said last: it changes with every beat, so it is not part of the association.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use warmspare_domain::health::{Failing, Heartbeat, LastPass};
use warmspare_domain::ids::AssociationId;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{PassActivity, RescueActivity, Status, Watcher};

/// What one agent said last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulse {
    /// When we heard it, by our clock.
    pub at: Timestamp,
    /// What it said.
    pub status: Status,
}

impl Pulse {
    /// What health needs of it. The standby's clock may differ from ours, so its instants are moved onto ours.
    #[must_use]
    pub fn heartbeat(&self) -> Heartbeat {
        let last = self
            .status
            .points
            .latest
            .as_ref()
            .map(|point| point.confirmed_at.max(point.taken_at));
        Heartbeat {
            last_pass_started_at: last.map(|start| self.at - self.status.now.since(start)),
            disk_free: self.status.disk.free,
            disk_total: self.status.disk.total,
            last_pass: self.status.last_complete.as_ref().map(|pass| LastPass {
                took: pass.ended_at.since(pass.started_at),
                files: pass.files,
                changed_files: pass.changed_files,
                wire_bytes: pass.wire_bytes,
            }),
            pass_under_way: match &self.status.pass {
                PassActivity::Idle => None,
                PassActivity::Running { progress, .. } => Some(progress.to_string()),
            },
            failing: self.status.last_failure.as_ref().map(|failure| Failing {
                in_a_row: failure.in_a_row,
                message: failure.message.clone(),
            }),
            halt_detail: self.status.halt.as_ref().map(|halt| halt.detail.clone()),
            command_failed: self
                .status
                .last_complete
                .as_ref()
                .and_then(|pass| pass.command_failed.clone()),
            unwatched: match &self.status.watcher {
                Watcher::Missing { reason } => Some(reason.clone()),
                Watcher::Unknown | Watcher::Starting | Watcher::Watching { .. } => None,
            },
            not_rescued: match &self.status.rescue {
                RescueActivity::Failed { loss, message, .. } | RescueActivity::Refused { loss, message, .. } => {
                    Some((*loss, message.clone()))
                }
                RescueActivity::Never | RescueActivity::Running { .. } | RescueActivity::Complete { .. } => None,
            },
        }
    }
}

/// The last word of every agent that this process heard.
#[derive(Debug, Default)]
pub struct Pulses(Mutex<BTreeMap<AssociationId, Pulse>>);

impl Pulses {
    /// Remembers what an agent said.
    pub fn note(&self, id: AssociationId, at: Timestamp, status: Status) {
        self.locked().insert(id, Pulse { at, status });
    }

    /// What the agent said last.
    #[must_use]
    pub fn get(&self, id: AssociationId) -> Option<Pulse> {
        self.locked().get(&id).cloned()
    }

    /// Everything, to be written as one heartbeat.
    #[must_use]
    pub fn all(&self) -> BTreeMap<AssociationId, Pulse> {
        self.locked().clone()
    }

    /// Takes over what an earlier process wrote.
    pub fn restore(&self, pulses: BTreeMap<AssociationId, Pulse>) {
        *self.locked() = pulses;
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<AssociationId, Pulse>> {
        // A panic while noting cannot leave a map half-written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
