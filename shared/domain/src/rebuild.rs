//! A record from what outlives it: the labels at the providers, and what the agent on the standby remembers.
//!
//! Nothing here is certain to be the last word, so a rebuilt record lets nothing go by itself: it waits in `Holding`, its policy keeps whatever it
//! may keep, and the ordinary rules bring it back once the GPU runs and its guards agree.

use std::collections::BTreeSet;

use crate::association::{Association, GpuProfile, Link, Loss, LossCause, Order, Phase, Rescue, Saved};
use crate::effect::StandbyRef;
use crate::ids::{AssociationId, Deployment, Epoch, GpuId, PathBelow};
use crate::observed::{AgentReport, BoundTo, Endpoint, PointsSeen, RestoreSeen, SshHost};
use crate::policy::{Failover, Policy, SupersededGpu, WhenDeletedAtVast};
use crate::reason::Reason;
use crate::units::Timestamp;

/// All that was found of one association.
#[derive(Debug, Clone)]
pub struct Remains {
    /// Our installation.
    pub deployment: Deployment,
    /// Which association, from the labels.
    pub association: AssociationId,
    /// Its standbys that have a data disk, each of which was asked.
    pub standbys: Vec<StandbyRemains>,
    /// GPUs that carry the label of a rental for it.
    pub rentals: Vec<Rental>,
    /// The GPUs of the account.
    pub gpus: Vec<ListedGpu>,
}

/// A standby, and what its agent said.
#[derive(Debug, Clone)]
pub struct StandbyRemains {
    /// The attempt in its label.
    pub attempt: u16,
    /// Its name and zone.
    pub standby: StandbyRef,
    /// The GPU in its label: the one bound when it was ordered. It goes stale with the first failover.
    pub labelled_gpu: GpuId,
    /// Where it answered.
    pub endpoint: Endpoint,
    /// What its agent serves; `None` when it was never bound.
    pub serves: Option<AssociationId>,
    /// How it stands.
    pub report: AgentReport,
    /// What it pulls; `None` when it was never bound.
    pub source: Option<BoundSource>,
    /// Where its restore job pushes to.
    pub restore_target: Option<RememberedGpu>,
}

/// A GPU as an agent remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedGpu {
    /// Which; `None` when the agent was told before it was told names.
    pub gpu: Option<GpuId>,
    /// Where it answered then.
    pub host: SshHost,
}

/// What a standby pulls, as it was last told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundSource {
    /// From which GPU.
    pub gpu: RememberedGpu,
    /// The directory on the GPU.
    pub path: String,
    /// Patterns that are not copied.
    pub excludes: Vec<String>,
    /// Patterns that are copied all the same.
    pub includes: Vec<String>,
    /// Paths that travel before all others.
    pub first: Vec<PathBelow>,
    /// The command before each pass.
    pub before_pass: String,
    /// The share of deleted files at which a pass halts.
    pub max_deleted_percent: u8,
}

/// A GPU that we rented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rental {
    /// Which.
    pub gpu: GpuId,
    /// For which epoch, from its label.
    pub epoch: Epoch,
}

/// A GPU of the account.
#[derive(Debug, Clone)]
pub struct ListedGpu {
    /// Which.
    pub gpu: GpuId,
    /// Where it answers; `None` while it does not run.
    pub host: Option<SshHost>,
    /// What it is.
    pub profile: GpuProfile,
}

/// Why no record can be made of the remains. A person has to look; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotRebuild {
    /// No disk with data is left.
    #[error("no data disk carries its label")]
    NoDisk,
    /// Two standbys have recovery points; only a person can say which of them counts.
    #[error("{0} and {1} both hold recovery points of it")]
    SeveralHoldData(String, String),
    /// A leftover would be in the way of, or outlive, the one with the data.
    #[error("{0} holds the recovery points, but {1} was ordered later or under the same number")]
    NotTheNewest(String, String),
    /// The labels and the agent disagree.
    #[error("{standby} serves {serves}, not the association in its label")]
    ForeignAssociation {
        /// Which.
        standby: String,
        /// What its agent serves.
        serves: AssociationId,
    },
}

/// The record that a machine is ordered under when only a standby's disk is left: a disk of the right name is attached as it is.
#[must_use]
pub fn provisional(
    deployment: &Deployment,
    association: AssociationId,
    attempt: u16,
    standby: &StandbyRef,
    gpu: GpuId,
    policy: &Policy,
    now: Timestamp,
) -> Association {
    let mut a = Association::new(
        deployment.clone(),
        association.first_gpu(),
        careful(policy, standby),
        now,
    );
    a.gpu = gpu;
    a.standby.attempt = attempt;
    a.standby.name = standby.name.clone();
    a.standby.zone = standby.zone.clone();
    a.standby.order = Order::Landed;
    a
}

