//! Renting a standby: a CPU offer when there is a real one, else the cheapest acceptable offer, whatever its GPU.

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::association::Association;
use warmspare_domain::ids::GpuId;
use warmspare_domain::policy::MachineSpec;
use warmspare_domain::units::MicroUsd;

use super::super::calls::Call;
use super::super::listing::garbled;
use super::super::market::Place;
use super::super::pace;
use super::super::rent::{MAX_OFFERS, Taken};
use super::super::wire::{OfferRow, dollars, whole};
use super::{StandbyLabel, VastStandbys};
use crate::ports::{MarketPrice, ProviderError};

/// Offers read per search.
const SEARCH_LIMIT: u32 = 64;
/// The least RAM, in MB: rsync's list of a million files takes a few hundred.
const LEAST_RAM_MB: f64 = 2_000.0;
/// The least reliability: a standby is to outlive the GPU.
const LEAST_RELIABILITY: f64 = 0.95;
/// The shortest time left of an offer, in seconds: 7 days, for which the data of a lost GPU is kept by default.
const LEAST_DURATION: f64 = 604_800.0;
/// Vast makes no smaller disks (`vast-api.md` §5).
const LEAST_DISK_GB: u32 = 10;
/// What a GPU is taken to send a day when offers are compared; the host asks for incoming traffic, too.
const GB_A_DAY: f64 = 10.0;

/// An offer that will do.
#[derive(Debug, Clone, PartialEq)]
struct Fit {
    id: u64,
    price: MarketPrice,
    /// With a day's traffic, for comparison.
    with_traffic: u64,
}

impl VastStandbys {
    pub(super) async fn rent(
        &self,
        association: &Association,
        label: &StandbyLabel,
        machine: &MachineSpec,
    ) -> Result<(), ProviderError> {
        // A standby must not die with its GPU.
        let avoid = self.place_of(association.gpu).await?;
        let disk_gb = machine.disk_gb.max(LEAST_DISK_GB);
        let body = self.order(label, disk_gb);
        let (mut tried, mut last) = (0_usize, "none is offered".to_owned());
        for cpu_only in [true, false] {
            for fit in self.fits(cpu_only, disk_gb, avoid).await? {
                if tried == MAX_OFFERS {
                    break;
                }
                tried += 1;
                match self.vast.take(fit.id, &body, &label.to_string()).await? {
                    Taken::Yes(gpu) => {
                        let why = if cpu_only {
                            "a CPU offer"
                        } else {
                            "no CPU offer at Vast will do; the cheapest acceptable one"
                        };
                        tracing::info!(gpu.id = %gpu, standby.name = %label, reason = why, "rented {} for {} an hour on demand as a standby", fit.price.what, fit.price.per_hour);
                        self.settle_in(gpu).await;
                        return Ok(());
                    }
                    Taken::No(why) => last = why,
                }
            }
        }
        Err(self.none_offered(disk_gb, &format!("{tried} tried, the last: {last}")))
    }

    /// What the GPU's standby would cost now, without renting it.
    pub(super) async fn offered(&self, gpu: GpuId, machine: &MachineSpec) -> Result<MarketPrice, ProviderError> {
        let avoid = self.place_of(gpu).await?;
        let disk_gb = machine.disk_gb.max(LEAST_DISK_GB);
        for cpu_only in [true, false] {
            if let Some(fit) = self.fits(cpu_only, disk_gb, avoid).await?.into_iter().next() {
                return Ok(fit.price);
            }
        }
        Err(self.none_offered(disk_gb, "none is offered"))
    }

    fn none_offered(&self, disk_gb: u32, detail: &str) -> ProviderError {
        ProviderError::NoOffer {
            detail: format!(
                "a standby at Vast with {disk_gb} GB at most {} an hour (vast_standby_max_price_per_hour), not on the GPU's own host; {detail}",
                self.settings.max_price_per_hour
            ),
        }
    }

    /// What both can be repeated or is done by the container itself: neither stops the order from being one.
    async fn settle_in(&self, gpu: GpuId) {
        if let Err(error) = self.vast.attach(gpu, &self.settings.operator_public_key).await {
            tracing::warn!(gpu.id = %gpu, error = %error, "the operator's key was not attached; the container adds it itself when it starts");
        }
        // A fresh instance sometimes sits at `stopped` until it is told again (`vast-api.md` §5).
        if let Err(error) = self.vast.start(gpu).await {
            tracing::debug!(gpu.id = %gpu, error = %error, "a new standby was not told to start again");
        }
    }

