//! Why a decision was taken, in words for a person.

use serde::{Deserialize, Serialize};

use crate::association::LossCause;
use crate::halt::HaltReason;
use crate::warrant::Ground;

/// Why a decision was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nothing had to change.
    Steady,
    /// The standby is bound to the GPU; the first pass can start.
    StandbyReady,
    /// The first recovery point exists.
    FirstRecoveryPoint,
    /// The GPU was lost.
    GpuLost(LossCause),
    /// The GPU runs again, and no other took its place.
    GpuCameBack,
    /// The GPU's silence is not yet long enough to call it lost.
    NotYetSure,
    /// The provider announced that the GPU will stop: the last changes are pulled now.
    LastGasp,
    /// The request is about a GPU whose data has moved on to another.
    Superseded,
    /// A repeat of what is already known or under way.
    AlreadySo,
    /// A tombstone stays a tombstone.
    AlreadyReleased,
    /// The record was lost; this one was rebuilt from the standby.
    RecordRebuilt,
    /// Released before it began.
    ReleasedBeforeItBegan,
    /// The user protects again what was released.
    ProtectedAgain,
    /// The user asked for it.
    UserAsked,
    /// The request does not fit the phase.
    NotNow,
    /// There is no recovery point to restore from.
    NothingSaved,
    /// The policy rents a replacement by itself.
    AutomaticFailover,
    /// What the paused GPU's disk still holds is fetched first.
    RescueFirst,
    /// Everything that the paused GPU's disk held was fetched.
    Rescued,
    /// The paused GPU's disk could not be read through its provider.
    RescueGivenUp,
    /// The standby's data disk grew.
    DiskGrown,
    /// A replacement GPU was rented.
    ReplacementRented,
    /// The replacement did not come up, or did not take the data; another one is tried.
    ReplacementFailed,
    /// Several replacements failed; the data is still on the standby.
    RestoreGivenUp,
    /// The data was restored and verified on another GPU.
    RestoreVerified,
    /// A guard stopped the copying.
    Halted(HaltReason),
    /// A person accepted the source as it is.
    SourceAccepted,
    /// The standby's machine and disk both vanished; a new one is made.
    StandbyVanished,
    /// The order for a standby failed for good; the next zone is tried.
    NextZone,
    /// An effect failed; it is tried again later.
    RetryLater,
    /// Somebody else is ahead of us: the standby is bound to a newer epoch.
    Fenced,
    /// The standby is let go.
    Releasing(Ground),
    /// The provider confirmed that nothing is left.
    Released(Ground),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::GpuLost(cause) => write!(f, "the GPU is lost: {cause}"),
            Self::Halted(reason) => write!(f, "copying halted: {reason}"),
            Self::Releasing(ground) => write!(f, "the standby is let go: {ground}"),
            Self::Released(ground) => write!(f, "nothing is left at the provider; {ground}"),
            Self::Steady
            | Self::StandbyReady
            | Self::FirstRecoveryPoint
            | Self::GpuCameBack
            | Self::NotYetSure
            | Self::LastGasp
            | Self::Superseded
            | Self::AlreadySo
            | Self::AlreadyReleased
            | Self::ReleasedBeforeItBegan
            | Self::ProtectedAgain
            | Self::RecordRebuilt
            | Self::UserAsked
            | Self::NotNow
            | Self::NothingSaved
            | Self::AutomaticFailover
            | Self::DiskGrown
            | Self::RescueFirst
            | Self::Rescued
            | Self::RescueGivenUp
            | Self::ReplacementRented
            | Self::ReplacementFailed
            | Self::RestoreGivenUp
            | Self::RestoreVerified
            | Self::SourceAccepted
            | Self::StandbyVanished
            | Self::NextZone
            | Self::RetryLater
            | Self::Fenced => f.write_str(self.plain_words()),
        }
    }
}

impl Reason {
    fn plain_words(self) -> &'static str {
        match self {
            Self::Steady => "nothing had to change",
            Self::StandbyReady => "the standby is ready; the first pass starts",
            Self::FirstRecoveryPoint => "the first recovery point exists",
            Self::GpuCameBack => "the GPU runs again and is still ours",
            Self::NotYetSure => "the GPU is silent, but not yet for long enough to call it lost",
            Self::LastGasp => "the GPU will be stopped: the last changes are pulled now",
            Self::Superseded => "that GPU's data has moved on to another GPU; nothing to do",
            Self::AlreadySo => "already known",
            Self::AlreadyReleased => "already released; a late event revives nothing",
            Self::ReleasedBeforeItBegan => "destroyed before its creation was reported",
            Self::ProtectedAgain => "protected again after its release",
            Self::RecordRebuilt => "its record was lost and is rebuilt from the standby",
            Self::UserAsked => "you asked for it",
            Self::NotNow => "not possible in this phase",
            Self::NothingSaved => "there is no recovery point to restore from",
            Self::AutomaticFailover => "the policy rents a replacement by itself",
            Self::DiskGrown => "the standby's data disk grew",
            Self::RescueFirst => {
                "the last changes are fetched from the paused GPU's disk before a replacement is rented"
            }
            Self::Rescued => "everything that was on the paused GPU's disk was fetched",
            Self::RescueGivenUp => "the paused GPU's disk could not be read through Vast; the recovery points stand",
            Self::ReplacementRented => "a replacement GPU was rented",
            Self::ReplacementFailed => "the replacement did not come up; another one is tried",
            Self::RestoreGivenUp => "no replacement could be brought up; the data stays on the standby",
            Self::RestoreVerified => "the data was restored and verified on the new GPU",
            Self::SourceAccepted => "you accepted the source as it is now",
            Self::StandbyVanished => "the standby and its disk are gone; a new standby is made",
            Self::NextZone => "the standby could not be ordered there; the next zone is tried",
            Self::RetryLater => "it failed and is tried again later",
            Self::Fenced => "the standby is already bound to a newer epoch",
            Self::GpuLost(_) => "the GPU is lost",
            Self::Halted(_) => "copying halted",
            Self::Releasing(_) => "the standby is let go",
            Self::Released(_) => "nothing is left at the provider",
        }
    }
}
