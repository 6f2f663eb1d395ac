//! The world of one local process: a directory is its store, this machine's login its way into Google Cloud.

use std::sync::Arc;

use anyhow::Context;
use warmspare_platform::adapters::directory::DirectoryAssociations;
use warmspare_platform::adapters::google::{GoogleCredentials, TokenSource};
use warmspare_platform::adapters::price_file::PriceFile;
use warmspare_platform::assemble::{self, Surroundings};
use warmspare_platform::config::Config;
use warmspare_platform::pulse::Pulses;
use warmspare_platform::reconcile::World;

/// Connects the ports to the real things; calls nobody yet but for finding credentials.
pub(super) async fn real(config: &Config, pulses: Arc<Pulses>) -> anyhow::Result<World> {
    let tokens: Option<Arc<dyn TokenSource>> = match (&config.gcp.project, &config.gcp.credentials) {
        // All standbys are at Vast: nobody needs to be logged in to Google.
        (None, _) => None,
        (Some(_), Some(path)) => Some(Arc::new(GoogleCredentials::from_key_file(path)?)),
        (Some(_), None) => Some(Arc::new(GoogleCredentials::find().await?)),
    };
    let associations = config.state_dir.join("associations");
    let store = DirectoryAssociations::open(&associations)
        .with_context(|| format!("the store {} cannot be used", associations.display()))?;
    let around = Surroundings {
        store: Arc::new(store),
        tokens,
        pulses,
        price_shelf: Arc::new(PriceFile::new(config.state_dir.join("prices.json"))),
    };
    Ok(assemble::world(config, around)?)
}
