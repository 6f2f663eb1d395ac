//! Vast's market: what fits a wish, and what to bid for it.

use std::cmp::Reverse;

use reqwest::Method;
use serde_json::{Value, json};
use warmspare_domain::units::MicroUsd;

use super::VastGpus;
use super::calls::Call;
use super::listing::garbled;
use super::pace::Endpoint;
use super::wire::{Instance, OfferRow, dollars, whole};
use crate::ports::ProviderError;

/// Offers read per search: they vanish within seconds, so a few dozen of the cheapest are enough.
const SEARCH_LIMIT: u32 = 32;
/// Vast refuses bids below this. Source: OpenAPI of `asks/{id}`, read 2026-10.
const LEAST_BID: MicroUsd = MicroUsd(1000);
/// Hours in Vast's month, by which it divides storage prices (`vast-api.md` §9).
const HOURS_PER_MONTH: f64 = 720.0;

/// What to look for on the market.
#[derive(Debug, Clone, PartialEq)]
pub struct OfferQuery {
    /// The model as Vast writes it, with spaces, e.g. `RTX 4090`.
    pub model: String,
    /// How many GPUs, exactly.
    pub gpu_count: u32,
    /// Free disk, in GB.
    pub disk_gb: u32,
    /// The most it may cost an hour, storage included.
    pub max_price_per_hour: MicroUsd,
    /// Whether to rent by bid.
    pub terms: Terms,
    /// Two-letter country code to stay in; `None` for anywhere.
    pub country: Option<String>,
}

/// How a GPU is rented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terms {
    /// At a fixed price, until its end date.
    OnDemand,
    /// By bid: cheaper, and stopped when somebody bids more.
    Interruptible,
}

/// One offer that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its number; short-lived.
    pub id: u64,
    /// The machine behind it; 0 when unknown.
    pub machine_id: u64,
    /// What it would cost an hour, storage included, at the bid below.
    pub price_per_hour: MicroUsd,
    /// What to bid; `None` on demand.
    pub bid: Option<MicroUsd>,
    /// Where it is, as Vast writes it.
    pub geolocation: String,
}

/// Where a GPU is, for what must not die with it or is to run elsewhere.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    machine: Option<u64>,
    host: Option<u64>,
}

impl Place {
    pub(super) fn of(row: &Instance) -> Self {
        Self {
            machine: row.machine_id,
            host: row.host_id,
        }
    }

    /// Whether that is the same machine; unknown ones never are.
    pub(super) fn is_on(self, machine: Option<u64>) -> bool {
        self.machine.is_some() && self.machine == machine
    }

    /// Whether that is the same owner of machines.
    pub(super) fn is_by(self, host: Option<u64>) -> bool {
        self.host.is_some() && self.host == host
    }
}

impl VastGpus {
    /// Searches the market: verified machines that fit, cheapest first.
    ///
    /// # Errors
    /// [`ProviderError::RateLimited`] until midnight UTC when the day's searches are used up.
    pub async fn search_offers(&self, query: &OfferQuery) -> Result<Vec<Offer>, ProviderError> {
        let body = search_body(query);
        let call = Call::new(Endpoint::Search, Method::POST, "api/v0/bundles".to_owned(), Some(&body));
        let answer = self.calls.read(&call).await;
        let mut answer = answer.map_err(|refusal| refusal.into_error("the market"))?;
        let Some(Value::Array(rows)) = answer.get_mut("offers").map(Value::take) else {
            return Err(garbled("the answer to a search has no offers"));
        };
        let rows = rows.into_iter().filter_map(|row| serde_json::from_value(row).ok());
        let mut offers: Vec<Offer> = rows.filter_map(|row| fitting(&row, query)).collect();
        offers.sort_by_key(|offer| (offer.price_per_hour, Reverse(offer.id)));
        Ok(offers)
    }
}

fn search_body(query: &OfferQuery) -> Value {
    let (kind, price) = match query.terms {
        Terms::OnDemand => ("on-demand", "dph_total"),
        Terms::Interruptible => ("bid", "min_bid"),
    };
    let mut body = json!({
        "verified": {"eq": true}, "external": {"eq": false}, "rentable": {"eq": true}, "rented": {"eq": false},
        "gpu_name": {"eq": query.model}, "num_gpus": {"eq": query.gpu_count}, "disk_space": {"gte": query.disk_gb},
        price: {"lte": query.max_price_per_hour.dollars()},
        "order": [[price, "asc"]], "type": kind, "limit": SEARCH_LIMIT, "allocated_storage": query.disk_gb,
    });
    if let Some(country) = &query.country {
        body["geolocation"] = json!({"eq": country});
    }
    body
}

/// The offer, when it really fits: some of Vast's filters are known to be flaky (`vast-api.md` §4).
fn fitting(row: &OfferRow, query: &OfferQuery) -> Option<Offer> {
    let verified = row.verification.as_deref().is_none_or(|word| word == "verified");
    let free = row.rentable != Some(false) && row.rented != Some(true);
    // Renting a storage row answers `no_such_ask`.
    let is_machine = row.resource_type.as_deref() != Some("disk");
    let same = row.gpu_name.as_deref() == Some(query.model.as_str()) && whole(row.num_gpus) == query.gpu_count;
    let roomy = row.disk_space.is_none_or(|disk| disk >= f64::from(query.disk_gb));
    if !(verified && free && is_machine && same && roomy) {
        return None;
    }
    let (price_per_hour, bid) = price(row, query)?;
    Some(Offer {
        id: row.id?,
        machine_id: row.machine_id.unwrap_or(0),
        price_per_hour,
        bid,
        geolocation: row.geolocation.clone().unwrap_or_default(),
    })
}

