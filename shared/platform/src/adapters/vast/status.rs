//! What a row of Vast's list says about a GPU: `reference/vast/vast-api.md` §12, read 2026-10.

use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::{GpuSeen, PauseCause, SshHost};
use warmspare_domain::units::Timestamp;

use super::SshPreference;
use super::wire::{Instance, as_number, as_port, dollars, whole};
use crate::ports::GpuRow;

/// The row in our words; `None` when not even its id can be read.
pub(super) fn row(instance: &Instance, prefer: SshPreference, now: Timestamp) -> Option<GpuRow> {
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    Some(GpuRow {
        id: GpuId::vast(instance.id?),
        seen: seen(instance, prefer, now),
        label: text(&instance.label),
        model: text(&instance.gpu_name),
        gpu_count: whole(instance.num_gpus),
        geolocation: text(&instance.geolocation),
        disk_gb: whole(instance.disk_space),
        image: text(&instance.image_uuid),
        price_per_hour: dollars(instance.dph_total),
        upload_price_per_gb: dollars(instance.inet_up_cost),
        interruptible: instance.is_bid == Some(true),
    })
}

/// What the row says. It cannot know about the account's credit, so it never says [`PauseCause::OutOfCredit`].
pub(super) fn seen(instance: &Instance, prefer: SshPreference, now: Timestamp) -> GpuSeen {
    match instance.actual_status.as_deref() {
        Some("running") => ssh_host(instance, prefer).map_or(GpuSeen::Starting, GpuSeen::Running),
        // `frozen` is a container whose processes are suspended: nobody answers, the disk stays, an order brings it back.
        Some("exited" | "stopped" | "frozen") => {
            if is_meant_to_run(instance) {
                // Vast is restarting it: after a crash, or because the GPU became free again.
                GpuSeen::Starting
            } else {
                GpuSeen::Paused(pause_cause(instance, now))
            }
        }
        Some("offline" | "unknown") => GpuSeen::Dark,
        // A fresh instance can read `stopped` in one of these for a moment; only all three together mean it.
        None | Some("created" | "loading") => {
            let stopped = |field: &Option<String>| field.as_deref() == Some("stopped");
            if [&instance.intended_status, &instance.cur_state, &instance.next_state]
                .into_iter()
                .all(stopped)
            {
                GpuSeen::Paused(pause_cause(instance, now))
            } else {
                GpuSeen::Starting
            }
        }
        Some("rebooting" | "recycling") => GpuSeen::Starting,
        // A word that Vast invents tomorrow is no evidence of a loss, and a loss may spend money.
        Some(word) => {
            tracing::warn!(gpu.id = instance.id, error = %crate::adapters::http::words(word), "Vast reports a state that we do not know");
            GpuSeen::Starting
        }
    }
}

fn is_meant_to_run(instance: &Instance) -> bool {
    let meant = [&instance.intended_status, &instance.next_state, &instance.cur_state];
    meant.into_iter().flatten().next().is_some_and(|word| word == "running")
}

fn pause_cause(instance: &Instance, now: Timestamp) -> PauseCause {
    #[expect(clippy::cast_possible_truncation, reason = "a saturating cast of a date")]
    let ended = instance
        .end_date
        .is_some_and(|end| (end * 1000.0) as i64 <= now.as_millis());
    if ended {
        PauseCause::ContractEnded
    } else {
        PauseCause::OutbidOrStopped
    }
}

fn ssh_host(instance: &Instance, prefer: SshPreference) -> Option<SshHost> {
    match prefer {
        SshPreference::Direct => direct(instance).or_else(|| proxy(instance)),
        SshPreference::Proxy => proxy(instance).or_else(|| direct(instance)),
    }
}

pub(super) fn direct(instance: &Instance) -> Option<SshHost> {
    let port = as_number(&instance.ports["22/tcp"][0]["HostPort"]).and_then(as_port)?;
    let address = instance.public_ipaddr.clone()?;
    Some(SshHost { address, port })
}

