//! Having the disk of a paused GPU read.

use tracing::{info, warn};
use warmspare_domain::association::Association;
use warmspare_domain::effect::EffectKind;
use warmspare_domain::event::Event;
use warmspare_domain::ids::{Epoch, GpuId};
use warmspare_domain::observed::Endpoint;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{Host, Outcome, Request, Rescue, RescueActivity, Status};

use super::Reconciler;
use super::act::{agent_failed, failed, millis, out_of_protocol, problem_event, problem_of};
use crate::report;

const KIND: EffectKind = EffectKind::Rescue;

impl Reconciler {
    /// Asks the provider where the disk is, and has the agent pull it; or tells how the pull stands.
    pub(super) async fn rescue(
        &self,
        a: &Association,
        endpoint: &Endpoint,
        gpu: GpuId,
        epoch: Epoch,
        loss: Timestamp,
    ) -> Vec<Event> {
        // Vast takes one such call in 3.5 s (`vast-api.md` §2), so it is not asked while a pull is under way.
        let begun = match self.call(endpoint, Request::Status).await {
            Ok(Outcome::Status(status)) if is_settled(&status, loss) => return self.told(a, &status),
            Ok(Outcome::Status(status)) => {
                matches!(status.rescue, RescueActivity::Failed { loss: of, .. } if of == loss)
            }
            Ok(Outcome::Refused(refusal)) => return vec![problem_event(KIND, problem_of(&refusal, None))],
            Ok(other) => return vec![out_of_protocol(KIND, &other)],
            Err(error) => return agent_failed(KIND, &error),
        };
        // Its key was let in when it was bound. Once more after a failure, in case that was taken back; a stopped GPU may refuse it.
        if begun && self.let_in(KIND, endpoint, gpu).await.is_err() {
            info!(gpu.id = %gpu, effect = %KIND, "the standby's key was not let in anew");
        }
        let module = match self.world.gpus.disk_module(gpu).await {
            Ok(module) => module,
            Err(error) => return vec![failed(KIND, &error)],
        };
        let request = Request::Rescue(Rescue {
            epoch,
            loss,
            host: Host {
                address: module.address,
                port: module.port,
                user: module.user,
            },
            module: module.module,
            wait_ms: millis(self.settings.pass_wait),
        });
        match self.call(endpoint, request).await {
            Ok(Outcome::Status(status)) => self.told(a, &status),
            Ok(Outcome::Refused(refusal)) => self.refused(a, KIND, endpoint, &refusal).await,
            Ok(other) => vec![out_of_protocol(KIND, &other)],
            Err(error) => agent_failed(KIND, &error),
        }
    }

    fn told(&self, a: &Association, status: &Status) -> Vec<Event> {
        self.note(a, status);
        match &status.rescue {
            RescueActivity::Complete {
                point, changed_files, ..
            } => {
                info!(gpu.id = %a.gpu, effect = %KIND, "the paused GPU's disk was read: {changed_files} changed files, recovery point {point}")
            }
            RescueActivity::Failed { message, .. } | RescueActivity::Refused { message, .. } => {
                warn!(gpu.id = %a.gpu, effect = %KIND, error = message, "the paused GPU's disk could not be read");
            }
            RescueActivity::Never | RescueActivity::Running { .. } => {}
        }
        vec![Event::AgentReported(report::agent(status))]
    }
}

/// Whether asking the agent again would change nothing.
fn is_settled(status: &Status, loss: Timestamp) -> bool {
    match &status.rescue {
        RescueActivity::Running { loss: of, .. }
        | RescueActivity::Complete { loss: of, .. }
        | RescueActivity::Refused { loss: of, .. } => *of == loss,
        RescueActivity::Never | RescueActivity::Failed { .. } => false,
    }
}