/// Makes a record of the remains; `policy` is that of a new association.
///
/// # Errors
/// When the remains contradict each other.
pub fn rebuild(remains: &Remains, policy: &Policy, now: Timestamp) -> Result<Association, CannotRebuild> {
    let found = the_one_with_data(&remains.standbys)?;
    if let Some(serves) = found.serves.filter(|serves| *serves != remains.association) {
        let standby = found.standby.name.to_string();
        return Err(CannotRebuild::ForeignAssociation { standby, serves });
    }
    let whose = whose_data(remains, found);
    let (deployment, id) = (&remains.deployment, remains.association);
    let mut a = provisional(deployment, id, found.attempt, &found.standby, whose.gpu, policy, now);
    if let Some(source) = &found.source {
        a.policy.source_path.clone_from(&source.path);
        a.policy.excludes.clone_from(&source.excludes);
        a.policy.includes.clone_from(&source.includes);
        a.policy.first.clone_from(&source.first);
        a.policy.before_pass.clone_from(&source.before_pass);
        a.policy.max_deleted_percent = source.max_deleted_percent;
    }
    let listed = remains.gpus.iter().find(|listed| listed.gpu == whose.gpu);
    a.profile = listed.map(|listed| listed.profile.clone()).unwrap_or_default();
    a.epoch = whose.epoch;
    a.last_epoch = highest_epoch(remains, found).max(whose.epoch);
    a.superseded = others(remains, found, whose.gpu);
    a.standby.link = Link::Up(found.endpoint.clone());
    a.saved = match found.report.points {
        PointsSeen::Some => Saved::Points,
        PointsSeen::None => Saved::Nothing,
    };
    let phase = phase(&a, found, &whose, now);
    a.enter(phase, Reason::RecordRebuilt, now);
    Ok(a)
}

/// A rebuilt record does nothing by itself that cannot be taken back.
fn careful(policy: &Policy, standby: &StandbyRef) -> Policy {
    let mut policy = policy.clone();
    policy.failover = Failover::Manual;
    policy.superseded = SupersededGpu::Keep;
    policy.when_deleted_at_vast = WhenDeletedAtVast::Hold;
    policy.machine.provider = standby.provider;
    let zones = &mut policy.machine.zones;
    zones.retain(|zone| *zone != standby.zone);
    zones.insert(0, standby.zone.clone());
    policy
}

fn the_one_with_data(standbys: &[StandbyRemains]) -> Result<&StandbyRemains, CannotRebuild> {
    let name = |found: &StandbyRemains| format!("{} in {}", found.standby.name, found.standby.zone);
    let mut holders = standbys.iter().filter(|found| found.report.points == PointsSeen::Some);
    let newest = standbys.iter().max_by_key(|found| found.attempt);
    let newest = newest.ok_or(CannotRebuild::NoDisk)?;
    let found = match (holders.next(), holders.next()) {
        (Some(one), Some(two)) => return Err(CannotRebuild::SeveralHoldData(name(one), name(two))),
        (Some(one), None) => one,
        (None, _) => newest,
    };
    // Attempts below ours are leftovers without data, which the sweep removes; one above would be kept for ever, and its name be in our way.
    let rival = standbys
        .iter()
        .find(|other| other.standby != found.standby && other.attempt >= found.attempt);
    match rival {
        Some(rival) => Err(CannotRebuild::NotTheNewest(name(found), name(rival))),
        None => Ok(found),
    }
}

/// The GPU whose data the standby holds.
struct Whose {
    gpu: GpuId,
    epoch: Epoch,
    certainty: Certainty,
}

#[derive(PartialEq, Eq)]
enum Certainty {
    /// The agent, a label, an address or the first epoch says so.
    Known,
    /// It is the likeliest. The agent's pin of this epoch's host key refuses any other, as long as the epoch stays.
    Guessed,
    /// The data was restored onto a GPU that cannot be named.
    RestoredElsewhere,
}

fn whose_data(remains: &Remains, found: &StandbyRemains) -> Whose {
    let BoundTo::Epoch(epoch) = found.report.bound else {
        // It pulls nothing yet; what it was ordered for is all there is to know.
        let epoch = highest_epoch(remains, found);
        return Whose {
            gpu: found.labelled_gpu,
            epoch,
            certainty: Certainty::Known,
        };
    };
    let bound = bound_gpu(remains, found, epoch);
    let RestoreSeen::Verified(target) = found.report.restore else {
        return bound;
    };
    if target <= epoch {
        return bound;
    }
    // Verified, and not bound before the record was lost: the user's work goes on there. Pushing again could overwrite it.
    match named(remains, target, found.restore_target.as_ref()) {
        Some(gpu) => Whose {
            gpu,
            epoch: target,
            certainty: Certainty::Known,
        },
        None => Whose {
            certainty: Certainty::RestoredElsewhere,
            ..bound
        },
    }
}

