//! One rented GPU as Vast records and shows it.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::offers::Offer;
use crate::machine::Machine;
use crate::world::now;

/// One contract.
#[derive(Debug)]
pub(crate) struct Instance {
    pub(crate) id: u64,
    pub(crate) offer: Offer,
    pub(crate) label: Option<String>,
    /// The bid in dollars per hour; `None` is on demand.
    pub(crate) bid: Option<f64>,
    /// The lowest bid that keeps the GPU now.
    pub(crate) floor: f64,
    pub(crate) image: String,
    pub(crate) runtype: String,
    pub(crate) onstart: Option<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) disk: f64,
    pub(crate) actual: Option<&'static str>,
    pub(crate) intended: &'static str,
    pub(crate) contract: &'static str,
    pub(crate) status_msg: Option<String>,
    pub(crate) ports_listed: bool,
    pub(crate) address: SocketAddr,
    pub(crate) machine: Arc<Machine>,
    pub(crate) keys: Vec<InstanceKey>,
    pub(crate) created_at: f64,
    pub(crate) started_at: Option<f64>,
    pub(crate) end_date: f64,
    /// Counts commands: a delayed step of an older command does nothing.
    pub(crate) change: u64,
    /// Whether another tenant has the GPU.
    pub(crate) taken: bool,
    /// Whether a start waits for the GPU to become free.
    pub(crate) queued: bool,
    /// Whether every start is refused.
    pub(crate) start_refused: bool,
    /// What Vast shows in place of the recorded status when it does not hear from the host.
    pub(crate) heard: Option<&'static str>,
    /// Whether listings leave the row out although it exists.
    pub(crate) hidden: bool,
    /// Whether `instance_started` was sent: it comes once per rental.
    pub(crate) start_announced: bool,
}

/// A key that may log in to one instance.
#[derive(Debug, Clone)]
pub(crate) struct InstanceKey {
    pub(crate) id: u64,
    pub(crate) text: String,
    /// Whether it has reached the container.
    pub(crate) works: bool,
}

impl Instance {
    /// Dollars per hour while running, storage included.
    pub(crate) fn hourly(&self) -> f64 {
        self.base() + self.storage_hourly()
    }

    fn base(&self) -> f64 {
        self.bid.unwrap_or(self.offer.price)
    }

    pub(crate) fn storage_hourly(&self) -> f64 {
        self.offer.storage_cost * self.disk / 720.0
    }

    /// What it costs per hour right now.
    pub(crate) fn billed_hourly(&self) -> f64 {
        match (self.heard, self.actual) {
            (Some("offline"), _) => 0.0,
            (_, Some("running")) => self.hourly(),
            _ => self.storage_hourly(),
        }
    }

    pub(crate) fn is_expired(&self) -> bool {
        self.end_date <= now()
    }

    pub(crate) fn usable_keys(&self) -> Vec<String> {
        self.keys
            .iter()
            .filter(|key| key.works)
            .map(|key| key.text.clone())
            .collect()
    }

    /// The row as the listing and the single view show it.
    pub(crate) fn row(&self) -> Value {
        let mut row = self.machine_columns();
        for columns in [self.state_columns(), self.network_columns(), self.price_columns()] {
            if let (Value::Object(row), Value::Object(columns)) = (&mut row, columns) {
                row.extend(columns);
            }
        }
        row
    }

    fn state_columns(&self) -> Value {
        let uptime = self.started_at.map(|at| ((now() - at) / 60.0).max(0.0));
        json!({
            "id": self.id, "label": self.label, "actual_status": self.heard.or(self.actual),
            "intended_status": self.intended, "cur_state": self.contract, "next_state": self.contract,
            "status_msg": self.status_msg, "image_uuid": self.image, "image_runtype": self.runtype, "image_args": [],
            "extra_env": self.env, "onstart": self.onstart, "jupyter_token": "", "start_date": self.created_at,
            "end_date": self.end_date, "duration": (self.end_date - now()).max(0.0), "uptime_mins": uptime,
            "template_id": null, "template_hash_id": null, "template_name": null, "volume_info": [],
            "disk_space": self.disk, "disk_usage": 0.2, "disk_util": -1, "credit_discount": null,
        })
    }

    fn network_columns(&self) -> Value {
        let port = self.address.port();
        let ports = if self.ports_listed {
            json!({"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": port.to_string()}, {"HostIp": "::", "HostPort": port.to_string()}]})
        } else {
            // The real service sends null or {}; null crashes Vast's own `ssh-url` (vast-api.md §14).
            json!({})
        };
        let known = self.actual.is_some();
        json!({
            "ssh_host": self.address.ip().to_string(), "ssh_port": port, "ssh_idx": "7",
            // Shows before the ports do, with trailing white space now and then (vast-api.md §3).
            "public_ipaddr": known.then(|| format!("{}\n", self.address.ip())),
            "local_ipaddrs": "192.168.1.5\n", "machine_dir_ssh_port": 37700, "ports": ports,
            "direct_port_start": if self.ports_listed { i64::from(port) } else { -1 },
            "direct_port_end": if self.ports_listed { i64::from(port) + 2 } else { -1 },
            "direct_port_count": self.offer.direct_ports, "static_ip": self.offer.static_ip,
        })
    }

    fn price_columns(&self) -> Value {
        json!({
            "is_bid": self.bid.is_some(), "min_bid": self.floor.max(self.bid.unwrap_or(0.0) * 1.2),
            "dph_base": self.base(), "dph_total": self.hourly(), "storage_cost": self.offer.storage_cost,
            "storage_total_cost": self.storage_hourly(), "inet_up_cost": 0.003, "inet_down_cost": 0.003,
            "inet_up": self.offer.inet, "inet_down": self.offer.inet,
        })
    }

    fn machine_columns(&self) -> Value {
        let running = self.actual == Some("running");
        json!({
            "machine_id": self.offer.machine_id, "host_id": self.offer.host_id, "gpu_name": self.offer.gpu_name,
            "num_gpus": self.offer.num_gpus, "gpu_ram": self.offer.gpu_ram, "gpu_totalram": self.offer.gpu_ram,
            "gpu_util": running.then_some(0.0), "gpu_temp": running.then_some(41.0), "gpu_arch": "nvidia", "gpu_frac": 1.0,
            "cpu_name": "AMD EPYC", "cpu_cores": 64, "cpu_cores_effective": 16.0, "cpu_ram": self.offer.cpu_ram,
            "cpu_util": 0.0, "cpu_arch": "amd64", "mem_limit": null, "mem_usage": null,
            "geolocation": self.offer.geolocation, "country_code": self.offer.country(),
            "reliability2": self.offer.reliability, "verification": self.offer.verification,
            "hosting_type": self.offer.hosting_type, "cuda_max_good": 12.8, "driver_version": "560.35.03",
            "resource_type": "gpu", "a_field_of_tomorrow": {"nested": [1, null]},
        })
    }
}
