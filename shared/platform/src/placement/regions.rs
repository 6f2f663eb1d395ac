//! The regions of Compute Engine, and the places near them.

use warmspare_domain::ids::Zone;

/// A region of Compute Engine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Region {
    /// Its name.
    pub name: &'static str,
    /// The letters of its zones.
    letters: &'static str,
    /// Latitude and longitude, in degrees, to about 50 km.
    at: (f64, f64),
}

impl Region {
    /// Its zones, in the order of their letters.
    #[must_use]
    pub fn zones(&self) -> Vec<Zone> {
        self.letters
            .chars()
            .map(|letter| {
                format!("{}-{letter}", self.name)
                    .parse()
                    .expect("a region and a letter are a zone")
            })
            .collect()
    }

    pub(super) fn letters_in_words(&self) -> String {
        self.zones()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The great-circle distance.
    #[must_use]
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "half the globe's girth is 20,015 km"
    )]
    pub fn kilometres_to(&self, other: &Self) -> u32 {
        let ((lat_a, lon_a), (lat_b, lon_b)) = (self.at, other.at);
        let (lat_a, lat_b) = (lat_a.to_radians(), lat_b.to_radians());
        let half = |from: f64, to: f64| ((to - from) / 2.0).sin().powi(2);
        let haversine = half(lat_a, lat_b) + lat_a.cos() * lat_b.cos() * half(lon_a.to_radians(), lon_b.to_radians());
        (2.0 * EARTH_RADIUS_KM * haversine.sqrt().min(1.0).asin()).round() as u32
    }
}

/// The mean radius of the Earth.
const EARTH_RADIUS_KM: f64 = 6371.0;

const fn region(name: &'static str, letters: &'static str, latitude: f64, longitude: f64) -> Region {
    Region {
        name,
        letters,
        at: (latitude, longitude),
    }
}

/// All regions. Names: `reference/google/pricing.md`, 2026-07-30; letters: Google's list of zones, general knowledge of 2026-11. Most regions have a, b
/// and c; us-east1 and europe-west1 have no a.
const REGIONS: &[Region] = &[
    region("africa-south1", "abc", -26.0, 28.0),
    region("asia-east1", "abc", 24.0, 120.5),
    region("asia-east2", "abc", 22.0, 114.0),
    region("asia-northeast1", "abc", 35.7, 139.7),
    region("asia-northeast2", "abc", 34.7, 135.5),
    region("asia-northeast3", "abc", 37.5, 127.0),
    region("asia-south1", "abc", 19.0, 72.9),
    region("asia-south2", "abc", 28.6, 77.2),
    region("asia-southeast1", "abc", 1.3, 103.8),
    region("asia-southeast2", "abc", -6.0, 107.0),
    region("australia-southeast1", "abc", -33.9, 151.2),
    region("australia-southeast2", "abc", -37.8, 145.0),
    region("europe-central2", "abc", 52.0, 21.0),
    region("europe-north1", "abc", 60.5, 27.0),
    region("europe-north2", "abc", 59.0, 18.0),
    region("europe-southwest1", "abc", 40.4, -3.7),
    region("europe-west1", "bcd", 50.5, 4.0),
    region("europe-west10", "abc", 52.5, 13.4),
    region("europe-west12", "abc", 45.0, 7.7),
    region("europe-west2", "abc", 51.5, 0.0),
    region("europe-west3", "abc", 50.1, 8.7),
    region("europe-west4", "abc", 53.4, 6.8),
    region("europe-west6", "abc", 47.4, 8.5),
    region("europe-west8", "abc", 45.5, 9.2),
    region("europe-west9", "abc", 48.9, 2.4),
    region("me-central1", "abc", 25.3, 51.5),
    region("me-central2", "abc", 26.4, 50.1),
    region("me-west1", "abc", 32.0, 35.0),
    region("northamerica-northeast1", "abc", 45.5, -73.5),
    region("northamerica-northeast2", "abc", 44.0, -79.0),
    region("northamerica-south1", "abc", 20.6, -100.4),
    region("southamerica-east1", "abc", -23.5, -46.6),
    region("southamerica-west1", "abc", -33.4, -70.7),
    region("us-central1", "abcf", 41.3, -95.9),
    region("us-east1", "bcd", 33.2, -80.0),
    region("us-east4", "abc", 39.0, -77.5),
    region("us-east5", "abc", 40.0, -83.0),
    region("us-south1", "abc", 32.8, -96.8),
    region("us-west1", "abc", 45.6, -121.2),
    region("us-west2", "abc", 34.0, -118.0),
    region("us-west3", "abc", 41.0, -112.0),
    region("us-west4", "abc", 36.0, -115.0),
];

