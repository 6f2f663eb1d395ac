//! Which type of disk a standby gets, and why.
//!
//! Before the first pass nobody has counted the files, and the size of the GPU's disk decides nothing: a cheap disk's speed grows with its size, so that
//! filling one takes the same two hours and a half whatever its size. So only what the user expects decides; what shows later, health says.

use warmspare_domain::disk_speed::{CHEAP, FAST, Load, cheap_disk_needs};

/// What the settings say about the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskWish {
    /// This type, whatever the load.
    Fixed(String),
    /// By how many files are expected, as far as anybody knows.
    ByLoad {
        /// In the source path of each GPU.
        expected_files: Option<u64>,
    },
}

/// A type of disk, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskChoice {
    /// Google's name of the type.
    pub disk_type: String,
    /// For a person.
    pub why: String,
}

/// Half an hour: how long the mere creation of the files may keep the first pass, in which nothing is protected yet. About 135,000 files on 100 GB.
const FIRST_PASS_LIMIT_S: u64 = 1800;

/// Chooses the disk's type; `expected_files` is what was said of this one GPU.
#[must_use]
pub fn choose(wish: &DiskWish, disk_gb: u32, expected_files: Option<u64>) -> DiskChoice {
    let in_general = match wish {
        DiskWish::Fixed(disk_type) => {
            return DiskChoice {
                disk_type: disk_type.clone(),
                why: "as gcp_disk_type says".to_owned(),
            };
        }
        DiskWish::ByLoad { expected_files } => *expected_files,
    };
    let Some(files) = expected_files.or(in_general) else {
        return DiskChoice {
            disk_type: CHEAP.to_owned(),
            why: "the cheapest, as nobody said how many files to expect; health tells if it is too slow".to_owned(),
        };
    };
    let load = Load {
        changed_files: files,
        ..Load::default()
    };
    let needs = cheap_disk_needs(disk_gb, &load).as_secs();
    let minutes = needs.div_ceil(60);
    let (disk_type, judged) = if needs > FIRST_PASS_LIMIT_S {
        (FAST, "is too long")
    } else {
        (CHEAP, "is short enough")
    };
    DiskChoice {
        disk_type: disk_type.to_owned(),
        why: format!("{disk_gb} GB of {CHEAP} would write {files} files in {minutes} minutes at best, which {judged}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNSAID: DiskWish = DiskWish::ByLoad { expected_files: None };

    #[test]
    fn many_files_get_the_fast_disk_and_few_the_cheap_one() {
        for (files, disk_gb, expected) in [
            (Some(10_000), 100, CHEAP),
            (Some(135_000), 100, CHEAP),
            (Some(136_000), 100, FAST),
            (Some(136_000), 200, CHEAP),
            (Some(10_000), 10, CHEAP),
            (Some(20_000), 10, FAST),
            (Some(u64::MAX), 65_536, FAST),
            (None, 100, CHEAP),
        ] {
            let choice = choose(&UNSAID, disk_gb, files);
            assert_eq!(choice.disk_type, expected, "{files:?} on {disk_gb} GB: {}", choice.why);
        }
    }

    #[test]
    fn what_is_said_of_one_gpu_counts_more_than_the_setting_and_a_fixed_type_most() {
        let many = DiskWish::ByLoad {
            expected_files: Some(1_000_000),
        };
        assert_eq!(choose(&many, 100, None).disk_type, FAST);
        assert_eq!(choose(&many, 100, Some(10)).disk_type, CHEAP);
        let fixed = DiskWish::Fixed("pd-ssd".to_owned());
        assert_eq!(choose(&fixed, 100, Some(1_000_000)).disk_type, "pd-ssd");
    }
}
