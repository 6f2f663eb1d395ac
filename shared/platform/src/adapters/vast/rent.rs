//! Renting: at most one GPU per label, although Vast has no idempotency key.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::market::{Offer, OfferQuery, Place, Terms, country};
use super::pace::Endpoint;
use super::refusal::{Kind, Refusal};
use super::wire::{Instance, as_id};
use crate::ports::{ProviderError, RentWish, StandbyLabel};

/// Offers that are tried in one call. Each costs Vast's 4.5 s, and a caller's patience ends before a sixth.
pub(super) const MAX_OFFERS: usize = 5;

pub(super) enum Taken {
    /// It is ours.
    Yes(GpuId),
    /// Somebody was faster, or the floor rose. Nothing bills.
    No(String),
}

impl VastGpus {
    pub(super) async fn rent_or_find(&self, wish: &RentWish) -> Result<GpuId, ProviderError> {
        let gpu = self.rented(wish).await?;
        // A fresh instance sometimes sits at `stopped` until it is told again (`vast-api.md` §5); for all others this changes nothing.
        if let Err(error) = self.start(gpu).await {
            tracing::debug!(gpu.id = %gpu, error = %error, "a rented GPU was not told to start again");
        }
        Ok(gpu)
    }

    async fn rented(&self, wish: &RentWish) -> Result<GpuId, ProviderError> {
        let label = wish.label.to_string();
        if let Some(gpu) = self.labelled(&label).await? {
            tracing::info!(gpu.id = %gpu, "found the GPU that was rented for this wish before");
            return Ok(gpu);
        }
        // One list that misses a row is no proof (`vast-api.md` §12, rule 3): renting on it would rent twice.
        let rows = self.list(&json!({})).await?;
        if let Some(gpu) = oldest(&rows, &label) {
            return Ok(gpu);
        }
        let neighbours = Neighbours::of(wish, &rows);
        let mut tried = BTreeSet::new();
        let mut last = "none is offered".to_owned();
        for query in queries(wish) {
            for offer in neighbours.sift(self.search_offers(&query).await?) {
                if tried.len() == MAX_OFFERS {
                    break;
                }
                if tried.insert(offer.id) {
                    let body = self.order(&offer, wish, &label);
                    match self.take(offer.id, &body, &label).await? {
                        Taken::Yes(gpu) => return Ok(gpu),
                        Taken::No(why) => last = why,
                    }
                }
            }
        }
        Err(ProviderError::NoOffer {
            detail: format!(
                "{} × {} with {} GB at most {} an hour; {} tried, the last: {last}",
                wish.like.gpu_count,
                wish.like.model,
                wish.like.disk_gb,
                wish.max_price_per_hour,
                tried.len()
            ),
        })
    }

    /// The instance that carries this label; the oldest when there are several, which the sweep then reports.
    async fn labelled(&self, label: &str) -> Result<Option<GpuId>, ProviderError> {
        let rows = self.list(&json!({"label": {"eq": label}})).await?;
        Ok(oldest(&rows, label))
    }

    /// Orders an offer once. `label` is unique for the wish behind it.
    pub(super) async fn take(&self, offer: u64, body: &Value, label: &str) -> Result<Taken, ProviderError> {
        let call = Call::new(Endpoint::Rent, Method::PUT, format!("api/v0/asks/{offer}"), Some(body));
        match self.calls.write(&call).await {
            Ok(answer) => match as_id(&answer["new_contract"]) {
                Some(contract) => Ok(Taken::Yes(GpuId::vast(contract))),
                None => self.find_after_doubt(label, "the answer names no contract").await,
            },
            Err(refusal) => self.not_taken(refusal, label).await,
        }
    }

