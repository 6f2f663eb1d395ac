//! Holds the providers' listings against the store: what nobody owns is found, reported, and destroyed only with a warrant.

use std::collections::BTreeMap;

use tracing::{error, info, warn};
use warmspare_domain::association::Association;
use warmspare_domain::ids::AssociationId;
use warmspare_domain::observed::Found;
use warmspare_domain::orphan::{Verdict, judge};
use warmspare_domain::units::MicroUsd;

use super::Reconciler;
use crate::ports::{GpuRow, LabelledKind, LabelledStandby, RentalLabel, StoreError};
use crate::report;

/// Something billable that no association owns and that is left alone, because it may hold the only copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Orphan {
    /// What it is, in words.
    pub what: String,
    /// The association in its label.
    pub association: AssociationId,
    /// What it costs an hour, when the provider's listing tells.
    pub price_per_hour: Option<MicroUsd>,
}

/// What a sweep found and did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SweepReport {
    /// Machines, disks and rentals with our label.
    pub labelled: usize,
    /// Left-overs that were destroyed.
    pub destroyed: usize,
    /// What no association owns.
    pub orphans: Vec<Orphan>,
    /// GPUs of the account; `None` when Vast did not list them completely.
    pub gpus: Option<Vec<GpuRow>>,
}

impl Reconciler {
    /// Compares what the providers list with what the store knows.
    ///
    /// # Errors
    /// When the store does not answer; a silent provider only makes the sweep see less.
    pub async fn sweep(&self) -> Result<SweepReport, StoreError> {
        let mut report = SweepReport::default();
        // Listings first, associations after: see `judge`.
        let standbys = self.world.standbys.all().await;
        let gpus = self.world.gpus.all().await;
        let mut known = BTreeMap::new();
        match standbys {
            Ok(found) => {
                // Machines first: a disk in use cannot be deleted.
                let (machines, disks): (Vec<_>, Vec<_>) =
                    found.into_iter().partition(|row| row.kind == LabelledKind::Machine);
                for row in machines.iter().chain(&disks) {
                    self.sweep_standby(row, &mut known, &mut report).await?;
                }
            }
            Err(error) => warn!(error = report::chain(&error), "the sweep could not list the standbys"),
        }
        match gpus {
            Ok(rows) => {
                for row in &rows {
                    self.sweep_rental(row, &mut known, &mut report).await?;
                }
                report.gpus = Some(rows);
            }
            Err(error) => warn!(error = report::chain(&error), "the sweep could not list the GPUs"),
        }
        info!(
            labelled = report.labelled,
            destroyed = report.destroyed,
            orphans = report.orphans.len(),
            "sweep done"
        );
        self.world.prices.refresh_if_due().await;
        Ok(report)
    }

    async fn sweep_standby(
        &self,
        row: &LabelledStandby,
        known: &mut Known,
        report: &mut SweepReport,
    ) -> Result<(), StoreError> {
        report.labelled += 1;
        let association = self.load_once(row.association, known).await?;
        let name = &row.standby.name;
        let what = match row.kind {
            LabelledKind::Machine => format!("machine {name} in {}", row.standby.zone),
            LabelledKind::Disk => format!("disk {} in {}", name.data_disk(), row.standby.zone),
        };
        match judge(Found::Standby { attempt: row.attempt }, association) {
            Verdict::Keep => {}
            Verdict::Report => report_orphan(what, row.association, None, report),
            Verdict::Destroy(warrant) => {
                warn!(standby.name = %name, reason = %warrant.ground(), "destroying a left-over {what}");
                let outcome = match row.kind {
                    LabelledKind::Machine => self.world.standbys.delete(&row.standby, warrant).await,
                    LabelledKind::Disk => self.world.standbys.delete_disk(&row.standby, warrant).await,
                };
                match outcome {
                    Ok(_) => report.destroyed += 1,
                    Err(error) => {
                        warn!(standby.name = %name, error = report::chain(&error), "a left-over stays until the next sweep")
                    }
                }
            }
        }
        Ok(())
    }

    async fn sweep_rental(&self, row: &GpuRow, known: &mut Known, report: &mut SweepReport) -> Result<(), StoreError> {
        let Some(label) = RentalLabel::parse(&row.label, &self.settings.deployment) else {
            return Ok(());
        };
        report.labelled += 1;
        let association = self.load_once(label.association, known).await?;
        match judge(
            Found::Rental {
                gpu: row.id,
                epoch: label.epoch,
            },
            association,
        ) {
            Verdict::Keep => {}
            Verdict::Report => report_orphan(
                format!("GPU {}", row.id),
                label.association,
                Some(row.price_per_hour),
                report,
            ),
            Verdict::Destroy(warrant) => {
                warn!(gpu.id = %row.id, reason = %warrant.ground(), "destroying a rented GPU of no use");
                match self.world.gpus.destroy(row.id, warrant).await {
                    Ok(_) => report.destroyed += 1,
                    Err(error) => {
                        warn!(gpu.id = %row.id, error = report::chain(&error), "a left-over stays until the next sweep")
                    }
                }
            }
        }
        Ok(())
    }

    async fn load_once<'k>(
        &self,
        id: AssociationId,
        known: &'k mut Known,
    ) -> Result<Option<&'k Association>, StoreError> {
        if let std::collections::btree_map::Entry::Vacant(slot) = known.entry(id) {
            slot.insert(self.world.store.get(id).await?.map(|read| read.association));
        }
        Ok(known.get(&id).and_then(Option::as_ref))
    }
}

type Known = BTreeMap<AssociationId, Option<Association>>;

fn report_orphan(what: String, association: AssociationId, price_per_hour: Option<MicroUsd>, report: &mut SweepReport) {
    let price = price_per_hour.map_or_else(|| "a price unknown here".to_owned(), |price| format!("{price} an hour"));
    error!(gpu.id = %association, "{what} bills ({price}) and no association owns it. It may hold the only copy, so it is left alone: look at it, then delete it, or have its record made anew: warmspare rebuild");
    report.orphans.push(Orphan {
        what,
        association,
        price_per_hour,
    });
}
