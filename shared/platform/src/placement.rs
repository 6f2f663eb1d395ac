//! Where a standby goes: from Vast's words for a place to zones of Compute Engine that exist.
//!
//! The map from places to regions is a choice by distance, `reference/vast/vast-api.md` §13, and can be overridden with `gcp_zone`. Whole words are
//! compared, never parts of words: `Indiana` is not `India`.

use warmspare_domain::ids::Zone;

mod regions;

pub use regions::{Region, regions};

/// What the settings say about the zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneWish {
    /// This zone and no other.
    Fixed(Zone),
    /// Near the GPU.
    Near {
        /// The region when nobody knows where the GPU is.
        default_region: String,
    },
}

/// Where a standby is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// In this order; never empty.
    pub zones: Vec<Zone>,
    /// Why there, for a person.
    pub explanation: String,
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

/// Regions tried beside the nearest one when that has no capacity.
const FALL_BACK_REGIONS: usize = 2;

/// Chooses zones for a GPU at `geolocation`, as Vast writes it.
///
/// # Errors
/// When the settings name a region or zone that does not exist.
pub fn place(geolocation: &str, wish: &ZoneWish) -> Result<Placement, PlacementError> {
    match wish {
        ZoneWish::Fixed(zone) => {
            let region = find(zone.region()).ok_or_else(|| PlacementError::NoSuchRegion(zone.region().to_owned()))?;
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
        ZoneWish::Near { default_region } => {
            let default = find(default_region).ok_or_else(|| PlacementError::NoSuchRegion(default_region.clone()))?;
            let place = Place::parse(geolocation);
            let known = place.region().and_then(find);
            let region = known.unwrap_or(default);
            let mut zones = region.zones();
            let neighbours = region.nearest(FALL_BACK_REGIONS);
            zones.extend(neighbours.iter().flat_map(|neighbour| neighbour.zones()));
            let why = match known {
                Some(_) => format!("near the GPU in {}", geolocation.trim_matches([',', ' '])),
                None => "because nobody knows where the GPU is".to_owned(),
            };
            let others: Vec<_> = neighbours.iter().map(|neighbour| neighbour.name).collect();
            let explanation = format!(
                "in {}, {why}; then {} if there is no capacity",
                region.name,
                others.join(" and ")
            );
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

    fn first(geolocation: &str) -> String {
        let wish = ZoneWish::Near {
            default_region: "us-central1".to_owned(),
        };
        place(geolocation, &wish).unwrap().zones[0].region().to_owned()
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
        let error = place("Texas, US", &wish).unwrap_err().to_string();
        assert!(
            error.contains("europe-west1-b, europe-west1-c, europe-west1-d"),
            "{error}"
        );
        let wish = ZoneWish::Near {
            default_region: "us-centrl1".to_owned(),
        };
        assert!(place("", &wish).unwrap_err().to_string().contains("us-centrl1"));
    }

    #[test]
    fn exhausted_capacity_falls_through_to_neighbours() {
        let wish = ZoneWish::Near {
            default_region: "us-central1".to_owned(),
        };
        let placement = place("Netherlands, NL", &wish).unwrap();
        let mut order: Vec<_> = placement.zones.iter().map(|zone| zone.region().to_owned()).collect();
        order.dedup();
        assert_eq!(
            order,
            ["europe-west4", "europe-west1", "europe-west3"],
            "{}",
            placement.explanation
        );
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
