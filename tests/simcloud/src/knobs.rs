//! Everything that can be done to a running sim: outbids, preemptions, shortages.

use std::sync::Arc;

use crate::compute::{self, Place, QuotaRefusal};
use crate::machine::{Machine, MachineError};
use crate::options::RateLimits;
use crate::vast::{Birth, cpu_offer, lifecycle};
use crate::webhooks::Delivery;
use crate::world::World;

/// No machine goes by this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no machine {0} exists in the sim; GET /sim/state lists those that do")]
pub struct NoSuchMachine(pub String);

/// Everything that a test or a demo can do to a running sim.
#[derive(Debug, Clone, Copy)]
pub struct Knobs<'a>(pub(crate) &'a Arc<World>);

/// # Errors
/// All methods that name a machine fail when it does not exist.
#[expect(clippy::missing_errors_doc, reason = "said once for all methods of this block")]
impl Knobs<'_> {
    /// Another tenant takes the GPU: the notice first, then `intended_status`, then, after `kill_after_seconds` (not yet
    /// scaled; `None`: 10.6 to 32 s as measured), the container is killed.
    pub fn outbid(&self, gpu: u64, kill_after_seconds: Option<f64>) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::outbid(self.0, gpu, kill_after_seconds).map(drop))
    }

    /// The other tenant leaves: the paused GPU comes back by itself.
    pub fn outbid_clears(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::outbid_clears(self.0, gpu))
    }

    /// The container stops at once without any notice.
    pub fn stop_silently(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::stop_silently(self.0, gpu))
    }

    /// The GPU's host loses its network: connections hang, Vast shows `offline`.
    pub fn host_offline(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::host_offline(self.0, gpu))
    }

    /// The GPU's host is heard from again.
    pub fn host_online(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::host_online(self.0, gpu))
    }

    /// Vast shows `unknown` until [`Knobs::host_online`]; the GPU works on.
    pub fn status_unknown(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(
            gpu,
            lifecycle::alter(self.0, gpu, |instance| instance.heard = Some("unknown")),
        )
    }

    /// The row is left out of every listing although the GPU exists, or shown again.
    pub fn set_hidden(&self, gpu: u64, hidden: bool) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::alter(self.0, gpu, |instance| instance.hidden = hidden))
    }

    /// The host or Vast removes the GPU: container, disk and row go.
    pub fn remove(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::remove(self.0, gpu))
    }

    /// The container is made anew: the workspace is empty and the host key another.
    pub fn recycle(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        self.machine(&gpu.to_string())?;
        lifecycle::recycle(self.0, gpu);
        Ok(())
    }

    /// The contract's end has come: the GPU stops and cannot be started again.
    pub fn expire(&self, gpu: u64) -> Result<(), NoSuchMachine> {
        found(gpu, lifecycle::expire(self.0, gpu))
    }

    /// Starts of this GPU are answered with 200 and `success:false`, or again accepted.
    pub fn set_start_refused(&self, gpu: u64, refused: bool) -> Result<(), NoSuchMachine> {
        found(
            gpu,
            lifecycle::alter(self.0, gpu, |instance| instance.start_refused = refused),
        )
    }

    /// Starts a program on a running GPU; it dies with the machine. Answers its process id.
    pub fn exec_detached(&self, gpu: u64, program: &str, arguments: &[String]) -> Result<u32, MachineError> {
        let machine = self
            .machine(&gpu.to_string())
            .map_err(|missing| MachineError::NotRunning(missing.0))?;
        machine.exec_detached(program, arguments)
    }

    /// Google takes back a Spot VM.
    pub fn preempt(&self, standby: &str) -> Result<(), NoSuchMachine> {
        let place = self.place(standby)?;
        compute::lifecycle::preempt(self.0, &place)
            .map(drop)
            .map_err(|_| NoSuchMachine(format!("{standby} that is RUNNING")))
    }

    /// The prepaid credit; at 0 every GPU stops at once.
    pub fn set_credit(&self, dollars: f64) {
        if dollars <= 0.0 {
            lifecycle::credit_gone(self.0);
        } else {
            self.0.state().vast.credit = dollars;
        }
    }

    /// Whether the market has any offer.
    pub fn set_offers(&self, offers: bool) {
        self.0.state().vast.offers_hidden = !offers;
    }

    /// From now on the market has a real CPU machine, as it hardly ever does, or none again.
    pub fn set_cpu_offer(&self, offered: bool) {
        let offer = cpu_offer();
        let offers = &mut self.0.state().vast.offers;
        if offered {
            offers.insert(offer.id, offer);
        } else {
            offers.remove(&offer.id);
        }
    }

    /// How the next GPU turns out; several wait in line, last in first out.
    pub fn next_birth(&self, birth: Birth) {
        self.0.state().vast.next_births.push(birth);
    }

    /// Whether and how Vast's call limits are enforced.
    pub fn set_rate_limits(&self, form: RateLimits) {
        self.0.state().vast.rate_limits = form;
    }

    /// How notifications go wrong from now on.
    pub fn set_delivery(&self, delivery: Delivery) {
        self.0.state().vast.webhooks.delivery = delivery;
    }

    /// A zone runs out of capacity, for new VMs and for starts.
    pub fn capacity_out(&self, zone: &str) {
        self.0.state().compute.exhausted.insert(zone.to_owned());
    }

    /// A zone has capacity again.
    pub fn capacity_back(&self, zone: &str) {
        self.0.state().compute.exhausted.remove(zone);
    }

    /// The account lacks this right, as far as it asks for its rights. The calls that need it are refused by a [`crate::Fault`].
    pub fn deny(&self, permission: &str) {
        self.0.state().denied.insert(permission.to_owned());
    }

    /// Whether and how new VMs exceed the quota.
    pub fn set_quota(&self, refusal: Option<QuotaRefusal>) {
        self.0.state().compute.quota = refusal;
    }

    fn place(&self, standby: &str) -> Result<Place, NoSuchMachine> {
        let state = self.0.state();
        let found = state
            .compute
            .instances
            .keys()
            .find(|(_, name)| name == standby)
            .cloned();
        found.ok_or_else(|| NoSuchMachine(standby.to_owned()))
    }

    pub(crate) fn machine(&self, name: &str) -> Result<Arc<Machine>, NoSuchMachine> {
        let gpu = name.parse::<u64>().ok();
        let state = self.0.state();
        let gpu = gpu
            .and_then(|id| state.vast.instances.get(&id))
            .map(|gpu| Arc::clone(&gpu.machine));
        let vm = || {
            state
                .compute
                .instances
                .values()
                .find(|vm| vm.name == name)
                .map(|vm| Arc::clone(&vm.machine))
        };
        gpu.or_else(vm).ok_or_else(|| NoSuchMachine(name.to_owned()))
    }
}

fn found(gpu: u64, outcome: Option<()>) -> Result<(), NoSuchMachine> {
    outcome.ok_or_else(|| NoSuchMachine(gpu.to_string()))
}
