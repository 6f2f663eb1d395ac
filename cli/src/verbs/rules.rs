//! The rules of one GPU in words, by the names that `configure` gives them.

use warmspare_domain::policy::{Failover, Policy, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::units::{Bytes, Seconds};

/// A rule in words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) name: &'static str,
    pub(super) words: String,
    /// Whether it is what it is unless somebody says otherwise.
    pub(super) is_usual: bool,
}

/// All rules that `configure` changes, in its order.
pub(super) fn rules(policy: &Policy) -> Vec<Rule> {
    let usual_excludes = policy.excludes == Policy::DEFAULT_EXCLUDES;
    let excludes = match usual_excludes {
        true => "the usual caches".to_owned(),
        false => listed(&policy.excludes),
    };
    let rule = |name, words, is_usual| Rule { name, words, is_usual };
    vec![
        // Where it all begins is worth a line however usual.
        rule("source-path", policy.source_path.clone(), false),
        rule("exclude", excludes, usual_excludes),
        rule("include", listed(&policy.includes), policy.includes.is_empty()),
        rule("first", listed(&policy.first), policy.first.is_empty()),
        rule(
            "before-pass",
            or_none(&policy.before_pass),
            policy.before_pass.is_empty(),
        ),
        rule(
            "lag-objective",
            time(policy.lag_objective),
            policy.lag_objective == Policy::DEFAULT_LAG_OBJECTIVE,
        ),
        rule(
            "max-deleted",
            format!("{} %", policy.max_deleted_percent),
            policy.max_deleted_percent == Policy::DEFAULT_MAX_DELETED_PERCENT,
        ),
        rule("bandwidth", bandwidth(policy), policy.bandwidth_kib_per_s == 0),
        rule(
            "max-disk",
            max_disk(policy),
            policy.max_disk_gb == Policy::DEFAULT_MAX_DISK_GB,
        ),
        rule(
            "retention",
            time(policy.retention),
            policy.retention == Policy::DEFAULT_RETENTION,
        ),
        rule(
            "stop-standby-after",
            time(policy.stop_standby_after),
            policy.stop_standby_after == Policy::DEFAULT_STOP_STANDBY_AFTER,
        ),
        rule(
            "when-deleted-at-vast",
            match policy.when_deleted_at_vast {
                WhenDeletedAtVast::Hold => "hold",
                WhenDeletedAtVast::Release => "release",
            }
            .to_owned(),
            policy.when_deleted_at_vast == WhenDeletedAtVast::Hold,
        ),
        rule("failover", failover(policy), policy.failover == Failover::Manual),
        rule(
            "superseded-gpu",
            match policy.superseded {
                SupersededGpu::Keep => "keep",
                SupersededGpu::Destroy => "destroy",
            }
            .to_owned(),
            policy.superseded == SupersededGpu::Keep,
        ),
    ]
}

/// What changed between two sets of rules, each as `name: before -> after`, and what follows from it.
pub(super) fn changes(before: &Policy, after: &Policy) -> (Vec<String>, Vec<&'static str>) {
    let changed = rules(before).into_iter().zip(rules(after));
    let changed = changed
        .filter(|(before, after)| before.words != after.words)
        .map(|(before, after)| format!("{:<20} {} -> {}", before.name, before.words, after.words));
    (changed.collect(), consequences(before, after))
}

fn consequences(before: &Policy, after: &Policy) -> Vec<&'static str> {
    let mut follows = Vec::new();
    if before.source_path != after.source_path {
        follows.push("the next pass copies what is there instead; older recovery points stay as they are");
    } else if before.excludes != after.excludes || before.includes != after.includes {
        follows.push(
            "the next pass looks at every file; recovery points from then on have what these patterns let through, older ones stay as they are",
        );
    }
    if before.before_pass.is_empty() && !after.before_pass.is_empty() {
        follows.push("passes come at the beats only while a command runs before them");
    }
    if before.bandwidth_kib_per_s != after.bandwidth_kib_per_s && after.bandwidth_kib_per_s > 0 {
        follows.push("a last-gasp pass and a rescue keep to no limit");
    }
    if before.max_deleted_percent != after.max_deleted_percent && after.max_deleted_percent == 100 {
        follows.push("deletions never halt copying any more");
    }
    if before.max_disk_gb < after.max_disk_gb {
        follows.push("the disk grows when it fills; it never shrinks, and is paid until the standby is released");
    }
    if before.when_deleted_at_vast != after.when_deleted_at_vast
        && after.when_deleted_at_vast == WhenDeletedAtVast::Release
    {
        follows.push("once the GPU is deleted at Vast, by whomever, the standby goes with everything on it");
    }
    match (before.failover, after.failover) {
        (Failover::Manual, Failover::Automatic { .. }) => follows.push(
            "when the GPU is outbid, its host is dark or a tool reports it failed, another one is rented by itself, and billed by Vast",
        ),
        (Failover::Automatic { .. }, Failover::Manual) => {
            follows.push("when the GPU is lost its data waits for `warmspare restore`")
        }
        (Failover::Manual, Failover::Manual) | (Failover::Automatic { .. }, Failover::Automatic { .. }) => {}
    }
    if before.superseded != after.superseded && after.superseded == SupersededGpu::Destroy {
        follows.push("once its data runs, verified, on another GPU, the old one is destroyed at Vast");
    }
    follows
}

