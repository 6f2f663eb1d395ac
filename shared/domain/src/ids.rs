//! The names of things: parsed once at the edge, valid by their type ever after.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::Timestamp;

/// Why a text is not the name it claims to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{text}` is not valid: {rule}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    rule: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, rule: &'static str) -> Self {
        // Names from outside end up in messages and logs: cut them, and let Debug-escaping tame control characters.
        let cut = if text.chars().nth(80).is_some() { "…" } else { "" };
        let text = text
            .chars()
            .take(80)
            .flat_map(char::escape_default)
            .chain(cut.chars())
            .collect();
        Self { what, text, rule }
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The text that it holds is how it is shown, written and read.
macro_rules! is_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        serde_as_text!($name);
    };
}

/// One rented GPU instance at Vast.ai: its contract number. Written `vast-48927380`; a bare number is read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuId(u64);

impl GpuId {
    /// The GPU with this Vast.ai contract number.
    #[must_use]
    pub fn vast(contract: u64) -> Self {
        Self(contract)
    }

    /// The contract number at Vast.ai.
    #[must_use]
    pub fn contract(self) -> u64 {
        self.0
    }
}

impl fmt::Display for GpuId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vast-{}", self.0)
    }
}

impl FromStr for GpuId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let digits = text.strip_prefix("vast-").unwrap_or(text);
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = plain
            .then(|| digits.parse().ok())
            .flatten()
            .filter(|number| *number > 0);
        number.map(Self).ok_or_else(|| {
            InvalidName::new(
                "GPU id",
                text,
                "use the Vast.ai contract number, e.g. 48927380 or vast-48927380",
            )
        })
    }
}

serde_as_text!(GpuId);

/// The durable name of an association: the GPU it was made for. It stays when the data moves to another GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssociationId(GpuId);

impl AssociationId {
    /// The association that was made for this GPU.
    #[must_use]
    pub fn of(gpu: GpuId) -> Self {
        Self(gpu)
    }

    /// The GPU that this association was made for.
    #[must_use]
    pub fn first_gpu(self) -> GpuId {
        self.0
    }
}

impl fmt::Display for AssociationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AssociationId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

/// Fencing number: rises by one each time a standby is bound to another GPU, never falls. The first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch of an association's first GPU.
    pub const FIRST: Self = Self(1);

    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The epoch of this number; `None` for 0, which no epoch has.
    #[must_use]
    pub fn numbered(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The bare number, for labels and markers.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of one installation of warmspare in a cloud project, so that two (say `prod` and `test`) never take
/// each other's machines for their own. 1 to 16 of `a-z 0-9 -`, starting with a letter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deployment(String);

impl Deployment {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Deployment {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() <= 16 && is_resource_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "deployment",
                text,
                "use 1 to 16 of a-z, 0-9 and -, starting with a letter",
            ))
        }
    }
}

is_text!(Deployment);

/// The name of a standby machine: `ws-<deployment>-<association>-<attempt>`.
///
/// # Guarantees
/// It is a valid Compute Engine resource name (`[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?`, discovery revision 20261106), and no two
/// attempts share one, so an old disk can never be attached to a new standby by accident of name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StandbyName(String);

impl StandbyName {
    /// The name of the standby that this attempt makes.
    #[must_use]
    pub fn new(deployment: &Deployment, association: AssociationId, attempt: u16) -> Self {
        Self(format!("ws-{deployment}-{association}-{attempt}"))
    }

    /// The name of its data disk.
    #[must_use]
    pub fn data_disk(&self) -> String {
        format!("{}-data", self.0)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for StandbyName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // 58, not 63: the data disk appends `-data`.
        if text.len() <= 58 && is_resource_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "standby name",
                text,
                "use at most 58 of a-z, 0-9 and -, starting with a letter",
            ))
        }
    }
}

is_text!(StandbyName);

/// A Compute Engine zone such as `us-central1-a`, or `vast`: a standby at Vast is on whichever host sells.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(String);

impl Zone {
    /// The place of every standby at Vast. Versions that know no such standby refuse the word, and so never order one elsewhere in its name.
    const VAST: &str = "vast";