/// What the offer would cost, and the bid that makes it so. `None` when that is beyond the cap or not known.
fn price(row: &OfferRow, query: &OfferQuery) -> Option<(MicroUsd, Option<MicroUsd>)> {
    let cap = query.max_price_per_hour;
    match query.terms {
        Terms::OnDemand => {
            let total = MicroUsd::from_dollars(row.dph_total?)?;
            (total <= cap).then_some((total, None))
        }
        Terms::Interruptible => {
            let monthly = row
                .storage_cost
                .map(|cost| cost * f64::from(query.disk_gb) / HOURS_PER_MONTH);
            let storage = dollars(row.storage_total_cost.or(monthly));
            let floor = MicroUsd::from_dollars(row.min_bid?)?.max(LEAST_BID);
            let bid = bid_above(floor).min(MicroUsd(cap.0.checked_sub(storage.0)?));
            (bid >= floor).then_some((MicroUsd(bid.0 + storage.0), Some(bid)))
        }
    }
}

/// A fifth above the floor: enough not to be outbid by the next small step, and what Vast itself picks (about 1.18 times, `vast-api.md` §6).
fn bid_above(floor: MicroUsd) -> MicroUsd {
    MicroUsd(floor.0.saturating_add(floor.0.div_ceil(5)))
}

/// The two-letter country at the end of a place such as `Texas, US`; `None` when there is none (`vast-api.md` §13).
pub(super) fn country(geolocation: &str) -> Option<String> {
    let last = geolocation.rsplit(',').next()?.trim();
    let code = match last {
        "United States" => "US",
        "Canada" => "CA",
        other => other.split('-').next()?.trim(),
    };
    let is_code = code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_alphabetic());
    is_code.then(|| code.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(terms: Terms, cap: f64) -> OfferQuery {
        OfferQuery {
            model: "RTX 4090".into(),
            gpu_count: 1,
            disk_gb: 72,
            max_price_per_hour: MicroUsd::from_dollars(cap).unwrap(),
            terms,
            country: Some("US".into()),
        }
    }

    fn offer() -> Value {
        json!({"id": 9001, "machine_id": 33307, "num_gpus": 1, "gpu_name": "RTX 4090", "disk_space": 500.0, "dph_total": 0.31,
            "min_bid": 0.15, "storage_cost": 0.15, "storage_total_cost": 0.015, "verification": "verified", "rentable": true,
            "rented": false, "resource_type": "gpu", "geolocation": "Quebec, CA"})
    }

    fn fit(row: Value, query: &OfferQuery) -> Option<Offer> {
        fitting(&serde_json::from_value(row).unwrap(), query)
    }

    #[test]
    fn a_bid_lies_a_fifth_above_the_floor_and_never_costs_more_than_the_cap() {
        let bid = |cap| {
            fit(offer(), &query(Terms::Interruptible, cap)).map(|offer| (offer.bid.unwrap().0, offer.price_per_hour.0))
        };
        assert_eq!(bid(1.0), Some((180_000, 195_000)));
        assert_eq!(bid(0.18), Some((165_000, 180_000)));
        assert_eq!(bid(0.165), Some((150_000, 165_000)));
        assert_eq!(bid(0.16), None, "floor and storage together cost more than the cap");
        assert_eq!(bid(0.01), None);
    }

    #[test]
    fn storage_is_counted_even_when_only_its_monthly_price_is_known() {
        let mut row = offer();
        row["storage_total_cost"] = Value::Null;
        assert_eq!(
            fit(row, &query(Terms::Interruptible, 1.0)).unwrap().price_per_hour.0,
            195_000
        );
    }

    #[test]
    fn what_the_server_let_through_is_checked_again() {
        let wish = query(Terms::OnDemand, 0.31);
        assert_eq!(fit(offer(), &wish).unwrap().price_per_hour.0, 310_000);
        for (field, value) in [
            ("verification", json!("unverified")),
            ("rentable", json!(false)),
            ("rented", json!(true)),
            ("resource_type", json!("disk")),
            ("gpu_name", json!("RTX 3090")),
            ("num_gpus", json!("2")),
            ("disk_space", json!("71.9")),
            ("dph_total", json!(0.3101)),
            ("dph_total", Value::Null),
            ("id", Value::Null),
        ] {
            let mut row = offer();
            row[field] = value.clone();
            assert_eq!(fit(row, &wish), None, "{field} = {value}");
        }
    }

    #[test]
    fn countries_are_read_from_the_end() {
        for (place, code) in [
            ("Texas, US", Some("US")),
            (", CA", Some("CA")),
            ("California, United States", Some("US")),
            ("Yutakachō, Shinagawa District, Tokyo, JP", Some("JP")),
            ("Ontario, CA-ON", Some("CA")),
            ("", None),
            ("Mars", None),
        ] {
            assert_eq!(country(place).as_deref(), code, "{place}");
        }
    }
}
