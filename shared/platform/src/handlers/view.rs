//! How an association is shown: our record, its health, and what its agent said last. Times are RFC 3339, sizes bytes, money millionths of a dollar.

use serde::Serialize;
use warmspare_domain::association::{Association, Copying, Phase, PhaseName, Transition};
use warmspare_domain::health::{Grade, health};
use warmspare_domain::ids::{AssociationId, Epoch, GpuId, StandbyName, Zone};
use warmspare_domain::policy::Policy;
use warmspare_domain::units::{Bytes, MicroUsd, Timestamp};
use warmspare_wire::agent::{
    Missed, PassActivity, PassFailure, PassReport, Progress, PutBackActivity, RecoveryPoint, RescueActivity,
    RestoreActivity, Status, Traffic, Watcher,
};

use crate::estimate::Line;
use crate::pulse::Pulse;

/// An association as the API shows it.
#[derive(Debug, Clone, Serialize)]
pub struct AssociationView {
    /// Its name.
    pub association: AssociationId,
    /// The GPU it is bound to.
    pub gpu: GpuId,
    /// Of that binding.
    pub epoch: Epoch,
    /// Where our record says it stands.
    pub phase: PhaseName,
    /// Details of the phase: since when, why, with what target.
    pub phase_detail: Phase,
    /// `good`, `degraded` or `bad`.
    pub health: &'static str,
    /// Why, in words, worst first.
    pub health_reasons: Vec<String>,
    /// Whether copying is switched on.
    pub copying: Copying,
    /// The standby's name.
    pub standby: StandbyName,
    /// Its zone.
    pub zone: Zone,
    /// What would be lost right now, or was lost with the GPU, in milliseconds; `null` before the first pass completed.
    pub lag_ms: Option<u64>,
    /// What could be restored.
    pub latest_recovery_point: Option<RecoveryPoint>,
    /// How many recovery points there are.
    pub recovery_points: u64,
    /// The last complete pass: what it looked at, which files keep an older version, whether the command before it failed.
    pub last_pass: Option<PassReport>,
    /// Why passes fail, and how many in a row, when none completed since.
    pub last_failure: Option<PassFailure>,
    /// The pass under way.
    pub pass: Option<ProgressView>,
    /// The restore job.
    pub restore: Option<RestoreActivity>,
    /// The last path that was put back onto the GPU.
    pub put_back: Option<PutBackActivity>,
    /// What was fetched from the disk of the GPU when it was lost last, or why nothing was.
    pub rescue: Option<RescueActivity>,
    /// Free space on the data disk.
    pub disk_free: Option<Bytes>,
    /// The size of its file system, which follows the disk when that grows.
    pub disk_total: Option<Bytes>,
    /// Who tells the standby what changed on the GPU; `null` before the first pass looked.
    pub watcher: Option<Watcher>,
    /// What full scans found that it had not told of.
    pub missed: Option<Missed>,
    /// Until when the standby copies by itself between two beats, unless a beat renews that.
    pub live_until: Option<Timestamp>,
    /// What copying put on the wire, and what the GPU's host charges for it.
    pub traffic: Option<TrafficView>,
    /// What the standby costs; only where one association is shown, and its price is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<CostView>,
    /// When the agent was heard last.
    pub heard_at: Option<Timestamp>,
    /// GPUs whose data moved on.
    pub superseded: Vec<GpuId>,
    /// The rules.
    pub policy: Policy,
    /// How it came to be so.
    pub history: Vec<HistoryLine>,
    /// When it was made.
    pub created_at: Timestamp,
}

/// How far a pass is.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ProgressView {
    /// In bytes and files.
    #[serde(flatten)]
    pub progress: Progress,
    /// How long the rest takes at this rate, in seconds; `null` while nobody can tell.
    pub seconds_left: Option<u64>,
}

/// What a standby costs while its machine runs, without traffic.
#[derive(Debug, Clone, Serialize)]
pub struct CostView {
    /// What is paid every month, without what is free.
    pub monthly: Vec<Line>,
    /// Their sum.
    pub micro_usd_per_month: MicroUsd,
    /// When the machine's price was true: a day or an instant.
    pub prices_of: String,
}

/// What copying put on the wire, both ways; of passes that broke off about what had arrived. The host's price is for what leaves it, which is nearly
/// all of it. Restores are not in it: their price is the standby's, and `estimate` tells it.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TrafficView {
    /// Since midnight UTC.
    pub today: Bytes,
    /// Today and the 29 days before.
    pub last_30_days: Bytes,
    /// What the 30 days cost at the host's upload price, in micro-dollars.
    pub cost_30_days: MicroUsd,
}