    /// The place of every standby at Vast.
    #[must_use]
    pub fn at_vast() -> Self {
        Self(Self::VAST.to_owned())
    }

    /// The zone as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The region that the zone lies in: `us-central1` for `us-central1-a`.
    #[must_use]
    pub fn region(&self) -> &str {
        self.0.rsplit_once('-').map_or(self.0.as_str(), |(region, _)| region)
    }
}

impl FromStr for Zone {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || {
            InvalidName::new(
                "zone",
                text,
                "use a Compute Engine zone such as us-central1-a (a region alone is not enough)",
            )
        };
        if text == Self::VAST {
            return Ok(Self::at_vast());
        }
        let (region, letter) = text.rsplit_once('-').ok_or_else(wrong)?;
        let region_ends_in_digit = region.ends_with(|last: char| last.is_ascii_digit()) && region.contains('-');
        if is_resource_name(text)
            && region_ends_in_digit
            && letter.len() == 1
            && letter.bytes().all(|b| b.is_ascii_lowercase())
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(wrong())
        }
    }
}

is_text!(Zone);

/// A recovery point, named by the instant it represents (the start of its pass) so that names sort by age:
/// `20261123T134530.250Z`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecoveryPointId(String);

impl RecoveryPointId {
    /// The recovery point whose pass started at this instant.
    #[must_use]
    pub fn at(start: Timestamp) -> Self {
        Self(start.to_string().chars().filter(|c| !matches!(c, '-' | ':')).collect())
    }

    /// The id as text: digits, `T`, `.` and `Z` only, so it is safe as a file name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RecoveryPointId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let pattern = b"dddddddd\x54dddddd.ddd\x5a";
        let fits = text.len() == pattern.len()
            && text.bytes().zip(pattern).all(|(byte, kind)| {
                if *kind == b'd' {
                    byte.is_ascii_digit()
                } else {
                    byte == *kind
                }
            });
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "recovery point",
                text,
                "use an id as `warmspare show` lists them, e.g. 20261123T134530.250Z",
            ))
        }
    }
}

is_text!(RecoveryPointId);

/// The name that a training script gave a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckpointName(String);

impl CheckpointName {
    /// The word for the newest recovery point, whatever is in it.
    pub const LATEST: &str = "latest";

    /// The word for what arrived of a first pass that is not complete.
    pub const PARTIAL: &str = "partial";

    /// The name as text: letters, digits, `.`, `_` and `-` only, so it is safe as a part of a file name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CheckpointName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let inner = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
        let start = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        // These mean something else wherever a recovery point is asked for.
        let taken = [Self::LATEST, Self::PARTIAL].contains(&text) || text.parse::<RecoveryPointId>().is_ok();
        if inner && start && !taken && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(
                "checkpoint",
                text,
                "use up to 64 letters, digits, `.`, `_` and `-`, a letter or digit first, e.g. epoch-12",
            ))
        }
    }
}

is_text!(CheckpointName);

/// A path below the directory that is copied: names with one `/` between them, and none that leads out of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathBelow(String);

impl PathBelow {
    /// Reads it as a person writes it, who may have copied it from the GPU: there it begins with the directory itself.
    ///
    /// # Errors
    /// When it is no path below that directory.
    pub fn read(text: &str, directory: &str) -> Result<Self, InvalidName> {
        let root = directory.trim_end_matches('/');
        let rest = text.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
        match rest.filter(|_| root.starts_with('/')) {
            Some(rest) => rest.trim_start_matches('/').parse(),
            None => text.parse(),
        }
    }

    /// The path as text, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PathBelow {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let names: Vec<&str> = text.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
        let leads_out = text.starts_with('/') || names.contains(&"..");
        if names.is_empty() || leads_out || text.contains(char::is_control) {
            Err(InvalidName::new(
                "path",
                text,
                "write it as it lies below source_path, such as src or runs/best.pt",
            ))
        } else {
            Ok(Self(names.join("/")))
        }
    }
}

is_text!(PathBelow);

