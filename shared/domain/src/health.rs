//! How well an association does, computed from what is known, never stored.

use std::time::Duration;

use crate::association::{Association, Copying, Link, Loss, OutbidNotice, Phase, Rescue, Retry, Saved, Space, Trust};
use crate::decide::RESCUE_WINDOW;
use crate::disk_speed::{self, Load, cheap_disk_needs};
use crate::units::{Bytes, Timestamp};

/// What the last heartbeat said of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heartbeat {
    /// The start of the last complete pass.
    pub last_pass_started_at: Option<Timestamp>,
    /// Free space on the data disk.
    pub disk_free: Bytes,
    /// Its size.
    pub disk_total: Bytes,
    /// The last complete pass.
    pub last_pass: Option<LastPass>,
    /// How far the pass under way is, in words.
    pub pass_under_way: Option<String>,
    /// Why passes fail, when none completed since.
    pub failing: Option<Failing>,
    /// The numbers behind the guard that holds.
    pub halt_detail: Option<String>,
    /// Why the user's command before the last pass failed.
    pub command_failed: Option<String>,
    /// Why passes have to look at every file, when no watcher tells what changed.
    pub unwatched: Option<String>,
    /// Why the last rescue fetched nothing, and of which loss.
    pub not_rescued: Option<(Timestamp, String)>,
}

/// Passes that fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// How many in a row.
    pub in_a_row: u32,
    /// What the agent says of the last one.
    pub message: String,
}

/// What the last complete pass did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastPass {
    /// How long it took.
    pub took: Duration,
    /// Regular files in the tree.
    pub files: u64,
    /// Those created or changed.
    pub changed_files: u64,
    /// What crossed the network.
    pub wire_bytes: Bytes,
}

/// How well an association does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As promised.
    Good,
    /// Being worked on; nothing is lost.
    Degraded,
    /// A person should act.
    Bad,
}

/// A grade with its reasons, worst first; each says what is wrong and what is being done about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// The worst of the reasons.
    pub grade: Grade,
    /// For a person.
    pub reasons: Vec<String>,
}

/// Share of the disk, in percent, below which free space is worth a word.
const LOW_DISK_PERCENT: u64 = 10;

/// Computes how well an association does.
#[must_use]
pub fn health(a: &Association, heartbeat: Option<&Heartbeat>, now: Timestamp) -> Health {
    let mut notes: Vec<(Grade, String)> = Vec::new();
    note_phase(a, heartbeat, now, &mut notes);
    note_lag(a, heartbeat, now, &mut notes);
    notes.extend(heartbeat.and_then(|beat| failing(a, beat)));
    notes.extend(heartbeat.and_then(|beat| command_failed(a, beat)));
    notes.extend(heartbeat.and_then(|beat| unwatched(a, beat)));
    notes.extend(slow_disk(a, heartbeat).map(|text| (Grade::Degraded, text)));
    if let Some(beat) = heartbeat
        && beat.disk_total.0 > 0
        && beat.disk_free.0.saturating_mul(100) / beat.disk_total.0 < LOW_DISK_PERCENT
    {
        let text = format!(
            "the standby's disk has only {} of {} left; old recovery points are thinned",
            beat.disk_free, beat.disk_total
        );
        notes.push((Grade::Degraded, text));
    }
    if a.standby.disk.space == Space::Short && a.next_disk_gb().is_none() {
        let text = format!(
            "the standby's disk of {} GB is full and may not grow; the recovery points are safe, newer changes are only on the GPU. \
             Raise max_disk_gb, or exclude files",
            a.disk_gb()
        );
        notes.push((Grade::Bad, text));
    }
    if let Some(refused) = &a.standby.disk.refused
        && a.standby.disk.space == Space::Short
        && !matches!(a.phase, Phase::Releasing { .. } | Phase::Released { .. })
    {
        let (grade, text) = stuck(refused, now);
        notes.push((grade, format!("the standby's disk could not be enlarged: {text}")));
    }
    if !a.retry.problem.is_empty() && !matches!(a.phase, Phase::Released { .. }) {
        notes.push(stuck(&a.retry, now));
    }
    if !a.superseded.is_empty() && !matches!(a.phase, Phase::Released { .. }) {
        let gpus: Vec<_> = a.superseded.iter().map(ToString::to_string).collect();
        notes.push((
            Grade::Degraded,
            format!(
                "superseded but still at Vast, its storage is billed: {}",
                gpus.join(", ")
            ),
        ));
    }
    notes.sort_by_key(|note| std::cmp::Reverse(note.0));
    Health {
        grade: notes.first().map_or(Grade::Good, |(grade, _)| *grade),
        reasons: notes.into_iter().map(|(_, text)| text).collect(),
    }
}

