//! Associations in a Cloud Storage bucket, one object each: the store of the functions.
//!
//! # Guarantees
//! Every write carries a generation precondition. Objects are never deleted here: a tombstone carries the time of its release as custom time, and a
//! rule of the bucket lets it expire (`infra/google-setup.sh`).
//!
//! # Assumptions
//! The bucket is private, so that reads and listings are strongly consistent; about one write a second to one object. Source:
//! `reference/google/storage.md` §1, 2026-11.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use google_cloud_auth::credentials::{CacheableResource, Credentials, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use google_cloud_gax::retry_policy::RetryPolicyExt;
use google_cloud_gax::retry_throttler::CircuitBreaker;
use google_cloud_storage::client::Storage;
use google_cloud_storage::retry_policy::RetryableErrors;
use google_cloud_wkt::Timestamp as WireTime;
use http::{Extensions, HeaderMap, HeaderValue};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use warmspare_domain::association::Phase;
use warmspare_domain::ids::AssociationId;

use super::google::{TokenError, TokenSource};
use super::http::Http;
use crate::associations::{Associations, Objects, Precondition};
use crate::ports::{PriceShelf, ProviderError, ShelfError, StoreError, Version};
use crate::prices::LivePrices;
use crate::pulse::Pulse;
use crate::wire::Stored;

/// Google's own endpoint.
pub const ENDPOINT: &str = "https://storage.googleapis.com";

/// Where the objects lie in the bucket.
const PREFIX: &str = "associations/";

/// A function has seconds, not the client's 300 s: what fails now is tried again by the next beat.
const ATTEMPTS: u32 = 3;
/// One call with all its attempts.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// Which bucket, and how it is reached.
#[derive(Debug, Clone)]
pub struct GcsSettings {
    /// [`ENDPOINT`], or another one in tests.
    pub endpoint: String,
    /// The bucket's name.
    pub bucket: String,
}

/// A bucket, and the clients that reach it.
#[derive(Clone)]
struct Bucket {
    client: Storage,
    /// Listing over the JSON API: Google's crate lists over gRPC only, which would be a second protocol to reach, to permit and to test.
    http: Http,
    tokens: Arc<dyn TokenSource>,
    name: String,
}

impl Bucket {
    async fn new(settings: GcsSettings, tokens: Arc<dyn TokenSource>) -> Result<Self, ProviderError> {
        let http = Http::new("Cloud Storage", &settings.endpoint, CALL_LIMIT)?;
        let client = Storage::builder()
            .with_endpoint(settings.endpoint)
            .with_credentials(Credentials::from(Bearer(Arc::clone(&tokens))))
            .with_retry_policy(RetryableErrors.with_attempt_limit(ATTEMPTS).with_time_limit(CALL_LIMIT))
            // The client's own drops retries by chance, every second one after a failure, and the growing pauses then use up the time of the others. This
            // one lets a call have its attempts, and ends retrying while the bucket fails call after call.
            .with_retry_throttler(CircuitBreaker::default())
            .build()
            .await
            .map_err(|error| ProviderError::Invalid {
                detail: format!("the Cloud Storage client cannot be set up: {error}"),
            })?;
        Ok(Self {
            client,
            http,
            tokens,
            name: settings.bucket,
        })
    }

    fn resource(&self) -> String {
        format!("projects/_/buckets/{}", self.name)
    }

    fn unavailable(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
        StoreError::Unavailable(Box::new(AtBucket {
            bucket: self.name.clone(),
            source: error.into(),
        }))
    }

    /// Content and generation of an object; `None` when there is none.
    async fn read(&self, name: String) -> Result<Option<(Vec<u8>, i64)>, StoreError> {
        match tokio::time::timeout(CALL_LIMIT, self.fetch(name)).await {
            Ok(fetched) => fetched.map_err(|error| self.unavailable(error)),
            Err(late) => Err(self.unavailable(late)),
        }
    }