fn is_resource_name(text: &str) -> bool {
    let inner = text
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    inner && text.len() <= 63 && text.starts_with(|first: char| first.is_ascii_lowercase()) && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpu_ids_are_read_in_both_forms_and_nothing_else() {
        assert_eq!("48927380".parse::<GpuId>().unwrap(), GpuId::vast(48_927_380));
        assert_eq!("vast-48927380".parse::<GpuId>().unwrap(), GpuId::vast(48_927_380));
        for wrong in [
            "",
            "vast-",
            "0",
            "-1",
            "+1",
            "1;rm -rf /",
            "18446744073709551616",
            "gcp-1",
            "1 ",
        ] {
            assert!(wrong.parse::<GpuId>().is_err(), "{wrong:?} was taken for a GPU id");
        }
    }

    #[test]
    fn the_longest_standby_name_and_its_disk_fit_compute_engine() {
        let deployment: Deployment = "a-deployment-xyz".parse().unwrap();
        let name = StandbyName::new(&deployment, AssociationId::of(GpuId::vast(u64::MAX)), u16::MAX);
        assert!(is_resource_name(&name.data_disk()), "{} is too long", name.data_disk());
        assert_eq!(name.as_str().parse::<StandbyName>().unwrap(), name);
    }

    #[test]
    fn zones_are_zones_not_regions() {
        assert_eq!("us-central1-a".parse::<Zone>().unwrap().region(), "us-central1");
        for wrong in ["us-central1", "Ohio", "", "us-central1-ab", "us-central1-a; reboot"] {
            assert!(wrong.parse::<Zone>().is_err(), "{wrong:?} was taken for a zone");
        }
    }

    #[test]
    fn recovery_points_sort_by_age_and_cannot_leave_their_directory() {
        let older = RecoveryPointId::at(Timestamp::from_millis(1_795_441_530_250));
        let newer = RecoveryPointId::at(Timestamp::from_millis(1_795_441_530_251));
        assert!(older < newer);
        assert_eq!(older.as_str().parse::<RecoveryPointId>().unwrap(), older);
        assert!("../../etc/passwd".parse::<RecoveryPointId>().is_err());
    }

    #[test]
    fn a_path_below_the_tree_is_read_as_it_lies_on_the_gpu_too_and_never_leads_out() {
        for (given, meant) in [
            ("/workspace/src/a.py", "src/a.py"),
            ("/workspace//runs/", "runs"),
            ("src//models/", "src/models"),
            ("./src/./models", "src/models"),
            ("runs/best.pt", "runs/best.pt"),
            ("workspace/x", "workspace/x"),
        ] {
            for directory in ["/workspace", "/workspace/"] {
                assert_eq!(PathBelow::read(given, directory).unwrap().as_str(), meant);
            }
        }
        assert_eq!(PathBelow::read("work/x", "work").unwrap().as_str(), "work/x");
        for given in [
            "/workspace",
            "/workspace/",
            "/workspaces/x",
            "/etc/passwd",
            "/workspace/../etc",
            "",
            "/",
            "..",
            "../x",
            ".",
            "a/../../b",
            "a\0b",
            "a\nb",
        ] {
            let refused = PathBelow::read(given, "/workspace").unwrap_err().to_string();
            assert!(refused.contains("below source_path"), "{given:?}: {refused}");
        }
        assert!(PathBelow::read("/etc/passwd", "").is_err());
        assert!(serde_json::from_str::<PathBelow>(r#""../x""#).is_err());
    }

    #[test]
    fn a_checkpoint_name_is_no_path_no_option_and_no_recovery_point() {
        for good in ["epoch-12", "best", "7", "step_000100.ema", &"x".repeat(64)] {
            assert_eq!(good.parse::<CheckpointName>().unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        for wrong in [
            "",
            "latest",
            "20261123T134530.250Z",
            "-x",
            ".x",
            "a/b",
            "a b",
            "a\nb",
            "ä",
            &long,
        ] {
            assert!(
                wrong.parse::<CheckpointName>().is_err(),
                "{wrong:?} was taken for a name"
            );
        }
    }

    #[test]
    fn a_refused_name_is_escaped_and_cut_in_the_message() {
        let message = "\u{1b}[31m".repeat(100).parse::<GpuId>().unwrap_err().to_string();
        assert!(!message.contains('\u{1b}') && message.len() < 800, "{message}");
    }
}
