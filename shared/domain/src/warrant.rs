//! Proof that something may be destroyed.

use serde::{Deserialize, Serialize};

/// Proof that destroying is allowed. The rules of this crate make it, the adapters demand it, so no call path can forget the check.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseWarrant(Ground);

/// Why destroying is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ground {
    /// The user asked for it, for this GPU.
    UserRequest,
    /// The user's policy says that a deletion at Vast is theirs, and the GPU was deleted there.
    DeletedAtVast,
    /// The announced retention ran out.
    RetentionOver,
    /// A restored and verified copy is live under a newer epoch, and the user's policy lets the old one go.
    VerifiedElsewhere,
    /// We ordered it and abandoned the order; no pass ever reached it.
    NeverHeldData,
}

impl ReleaseWarrant {
    /// Only the rules in this crate can say that a ground holds.
    pub(crate) fn on(ground: Ground) -> Self {
        Self(ground)
    }

    /// Why destroying is allowed.
    #[must_use]
    pub fn ground(self) -> Ground {
        self.0
    }
}

impl std::fmt::Display for Ground {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UserRequest => "the user asked for it",
            Self::DeletedAtVast => {
                "the GPU was deleted at Vast, and the policy says that such a deletion is the user's"
            }
            Self::RetentionOver => "the announced retention ran out",
            Self::VerifiedElsewhere => "a verified copy is live on another GPU",
            Self::NeverHeldData => "it was ordered, abandoned, and never held data",
        })
    }
}