    async fn fetch(&self, name: String) -> Result<Option<(Vec<u8>, i64)>, google_cloud_storage::Error> {
        let mut response = match self.client.read_object(self.resource(), name).send().await {
            Err(error) if error.http_status_code() == Some(404) => return Ok(None),
            other => other?,
        };
        let generation = response.object().generation;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.next().await.transpose()? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some((bytes, generation)))
    }

    fn writing(&self, name: String, bytes: Vec<u8>) -> Writing {
        self.client
            .write_object(self.resource(), name, axum::body::Bytes::from(bytes))
            .set_content_type("application/json")
            .set_cache_control("no-store")
    }

    /// Writes without a precondition: never an association.
    async fn overwrite(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let writing = self.writing(name.to_owned(), bytes).send_buffered();
        match tokio::time::timeout(CALL_LIMIT, writing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.unavailable(error)),
            Err(late) => Err(self.unavailable(late)),
        }
    }

    /// Names and generations of the objects below a prefix.
    async fn list(&self, prefix: &str) -> Result<Vec<Item>, StoreError> {
        let mut listed = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let page = self.page(prefix, next.as_deref()).await?;
            listed.extend(page.items);
            next = page.next_page_token;
            if next.is_none() {
                return Ok(listed);
            }
        }
    }

    async fn page(&self, prefix: &str, token: Option<&str>) -> Result<Page, StoreError> {
        let secret = self.tokens.token().await.map_err(|error| self.unavailable(error))?;
        let mut request = self
            .http
            .request(Method::GET, &["storage", "v1", "b", &self.name, "o"])
            .query(&[
                ("prefix", prefix),
                ("fields", "items(name,generation),nextPageToken"),
                ("maxResults", "1000"),
            ]);
        if let Some(token) = token {
            request = request.query(&[("pageToken", token)]);
        }
        let sent = self.http.send(request, &secret).await;
        let answer = sent.map_err(|lost| self.unavailable(lost.0))?;
        if answer.status != 200 {
            let said = super::http::words(&answer.body);
            return Err(self.unavailable(format!("listing answered {}: {said}", answer.status)));
        }
        serde_json::from_str(&answer.body).map_err(|error| self.unavailable(error))
    }
}

type Writing = google_cloud_storage::builder::storage::WriteObject<google_cloud_storage::streaming_source::BytesSource>;

/// Associations in a bucket.
pub type GcsAssociations = Associations<GcsObjects>;

/// Objects in a bucket.
pub struct GcsObjects(Bucket);

impl fmt::Debug for GcsObjects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GcsObjects").field(&self.0.name).finish()
    }
}

impl GcsObjects {
    /// Sets up the clients; calls nobody yet.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when the endpoint is not an address that may carry credentials.
    pub async fn new(settings: GcsSettings, tokens: Arc<dyn TokenSource>) -> Result<Self, ProviderError> {
        Bucket::new(settings, tokens).await.map(Self)
    }

    /// The heartbeats in the same bucket.
    #[must_use]
    pub fn heartbeats(&self) -> GcsHeartbeats {
        GcsHeartbeats(self.0.clone())
    }

    /// The price list in the same bucket.
    #[must_use]
    pub fn prices(&self) -> GcsPrices {
        GcsPrices(self.0.clone())
    }
}

/// What the agents said last, one object per shard. It is no state: the latest wins, and a lost one costs a moment's ignorance.
pub struct GcsHeartbeats(Bucket);

/// Where the heartbeats lie in the bucket.
const HEARTBEATS: &str = "heartbeats/";

impl GcsHeartbeats {
    /// Writes a shard's heartbeat: what we heard, and for the other members what was heard last, maybe by another execution environment. Answers it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there was no answer.
    pub async fn write(
        &self,
        shard: u32,
        members: &BTreeSet<AssociationId>,
        heard: BTreeMap<AssociationId, Pulse>,
    ) -> Result<BTreeMap<AssociationId, Pulse>, StoreError> {
        let name = format!("{HEARTBEATS}{shard}.json");
        let mut pulses = self.one(name.clone()).await?;
        merge(&mut pulses, heard);
        pulses.retain(|id, _| members.contains(id));
        let heartbeat = Heartbeat {
            schema: HEARTBEAT_SCHEMA,
            pulses,
        };
        let bytes = serde_json::to_vec(&heartbeat).map_err(|error| self.0.unavailable(error))?;
        // A plain overwrite on purpose: two that write at once lose a moment's knowledge, and the next beat writes again.
        self.0.overwrite(&name, bytes).await?;
        Ok(heartbeat.pulses)
    }

    async fn one(&self, name: String) -> Result<BTreeMap<AssociationId, Pulse>, StoreError> {
        let read = self.0.read(name).await?;
        let heartbeat = read.and_then(|(bytes, _)| serde_json::from_slice::<Heartbeat>(&bytes).ok());
        Ok(heartbeat.map(|heartbeat| heartbeat.pulses).unwrap_or_default())
    }

    /// What all shards wrote last; of an association that two shards name, the later word.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when there was no answer. A heartbeat that cannot be read is left out.
    pub async fn read(&self) -> Result<BTreeMap<AssociationId, Pulse>, StoreError> {
        let mut latest = BTreeMap::new();
        for item in self.0.list(HEARTBEATS).await? {
            merge(&mut latest, self.one(item.name).await?);
        }
        Ok(latest)
    }
}

/// The last price list, one object: the sweep writes it, the other functions read it.
pub struct GcsPrices(Bucket);

/// Where it lies in the bucket.
const PRICES: &str = "prices/compute.json";