    async fn not_taken(&self, refusal: Refusal, label: &str) -> Result<Taken, ProviderError> {
        if let Some(contract) = as_id(&refusal.body["new_contract"]) {
            // It exists, stopped, and its storage is billed already.
            self.discard(contract).await?;
            return Ok(Taken::No(refusal.words));
        }
        match refusal.kind {
            Kind::Gone | Kind::Unavailable => Ok(Taken::No(refusal.words)),
            Kind::Invalid if refusal.slug == "invalid_price" => Ok(Taken::No(refusal.words)),
            Kind::NoAnswer => self.find_after_doubt(label, &refusal.words).await,
            Kind::Denied
            | Kind::NoCredit
            | Kind::AlreadyThere
            | Kind::Throttled { .. }
            | Kind::OutOfSearches
            | Kind::Invalid => Err(refusal.into_error("an offer to rent")),
        }
    }

    /// After a lost answer only the label tells whether the order landed; when it is not there yet it may still appear.
    async fn find_after_doubt(&self, label: &str, doubt: &str) -> Result<Taken, ProviderError> {
        match self.labelled(label).await? {
            Some(gpu) => Ok(Taken::Yes(gpu)),
            None => Err(garbled(&format!("the order of an instance: {doubt}"))),
        }
    }

    /// Destroys a contract that never started. It needs no warrant: nothing ever ran on it, so it holds no data.
    async fn discard(&self, contract: u64) -> Result<(), ProviderError> {
        let mut refused = String::new();
        for _ in 0..2 {
            match self.delete_instance(contract).await {
                Ok(_) => return Ok(()),
                Err(error) => refused = error.to_string(),
            }
        }
        Err(garbled(&format!(
            "instance {contract} was made but cannot start, and destroying it failed ({refused}); its storage is billed"
        )))
    }

    fn order(&self, offer: &Offer, wish: &RentWish, label: &str) -> Value {
        let mut body = json!({
            "client_id": "me", "disk": wish.like.disk_gb, "label": label, "runtype": "ssh_direc ssh_proxy", "cancel_unavail": true,
        });
        if !wish.like.image.is_empty() {
            body["image"] = json!(wish.like.image);
        }
        if let Some(bid) = offer.bid {
            body["price"] = json!(bid.dollars());
        }
        if let Some(onstart) = &self.settings.onstart {
            body["onstart"] = json!(onstart);
        }
        body
    }
}

fn oldest(rows: &[Instance], label: &str) -> Option<GpuId> {
    let ours = rows.iter().filter(|row| row.label.as_deref() == Some(label));
    ours.filter_map(|row| row.id).min().map(GpuId::vast)
}

/// The machines that a new GPU should keep away from.
struct Neighbours {
    lost: Place,
    standbys: Vec<Place>,
}

impl Neighbours {
    fn of(wish: &RentWish, rows: &[Instance]) -> Self {
        let is_standby = |row: &&Instance| {
            let label = row.label.as_deref().and_then(StandbyLabel::parse);
            label.is_some_and(|label| {
                (&label.deployment, label.association) == (&wish.label.deployment, wish.label.association)
            })
        };
        let lost = rows.iter().find(|row| row.id == Some(wish.like.id.contract()));
        Self {
            lost: lost.map_or_else(Place::default, Place::of),
            standbys: rows.iter().filter(is_standby).map(Place::of).collect(),
        }
    }

    /// Never beside the standby, which would die with it. Whoever outbid us on the lost GPU's machine, or whatever befell it, is still there: it
    /// comes last.
    fn sift(&self, mut offers: Vec<Offer>) -> Vec<Offer> {
        offers.retain(|offer| !self.standbys.iter().any(|place| place.is_on(Some(offer.machine_id))));
        offers.sort_by_key(|offer| self.lost.is_on(Some(offer.machine_id)));
        offers
    }
}

/// The same country first, because the standby is near it; then anywhere.
fn queries(wish: &RentWish) -> Vec<OfferQuery> {
    let anywhere = OfferQuery {
        model: wish.like.model.clone(),
        gpu_count: wish.like.gpu_count,
        disk_gb: wish.like.disk_gb,
        max_price_per_hour: wish.max_price_per_hour,
        terms: if wish.like.interruptible {
            Terms::Interruptible
        } else {
            Terms::OnDemand
        },
        country: None,
    };
    let near = country(&wish.like.geolocation).map(|code| OfferQuery {
        country: Some(code),
        ..anywhere.clone()
    });
    near.into_iter().chain([anywhere]).collect()
}
