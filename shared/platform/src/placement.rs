//! Where a standby goes: from Vast's words for a place to zones of Compute Engine that exist, the cheapest within a distance first.
//!
//! The map from places to regions is a choice by distance, `reference/vast/vast-api.md` §13, and can be overridden with `gcp_zone`. Whole words are
//! compared, never parts of words: `Indiana` is not `India`.

use warmspare_domain::ids::Zone;
use warmspare_domain::policy::MachineSpec;
use warmspare_domain::units::MicroUsd;

use crate::prices::{Origin, Prices};

mod regions;

pub use regions::{Region, regions};

/// What the settings say about the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneWish {
    /// This zone and no other.
    Fixed(Zone),
    /// The cheapest not too far from the GPU.
    Near {
        /// The region when nobody knows where the GPU is.
        default_region: String,
        /// How far from the region nearest to the GPU a standby may be; 0 is that region and no other.
        max_distance_km: u32,
    },
}

/// 2,000 km: about 30 ms there and back, which a pass of a second does not notice, and in 2026-11 half the price almost everywhere in North America
/// and Europe. A continent away, restores and many small files would feel it.
pub const DEFAULT_MAX_DISTANCE_KM: u32 = 2000;

/// Where a standby is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// In this order; never empty.
    pub zones: Vec<Zone>,
    /// Why there, for a person.
    pub explanation: String,
}

impl Placement {
    /// The region tried first.
    #[must_use]
    pub fn region(&self) -> &str {
        self.zones.first().map_or("", Zone::region)
    }
}

/// Why there is no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// The region does not exist.
    #[error("there is no Compute Engine region `{0}`; set gcp_default_region to one that exists, e.g. us-central1")]
    NoSuchRegion(String),
    /// The zone does not exist.
    #[error("there is no Compute Engine zone `{zone}`; its region has {known}")]
    NoSuchZone {
        /// The zone asked for.
        zone: Zone,
        /// Those that exist, in words.
        known: String,
    },
}

impl ZoneWish {
    /// Whether what it names exists.
    ///
    /// # Errors
    /// When the region or zone does not.
    pub fn check(&self) -> Result<(), PlacementError> {
        match self {
            Self::Fixed(zone) => fixed(zone).map(drop),
            Self::Near { default_region, .. } => existing(default_region).map(drop),
        }
    }
}

/// Regions tried by price; the region nearest to the GPU comes beside them, in the order of its price.
const REGIONS_BY_PRICE: usize = 3;

/// Chooses zones for the standby of a GPU at `geolocation`, as Vast writes it.
///
/// # Errors
/// When the settings name a region or zone that does not exist.
pub fn place(
    geolocation: &str,
    wish: &ZoneWish,
    machine: &MachineSpec,
    prices: &Prices,
) -> Result<Placement, PlacementError> {
    match wish {
        ZoneWish::Fixed(zone) => fixed(zone),
        ZoneWish::Near {
            default_region,
            max_distance_km,
        } => {
            let default = existing(default_region)?;
            let known = region_near(geolocation);
            let home = known.unwrap_or(default);
            let around = match known {
                Some(_) => format!(
                    "the region nearest to the GPU ({})",
                    geolocation.trim_matches([',', ' '])
                ),
                None => "the default region, because nobody knows where the GPU is".to_owned(),
            };
            let chosen = by_price(home, *max_distance_km, machine, prices);
            let zones = chosen.iter().flat_map(|site| site.region.zones()).collect();
            let mut explanation = in_words(&chosen, home, &around, *max_distance_km);
            if let Some(first) = chosen.first()
                && first.month.is_some()
            {
                explanation.push_str(&format!(" ({})", date_words(first.region, machine, prices)));
            }
            Ok(Placement { zones, explanation })
        }
    }
}

/// The region nearest to a place, as far as the place is known.
#[must_use]
pub fn region_near(geolocation: &str) -> Option<&'static Region> {
    Place::parse(geolocation).region().and_then(find)
}

fn find(name: &str) -> Option<&'static Region> {
    regions().iter().find(|region| region.name == name)
}

fn existing(name: &str) -> Result<&'static Region, PlacementError> {
    find(name).ok_or_else(|| PlacementError::NoSuchRegion(name.to_owned()))
}