fn listed(items: &[impl ToString]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    or_none(&texts.join(", "))
}

fn or_none(words: &str) -> String {
    match words {
        "" => "none".to_owned(),
        // A command may have several lines.
        words => words.replace('\n', "\\n"),
    }
}

fn bandwidth(policy: &Policy) -> String {
    match policy.bandwidth_kib_per_s {
        0 => "no limit".to_owned(),
        kib => format!("{}/s", Bytes(u64::from(kib) << 10)),
    }
}

fn max_disk(policy: &Policy) -> String {
    match policy.max_disk_gb {
        0 => "never grows".to_owned(),
        gb => format!("{gb} GB"),
    }
}

fn failover(policy: &Policy) -> String {
    match policy.failover {
        Failover::Manual => "manual".to_owned(),
        Failover::Automatic { max_price_per_hour } => format!("automatic, for at most {max_price_per_hour} an hour"),
    }
}

fn time(Seconds(seconds): Seconds) -> String {
    const MINUTE: u32 = 60;
    const HOUR: u32 = 60 * MINUTE;
    const DAY: u32 = 24 * HOUR;
    let (length, unit) = match seconds {
        _ if seconds >= 2 * DAY && seconds.is_multiple_of(DAY) => (DAY, "days"),
        _ if seconds >= HOUR && seconds.is_multiple_of(HOUR) => (HOUR, "h"),
        _ if seconds >= 2 * MINUTE && seconds.is_multiple_of(MINUTE) => (MINUTE, "min"),
        _ => (1, "s"),
    };
    format!("{} {unit}", seconds / length)
}

#[cfg(test)]
mod tests {
    use warmspare_domain::policy::{MachineSpec, Provisioning, StandbyProvider};
    use warmspare_domain::units::MicroUsd;

    use super::*;

    fn usual() -> Policy {
        Policy {
            source_path: "/workspace".to_owned(),
            excludes: Policy::DEFAULT_EXCLUDES.map(str::to_owned).to_vec(),
            includes: vec![],
            first: vec![],
            before_pass: String::new(),
            lag_objective: Policy::DEFAULT_LAG_OBJECTIVE,
            max_deleted_percent: Policy::DEFAULT_MAX_DELETED_PERCENT,
            bandwidth_kib_per_s: 0,
            machine: MachineSpec {
                machine_type: "e2-medium".to_owned(),
                disk_gb: 100,
                disk_type: "pd-standard".to_owned(),
                provisioning: Provisioning::Spot,
                zones: vec![],
                provider: StandbyProvider::Gcp,
            },
            max_disk_gb: Policy::DEFAULT_MAX_DISK_GB,
            retention: Policy::DEFAULT_RETENTION,
            stop_standby_after: Policy::DEFAULT_STOP_STANDBY_AFTER,
            when_deleted_at_vast: WhenDeletedAtVast::Hold,
            failover: Failover::Manual,
            superseded: SupersededGpu::Keep,
        }
    }

    #[test]
    fn what_is_not_usual_is_told_from_what_is() {
        let all = rules(&usual());
        let unusual: Vec<_> = all.iter().filter(|rule| !rule.is_usual).map(|rule| rule.name).collect();
        assert_eq!(unusual, ["source-path"]);
        let changed = Policy {
            bandwidth_kib_per_s: 2048,
            retention: Seconds(90),
            ..usual()
        };
        let all = rules(&changed);
        let unusual = all.iter().filter(|rule| !rule.is_usual);
        let unusual: Vec<_> = unusual.map(|rule| (rule.name, rule.words.as_str())).collect();
        assert_eq!(
            unusual,
            [
                ("source-path", "/workspace"),
                ("bandwidth", "2.0 MiB/s"),
                ("retention", "90 s")
            ]
        );
    }

    #[test]
    fn a_change_names_both_sides_and_what_follows_from_it() {
        assert_eq!(changes(&usual(), &usual()), (vec![], vec![]));
        let after = Policy {
            excludes: vec!["*.tmp".to_owned()],
            failover: Failover::Automatic {
                max_price_per_hour: MicroUsd(400_000),
            },
            before_pass: "echo \"it's\"\nsync".to_owned(),
            ..usual()
        };
        let (changed, follows) = changes(&usual(), &after);
        assert_eq!(
            changed,
            [
                "exclude              the usual caches -> *.tmp",
                "before-pass          none -> echo \"it's\"\\nsync",
                "failover             manual -> automatic, for at most $0.40 an hour",
            ]
        );
        assert_eq!(follows.len(), 3, "{follows:?}");
    }

    #[test]
    fn a_time_is_told_in_the_largest_unit_that_fits() {
        let told = [1, 90, 120, 3600, 5400, 7200, 86_400, 7 * 86_400].map(|seconds| time(Seconds(seconds)));
        assert_eq!(told, ["1 s", "90 s", "2 min", "1 h", "90 min", "2 h", "24 h", "7 days"]);
    }
}
