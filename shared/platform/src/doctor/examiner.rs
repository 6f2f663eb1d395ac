//! All checks at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use super::{Examine, Finding, bucket, local, project, vast};
use crate::adapters::directory::DirectoryAssociations;
use crate::adapters::google::{GoogleCredentials, TokenError, TokenSource};
use crate::config::Config;
use crate::report;

/// A function has 30 s, and its caller wants to hear of the checks that did answer.
const CHECK_LIMIT: Duration = Duration::from_secs(24);

/// The bucket that is a deployment's store.
#[derive(Debug, Clone)]
pub struct BucketPlace {
    /// Cloud Storage's address.
    pub url: String,
    /// Its name.
    pub name: String,
}

/// Where a deployment keeps its associations.
enum Store {
    Directory,
    Bucket(BucketPlace),
}

/// Where credentials for Google come from.
enum Access {
    /// Found at the first examination that needs them; a search that failed is made again by the next.
    Found(OnceCell<Arc<dyn TokenSource>>),
    Given(Arc<dyn TokenSource>),
}

/// Examines one deployment by its settings.
pub struct Examiner {
    config: Config,
    access: Access,
    store: Store,
}

impl Examiner {
    /// For one local process: its directory, and the credentials that `serve` would find. Looks for nothing yet.
    #[must_use]
    pub fn local(config: &Config) -> Self {
        Self {
            config: config.clone(),
            access: Access::Found(OnceCell::new()),
            store: Store::Directory,
        }
    }

    /// For the functions: their own way into Google Cloud, and their bucket.
    #[must_use]
    pub fn functions(config: &Config, tokens: Arc<dyn TokenSource>, bucket: BucketPlace) -> Self {
        Self {
            config: config.clone(),
            access: Access::Given(tokens),
            store: Store::Bucket(bucket),
        }
    }

    async fn tokens(&self) -> Result<&Arc<dyn TokenSource>, TokenError> {
        let found = match &self.access {
            Access::Given(tokens) => return Ok(tokens),
            Access::Found(found) => found,
        };
        let find = || async {
            let credentials = match &self.config.gcp.credentials {
                Some(path) => GoogleCredentials::from_key_file(path)?,
                None => GoogleCredentials::find().await?,
            };
            Ok(Arc::new(credentials) as Arc<dyn TokenSource>)
        };
        found.get_or_try_init(find).await
    }

    async fn google(&self) -> Vec<Finding> {
        if self.config.gcp.project.is_none() && matches!(self.store, Store::Directory) {
            return vec![Finding::fine(
                "google",
                "not needed: no gcp_project is set, new standbys are at Vast",
            )];
        }
        let tokens = match self.tokens().await {
            Ok(tokens) => tokens,
            Err(error) => return vec![Finding::broken("google", report::chain(&error))],
        };
        if let Err(error) = tokens.token().await {
            let why = report::chain(&error);
            return vec![Finding::broken(
                "google",
                format!(
                    "{why}; is the key still valid, and its account enabled? gcloud iam service-accounts keys list --iam-account=ACCOUNT"
                ),
            )];
        }
        let mut findings = vec![Finding::fine("google", "credentials give access tokens")];
        let (machines, store) = tokio::join!(self.google_machines(tokens), async {
            match &self.store {
                Store::Directory => Vec::new(),
                Store::Bucket(place) => bucket::examine(&self.config, place, tokens).await,
            }
        });
        findings.extend(machines);
        findings.extend(store);
        findings
    }

    async fn google_machines(&self, tokens: &Arc<dyn TokenSource>) -> Vec<Finding> {
        if self.config.gcp.project.is_none() {
            return vec![Finding::fine(
                "compute",
                "not needed: no gcp_project is set, new standbys are at Vast",
            )];
        }
        let (compute, permissions, region, prices) = tokio::join!(
            project::compute(&self.config, tokens),
            project::permissions(&self.config, tokens),
            project::region(&self.config, tokens),
            project::prices(&self.config, tokens),
        );
        let mut findings = vec![compute];
        findings.extend(permissions);
        findings.extend(region);
        findings.push(prices);
        findings
    }

    fn local_things(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if matches!(self.store, Store::Directory) {
            findings.push(directory(&self.config));
        }
        findings.push(local::operator_key(&self.config));
        findings.push(local::agent(&self.config));
        findings
    }
}

#[async_trait]
impl Examine for Examiner {
    async fn examine(&self, test_webhook: bool) -> Vec<Finding> {
        let mut findings = self.local_things();
        let (clock, vast, google) = tokio::join!(
            within("clock", async { vec![vast::clock(&self.config).await] }),
            within("vast", vast::account(&self.config, test_webhook)),
            within("google", self.google()),
        );
        findings.extend(clock);
        findings.extend(vast);
        findings.extend(google);
        findings
    }
}

async fn within(check: &str, asked: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    let late = || {
        let words = format!("no answer within {} s; try again in a minute", CHECK_LIMIT.as_secs());
        vec![Finding::broken(check, words)]
    };
    tokio::time::timeout(CHECK_LIMIT, asked)
        .await
        .unwrap_or_else(|_| late())
}

fn directory(config: &Config) -> Finding {
    let path = config.state_dir.join("associations");
    match DirectoryAssociations::open(&path) {
        Ok(_) => Finding::fine("store", format!("{} can be written", path.display())),
        Err(error) => Finding::broken(
            "store",
            format!("{} cannot be used ({error}); choose another state_dir", path.display()),
        ),
    }
}
