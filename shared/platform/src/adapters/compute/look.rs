//! What Compute Engine says of a standby: `reference/google/compute.md` §3 and §6.

use warmspare_domain::effect::StandbyRef;
use warmspare_domain::observed::{Endpoint, Observed, StandbySeen};
use warmspare_domain::policy::StandbyProvider;

use super::ComputeEngine;
use super::owner::Owner;
use super::refusal::{Kind, Refusal};
use super::wire::{Disk, GuestAttributes, Instance};
use crate::ports::{ProviderError, StandbyLook};

/// The namespace in which Google's guest agent publishes host keys, and the kind that is pinned.
const HOST_KEYS: &str = "hostkeys/";
const HOST_KEY_KIND: &str = "ssh-ed25519";
/// Every ed25519 public key starts with these characters: the length and name of its kind, in base64 (RFC 8709, RFC 4253).
const ED25519_PREFIX: &str = "AAAAC3NzaC1lZDI1NTE5";

/// What a machine's status means for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Power {
    Coming,
    On,
    Going,
    Off,
}

impl ComputeEngine {
    pub(super) async fn look_at(&self, standby: &StandbyRef) -> Result<StandbyLook, ProviderError> {
        let owner = Owner::of(standby, &self.settings.deployment)?;
        if let Some(instance) = self.instance(standby).await? {
            owner.check(&instance.labels, standby.name.as_str())?;
            return Ok(StandbyLook {
                machine: Observed::Present(self.seen(standby, &instance).await?),
                disk: Observed::Unknown,
            });
        }
        let disk = match self.disk(standby).await? {
            None => Observed::Absent,
            Some(disk) => {
                owner.check(&disk.labels, &standby.name.data_disk())?;
                Observed::Present(())
            }
        };
        Ok(StandbyLook {
            machine: Observed::Absent,
            disk,
        })
    }

    /// Reads the machine; `None` when there is none.
    pub(super) async fn instance(&self, standby: &StandbyRef) -> Result<Option<Instance>, ProviderError> {
        let path = ["zones", standby.zone.as_str(), "instances", standby.name.as_str()];
        found(self.calls.get(&path, &[]).await, standby.name.as_str())
    }

    /// Reads the data disk; `None` when there is none.
    pub(super) async fn disk(&self, standby: &StandbyRef) -> Result<Option<Disk>, ProviderError> {
        let name = standby.name.data_disk();
        found(
            self.calls
                .get(&["zones", standby.zone.as_str(), "disks", &name], &[])
                .await,
            &name,
        )
    }

    async fn seen(&self, standby: &StandbyRef, instance: &Instance) -> Result<StandbySeen, ProviderError> {
        let power = power(&instance.status).ok_or_else(|| {
            Refusal::no_answer(&format!(
                "machine {} is in the unknown state {}",
                standby.name, instance.status
            ))
            .into_error("")
        })?;
        match power {
            Power::Coming => Ok(StandbySeen::Booting),
            Power::Going => Ok(StandbySeen::Stopping),
            Power::Off => Ok(StandbySeen::Stopped),
            Power::On => {
                let endpoint = self.endpoint(standby, instance).await?;
                Ok(endpoint.map_or(StandbySeen::Booting, StandbySeen::Running))
            }
        }
    }

    /// Where the machine answers; `None` while it has no address or has not published its host key.
    async fn endpoint(&self, standby: &StandbyRef, instance: &Instance) -> Result<Option<Endpoint>, ProviderError> {
        let mut addresses = instance
            .network_interfaces
            .iter()
            .flat_map(|interface| &interface.access_configs);
        let Some(address) = addresses
            .find_map(|config| config.nat_ip.clone())
            .filter(|address| !address.is_empty())
        else {
            return Ok(None);
        };
        let number = instance
            .id
            .parse()
            .map_err(|_| Refusal::no_answer(&format!("machine {} has no number", standby.name)).into_error(""))?;
        let Some(host_key) = self.host_key(standby).await? else {
            return Ok(None);
        };
        Ok(Some(Endpoint {
            provider: StandbyProvider::Gcp,
            instance: number,
            address,
            port: self.settings.ssh_port,
            host_key,
        }))
    }

    async fn host_key(&self, standby: &StandbyRef) -> Result<Option<String>, ProviderError> {
        let path = [
            "zones",
            standby.zone.as_str(),
            "instances",
            standby.name.as_str(),
            "getGuestAttributes",
        ];
        let query = [("queryPath", HOST_KEYS.to_owned())];
        let attributes: GuestAttributes = match self.calls.get(&path, &query).await {
            Ok(attributes) => attributes,
            // Not published yet.
            Err(refusal) if refusal.kind == Kind::NotFound => return Ok(None),
            Err(refusal) => return Err(refusal.into_error("guest attributes")),
        };
        let published = published(attributes);
        let key = published.as_deref().and_then(host_key);
        if published.is_some() && key.is_none() {
            tracing::warn!(standby.name = %standby.name, "the machine published something that is no ed25519 host key");
        }
        Ok(key)
    }
}

