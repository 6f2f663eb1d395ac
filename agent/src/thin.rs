//! Which recovery points to keep: dense lately, sparse long ago.

use std::collections::BTreeSet;
use std::time::Duration;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Timestamp;

use crate::state::PointFile;

/// Up to which age, one recovery point is kept out of how long a stretch. Beyond the last age none is kept.
const STRETCHES: [(Duration, Duration); 5] = [
    (Duration::from_secs(60), Duration::ZERO),
    // Half a beat: every pass that was asked for stays, and of those of live mode every third.
    (Duration::from_secs(10 * 60), Duration::from_secs(15)),
    (Duration::from_secs(60 * 60), Duration::from_secs(5 * 60)),
    (Duration::from_secs(24 * 3600), Duration::from_secs(3600)),
    (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(24 * 3600)),
];

/// Chooses what to remove from recovery points given oldest first.
///
/// # Guarantees
/// The newest is never chosen. Of every stretch the oldest is kept, so that repeating the choice as time goes on never starves a
/// coarser stretch.
#[must_use]
pub fn thin(points: &[(RecoveryPointId, Timestamp)], now: Timestamp) -> Vec<RecoveryPointId> {
    let Some(((newest, _), older)) = points.split_last() else {
        return Vec::new();
    };
    let mut taken = BTreeSet::new();
    older
        .iter()
        .filter(|(id, at)| id != newest && !keeps(*at, now, &mut taken))
        .map(|(id, _)| id.clone())
        .collect()
}

/// Checkpoints by name whose recovery points are not thinned out: so many, the newest of each name.
const NAMES: usize = 20;

/// The recovery points, given oldest first, that stay for the sake of a checkpoint.
#[must_use]
pub fn named(points: &[PointFile]) -> BTreeSet<RecoveryPointId> {
    let mut names = BTreeSet::new();
    let mut stay = BTreeSet::new();
    for point in points.iter().rev() {
        for kept in &point.kept {
            if names.len() < NAMES && names.insert(&kept.name) {
                stay.insert(point.point.id.clone());
            }
        }
    }
    stay
}

/// The recovery points, given oldest first, that stay because the newest may have files torn that they have whole.
#[must_use]
pub fn whole(points: &[PointFile], now: Timestamp) -> BTreeSet<RecoveryPointId> {
    let newest = points.last().map(|point| &*point.report.in_motion).unwrap_or_default();
    let wanted: BTreeSet<_> = newest.iter().filter_map(|torn| torn.whole_in.as_ref()).collect();
    // A file that never rests, such as a log, must not keep one for ever.
    let (longest, _) = STRETCHES.last().copied().unwrap_or_default();
    points
        .iter()
        .filter(|point| wanted.contains(&point.point.id) && now.since(point.point.confirmed_at) <= longest)
        .map(|point| point.point.id.clone())
        .collect()
}

