//! Listing what carries our labels: completely, or not at all.

use std::collections::BTreeMap;

use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{StandbyName, Zone};
use warmspare_domain::policy::StandbyProvider;
use warmspare_domain::units::Timestamp;

use super::ComputeEngine;
use super::owner::{GPU, Owner, filter};
use super::refusal::Refusal;
use super::wire::{Aggregated, OperationPage, Scope, Warning};
use crate::ports::{LabelledKind, LabelledStandby, ProviderError};

/// The most that a page can hold. Source: discovery revision 20261106, `maxResults`.
const PAGE: &str = "500";
/// More pages than any project has; a list that never ends is broken.
const MAX_PAGES: usize = 2000;

/// A machine that Google took back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preemption {
    /// The machine's number, as in [`warmspare_domain::observed::Endpoint::instance`].
    pub instance: u64,
    /// When; `None` when the time cannot be read.
    pub at: Option<Timestamp>,
}

impl ComputeEngine {
    /// Lists the preemptions of a zone that Google still remembers.
    ///
    /// # Errors
    /// Those of any read.
    pub async fn preemptions(&self, zone: &Zone) -> Result<Vec<Preemption>, ProviderError> {
        let mut seen = Vec::new();
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let filter = "operationType=\"compute.instances.preempted\"".to_owned();
            let query = paged(filter, token.as_ref());
            let page = self.calls.get(&["zones", zone.as_str(), "operations"], &query).await;
            let page: OperationPage = page.map_err(|refusal| refusal.into_error("the list of operations"))?;
            seen.extend(page.items.iter().filter_map(|operation| {
                Some(Preemption {
                    instance: operation.target_id.parse().ok()?,
                    at: operation.insert_time.parse().ok(),
                })
            }));
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(seen);
            }
        }
        Err(endless())
    }

    pub(super) async fn all_labelled(&self) -> Result<Vec<LabelledStandby>, ProviderError> {
        let mut found = Vec::new();
        for noun in ["instances", "disks"] {
            self.list_into(noun, &mut found).await?;
        }
        Ok(found)
    }

    async fn list_into(&self, noun: &str, found: &mut Vec<LabelledStandby>) -> Result<(), ProviderError> {
        let mut token = None;
        for _ in 0..MAX_PAGES {
            let query = paged(filter(&self.settings.deployment), token.as_ref());
            let page = self.calls.get(&["aggregated", noun], &query).await;
            let page: Aggregated<Scope> = page.map_err(|refusal| refusal.into_error(&format!("the list of {noun}")))?;
            check_complete(&page, noun)?;
            for (place, scope) in &page.items {
                // Disks may also be regional; ours never are.
                let Some(Ok(zone)) = place.strip_prefix("zones/").map(str::parse::<Zone>) else {
                    continue;
                };
                let machines = scope
                    .instances
                    .iter()
                    .map(|row| (LabelledKind::Machine, row.name.as_str(), &row.labels));
                let disks = scope
                    .disks
                    .iter()
                    .filter_map(|row| Some((LabelledKind::Disk, row.name.strip_suffix("-data")?, &row.labels)));
                found.extend(
                    machines
                        .chain(disks)
                        .filter_map(|(kind, name, labels)| self.labelled(kind, name, &zone, labels)),
                );
            }
            token = page.next_page_token.filter(|token| !token.is_empty());
            if token.is_none() {
                return Ok(());
            }
        }
        Err(endless())
    }

    /// `None`, with a warning, for what has our deployment's label but was relabelled by hand: nobody could say whose it is.
    fn labelled(
        &self,
        kind: LabelledKind,
        name: &str,
        zone: &Zone,
        labels: &BTreeMap<String, String>,
    ) -> Option<LabelledStandby> {
        let read = || {
            let owner = Owner::from_labels(labels, &self.settings.deployment)?;
            let gpu = labels.get(GPU).and_then(|label| label.parse().ok());
            let name: StandbyName = name.parse().ok()?;
            Some(LabelledStandby {
                detail: None,
                association: owner.association,
                attempt: owner.attempt,
                standby: StandbyRef {
                    provider: StandbyProvider::Gcp,
                    name,
                    zone: zone.clone(),
                },
                kind,
                gpu: gpu.unwrap_or_else(|| owner.association.first_gpu()),
            })
        };
        let read = read();
        if read.is_none() {
            tracing::warn!(
                standby.name = name,
                "a machine or disk of this deployment has damaged labels; look at it in the console"
            );
        }
        read
    }
}

fn paged(filter: String, token: Option<&String>) -> Vec<(&'static str, String)> {
    let mut query = vec![("filter", filter), ("maxResults", PAGE.to_owned())];
    query.extend(token.map(|token| ("pageToken", token.clone())));
    query
}

/// A zone that did not answer must not pass for an empty one.
fn check_complete(page: &Aggregated<Scope>, noun: &str) -> Result<(), ProviderError> {
    let partial =
        |why: &str| Err(Refusal::no_answer(&format!("the list of {noun} is not complete: {why}")).into_error(""));
    if let Some(place) = page.unreachables.first() {
        return partial(&format!("{place} did not answer"));
    }
    let harmless = |warning: &Warning| warning.code == "NO_RESULTS_ON_PAGE";
    let mut warnings = page
        .warning
        .iter()
        .chain(page.items.values().filter_map(|scope| scope.warning.as_ref()));
    match warnings.find(|warning| !harmless(warning)) {
        Some(warning) => partial(&format!("{} {}", warning.code, warning.message)),
        None => Ok(()),
    }
}

fn endless() -> ProviderError {
    Refusal::no_answer("a list never ends").into_error("")
}