fn fixed(zone: &Zone) -> Result<Placement, PlacementError> {
    let region = existing(zone.region())?;
    if !region.zones().contains(zone) {
        return Err(PlacementError::NoSuchZone {
            zone: zone.clone(),
            known: region.letters_in_words(),
        });
    }
    Ok(Placement {
        zones: vec![zone.clone()],
        explanation: format!("in {zone}, as gcp_zone says"),
    })
}

/// A region that may be chosen.
struct Site {
    region: &'static Region,
    km: u32,
    /// What the standby costs there a month, when every part of it is known.
    month: Option<MicroUsd>,
}

/// The cheapest regions within the bound, and the nearest; by price, then by distance, those without a price last. Never empty.
fn by_price(home: &'static Region, max_km: u32, machine: &MachineSpec, prices: &Prices) -> Vec<Site> {
    let sites = regions().iter().map(|region| Site {
        region,
        km: home.kilometres_to(region),
        month: prices.standby_month(region.name, machine).ok(),
    });
    let mut sites: Vec<_> = sites.filter(|site| site.km <= max_km || site.region == home).collect();
    sites.sort_by_key(|site| (site.month.is_none(), site.month, site.km));
    let mut rank = 0..;
    sites.retain(|site| rank.next().is_some_and(|rank| rank < REGIONS_BY_PRICE) || site.region == home);
    sites
}

fn in_words(sites: &[Site], home: &Region, around: &str, max_km: u32) -> String {
    let price = |site: &Site| match site.month {
        Some(month) => format!("{:.2} USD a month", month.dollars()),
        None => "price unknown".to_owned(),
    };
    let Some((first, rest)) = sites.split_first() else {
        return String::new();
    };
    let mut words = format!("in {}, {}, ", first.region.name, price(first));
    if first.region == home {
        words.push_str(around);
    } else {
        words.push_str(&format!(
            "about {} km from {}, {around}",
            (first.km + 25) / 50 * 50,
            home.name
        ));
        if let Some(nearest) = rest.iter().find(|site| site.region == home) {
            words.push_str(&format!(
                ", which would cost {:.2}",
                nearest.month.unwrap_or_default().dollars()
            ));
        }
    }
    let others: Vec<_> = rest
        .iter()
        .map(|site| format!("{} ({})", site.region.name, price(site)))
        .collect();
    if others.is_empty() {
        words.push_str(&format!("; no other region is within {max_km} km"));
    } else {
        words.push_str(&format!("; then {} if there is no capacity", others.join(", ")));
    }
    words
}

/// From when the first choice's prices are; the older source when there are two.
fn date_words(region: &Region, machine: &MachineSpec, prices: &Prices) -> String {
    let origin = prices.machine(region.name, &machine.machine_type, machine.provisioning);
    let origin = origin.map_or(Origin::Table, |price| price.origin);
    format!("prices of {}", prices.date(origin))
}

/// A place as Vast writes it: `<region or city>, <country code>`.
#[derive(Debug, PartialEq, Eq)]
struct Place<'t> {
    /// The words before the last comma; may be empty, may have commas.
    text: &'t str,
    /// Two capital letters, or empty.
    country: String,
}

impl<'t> Place<'t> {
    fn parse(geolocation: &'t str) -> Self {
        let trimmed = geolocation.trim();
        let (text, country) = trimmed.rsplit_once(',').unwrap_or(("", trimmed));
        // A suffix such as `US-proxy` says nothing about the place.
        let country = country.split('-').next().unwrap_or_default().trim();
        let country = match country.to_lowercase().as_str() {
            "united states" | "usa" => "US".to_owned(),
            "canada" => "CA".to_owned(),
            "united kingdom" => "GB".to_owned(),
            "germany" => "DE".to_owned(),
            "south korea" => "KR".to_owned(),
            other if other.len() == 2 => other.to_uppercase(),
            _ => String::new(),
        };
        Self {
            text: text.trim(),
            country,
        }
    }

    fn region(&self) -> Option<&'static str> {
        // A city may come with its state: every part is looked at, the last one first.
        let mut parts = self.text.rsplit(',').map(str::trim).filter(|part| !part.is_empty());
        let by_part = parts.find_map(|part| regions::of_part(&self.country, &part.to_lowercase()));
        by_part.or_else(|| regions::of_country(&self.country))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use warmspare_domain::units::Timestamp;