/// What went wrong, and until when nothing is done about it.
fn stuck(retry: &Retry, now: Timestamp) -> (Grade, String) {
    let grade = if retry.failures >= 5 {
        Grade::Bad
    } else {
        Grade::Degraded
    };
    let text = if retry.is_due(now) {
        retry.problem.clone()
    } else {
        format!("{}; next attempt after {}", retry.problem, retry.not_before)
    };
    (grade, text)
}

fn note_phase(a: &Association, heartbeat: Option<&Heartbeat>, now: Timestamp, notes: &mut Vec<(Grade, String)>) {
    let (grade, text) = match &a.phase {
        Phase::Protected if a.watch.outbid != OutbidNotice::None => (
            Grade::Degraded,
            "the GPU will be stopped (outbid); the last changes are being pulled".to_owned(),
        ),
        Phase::Protected if a.watch.trust == Trust::Doubted => (
            Grade::Degraded,
            "the GPU did not answer the last pass; Vast is being asked".to_owned(),
        ),
        Phase::Protected if a.copying == Copying::Off => (Grade::Degraded, "copying was stopped by you".to_owned()),
        Phase::Protected if matches!(a.standby.link, Link::Lost(_)) => (
            Grade::Degraded,
            "the standby does not answer; if it was stopped (preempted?) it is started again, its disk is kept"
                .to_owned(),
        ),
        Phase::Protected | Phase::Released { .. } => return,
        Phase::Provisioning => (
            Grade::Degraded,
            "the standby is being made; nothing is saved yet".to_owned(),
        ),
        Phase::Seeding => {
            let far = heartbeat.and_then(|beat| beat.pass_under_way.as_ref());
            (
                Grade::Degraded,
                format!(
                    "the first pass is under way{}; nothing can be restored yet, only what has arrived be downloaded (as `partial`)",
                    far.map_or_else(String::new, |far| format!(" ({far})"))
                ),
            )
        }
        Phase::Holding(loss) => {
            let saved = match a.saved {
                Saved::Points => "the data is kept",
                Saved::Nothing => {
                    "no recovery point had been completed; what arrived of the first pass can be downloaded (as `partial`)"
                }
            };
            let end = loss.since + a.policy.retention.duration();
            let hours = end.since(now).as_secs() / 3600;
            (
                Grade::Bad,
                format!(
                    "the GPU is lost: {}; {saved} until {end} ({hours} h){}",
                    loss.cause,
                    rescue_words(loss, heartbeat, now)
                ),
            )
        }
        Phase::Restoring { .. } => (
            Grade::Degraded,
            "the data is being restored onto another GPU".to_owned(),
        ),
        Phase::Halted { reason, .. } => {
            let rest = match a.saved {
                Saved::Points => {
                    "the recovery points are safe. Look at the GPU, then accept it as it is (`warmspare sync accept-source`), or restore"
                }
                Saved::Nothing => {
                    "what had arrived of the first pass is kept: download it (as `partial`) before you accept the GPU as it is (`warmspare sync accept-source`), which replaces it"
                }
            };
            let detail = heartbeat.and_then(|beat| beat.halt_detail.as_ref());
            let detail = detail.map_or_else(String::new, |detail| format!(" ({detail})"));
            (Grade::Bad, format!("copying halted: {reason}{detail}; {rest}"))
        }
        Phase::Releasing { .. } => (Grade::Degraded, "the standby is being deleted".to_owned()),
    };
    notes.push((grade, text));
}