    async fn place_of(&self, gpu: GpuId) -> Result<Place, ProviderError> {
        let rows = self.vast.list(&json!({"id": {"in": [gpu.contract()]}})).await?;
        let row = rows.iter().find(|row| row.id == Some(gpu.contract()));
        Ok(row.map_or_else(Place::default, Place::of))
    }

    /// Never by bid: a standby that can be outbid is no safety.
    fn order(&self, label: &StandbyLabel, disk_gb: u32) -> Value {
        json!({
            "client_id": "me", "image": self.settings.image, "disk": disk_gb, "label": label.to_string(),
            "runtype": "ssh_direc ssh_proxy", "onstart": self.onstart, "cancel_unavail": true,
        })
    }

    async fn fits(&self, cpu_only: bool, disk_gb: u32, avoid: Place) -> Result<Vec<Fit>, ProviderError> {
        let cap = self.settings.max_price_per_hour;
        let count = if cpu_only { json!({"eq": 0}) } else { json!({"gte": 1}) };
        let body = json!({
            "verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true}, "rented": {"eq": false},
            "num_gpus": count, "disk_space": {"gte": disk_gb}, "direct_port_count": {"gte": 1},
            "reliability": {"gte": LEAST_RELIABILITY}, "dph_total": {"lte": cap.dollars()},
            "order": [["dph_total", "asc"]], "type": "on-demand", "limit": SEARCH_LIMIT, "allocated_storage": disk_gb,
        });
        let call = Call::new(
            pace::Endpoint::Search,
            Method::POST,
            "api/v0/bundles".to_owned(),
            Some(&body),
        );
        let answer = self.vast.calls.read(&call).await;
        let mut answer = answer.map_err(|refusal| refusal.into_error("the market"))?;
        let Some(Value::Array(rows)) = answer.get_mut("offers").map(Value::take) else {
            return Err(garbled("the answer to a search has no offers"));
        };
        let rows = rows.into_iter().filter_map(|row| serde_json::from_value(row).ok());
        let mut fits: Vec<Fit> = rows
            .filter_map(|row| fitting(&row, cpu_only, disk_gb, cap, avoid))
            .collect();
        fits.sort_by_key(|fit| (fit.with_traffic, fit.id));
        Ok(fits)
    }
}

/// The offer, when it will really do: storage rows pass for CPU machines, and some of Vast's filters are flaky (`vast-api.md` §4).
fn fitting(row: &OfferRow, cpu_only: bool, disk_gb: u32, cap: MicroUsd, avoid: Place) -> Option<Fit> {
    let is_machine = row.resource_type.as_deref() != Some("disk") && row.cpu_ram.is_some_and(|ram| ram >= LEAST_RAM_MB);
    let kind = cpu_only == (whole(row.num_gpus) == 0);
    let free = row.rentable != Some(false) && row.rented != Some(true);
    let verified = row.verification.as_deref().is_none_or(|word| word == "verified");
    let lasting = row.reliability.is_some_and(|share| share >= LEAST_RELIABILITY)
        && row.duration.is_none_or(|seconds| seconds >= LEAST_DURATION);
    let reachable = row.direct_port_count.is_some_and(|ports| ports >= 1.0);
    let roomy = row.disk_space.is_some_and(|disk| disk >= f64::from(disk_gb));
    let apart = !avoid.is_on(row.machine_id) && !avoid.is_by(row.host_id);
    let per_hour = MicroUsd::from_dollars(row.dph_total?)?;
    if !(is_machine && kind && free && verified && lasting && reachable && roomy && apart && per_hour <= cap) {
        return None;
    }
    let traffic = dollars(row.inet_down_cost.map(|per_gb| per_gb * GB_A_DAY / 24.0));
    let model = row.gpu_name.clone().filter(|_| !cpu_only);
    Some(Fit {
        id: row.id?,
        price: MarketPrice {
            what: model.map_or_else(|| "a CPU machine".to_owned(), |model| format!("a machine with {model}")),
            per_hour,
            download_per_gb: row.inet_down_cost.and_then(MicroUsd::from_dollars),
            upload_per_gb: row.inet_up_cost.and_then(MicroUsd::from_dollars),
        },
        with_traffic: per_hour.0.saturating_add(traffic.0),
    })
}
