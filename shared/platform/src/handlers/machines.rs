//! Lists of machines, each saying whose view it is.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use warmspare_domain::association::PhaseName;
use warmspare_domain::ids::{AssociationId, GpuId};
use warmspare_domain::observed::GpuSeen;
use warmspare_domain::units::MicroUsd;

use super::{App, Failure, seal};
use crate::config::Scope;
use crate::ports::LabelledKind;
use crate::report;

/// What the providers list, beside what our records say.
#[derive(Debug, Clone, Serialize)]
pub struct Machines {
    /// GPUs of the Vast account; `null` when Vast did not answer.
    pub gpus: Option<Vec<GpuMachine>>,
    /// Standby machines and disks with our label; `null` when a provider did not answer.
    pub standbys: Option<Vec<StandbyMachine>>,
}

/// A GPU.
#[derive(Debug, Clone, Serialize)]
pub struct GpuMachine {
    /// Which.
    pub gpu: GpuId,
    /// What Vast says of it.
    pub vast_says: &'static str,
    /// The model.
    pub model: String,
    /// Where it is.
    pub geolocation: String,
    /// What it costs an hour.
    pub micro_usd_per_hour: MicroUsd,
    /// Its association, when there is one.
    pub association: Option<AssociationId>,
    /// What our record says of it.
    pub record_says: Option<PhaseName>,
}

/// A standby machine or disk.
#[derive(Debug, Clone, Serialize)]
pub struct StandbyMachine {
    /// Its name.
    pub name: String,
    /// `machine` or `disk`.
    pub kind: &'static str,
    /// Where.
    pub zone: String,
    /// The association in its label.
    pub association: AssociationId,
    /// What was rented for it, when the provider's list tells.
    pub detail: Option<String>,
}

/// `GET /v1/machines`.
pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Json<Machines>, Failure> {
    seal::check_token(&headers, &app.callers.api_tokens, Scope::Read)?;
    let live = app.reconciler.live().await?;
    let world = app.reconciler.world();
    let gpus = world
        .gpus
        .all()
        .await
        .inspect_err(|error| tracing::warn!(error = report::chain(error), "Vast did not list its GPUs"));
    let gpus = gpus.ok().map(|rows| {
        let machine = |row: crate::ports::GpuRow| {
            let owner = live.iter().find(|a| a.gpu == row.id);
            GpuMachine {
                gpu: row.id,
                vast_says: vast_word(&row.seen),
                model: row.model,
                geolocation: row.geolocation,
                micro_usd_per_hour: row.price_per_hour,
                association: owner.map(|a| a.id),
                record_says: owner.map(|a| a.phase.name()),
            }
        };
        rows.into_iter().map(machine).collect()
    });
    let standbys = world
        .standbys
        .all()
        .await
        .inspect_err(|error| tracing::warn!(error = report::chain(error), "a provider did not list the standbys"));
    let standbys = standbys.ok().map(|rows| {
        let machine = |row: crate::ports::LabelledStandby| {
            let (name, kind) = match row.kind {
                LabelledKind::Machine => (row.standby.name.to_string(), "machine"),
                LabelledKind::Disk => (row.standby.name.data_disk(), "disk"),
            };
            StandbyMachine {
                name,
                kind,
                zone: row.standby.zone.to_string(),
                association: row.association,
                detail: row.detail,
            }
        };
        rows.into_iter().map(machine).collect()
    });
    Ok(Json(Machines { gpus, standbys }))
}

fn vast_word(seen: &GpuSeen) -> &'static str {
    match seen {
        GpuSeen::Starting => "starting",
        GpuSeen::Running(_) => "running",
        GpuSeen::Paused(_) => "paused",
        GpuSeen::Dark => "host dark",
    }
}
