//! Everything that a deployment needs of the world, asked for once: one list of checks for `serve` and for the functions.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod bucket;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod examiner;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod google;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod local;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod project;
#[cfg(all(test, feature = "vast", feature = "compute", feature = "ssh"))]
mod tests;
#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
mod vast;

#[cfg(all(feature = "vast", feature = "compute", feature = "ssh"))]
pub use examiner::{BucketPlace, Examiner};

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Nothing to do.
    Ok,
    /// It works, but somebody should know.
    Note,
    /// It has to be put right.
    Broken,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check.
    pub check: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was found, and what to do about it.
    pub words: String,
}

/// All findings, as they go over the wire.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// The form of this report.
    pub schema: u32,
    /// In the order of the checks.
    pub findings: Vec<Finding>,
}

/// Examines what a deployment needs.
#[async_trait]
pub trait Examine: Send + Sync {
    /// Makes all checks at once, within half a minute. With `test_webhook`, Vast sends its signed test, too.
    async fn examine(&self, test_webhook: bool) -> Vec<Finding>;
}

impl Report {
    /// The report of these findings.
    #[must_use]
    pub fn of(findings: Vec<Finding>) -> Self {
        Self { schema: 1, findings }
    }
}

impl Finding {
    /// Nothing to do.
    #[must_use]
    pub fn fine(check: &str, words: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, words)
    }

    /// It works, but somebody should know.
    #[must_use]
    pub fn note(check: &str, words: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, words)
    }

    /// It has to be put right.
    #[must_use]
    pub fn broken(check: &str, words: impl Into<String>) -> Self {
        Self::new(check, Verdict::Broken, words)
    }

    fn new(check: &str, verdict: Verdict, words: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            words: words.into(),
        }
    }
}
