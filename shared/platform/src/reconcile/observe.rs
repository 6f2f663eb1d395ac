//! Looks at what the rules want to know, and never takes silence for absence.

use std::collections::BTreeMap;

use tracing::warn;
use warmspare_domain::association::Association;
use warmspare_domain::decide::needs;
use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::{GpuSeen, Observed, Seen};

use super::{Prefetched, Reconciler};
use crate::ports::{GpuRow, StandbyLook};
use crate::report;

impl Reconciler {
    /// Looks at what the next decision needs.
    pub(super) async fn observe(&self, a: &Association, prefetched: &Prefetched) -> Seen {
        let needs = needs(a, self.world.clock.now());
        let wanted: Vec<GpuId> = needs.gpu.into_iter().chain(needs.target).collect();
        let rows = if wanted.iter().all(|gpu| prefetched.asked.contains(gpu)) {
            prefetched.rows.clone()
        } else {
            self.look_at_gpus(&wanted).await
        };
        let standby = if needs.standby {
            self.look_at_standby(a).await
        } else {
            NOT_LOOKED
        };
        Seen {
            gpu: seen_gpu(needs.gpu, rows.as_ref()),
            target: seen_gpu(needs.target, rows.as_ref()),
            standby: standby.machine,
            disk: standby.disk,
        }
    }

    /// One complete read; `None` when there was none.
    pub(super) async fn look_at_gpus(&self, gpus: &[GpuId]) -> Option<BTreeMap<GpuId, GpuRow>> {
        if gpus.is_empty() {
            return Some(BTreeMap::new());
        }
        match self.world.gpus.look(gpus).await {
            Ok(rows) => Some(rows),
            Err(error) => {
                warn!(
                    error = report::chain(&error),
                    "the GPUs' provider did not answer; what it knows is unknown, not absent"
                );
                None
            }
        }
    }

    async fn look_at_standby(&self, a: &Association) -> StandbyLook {
        let standby = StandbyRef::of(a);
        match self.world.standbys.look(&standby).await {
            Ok(look) => look,
            Err(error) => {
                warn!(standby.name = %standby.name, error = report::chain(&error), "the standbys' provider did not answer; what it knows is unknown, not absent");
                NOT_LOOKED
            }
        }
    }
}

const NOT_LOOKED: StandbyLook = StandbyLook {
    machine: Observed::Unknown,
    disk: Observed::Unknown,
};

fn seen_gpu(gpu: Option<GpuId>, rows: Option<&BTreeMap<GpuId, GpuRow>>) -> Observed<GpuSeen> {
    match (gpu, rows) {
        (None, _) | (_, None) => Observed::Unknown,
        (Some(gpu), Some(rows)) => rows
            .get(&gpu)
            .map_or(Observed::Absent, |row| Observed::Present(row.seen.clone())),
    }
}