/// All regions.
#[must_use]
pub fn regions() -> &'static [Region] {
    REGIONS
}

/// The region of a state, province or city: country, name in small letters, region. `reference/vast/vast-api.md` §13.
pub(super) const PARTS: &[(&str, &str, &str)] = &[
    ("US", "washington", "us-west1"),
    ("US", "oregon", "us-west1"),
    ("US", "idaho", "us-west1"),
    ("US", "montana", "us-west1"),
    ("US", "alaska", "us-west1"),
    ("US", "hawaii", "us-west1"),
    ("US", "california", "us-west2"),
    ("US", "utah", "us-west3"),
    ("US", "colorado", "us-west3"),
    ("US", "wyoming", "us-west3"),
    ("US", "nevada", "us-west4"),
    ("US", "arizona", "us-west4"),
    ("US", "new mexico", "us-west4"),
    ("US", "texas", "us-south1"),
    ("US", "oklahoma", "us-south1"),
    ("US", "louisiana", "us-south1"),
    ("US", "arkansas", "us-south1"),
    ("US", "mississippi", "us-south1"),
    ("US", "iowa", "us-central1"),
    ("US", "nebraska", "us-central1"),
    ("US", "kansas", "us-central1"),
    ("US", "missouri", "us-central1"),
    ("US", "minnesota", "us-central1"),
    ("US", "wisconsin", "us-central1"),
    ("US", "illinois", "us-central1"),
    ("US", "south dakota", "us-central1"),
    ("US", "north dakota", "us-central1"),
    ("US", "indiana", "us-central1"),
    ("US", "ohio", "us-east5"),
    ("US", "michigan", "us-east5"),
    ("US", "kentucky", "us-east5"),
    ("US", "west virginia", "us-east5"),
    ("US", "virginia", "us-east4"),
    ("US", "district of columbia", "us-east4"),
    ("US", "maryland", "us-east4"),
    ("US", "delaware", "us-east4"),
    ("US", "pennsylvania", "us-east4"),
    ("US", "new jersey", "us-east4"),
    ("US", "new york", "us-east4"),
    ("US", "connecticut", "us-east4"),
    ("US", "rhode island", "us-east4"),
    ("US", "massachusetts", "us-east4"),
    ("US", "vermont", "us-east4"),
    ("US", "new hampshire", "us-east4"),
    ("US", "maine", "us-east4"),
    ("US", "south carolina", "us-east1"),
    ("US", "north carolina", "us-east1"),
    ("US", "georgia", "us-east1"),
    ("US", "florida", "us-east1"),
    ("US", "alabama", "us-east1"),
    ("US", "tennessee", "us-east1"),
    ("US", "puerto rico", "us-east1"),
    ("CA", "quebec", "northamerica-northeast1"),
    ("CA", "québec", "northamerica-northeast1"),
    ("CA", "new brunswick", "northamerica-northeast1"),
    ("CA", "nova scotia", "northamerica-northeast1"),
    ("CA", "prince edward island", "northamerica-northeast1"),
    ("CA", "newfoundland and labrador", "northamerica-northeast1"),
    ("CA", "ontario", "northamerica-northeast2"),
    ("CA", "manitoba", "northamerica-northeast2"),
    ("CA", "british columbia", "us-west1"),
    ("CA", "alberta", "us-west1"),
    ("CA", "saskatchewan", "us-west1"),
    ("CA", "yukon", "us-west1"),
    ("DE", "berlin", "europe-west10"),
    ("DE", "brandenburg", "europe-west10"),
    ("DE", "saxony", "europe-west10"),
    ("IT", "piedmont", "europe-west12"),
    ("JP", "osaka", "asia-northeast2"),
    ("JP", "kyoto", "asia-northeast2"),
    ("JP", "hyogo", "asia-northeast2"),
    ("IN", "delhi", "asia-south2"),
    ("IN", "uttar pradesh", "asia-south2"),
    ("IN", "haryana", "asia-south2"),
    ("IN", "punjab", "asia-south2"),
    ("AU", "victoria", "australia-southeast2"),
    ("AU", "south australia", "australia-southeast2"),
    ("AU", "tasmania", "australia-southeast2"),
    ("AU", "western australia", "australia-southeast2"),
];

