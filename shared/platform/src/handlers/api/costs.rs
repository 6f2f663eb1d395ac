//! `GET /v1/estimate`: what protecting a GPU costs, with the standby it has or the one that it would get.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use warmspare_domain::association::{Association, Phase};
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::MachineSpec;
use warmspare_domain::units::MicroUsd;

use crate::config::Scope;
use crate::estimate::{Estimate, EstimateInput, estimate};
use crate::handlers::view::CostView;
use crate::handlers::{App, ControlPlane, Failure};

/// GB that change a day and GB that a restore moves, unless the caller knows better.
const USUAL_GB: u32 = 10;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EstimateQuery {
    gpu: GpuId,
    gb_per_day: Option<u32>,
    data_gb: Option<u32>,
    expected_files: Option<u64>,
}

pub(super) async fn estimate_costs(
    State(app): State<App>,
    headers: HeaderMap,
    Query(query): Query<EstimateQuery>,
) -> Result<Json<Estimate>, Failure> {
    app.allow(&headers, Scope::Read)?;
    let a = app.find(query.gpu).await?;
    let input = app.estimate_input(a.as_ref(), &query).await?;
    estimate(&input)
        .map(Json)
        .map_err(|error| Failure::bad_request(error.to_string()))
}

impl App {
    /// What the standby of an association costs, as far as its price can be known now. Of traffic there is nothing in it: that is measured.
    pub(super) async fn cost(&self, a: &Association) -> Option<CostView> {
        if matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. }) {
            return None;
        }
        let query = EstimateQuery {
            gpu: a.gpu,
            gb_per_day: Some(0),
            data_gb: Some(0),
            expected_files: None,
        };
        let input = self.estimate_input(Some(a), &query).await.ok()?;
        let estimate = estimate(&input).ok()?;
        let mut monthly = estimate.monthly;
        monthly.retain(|line| line.micro_usd > MicroUsd(0));
        Some(CostView {
            monthly,
            micro_usd_per_month: estimate.micro_usd_per_month,
            prices_of: estimate.prices_of,
        })
    }

    /// What to estimate: the standby that the GPU has, or the one that it would get.
    async fn estimate_input(&self, a: Option<&Association>, query: &EstimateQuery) -> Result<EstimateInput, Failure> {
        let gpu = query.gpu;
        let prices = self.reconciler.world().prices.current().await;
        let mut standby = None;
        let (machine, region, placement, disk_reason, profile) = match a {
            Some(a) => {
                standby = Some(StandbyRef::of(a));
                let zone = &a.standby.zone;
                let placement = format!("is in {zone}, where it was made");
                let disk = "as its standby was made".to_owned();
                let machine = MachineSpec {
                    // What it has grown to is what is paid.
                    disk_gb: a.disk_gb(),
                    ..a.policy.machine.clone()
                };
                (machine, zone.region().to_owned(), placement, disk, a.profile.clone())
            }
            None => {
                let rows = self.reconciler.world().gpus.look(&[gpu]).await;
                let rows = rows.map_err(|error| {
                    Failure::unavailable(format!("Vast did not answer when asked for GPU {gpu}: {error}"))
                })?;
                let row = rows.get(&gpu).ok_or_else(|| Failure::unknown_gpu(gpu))?;
                let wanted = self.wanted(row, query.expected_files).await?;
                let region = wanted.placement.region().to_owned();
                let placement = format!("would be {}", wanted.placement.explanation);
                (wanted.machine, region, placement, wanted.disk_reason, row.profile())
            }
        };
        let world = self.reconciler.world();
        let market = world.standbys.market_price(gpu, standby.as_ref(), &machine).await;
        let market =
            market.map_err(|error| Failure::unavailable(format!("what a standby costs is not known: {error}")))?;
        Ok(EstimateInput {
            gpu,
            region,
            placement,
            machine,
            disk_reason,
            prices,
            market: market.map(|price| (price, world.clock.now())),
            upload_price_per_gb: profile.upload_price_per_gb,
            gb_per_day: query.gb_per_day.unwrap_or(USUAL_GB),
            data_gb: query.data_gb.unwrap_or(USUAL_GB),
            control_plane: self.control_plane_share(gpu).await?,
        })
    }

    /// What the control plane costs for one GPU more, or for this one among the others.
    async fn control_plane_share(&self, gpu: GpuId) -> Result<(String, MicroUsd), Failure> {
        match self.control_plane {
            ControlPlane::OwnProcess => Ok(("control plane (this process)".to_owned(), MicroUsd(0))),
            ControlPlane::Functions(price) => {
                let live = self.reconciler.live().await?;
                let others = live.iter().filter(|a| a.gpu != gpu).count();
                let gpus = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1);
                let what = format!("control plane (functions, shared by {gpus})");
                Ok((what, price(gpus)))
            }
        }
    }
}
