//! Whose a machine or disk is: its labels must say so before anything happens to it.

use std::collections::BTreeMap;

use warmspare_domain::effect::StandbyRef;
use warmspare_domain::ids::{AssociationId, Deployment, GpuId, StandbyName};

use crate::ports::ProviderError;

/// Label keys and the fixed value of the first. Keys and values keep to lowercase letters, digits, `_` and `-` (`compute.md` §4).
pub(super) const MANAGED_BY: (&str, &str) = ("managed-by", "warmspare");
pub(super) const DEPLOYMENT: &str = "warmspare-deployment";
pub(super) const ASSOCIATION: &str = "warmspare-association";
pub(super) const ATTEMPT: &str = "warmspare-attempt";
pub(super) const GPU: &str = "warmspare-gpu";

type Labels = BTreeMap<String, String>;

/// Whose a standby is, as its name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) deployment: Deployment,
    pub(super) association: AssociationId,
    pub(super) attempt: u16,
}

impl Owner {
    /// # Errors
    /// [`ProviderError::Invalid`] when the name is not one of this deployment's.
    pub(super) fn of(standby: &StandbyRef, deployment: &Deployment) -> Result<Self, ProviderError> {
        let parsed = Self::from_name(standby.name.as_str(), deployment);
        parsed.ok_or_else(|| ProviderError::Invalid {
            detail: format!("{} is not a standby of deployment {deployment}", standby.name),
        })
    }

    fn from_name(name: &str, deployment: &Deployment) -> Option<Self> {
        let rest = name
            .strip_prefix("ws-")?
            .strip_prefix(deployment.as_str())?
            .strip_prefix('-')?;
        let (association, attempt) = rest.rsplit_once('-')?;
        let owner = Self {
            deployment: deployment.clone(),
            association: association.parse().ok()?,
            attempt: attempt.parse().ok()?,
        };
        // Only the canonical name: `GpuId` also reads a bare number.
        (StandbyName::new(deployment, owner.association, owner.attempt).as_str() == name).then_some(owner)
    }

    /// Reads the owner from labels; `None` when they are not ours.
    pub(super) fn from_labels(labels: &Labels, deployment: &Deployment) -> Option<Self> {
        let is = |key: &str, value: &str| labels.get(key).is_some_and(|label| label == value);
        if !is(MANAGED_BY.0, MANAGED_BY.1) || !is(DEPLOYMENT, deployment.as_str()) {
            return None;
        }
        Some(Self {
            deployment: deployment.clone(),
            association: labels.get(ASSOCIATION)?.parse().ok()?,
            attempt: labels.get(ATTEMPT)?.parse().ok()?,
        })
    }

    /// # Errors
    /// [`ProviderError::NameTaken`] when the labels do not say deployment, association and attempt of this owner.
    pub(super) fn check(&self, labels: &Labels, what: &str) -> Result<(), ProviderError> {
        if Self::from_labels(labels, &self.deployment).as_ref() == Some(self) {
            Ok(())
        } else {
            Err(ProviderError::NameTaken { what: what.to_owned() })
        }
    }

    /// The labels that make something ours.
    pub(super) fn labels(&self, gpu: GpuId) -> Labels {
        let labels = [
            (MANAGED_BY.0, MANAGED_BY.1.to_owned()),
            (DEPLOYMENT, self.deployment.to_string()),
            (ASSOCIATION, self.association.to_string()),
            (ATTEMPT, self.attempt.to_string()),
            (GPU, gpu.to_string()),
        ];
        labels.map(|(key, value)| (key.to_owned(), value)).into()
    }
}

/// The filter that finds everything of one deployment.
pub(super) fn filter(deployment: &Deployment) -> String {
    format!(
        "(labels.{} = \"{}\") (labels.{DEPLOYMENT} = \"{deployment}\")",
        MANAGED_BY.0, MANAGED_BY.1
    )
}

#[cfg(test)]
mod tests {
    use warmspare_domain::policy::StandbyProvider;

    use super::*;

    #[test]
    fn names_and_labels_lead_back_to_the_same_owner_and_to_no_other() {
        let prod: Deployment = "prod-1".parse().unwrap();
        let association = AssociationId::of(GpuId::vast(48_927_380));
        let standby = StandbyRef {
            provider: StandbyProvider::Gcp,
            name: StandbyName::new(&prod, association, 3),
            zone: "us-central1-a".parse().unwrap(),
        };
        let owner = Owner::of(&standby, &prod).unwrap();
        assert_eq!((owner.association, owner.attempt), (association, 3));
        let mut labels = owner.labels(GpuId::vast(7));
        assert!(owner.check(&labels, "x").is_ok());
        assert!(
            Owner::of(&standby, &"prod".parse().unwrap()).is_err(),
            "another deployment's name was read as ours"
        );
        for key in [MANAGED_BY.0, DEPLOYMENT, ASSOCIATION, ATTEMPT] {
            let kept = labels.insert(key.to_owned(), "other".to_owned()).unwrap();
            assert!(owner.check(&labels, "x").is_err(), "{key} was not looked at");
            labels.remove(key);
            assert!(owner.check(&labels, "x").is_err(), "{key} may be missing");
            labels.insert(key.to_owned(), kept);
        }
    }
}