    fn machine() -> MachineSpec {
        crate::contract::fixture(7).policy.machine
    }

    fn near(max_distance_km: u32) -> ZoneWish {
        ZoneWish::Near {
            default_region: "us-central1".to_owned(),
            max_distance_km,
        }
    }

    fn placed(geolocation: &str, max_distance_km: u32) -> Placement {
        place(geolocation, &near(max_distance_km), &machine(), &Prices::default()).unwrap()
    }

    fn order(placement: &Placement) -> Vec<String> {
        let mut order: Vec<_> = placement.zones.iter().map(|zone| zone.region().to_owned()).collect();
        order.dedup();
        order
    }

    /// The nearest region, whatever it costs.
    fn first(geolocation: &str) -> String {
        placed(geolocation, 0).region().to_owned()
    }

    #[test]
    fn places_that_vast_really_writes_go_to_the_nearest_region() {
        let table = [
            ("Texas, US", "us-south1"),
            ("California, United States", "us-west2"),
            ("California, US", "us-west2"),
            ("Quebec, CA", "northamerica-northeast1"),
            ("British Columbia, CA", "us-west1"),
            (", CA", "northamerica-northeast2"),
            (", US", "us-central1"),
            ("South Korea, KR", "asia-northeast3"),
            ("Sweden, SE", "europe-north2"),
            ("Yutakachō, Shinagawa District, Tokyo, JP", "asia-northeast1"),
            ("Osaka, JP", "asia-northeast2"),
            ("Georgia, US", "us-east1"),
            ("Washington, US", "us-west1"),
            ("Delhi, IN", "asia-south2"),
            ("Victoria, AU", "australia-southeast2"),
            ("US-proxy", "us-central1"),
            ("", "us-central1"),
            ("Atlantis, XX", "us-central1"),
        ];
        for (geolocation, region) in table {
            assert_eq!(first(geolocation), region, "{geolocation}");
        }
    }

    /// `reference/known-failures.md` 10: parts of words sent these to Los Angeles, Zurich and Mumbai.
    #[test]
    fn no_part_of_a_word_is_a_place() {
        for (geolocation, region) in [
            ("Thailand, TH", "asia-southeast3"),
            ("Ireland, IE", "europe-west2"),
            ("Switzerland, CH", "europe-west6"),
            ("Michigan, US", "us-east5"),
            ("Indiana, US", "us-central1"),
        ] {
            let expected = if find(region).is_some() {
                region
            } else {
                "asia-southeast1"
            };
            assert_eq!(first(geolocation), expected, "{geolocation}");
        }
    }

    #[test]
    fn zones_that_do_not_exist_are_refused_with_those_that_do() {
        let wish = ZoneWish::Fixed("europe-west1-a".parse().unwrap());
        let error = wish.check().unwrap_err().to_string();
        assert!(
            error.contains("europe-west1-b, europe-west1-c, europe-west1-d"),
            "{error}"
        );
        let wish = ZoneWish::Near {
            default_region: "us-centrl1".to_owned(),
            max_distance_km: 0,
        };
        assert!(wish.check().unwrap_err().to_string().contains("us-centrl1"));
        assert!(place("", &wish, &machine(), &Prices::default()).is_err());
    }

    #[test]
    fn the_cheapest_region_within_the_bound_is_first_and_the_numbers_are_said() {
        let placement = placed("Texas, US", 2000);
        assert_eq!(
            order(&placement),
            ["us-west4", "northamerica-northeast2", "us-east5", "us-south1"]
        );
        let words = placement.explanation;
        for part in [
            "in us-west4, 9.98 USD a month, about 1700 km from us-south1, the region nearest to the GPU (Texas, US), which would cost 16.32",
            "then northamerica-northeast2 (11.8",
            "us-south1 (16.32 USD a month) if there is no capacity",
            "prices of 2026-07-30",
        ] {
            assert!(words.contains(part), "{part}: {words}");
        }
    }

    #[test]
    fn exhausted_capacity_falls_through_in_the_order_of_price() {
        let placement = placed("Netherlands, NL", 1000);
        assert_eq!(
            order(&placement),
            ["europe-north2", "europe-west10", "europe-west12", "europe-west4"],
            "{}",
            placement.explanation
        );
    }