/// The region of a country whose part is unknown or makes no difference.
pub(super) const COUNTRIES: &[(&str, &str)] = &[
    ("US", "us-central1"),
    ("CA", "northamerica-northeast2"),
    ("MX", "northamerica-south1"),
    ("BR", "southamerica-east1"),
    ("UY", "southamerica-east1"),
    ("PY", "southamerica-east1"),
    ("AR", "southamerica-east1"),
    ("CL", "southamerica-west1"),
    ("PE", "southamerica-west1"),
    ("BO", "southamerica-west1"),
    ("CO", "us-east1"),
    ("EC", "us-east1"),
    ("VE", "us-east1"),
    ("CR", "us-east1"),
    ("PA", "us-east1"),
    ("GT", "us-east1"),
    ("DO", "us-east1"),
    ("JM", "us-east1"),
    ("GB", "europe-west2"),
    ("IE", "europe-west2"),
    ("IS", "europe-west2"),
    ("BE", "europe-west1"),
    ("LU", "europe-west1"),
    ("NL", "europe-west4"),
    ("DE", "europe-west3"),
    ("AT", "europe-west3"),
    ("CZ", "europe-west3"),
    ("TR", "europe-west3"),
    ("CH", "europe-west6"),
    ("LI", "europe-west6"),
    ("FR", "europe-west9"),
    ("MC", "europe-west9"),
    ("NG", "europe-west9"),
    ("KE", "europe-west9"),
    ("EG", "europe-west9"),
    ("IT", "europe-west8"),
    ("SI", "europe-west8"),
    ("HR", "europe-west8"),
    ("MT", "europe-west8"),
    ("GR", "europe-west8"),
    ("AL", "europe-west8"),
    ("ES", "europe-southwest1"),
    ("PT", "europe-southwest1"),
    ("MA", "europe-southwest1"),
    ("PL", "europe-central2"),
    ("SK", "europe-central2"),
    ("HU", "europe-central2"),
    ("RO", "europe-central2"),
    ("BG", "europe-central2"),
    ("UA", "europe-central2"),
    ("MD", "europe-central2"),
    ("LT", "europe-central2"),
    ("BY", "europe-central2"),
    ("RS", "europe-central2"),
    ("KZ", "europe-central2"),
    ("UZ", "europe-central2"),
    ("KG", "europe-central2"),
    ("FI", "europe-north1"),
    ("EE", "europe-north1"),
    ("LV", "europe-north1"),
    ("RU", "europe-north1"),
    ("SE", "europe-north2"),
    ("NO", "europe-north2"),
    ("DK", "europe-north2"),
    ("IL", "me-west1"),
    ("CY", "me-west1"),
    ("JO", "me-west1"),
    ("LB", "me-west1"),
    ("QA", "me-central1"),
    ("AE", "me-central1"),
    ("OM", "me-central1"),
    ("BH", "me-central1"),
    ("KW", "me-central1"),
    ("SA", "me-central2"),
    ("ZA", "africa-south1"),
    ("NA", "africa-south1"),
    ("BW", "africa-south1"),
    ("ZW", "africa-south1"),
    ("MZ", "africa-south1"),
    ("JP", "asia-northeast1"),
    ("KR", "asia-northeast3"),
    ("TW", "asia-east1"),
    ("HK", "asia-east2"),
    ("CN", "asia-east2"),
    ("MO", "asia-east2"),
    ("VN", "asia-east2"),
    ("PH", "asia-east2"),
    ("SG", "asia-southeast1"),
    ("MY", "asia-southeast1"),
    ("TH", "asia-southeast1"),
    ("KH", "asia-southeast1"),
    ("LA", "asia-southeast1"),
    ("MM", "asia-southeast1"),
    ("ID", "asia-southeast2"),
    ("IN", "asia-south1"),
    ("LK", "asia-south1"),
    ("BD", "asia-south1"),
    ("NP", "asia-south1"),
    ("PK", "asia-south1"),
    ("AU", "australia-southeast1"),
    ("NZ", "australia-southeast1"),
];

/// The region of a part of a country, by its whole name.
pub(super) fn of_part(country: &str, part: &str) -> Option<&'static str> {
    PARTS
        .iter()
        .find(|(of, name, _)| *of == country && *name == part)
        .map(|(_, _, region)| *region)
}

/// The region of a country.
pub(super) fn of_country(country: &str) -> Option<&'static str> {
    COUNTRIES
        .iter()
        .find(|(code, _)| *code == country)
        .map(|(_, region)| *region)
}