fn rescue_words(loss: &Loss, heartbeat: Option<&Heartbeat>, now: Timestamp) -> String {
    let told = heartbeat.and_then(|beat| beat.not_rescued.as_ref());
    let told = told.filter(|(of, _)| *of == loss.since).map(|(_, why)| why);
    // What ended it, rather than what the agent said of an attempt before.
    let failed = Some(&loss.rescue_problem).filter(|why| !why.is_empty()).or(told);
    match (loss.rescue, failed) {
        (Rescue::Over, Some(why)) => {
            format!("; what was written after the last pass could not be fetched from its disk: {why}")
        }
        (Rescue::Over, None) => String::new(),
        (Rescue::Wanted { .. }, _) if now.since(loss.since) >= RESCUE_WINDOW => {
            "; what was written after the last pass is on its disk only, which could not be read in an hour".to_owned()
        }
        (Rescue::Wanted { not_before, .. }, _) if now < not_before => {
            format!("; what was written after the last pass is on its disk only, and is fetched after {not_before}")
        }
        (Rescue::Wanted { .. }, _) => "; its last changes are being fetched from its disk".to_owned(),
        (Rescue::Complete, _) => "; everything that was on its disk was fetched".to_owned(),
    }
}

/// Passes that fail one after the other: a single one may be a connection that broke.
fn failing(a: &Association, beat: &Heartbeat) -> Option<(Grade, String)> {
    let (Phase::Seeding | Phase::Protected, Some(failing)) = (&a.phase, &beat.failing) else {
        return None;
    };
    let grade = match failing.in_a_row {
        ..2 => return None,
        2..5 => Grade::Degraded,
        5.. => Grade::Bad,
    };
    Some((
        grade,
        format!("{} passes in a row failed: {}", failing.in_a_row, failing.message),
    ))
}

fn command_failed(a: &Association, beat: &Heartbeat) -> Option<(Grade, String)> {
    let (Phase::Protected, Some(why)) = (&a.phase, &beat.command_failed) else {
        return None;
    };
    let text = format!("the command before the last pass failed, so what it writes may be old in the copy: {why}");
    Some((Grade::Degraded, text))
}

fn unwatched(a: &Association, beat: &Heartbeat) -> Option<(Grade, String)> {
    let (Phase::Protected, Some(why)) = (&a.phase, &beat.unwatched) else {
        return None;
    };
    let text = format!("every pass looks at every file, because nothing tells what changed: {why}");
    Some((Grade::Good, text))
}

fn note_lag(a: &Association, heartbeat: Option<&Heartbeat>, now: Timestamp, notes: &mut Vec<(Grade, String)>) {
    let Phase::Protected = a.phase else { return };
    let Some(started) = heartbeat.and_then(|beat| beat.last_pass_started_at) else {
        return;
    };
    let lag = now.since(started);
    if lag > a.policy.lag_objective.duration() {
        let text = format!(
            "the copy is {} s behind, more than the {} s aimed for",
            lag.as_secs(),
            a.policy.lag_objective.0
        );
        notes.push((Grade::Bad, text));
    }
}

/// A pass that takes longer than a beat delays the next one.
const LONG_PASS: Duration = Duration::from_secs(30);

/// Says when the disk, rather than the network or the GPU, makes passes long. The first pass is no measure: it writes everything once.
fn slow_disk(a: &Association, heartbeat: Option<&Heartbeat>) -> Option<String> {
    let (Phase::Protected, machine) = (&a.phase, &a.policy.machine) else {
        return None;
    };
    let pass = heartbeat?.last_pass?;
    let load = Load {
        scanned_files: pass.files,
        changed_files: pass.changed_files,
        bytes: pass.wire_bytes,
    };
    let disk = cheap_disk_needs(machine.disk_gb, &load);
    let is_first = pass.changed_files >= pass.files;
    if machine.disk_type != disk_speed::CHEAP || is_first || pass.took < LONG_PASS || disk < pass.took / 2 {
        return None;
    }
    Some(format!(
        "the last pass took {} s, most of it for the slow {} disk ({} of {} files changed). Set gcp_disk_type = \"{}\": new standbys get it; for \
         this GPU release its standby and protect it anew while it runs (its recovery points go with the old disk)",
        pass.took.as_secs(),
        disk_speed::CHEAP,
        pass.changed_files,
        pass.files,
        disk_speed::FAST
    ))
}
