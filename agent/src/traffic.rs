//! What passes put on the wire, per day: the GPU's host charges for it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use warmspare_domain::units::{Bytes, Timestamp};
use warmspare_wire::agent::Traffic;

use crate::data_dir::{DataDir, Durability};
use crate::process;

/// Days that are remembered: two months, so that the last one can be compared with the one before.
const DAYS: usize = 62;

const FILE: &str = "traffic.json";

/// `traffic.json`: bytes per day in UTC, named as in `2026-11-24`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Days(BTreeMap<String, u64>);

impl Days {
    fn add(&mut self, at: Timestamp, bytes: Bytes) {
        let day = self.0.entry(day_of(at)).or_default();
        *day = day.saturating_add(bytes.0);
        while self.0.len() > DAYS {
            self.0.pop_first();
        }
    }

    fn since(&self, first: &str) -> Bytes {
        let days = self.0.range(first.to_owned()..);
        Bytes(days.fold(0, |sum, (_, bytes)| sum.saturating_add(*bytes)))
    }
}

/// Counts what a pass put on the wire, both ways; of one that broke off, what rsync told last of what had arrived. What cannot be
/// counted is only logged: it must not undo a pass.
pub fn add(dir: &DataDir, at: Timestamp, bytes: Bytes) {
    let add = || {
        let _turn = dir.lock_briefly("traffic.lock")?;
        let mut days = read(dir);
        days.add(at, bytes);
        dir.write_json(&dir.file(FILE), &days, Durability::Kill)
    };
    if let Err(error) = add() {
        process::log(&error.message());
    }
}

/// What was counted.
#[must_use]
pub fn traffic(dir: &DataDir, now: Timestamp) -> Traffic {
    let days = read(dir);
    Traffic {
        today: days.since(&day_of(now)),
        last_30_days: days.since(&day_of(now - Duration::from_secs(29 * 24 * 3600))),
    }
}

fn read(dir: &DataDir) -> Days {
    dir.read_passing_json(&dir.file(FILE)).unwrap_or_default()
}

fn day_of(at: Timestamp) -> String {
    at.to_string().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_795_441_530_250);

    #[test]
    fn days_are_summed_and_old_ones_forgotten() {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        for age in (0..100_u64).rev() {
            let at = NOW - Duration::from_secs(age * 24 * 3600);
            add(&dir, at, Bytes(7));
            add(&dir, at, Bytes(3));
        }
        let counted = traffic(&dir, NOW);
        assert_eq!((counted.today, counted.last_30_days), (Bytes(10), Bytes(300)));
        assert_eq!(read(&dir).0.len(), DAYS);
        let tomorrow = traffic(&dir, NOW + Duration::from_secs(24 * 3600));
        assert_eq!(tomorrow.today, Bytes(0));
    }
}