impl TrafficView {
    fn new(a: &Association, status: &Status) -> Self {
        let Traffic { today, last_30_days } = status.traffic;
        // Vast's GB: its prices per TB are 1024 of them (`vast-api.md` §9).
        let per_gb = u128::from(a.profile.upload_price_per_gb.0);
        let cost = per_gb.saturating_mul(u128::from(last_30_days.0)) >> 30;
        Self {
            today,
            last_30_days,
            cost_30_days: MicroUsd(cost.try_into().unwrap_or_default()),
        }
    }
}

/// A transition with its reason in words.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryLine {
    /// When.
    pub at: Timestamp,
    /// From which phase.
    pub from: PhaseName,
    /// To which phase.
    pub to: PhaseName,
    /// Why.
    pub reason: String,
}

impl AssociationView {
    /// Shows an association.
    #[must_use]
    pub fn new(a: &Association, pulse: Option<&Pulse>, now: Timestamp) -> Self {
        let heartbeat = pulse.map(Pulse::heartbeat);
        let health = health(a, heartbeat.as_ref(), now);
        let status = pulse.map(|pulse| &pulse.status);
        let start = heartbeat.as_ref().and_then(|beat| beat.last_pass_started_at);
        let lag = start.zip(lag_until(a, now)).map(|(start, until)| until.since(start));
        Self {
            association: a.id,
            gpu: a.gpu,
            epoch: a.epoch,
            phase: a.phase.name(),
            phase_detail: a.phase.clone(),
            health: match health.grade {
                Grade::Good => "good",
                Grade::Degraded => "degraded",
                Grade::Bad => "bad",
            },
            health_reasons: health.reasons,
            copying: a.copying,
            standby: a.standby.name.clone(),
            zone: a.standby.zone.clone(),
            lag_ms: lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)),
            latest_recovery_point: status.and_then(|status| status.points.latest.clone()),
            recovery_points: status.map_or(0, |status| status.points.count),
            last_pass: status.and_then(|status| status.last_complete.clone()),
            last_failure: status.and_then(|status| status.last_failure.clone()),
            pass: status.and_then(|status| match status.pass {
                PassActivity::Idle => None,
                PassActivity::Running { progress, .. } => Some(ProgressView {
                    progress,
                    seconds_left: progress.seconds_left(),
                }),
            }),
            restore: status
                .map(|status| status.restore.clone())
                .filter(|restore| *restore != RestoreActivity::Never),
            put_back: status
                .map(|status| status.put_back.clone())
                .filter(|put_back| *put_back != PutBackActivity::Never),
            rescue: status
                .map(|status| status.rescue.clone())
                .filter(|rescue| *rescue != RescueActivity::Never),
            disk_free: status.map(|status| status.disk.free),
            disk_total: status.map(|status| status.disk.total),
            watcher: status
                .map(|status| status.watcher.clone())
                .filter(|watcher| *watcher != Watcher::Unknown),
            missed: status.map(|status| status.missed),
            live_until: status.and_then(|status| status.live_until),
            traffic: status.map(|status| TrafficView::new(a, status)),
            cost: None,
            heard_at: pulse.map(|pulse| pulse.at),
            superseded: a.superseded.iter().copied().collect(),
            policy: a.policy.clone(),
            history: a.history.iter().map(line).collect(),
            created_at: a.created_at,
        }
    }
}

/// The lag grows until the GPU is lost; from then on it is what was lost, also while somebody asks for restores. Of a released one nothing
/// can be lost any more.
fn lag_until(a: &Association, now: Timestamp) -> Option<Timestamp> {
    match &a.phase {
        Phase::Holding(loss) | Phase::Restoring { loss, .. } => {
            let copied = |phase| {
                matches!(
                    phase,
                    PhaseName::Provisioning | PhaseName::Seeding | PhaseName::Protected
                )
            };
            let lost = a
                .history
                .iter()
                .rev()
                .find(|step| copied(step.from) && !copied(step.to));
            Some(lost.map_or(loss.since, |step| step.at))
        }
        Phase::Provisioning | Phase::Seeding | Phase::Protected | Phase::Halted { .. } => Some(now),
        Phase::Releasing { .. } | Phase::Released { .. } => None,
    }
}

fn line(step: &Transition) -> HistoryLine {
    HistoryLine {
        at: step.at,
        from: step.from,
        to: step.to,
        reason: step.reason.to_string(),
    }
}