    #[test]
    fn a_bound_of_nothing_is_the_nearest_region_and_a_lonely_region_says_so() {
        assert_eq!(order(&placed("Texas, US", 0)), ["us-south1"]);
        let lonely = placed("South Africa, ZA", 2000);
        assert_eq!(order(&lonely), ["africa-south1"]);
        assert!(lonely.explanation.contains("no other region is within 2000 km"));
    }

    #[test]
    fn a_zone_that_is_named_is_the_only_one() {
        let wish = ZoneWish::Fixed("europe-west4-b".parse().unwrap());
        let placement = place("Texas, US", &wish, &machine(), &Prices::default()).unwrap();
        assert_eq!(placement.zones, ["europe-west4-b".parse().unwrap()]);
        assert!(placement.explanation.contains("gcp_zone"));
    }

    #[test]
    fn live_prices_change_the_order_and_regions_without_a_price_come_last() {
        let now = Timestamp::from_millis(1_795_441_530_250);
        let live = crate::prices::tests::live_spot(now, &[("us-west4", 20_000_000, 2_000_000)]);
        let prices = Prices::new(Some(live), now);
        let placement = place("Texas, US", &near(2000), &machine(), &prices).unwrap();
        assert_eq!(
            placement.region(),
            "northamerica-northeast2",
            "{}",
            placement.explanation
        );
        // The table has no prices of SSD disks: what is not known is not compared.
        let unknown = MachineSpec {
            disk_type: "pd-ssd".to_owned(),
            ..machine()
        };
        let placement = place("Texas, US", &near(2000), &unknown, &prices).unwrap();
        assert_eq!(placement.region(), "us-south1", "the nearest, as no price is known");
        assert!(
            placement.explanation.contains("price unknown"),
            "{}",
            placement.explanation
        );
    }

    /// Every place of the map, bounds of all sizes, prices of all kinds.
    #[test]
    fn zones_are_always_within_the_bound_and_in_the_order_of_price() {
        let places = regions::COUNTRIES.iter().map(|(country, _)| format!(", {country}"));
        let parts = regions::PARTS
            .iter()
            .map(|(country, part, _)| format!("{part}, {country}"));
        let places: Vec<_> = places.chain(parts).chain(["".to_owned()]).collect();
        let now = Timestamp::from_millis(0);
        let mut seed: u64 = 7;
        let mut random = move || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            seed >> 40
        };
        for at in places {
            for max_km in [0, 300, 1000, 2000, 20_100] {
                let spot: Vec<_> = regions()
                    .iter()
                    .map(|region| (region.name, random() + 1, random() / 8 + 1))
                    .collect();
                let prices = Prices::new(Some(crate::prices::tests::live_spot(now, &spot)), now);
                let placement = place(&at, &near(max_km), &machine(), &prices).unwrap();
                let home = region_near(&at).or_else(|| find("us-central1")).unwrap();
                let order = order(&placement);
                assert!(
                    order.iter().any(|region| region == home.name),
                    "{at}: the nearest is among them"
                );
                assert_eq!(
                    order.iter().collect::<BTreeSet<_>>().len(),
                    order.len(),
                    "{at}: a region comes once"
                );
                for region in &order {
                    let km = home.kilometres_to(find(region).unwrap());
                    assert!(km <= max_km, "{at}: {region} is {km} km away, allowed are {max_km}");
                }
                let month = |region: &str| prices.standby_month(region, &machine()).unwrap();
                assert!(order.is_sorted_by_key(|region| month(region)), "{at}: {order:?}");
                let within = regions().iter().filter(|region| home.kilometres_to(region) <= max_km);
                let cheapest = within.map(|region| month(region.name)).min().unwrap();
                assert_eq!(month(&order[0]), cheapest, "{at}: {order:?}");
            }
        }
    }

    #[test]
    fn every_region_of_the_map_exists() {
        for country in regions::COUNTRIES {
            assert!(find(country.1).is_some(), "{country:?}");
        }
        for part in regions::PARTS {
            assert!(find(part.2).is_some(), "{part:?}");
        }
    }
}
