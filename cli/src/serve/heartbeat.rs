//! The last word of every agent, kept across restarts. It is a convenience: a lost or broken file costs nothing but a moment's ignorance.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tracing::warn;
use warmspare_domain::ids::AssociationId;
use warmspare_platform::pulse::{Pulse, Pulses};

#[derive(Serialize, Deserialize)]
struct Heartbeat {
    schema: u32,
    pulses: Vec<(AssociationId, Pulse)>,
}

pub(super) fn write(state_dir: &Path, pulses: &Pulses) {
    let heartbeat = Heartbeat {
        schema: 1,
        pulses: pulses.all().into_iter().collect(),
    };
    let (path, fresh) = (state_dir.join("heartbeat.json"), state_dir.join("heartbeat.json.new"));
    let written = serde_json::to_vec(&heartbeat)
        .map_err(std::io::Error::other)
        .and_then(|json| std::fs::write(&fresh, json));
    if let Err(error) = written.and_then(|()| std::fs::rename(&fresh, &path)) {
        warn!(%error, "the heartbeat could not be written to {}", path.display());
    }
}

pub(super) fn read(state_dir: &Path, pulses: &Pulses) {
    let Ok(json) = std::fs::read(state_dir.join("heartbeat.json")) else {
        return;
    };
    match serde_json::from_slice::<Heartbeat>(&json) {
        Ok(heartbeat) if heartbeat.schema == 1 => pulses.restore(heartbeat.pulses.into_iter().collect()),
        Ok(_) | Err(_) => warn!("the heartbeat of an earlier run cannot be read; the agents will say it all again"),
    }
}