fn bound_gpu(remains: &Remains, found: &StandbyRemains, epoch: Epoch) -> Whose {
    let known = named(remains, epoch, found.source.as_ref().map(|source| &source.gpu))
        .or_else(|| (epoch == Epoch::FIRST).then(|| remains.association.first_gpu()));
    let certainty = match known {
        Some(_) => Certainty::Known,
        None => Certainty::Guessed,
    };
    // The epoch rises on one and the same GPU, too, for example when its source is accepted anew.
    let earlier = remains.rentals.iter().filter(|rental| rental.epoch <= epoch);
    let likeliest = || earlier.max_by_key(|rental| rental.epoch).map(|rental| rental.gpu);
    let gpu = known.or_else(likeliest).unwrap_or(found.labelled_gpu);
    Whose { gpu, epoch, certainty }
}

/// The GPU of an epoch: the agent's own word counts most, then the label under which it was rented, then where it answers.
fn named(remains: &Remains, epoch: Epoch, remembered: Option<&RememberedGpu>) -> Option<GpuId> {
    let host = remembered.map(|remembered| &remembered.host);
    remembered
        .and_then(|remembered| remembered.gpu)
        .or_else(|| rented_for(remains, epoch, host))
        .or_else(|| listed_at(remains, host))
}

/// The GPU that was rented for an epoch. A rent whose answer was lost may have landed late, beside the one that was used: then the address decides.
fn rented_for(remains: &Remains, epoch: Epoch, host: Option<&SshHost>) -> Option<GpuId> {
    let rented = || remains.rentals.iter().filter(|rental| rental.epoch == epoch);
    let mut all = rented();
    match (all.next(), all.next()) {
        (Some(only), None) => Some(only.gpu),
        (Some(_), Some(_)) => {
            let there = listed_at(remains, host)?;
            rented().find(|rental| rental.gpu == there).map(|rental| rental.gpu)
        }
        (None, _) => None,
    }
}

fn listed_at(remains: &Remains, host: Option<&SshHost>) -> Option<GpuId> {
    let at = |listed: &&ListedGpu| listed.host.is_some() && listed.host.as_ref() == host;
    remains.gpus.iter().find(at).map(|listed| listed.gpu)
}

fn highest_epoch(remains: &Remains, found: &StandbyRemains) -> Epoch {
    let bound = match found.report.bound {
        BoundTo::Nothing => Epoch::FIRST,
        BoundTo::Epoch(epoch) => epoch,
    };
    let restore = match found.report.restore {
        RestoreSeen::Idle => Epoch::FIRST,
        RestoreSeen::Running(epoch)
        | RestoreSeen::Verified(epoch)
        | RestoreSeen::Failed(epoch)
        | RestoreSeen::NotReady(epoch) => epoch,
    };
    let rented = remains.rentals.iter().map(|rental| rental.epoch).max();
    bound.max(restore).max(rented.unwrap_or(Epoch::FIRST))
}

/// Every other GPU that has or had to do with it: never read again, and never destroyed by the sweep, for one may hold the user's work.
fn others(remains: &Remains, found: &StandbyRemains, gpu: GpuId) -> BTreeSet<GpuId> {
    let mut others: BTreeSet<GpuId> = remains.rentals.iter().map(|rental| rental.gpu).collect();
    others.insert(found.labelled_gpu);
    others.insert(remains.association.first_gpu());
    others.remove(&gpu);
    others
}

fn phase(a: &Association, found: &StandbyRemains, whose: &Whose, now: Timestamp) -> Phase {
    if let Some(reason) = found.report.halt {
        return Phase::Halted { since: now, reason };
    }
    // A higher epoch is a first contact, at which no pinned key would refuse a wrong guess.
    let guess_is_guarded = a.last_epoch == a.epoch;
    let cause = match whose.certainty {
        Certainty::Known => LossCause::RecordLost,
        Certainty::Guessed if guess_is_guarded => LossCause::RecordLost,
        Certainty::Guessed | Certainty::RestoredElsewhere => LossCause::RecordUnclear,
    };
    match (a.saved, cause) {
        (Saved::Nothing, LossCause::RecordLost) => Phase::Provisioning,
        _ => Phase::Holding(Loss {
            since: now,
            cause,
            rescue: Rescue::Over,
            rescue_problem: String::new(),
        }),
    }
}
