//! The last price list in a file: the shelf of one local process.

use std::path::PathBuf;

use async_trait::async_trait;

use crate::ports::{PriceShelf, ShelfError};
use crate::prices::LivePrices;

/// A file that is replaced as a whole.
#[derive(Debug, Clone)]
pub struct PriceFile(PathBuf);

impl PriceFile {
    /// At this path; its directory exists.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

#[async_trait]
impl PriceShelf for PriceFile {
    async fn load(&self) -> Result<Option<LivePrices>, ShelfError> {
        match std::fs::read(&self.0) {
            Ok(bytes) => Ok(LivePrices::from_bytes(&bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn save(&self, prices: &LivePrices) -> Result<(), ShelfError> {
        let fresh = self.0.with_extension("new");
        std::fs::write(&fresh, prices.to_bytes()?)?;
        Ok(std::fs::rename(&fresh, &self.0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prices::tests::live_spot;
    use warmspare_domain::units::Timestamp;

    #[tokio::test]
    async fn a_price_list_outlives_the_process_and_a_broken_one_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("prices.json");
        let shelf = PriceFile::new(path.clone());
        assert!(shelf.load().await.unwrap().is_none());
        let prices = live_spot(Timestamp::from_millis(7), &[("us-west4", 1, 2)]);
        shelf.save(&prices).await.unwrap();
        assert_eq!(
            PriceFile::new(path.clone()).load().await.unwrap().as_ref(),
            Some(&*prices)
        );
        std::fs::write(&path, "{").unwrap();
        assert!(shelf.load().await.unwrap().is_none());
        assert!(PriceFile::new(directory.path().to_owned()).load().await.is_err());
    }
}