/// As listed: the `+1` that Vast's command adds for Jupyter images is wrong (vast-cli issue #79).
fn proxy(instance: &Instance) -> Option<SshHost> {
    let port = instance.ssh_port.and_then(as_port)?;
    let address = instance.ssh_host.clone()?;
    Some(SshHost { address, port })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_787_722_703_000);
    const PAUSED: GpuSeen = GpuSeen::Paused(PauseCause::OutbidOrStopped);

    fn instance(row: Value) -> Instance {
        serde_json::from_value(row).unwrap()
    }

    fn state(actual: Value, intended: Value, cur: Value, next: Value) -> Value {
        json!({"id": 5, "actual_status": actual, "intended_status": intended, "cur_state": cur, "next_state": next,
            "status_msg": "success, running x/ssh", "ssh_host": "ssh7.vast.ai", "ssh_port": 37044, "end_date": 1_795_527_795.4,
            "public_ipaddr": "140.228.20.111 \n", "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "37708"}]}})
    }

    fn at(address: &str, port: u16) -> GpuSeen {
        GpuSeen::Running(SshHost {
            address: address.into(),
            port,
        })
    }

    #[test]
    fn every_situation_of_the_reference_is_told_apart() {
        let running = || at("140.228.20.111", 37708);
        let (run, stop, null) = (json!("running"), json!("stopped"), Value::Null);
        let rows = [
            (
                "provisioning",
                null.clone(),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            (
                "created",
                json!("created"),
                run.clone(),
                stop.clone(),
                stop.clone(),
                GpuSeen::Starting,
            ),
            (
                "loading, race",
                json!("loading"),
                stop.clone(),
                stop.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            ("healthy", run.clone(), run.clone(), run.clone(), run.clone(), running()),
            (
                "outbid, not yet stopped",
                run.clone(),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                running(),
            ),
            (
                "outbid or user stop",
                json!("exited"),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                PAUSED,
            ),
            (
                "stopped",
                json!("stopped"),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                PAUSED,
            ),
            (
                "start queued",
                json!("exited"),
                run.clone(),
                stop.clone(),
                stop.clone(),
                GpuSeen::Starting,
            ),
            (
                "bid below floor",
                null.clone(),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                PAUSED,
            ),
            (
                "bad image",
                json!("loading"),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                PAUSED,
            ),
            (
                "crash",
                json!("exited"),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            (
                "host offline",
                json!("offline"),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Dark,
            ),
            (
                "host offline, stopped",
                json!("unknown"),
                stop.clone(),
                stop.clone(),
                stop.clone(),
                GpuSeen::Dark,
            ),
            (
                "frozen",
                json!("frozen"),
                json!("frozen"),
                run.clone(),
                run.clone(),
                PAUSED,
            ),
            (
                "rebooting",
                json!("rebooting"),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            (
                "recycling",
                json!("recycling"),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            (
                "a new word",
                json!("migrating"),
                run.clone(),
                run.clone(),
                run.clone(),
                GpuSeen::Starting,
            ),
            (
                "exited, all else null",
                json!("exited"),
                null.clone(),
                null.clone(),
                null.clone(),
                PAUSED,
            ),
        ];
        for (name, actual, intended, cur, next, expected) in rows {
            let row = instance(state(actual, intended, cur, next));
            assert_eq!(seen(&row, SshPreference::Direct, NOW), expected, "{name}");
        }
    }

    #[test]
    fn a_contract_whose_end_has_passed_says_so() {
        let mut row = state(json!("exited"), json!("stopped"), json!("stopped"), json!("stopped"));
        row["end_date"] = json!("1787722702.9");
        assert_eq!(
            seen(&instance(row), SshPreference::Direct, NOW),
            GpuSeen::Paused(PauseCause::ContractEnded)
        );
    }

    #[test]
    fn ssh_goes_direct_when_it_can_and_through_the_proxy_otherwise() {
        let healthy = || state(json!("running"), json!("running"), json!("running"), json!("running"));
        let look = |row: Value, prefer| seen(&instance(row), prefer, NOW);
        assert_eq!(look(healthy(), SshPreference::Proxy), at("ssh7.vast.ai", 37044));
        for ports in [
            Value::Null,
            json!({}),
            json!({"22/tcp": []}),
            json!({"22/tcp": null}),
            json!("?"),
            json!({"22/tcp": [{"HostPort": "0"}]}),
        ] {
            let mut row = healthy();
            row["ports"] = ports.clone();
            row["image_runtype"] = json!("jupyter_proxy ssh_proxy");
            assert_eq!(
                look(row.clone(), SshPreference::Direct),
                at("ssh7.vast.ai", 37044),
                "{ports}"
            );
            row["ssh_port"] = json!("37044");
            assert_eq!(
                look(row.clone(), SshPreference::Direct),
                at("ssh7.vast.ai", 37044),
                "{ports}"
            );
            row["ssh_port"] = Value::Null;
            assert_eq!(look(row, SshPreference::Direct), GpuSeen::Starting, "{ports}");
        }
    }

    #[test]
    fn a_row_with_odd_fields_is_read_as_far_as_it_goes() {
        let odd = json!({"id": "36717044", "actual_status": {"x": 1}, "label": null, "num_gpus": "2", "dph_total": "0.209",
            "disk_space": 40.2, "is_bid": 1, "inet_up_cost": null, "gpu_name": " RTX 4090", "unheard_of": [1]});
        let read = row(&instance(odd), SshPreference::Direct, NOW).unwrap();
        assert_eq!(
            (read.id, read.gpu_count, read.disk_gb),
            (GpuId::vast(36_717_044), 2, 41)
        );
        assert_eq!((read.price_per_hour.0, read.upload_price_per_gb.0), (209_000, 0));
        assert!(
            read.interruptible && read.seen == GpuSeen::Starting && read.model == "RTX 4090" && read.label.is_empty()
        );
        assert!(row(&instance(json!({"id": null})), SshPreference::Direct, NOW).is_none());
    }
}