fn keeps(at: Timestamp, now: Timestamp, taken: &mut BTreeSet<(u64, i64)>) -> bool {
    let age = now.since(at);
    let Some((_, every)) = STRETCHES.iter().find(|(up_to, _)| age <= *up_to) else {
        return false;
    };
    if every.is_zero() {
        return true;
    }
    let length = every.as_secs();
    let slot = at
        .as_millis()
        .div_euclid(i64::try_from(length * 1000).unwrap_or(i64::MAX));
    taken.insert((length, slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmspare_domain::ids::Epoch;
    use warmspare_domain::units::Bytes;
    use warmspare_wire::agent::{InMotion, PassScope, Progress};

    use crate::checkpoints::Kept;
    use crate::fetched::Fetched;
    use crate::rsync::Transferred;
    use crate::state::PassUnderWay;

    const NOW: Timestamp = Timestamp::from_millis(1_795_441_530_250);

    fn points(ages: impl IntoIterator<Item = u64>) -> Vec<(RecoveryPointId, Timestamp)> {
        let mut all: Vec<_> = ages
            .into_iter()
            .map(|seconds| NOW - Duration::from_secs(seconds))
            .map(|at| (RecoveryPointId::at(at), at))
            .collect();
        all.sort();
        all
    }

    #[test]
    fn the_newest_stays_however_old_it_is() {
        assert!(thin(&[], NOW).is_empty());
        assert!(thin(&points([30 * 24 * 3600]), NOW).is_empty());
        let two = points([30 * 24 * 3600, 29 * 24 * 3600]);
        assert_eq!(thin(&two, NOW), [two[0].0.clone()]);
    }

    #[test]
    fn every_pass_of_the_last_ten_minutes_stays() {
        assert!(thin(&points((0..=20).map(|beat| beat * 30)), NOW).is_empty());
    }

    #[test]
    fn live_mode_leaves_not_many_more_than_beats_do() {
        let mut kept: Vec<(RecoveryPointId, Timestamp)> = Vec::new();
        let start = NOW - Duration::from_secs(3600);
        for pass in 0..900 {
            let at = start + Duration::from_secs(pass * 4);
            kept.push((RecoveryPointId::at(at), at));
            if pass % 7 == 0 {
                let gone = thin(&kept, at);
                kept.retain(|(id, _)| !gone.contains(id));
                assert!(kept.len() <= 80, "{} recovery points", kept.len());
            }
        }
    }

    #[test]
    fn a_week_of_beats_leaves_a_handful_at_every_scale() {
        // A week at one pass every 30 s, thinned after each as the agent does it.
        let mut kept: Vec<(RecoveryPointId, Timestamp)> = Vec::new();
        let start = NOW - Duration::from_secs(8 * 24 * 3600);
        for beat in 0..8 * 24 * 120 {
            let at = start + Duration::from_secs(beat * 30);
            kept.push((RecoveryPointId::at(at), at));
            let gone = thin(&kept, at);
            kept.retain(|(id, _)| !gone.contains(id));
        }
        let last = kept.last().unwrap().1;
        let within = |from: u64, to: u64| {
            let between = |at: &Timestamp| (from..to).contains(&last.since(*at).as_secs());
            kept.iter().filter(|(_, at)| between(at)).count()
        };
        assert_eq!(within(0, 601), 21);
        assert!((9..=12).contains(&within(601, 3600)), "{}", within(601, 3600));
        assert!(
            (22..=25).contains(&within(3600, 24 * 3600)),
            "{}",
            within(3600, 24 * 3600)
        );
        assert!(
            (5..=7).contains(&within(24 * 3600, 7 * 24 * 3600)),
            "{}",
            within(24 * 3600, 7 * 24 * 3600)
        );
        assert_eq!(within(7 * 24 * 3600, u64::MAX), 0);
    }

    #[test]
    fn the_newest_point_of_each_of_the_last_names_stays() {
        let point = |age: u64, name: &str| {
            let started_at = NOW - Duration::from_secs(age);
            let under_way = PassUnderWay {
                number: 1,
                started_at,
                epoch: Epoch::FIRST,
                progress: Progress::default(),
                fetched: Bytes(0),
            };
            let report = Fetched::of(PassScope::Everything).report(&Transferred::default(), &under_way);
            let mut point = PointFile::of(report, false);
            point.hold(vec![Kept {
                id: age.to_string(),
                name: name.parse().unwrap(),
            }]);
            point
        };
        let mut points = vec![point(500, "best"), point(400, "best")];
        let newest_best = points[1].point.id.clone();
        assert_eq!(named(&points), BTreeSet::from([newest_best.clone()]));
        points.extend((0..20).map(|n| point(300 - n, &format!("epoch-{n}"))));
        let stay = named(&points);
        assert!(stay.len() == 20 && !stay.contains(&newest_best), "{stay:?}");
    }

    #[test]
    fn thinning_again_removes_nothing_more() {
        let mut all = points((0..5000).map(|n| n * 97));
        let gone = thin(&all, NOW);
        assert!(!gone.is_empty());
        all.retain(|(id, _)| !gone.contains(id));
        assert!(thin(&all, NOW).is_empty());
    }

    #[test]
    fn the_last_whole_version_of_a_file_in_motion_stays_for_a_week() {
        let day = 24 * 3600;
        let at = |age: u64| NOW - Duration::from_secs(age);
        let point = |age: u64, whole_in: Option<u64>| {
            let under_way = PassUnderWay {
                number: 1,
                started_at: at(age),
                epoch: Epoch::FIRST,
                progress: Progress::default(),
                fetched: Bytes(0),
            };
            let mut report = Fetched::of(PassScope::Changes).report(&Transferred::default(), &under_way);
            report.in_motion.extend(whole_in.map(|whole| InMotion {
                file: "latest.pt".into(),
                whole_in: Some(RecoveryPointId::at(at(whole))),
            }));
            PointFile::of(report, false)
        };
        let stay = |points: &[PointFile]| whole(points, NOW).into_iter().collect::<Vec<_>>();
        let moving = [point(3 * day, None), point(2 * day, None), point(0, Some(3 * day))];
        assert_eq!(stay(&moving), [RecoveryPointId::at(at(3 * day))]);
        assert_eq!(
            moving[2].whole_version_of("latest.pt"),
            Some(RecoveryPointId::at(at(3 * day)))
        );
        assert_eq!(moving[2].whole_version_of("train.py"), Some(RecoveryPointId::at(NOW)));
        // Only what the newest says counts: once it has the file whole, no other is needed.
        assert!(stay(&[point(3 * day, None), point(60, Some(3 * day)), point(0, None)]).is_empty());
        assert!(stay(&[point(8 * day, None), point(0, Some(8 * day))]).is_empty());
        // What was whole until a moment ago is not old, whenever it was made.
        let mut confirmed = point(8 * day, None);
        confirmed.point.confirmed_at = at(60);
        assert_eq!(stay(&[confirmed, point(0, Some(8 * day))]).len(), 1);
    }
}