/// `None` only when Google says that this very thing was not found: it says the same of a project or zone that does not exist, and then
/// nothing is known about what is in it.
fn found<T>(answer: Result<T, Refusal>, name: &str) -> Result<Option<T>, ProviderError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(refusal) if refusal.kind == Kind::NotFound && refusal.words.contains(&format!("/{name}'")) => Ok(None),
        Err(refusal) if refusal.kind == Kind::NotFound => Err(ProviderError::Invalid {
            detail: format!("{}; check the project and the zone of {name}", refusal.words),
        }),
        Err(refusal) => Err(refusal.into_error(name)),
    }
}

fn published(attributes: GuestAttributes) -> Option<String> {
    let mut items = attributes.query_value.items.into_iter();
    let listed = items.find(|item| item.key == HOST_KEY_KIND).map(|item| item.value);
    listed.or(attributes.variable_value)
}

/// The key as OpenSSH writes it, when what the machine published is one. The machine wrote it, so it is parsed like anything from outside.
fn host_key(published: &str) -> Option<String> {
    let base64 = published.trim();
    let base64 = base64.strip_prefix(HOST_KEY_KIND).map_or(base64, str::trim);
    let is_base64 = base64
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='));
    // 68 characters: 51 bytes.
    (is_base64 && base64.len() == 68 && base64.starts_with(ED25519_PREFIX)).then(|| format!("{HOST_KEY_KIND} {base64}"))
}

fn power(status: &str) -> Option<Power> {
    match status {
        "PENDING" | "PROVISIONING" | "STAGING" | "REPAIRING" => Some(Power::Coming),
        "RUNNING" => Some(Power::On),
        "PENDING_STOP" | "STOPPING" | "SUSPENDING" | "DEPROVISIONING" => Some(Power::Going),
        "TERMINATED" | "STOPPED" | "SUSPENDED" => Some(Power::Off),
        _ => None,
    }
}

impl Instance {
    /// Whether it runs or is on its way up.
    pub(super) fn is_up(&self) -> bool {
        matches!(power(&self.status), Some(Power::Coming | Power::On))
    }

    /// Whether it is down or on its way there.
    pub(super) fn is_down(&self) -> bool {
        matches!(power(&self.status), Some(Power::Going | Power::Off))
    }

    /// Whether it is down.
    pub(super) fn is_off(&self) -> bool {
        matches!(power(&self.status), Some(Power::Off))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIPFcwMTcLFUmrdoEIUS2tYyYQ0LbG+37JFcSUeb5A2h2";

    #[test]
    fn every_status_of_the_schema_is_understood() {
        let schema = [
            ("PENDING", Power::Coming),
            ("PROVISIONING", Power::Coming),
            ("STAGING", Power::Coming),
            ("REPAIRING", Power::Coming),
            ("RUNNING", Power::On),
            ("PENDING_STOP", Power::Going),
            ("STOPPING", Power::Going),
            ("SUSPENDING", Power::Going),
            ("DEPROVISIONING", Power::Going),
            ("TERMINATED", Power::Off),
            ("STOPPED", Power::Off),
            ("SUSPENDED", Power::Off),
        ];
        for (status, expected) in schema {
            assert_eq!(power(status), Some(expected), "{status}");
        }
        assert_eq!(power("MELTING"), None);
    }

    #[test]
    fn only_an_ed25519_key_is_pinned() {
        assert_eq!(host_key(&format!("{KEY}\n")), Some(format!("ssh-ed25519 {KEY}")));
        assert_eq!(
            host_key(&format!("ssh-ed25519 {KEY}")),
            Some(format!("ssh-ed25519 {KEY}"))
        );
        for wrong in [
            "",
            "AAAAB3NzaC1yc2EAAAADAQABAAABgQC7",
            &KEY[..60],
            &format!("{KEY} x"),
            &KEY.replace('P', "\n"),
        ] {
            assert_eq!(host_key(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn both_forms_of_guest_attributes_are_read() {
        let read = |text: &str| published(serde_json::from_str(text).unwrap());
        let list = r#"{"queryPath":"hostkeys/","queryValue":{"items":[{"namespace":"hostkeys","key":"ssh-rsa","value":"r"},
            {"namespace":"hostkeys","key":"ssh-ed25519","value":"e"}]}}"#;
        assert_eq!(read(list).as_deref(), Some("e"));
        assert_eq!(
            read(r#"{"variableKey":"hostkeys/ssh-ed25519","variableValue":"e"}"#).as_deref(),
            Some("e")
        );
        assert_eq!(read("{}"), None);
    }
}