#[async_trait]
impl PriceShelf for GcsPrices {
    async fn load(&self) -> Result<Option<LivePrices>, ShelfError> {
        let read = self.0.read(PRICES.to_owned()).await?;
        Ok(read.and_then(|(bytes, _)| LivePrices::from_bytes(&bytes)))
    }

    async fn save(&self, prices: &LivePrices) -> Result<(), ShelfError> {
        // A plain overwrite on purpose: two sweeps at once read the same prices.
        self.0.overwrite(PRICES, prices.to_bytes()?).await.map_err(Into::into)
    }
}

/// Keeps the later word of each.
fn merge(known: &mut BTreeMap<AssociationId, Pulse>, others: BTreeMap<AssociationId, Pulse>) {
    for (id, pulse) in others {
        if known.get(&id).is_none_or(|known| known.at < pulse.at) {
            known.insert(id, pulse);
        }
    }
}

/// The version of a heartbeat object.
const HEARTBEAT_SCHEMA: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Heartbeat {
    schema: u32,
    pulses: BTreeMap<AssociationId, Pulse>,
}

/// The object of an association. The first two hex digits of a hash spread the names, as the bucket's rate ramps up by name range.
fn object_name(id: AssociationId) -> String {
    let id = id.to_string();
    let spread = hex::encode(&Sha256::digest(id.as_bytes())[..1]);
    format!("{PREFIX}{spread}/{id}.json")
}

fn id_in(object_name: &str) -> Option<AssociationId> {
    let (_, file) = object_name.strip_prefix(PREFIX)?.split_once('/')?;
    file.strip_suffix(".json")?.parse().ok()
}

#[async_trait]
impl Objects for GcsObjects {
    async fn read(&self, id: AssociationId) -> Result<Option<(Stored, Version)>, StoreError> {
        let Some((bytes, generation)) = self.0.read(object_name(id)).await? else {
            return Ok(None);
        };
        let stored = Stored::from_bytes(&bytes).map_err(|error| StoreError::Corrupt {
            id,
            source: Box::new(error),
        })?;
        Ok(Some((stored, Version(generation.to_string()))))
    }

    async fn write(&self, stored: &Stored, precondition: &Precondition) -> Result<Version, StoreError> {
        let id = stored.association.id;
        let generation = match precondition {
            Precondition::Absent => 0,
            // A version that no bucket gave out is a version that nothing has.
            Precondition::Is(version) => version.0.parse::<i64>().map_err(|_| StoreError::Conflict(id))?,
        };
        let bytes = stored.to_bytes().map_err(|error| self.0.unavailable(error))?;
        let mut writing = self
            .0
            .writing(object_name(id), bytes)
            .set_if_generation_match(generation);
        if let Phase::Released { since, .. } = stored.association.phase {
            writing = writing.set_custom_time(wire_time(since.as_millis()));
        }
        match tokio::time::timeout(CALL_LIMIT, writing.send_buffered()).await {
            Ok(Ok(object)) => Ok(Version(object.generation.to_string())),
            Ok(Err(error)) if error.http_status_code() == Some(412) => Err(StoreError::Conflict(id)),
            Ok(Err(error)) => Err(self.0.unavailable(error)),
            Err(late) => Err(self.0.unavailable(late)),
        }
    }

    async fn list(&self) -> Result<Vec<(AssociationId, Version)>, StoreError> {
        let items = self.0.list(PREFIX).await?;
        let mut listed: Vec<_> = items
            .into_iter()
            .filter_map(|item| Some((id_in(&item.name)?, Version(item.generation))))
            .collect();
        listed.sort_unstable_by_key(|(id, _)| *id);
        Ok(listed)
    }
}

fn wire_time(millis: i64) -> WireTime {
    let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).unwrap_or_default();
    WireTime::clamp(millis.div_euclid(1000), nanos)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    items: Vec<Item>,
    next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Item {
    name: String,
    generation: String,
}

/// An error with the bucket it is about.
#[derive(Debug, thiserror::Error)]
#[error(
    "bucket {bucket}; nothing is lost, the next beat tries again. If it goes on: does the bucket exist, and may our account use its objects?"
)]
struct AtBucket {
    bucket: String,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Our token source as Google's crate wants it.
struct Bearer(Arc<dyn TokenSource>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

impl CredentialsProvider for Bearer {
    async fn headers(&self, _: Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        let token = self.0.token().await.map_err(|error| {
            let passes = matches!(error, TokenError::Unreachable(_));
            CredentialsError::from_source(passes, error)
        })?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|error| CredentialsError::from_source(false, error))?;
        value.set_sensitive(true);
        Ok(CacheableResource::New {
            entity_tag: EntityTag::new(),
            data: HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]),
        })
    }

    async fn universe_domain(&self) -> Option<String> {
        None
    }
}

#[cfg(test)]
mod tests;
