//! The world of one local process: a directory is its store, this machine's login its way into Google Cloud.

use std::sync::Arc;

use anyhow::Context;
use warmspare_platform::adapters::directory::DirectoryAssociations;
use warmspare_platform::adapters::google::GoogleCredentials;
use warmspare_platform::adapters::price_file::PriceFile;
use warmspare_platform::assemble::{self, Surroundings};
use warmspare_platform::config::Config;
use warmspare_platform::pulse::Pulses;
use warmspare_platform::reconcile::World;

/// Connects the ports to the real things; calls nobody yet but for finding credentials.
pub(super) async fn real(config: &Config, pulses: Arc<Pulses>) -> anyhow::Result<World> {
    let tokens = match &config.gcp.credentials {
        Some(path) => GoogleCredentials::from_key_file(path)?,
        None => GoogleCredentials::find().await?,
    };
    let associations = config.state_dir.join("associations");
    let store = DirectoryAssociations::open(&associations)
        .with_context(|| format!("the store {} cannot be used", associations.display()))?;
    let around = Surroundings {
        store: Arc::new(store),
        tokens: Arc::new(tokens),
        pulses,
        price_shelf: Arc::new(PriceFile::new(config.state_dir.join("prices.json"))),
    };
    Ok(assemble::world(config, around)?)
}
