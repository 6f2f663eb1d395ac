//! The adapter against a small Compute Engine of our own, and every request of it against Google's schema.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use serde_json::{Value, json};
use warmspare_domain::association::Association;
use warmspare_domain::ids::{GpuId, StandbyName};
use warmspare_domain::observed::{Endpoint, Observed, StandbySeen};
use warmspare_domain::policy::{Failover, Policy, Provisioning, StandbyProvider, SupersededGpu, WhenDeletedAtVast};
use warmspare_domain::units::{Seconds, Timestamp};

use super::*;
use crate::adapters::fake_server::{FakeServer, Recorded, Reply};
use crate::adapters::google::StaticToken;
use crate::adapters::published_schema;
use crate::contract::warrant;
use crate::ports::LabelledKind;

const TOKEN: &str = "ya29.a-token-for-tests";
const HOST_KEY: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIPFcwMTcLFUmrdoEIUS2tYyYQ0LbG+37JFcSUeb5A2h2";
const NAME: &str = "ws-test-vast-5-1";

/// A Compute Engine of one zone, whose operations end at the second look.
#[derive(Default)]
struct Cloud {
    instances: BTreeMap<String, Value>,
    disks: BTreeMap<String, Value>,
    operations: BTreeMap<String, Value>,
    by_request: BTreeMap<String, String>,
    host_key: Option<&'static str>,
    /// The error of every operation that starts from now on.
    failure: Option<Value>,
    /// Whether an operation that fails makes its machine nevertheless.
    fails_after_landing: bool,
    operations_never_end: bool,
    /// Answers that the next calls that change something get *after* the work was done.
    lost: Vec<Reply>,
    /// Answers that the next calls get instead.
    refusals: Vec<Reply>,
}

impl Cloud {
    fn answer(&mut self, request: &Recorded) -> Reply {
        if !self.refusals.is_empty() {
            return self.refusals.remove(0);
        }
        let changes = request.method != "GET";
        let reply = self.route(request);
        if changes && !self.lost.is_empty() {
            self.lost.remove(0)
        } else {
            reply
        }
    }

    fn route(&mut self, request: &Recorded) -> Reply {
        let path = request
            .path
            .strip_prefix("/compute/v1/projects/p-1/zones/us-central1-a/")
            .unwrap_or(&request.path);
        let parts: Vec<&str> = path.split('/').collect();
        let known = self.by_request.get(request.query("requestId")).cloned();
        match (request.method.as_str(), parts.as_slice()) {
            ("GET", ["instances", name]) => found(self.instances.get(*name), &format!("instances/{name}")),
            ("GET", ["disks", name]) => found(self.disks.get(*name), &format!("disks/{name}")),
            ("GET", ["operations", name]) => self.poll(name),
            ("GET", ["instances", _, "getGuestAttributes"]) => match self.host_key {
                Some(key) => Reply::Json(
                    200,
                    json!({"queryPath": "hostkeys/", "queryValue": {"items": [{"namespace": "hostkeys", "key": "ssh-ed25519", "value": key}]}}),
                ),
                None => missing("guestAttributes"),
            },
            ("POST" | "DELETE", _) if known.is_some() => self.show(&known.unwrap_or_default()),
            ("POST", ["instances"]) => self.insert(request),
            ("POST" | "DELETE", ["instances" | "disks", name, ..]) => self.change(request, name, parts.get(2).copied()),
            _ => missing("nothing"),
        }
    }

    fn insert(&mut self, request: &Recorded) -> Reply {
        let body = request.body.clone().unwrap();
        let name = body["name"].as_str().unwrap().to_owned();
        if self.instances.contains_key(&name) {
            return refusal(409, "alreadyExists", "exists");
        }
        if self.failure.is_none() || self.fails_after_landing {
            self.instances
                .insert(name.clone(), instance(&body["labels"], "RUNNING"));
            self.disks.insert(
                format!("{name}-data"),
                json!({"name": format!("{name}-data"), "labels": body["labels"], "users": [name]}),
            );
        }
        self.begin(request)
    }

    fn change(&mut self, request: &Recorded, name: &str, verb: Option<&str>) -> Reply {
        let things = if request.path.contains("/disks/") {
            &mut self.disks
        } else {
            &mut self.instances
        };
        let Some(thing) = things.get_mut(name) else {
            return missing(name);
        };
        match (self.failure.is_some(), request.method.as_str(), verb) {
            (true, _, _) => {}
            (false, "DELETE", _) => drop(things.remove(name)),
            (false, _, Some("start")) => thing["status"] = json!("STAGING"),
            (false, _, Some("stop")) => thing["status"] = json!("STOPPING"),
            (false, _, Some("resize")) => {
                thing["sizeGb"] = request.body.as_ref().unwrap()["sizeGb"].clone();
            }
            (false, _, Some("setDiskAutoDelete")) => thing["disks"][1]["autoDelete"] = json!(false),
            (false, _, _) => {}
        }
        self.begin(request)
    }

    fn begin(&mut self, request: &Recorded) -> Reply {
        let name = format!("operation-{}", self.operations.len());
        self.operations.insert(
            name.clone(),
            json!({"name": name, "status": "RUNNING", "failure": self.failure}),
        );
        self.by_request
            .insert(request.query("requestId").to_owned(), name.clone());
        self.show(&name)
    }

    fn poll(&mut self, name: &str) -> Reply {
        if let Some(operation) = self.operations.get_mut(name).filter(|_| !self.operations_never_end) {
            operation["status"] = json!("DONE");
            if !operation["failure"].is_null() {
                operation["error"] = json!({"errors": [operation["failure"]]});
            }
        }
        self.show(name)
    }

    fn show(&self, name: &str) -> Reply {
        found(self.operations.get(name), &format!("operations/{name}"))
    }
}

fn found(thing: Option<&Value>, path: &str) -> Reply {
    thing.map_or_else(|| missing(path), |thing| Reply::Json(200, thing.clone()))
}

fn missing(path: &str) -> Reply {
    let message = format!("The resource 'projects/p-1/zones/us-central1-a/{path}' was not found");
    refusal(404, "notFound", &message)
}

fn refusal(status: u16, reason: &str, message: &str) -> Reply {
    Reply::Json(
        status,
        json!({"error": {"code": status, "message": message, "errors": [{"reason": reason, "message": message}]}}),
    )
}

fn labels(attempt: &str) -> Value {
    json!({"managed-by": "warmspare", "warmspare-deployment": "test", "warmspare-association": "vast-5",
        "warmspare-attempt": attempt, "warmspare-gpu": "vast-5"})
}

fn instance(labels: &Value, status: &str) -> Value {
    let link = "https://www.googleapis.com/compute/v1/projects/p-1/zones/us-central1-a/disks";
    json!({"id": "6142870129347", "name": NAME, "status": status, "labels": labels,
        "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "203.0.113.9"}]}],
        "disks": [{"boot": true, "autoDelete": true, "deviceName": "boot", "source": format!("{link}/{NAME}")},
            {"boot": false, "autoDelete": false, "deviceName": "data", "source": format!("{link}/{NAME}-data")}]})
}

struct Stand {
    cloud: Arc<Mutex<Cloud>>,
    server: FakeServer,
    engine: ComputeEngine,
    association: Association,
    standby: StandbyRef,
}

impl Stand {
    async fn new() -> Self {
        Self::with(Cloud::default()).await
    }

    async fn with(cloud: Cloud) -> Self {
        let cloud = Arc::new(Mutex::new(cloud));
        let inner = Arc::clone(&cloud);
        let server = FakeServer::start(move |request| inner.lock().unwrap().answer(request)).await;
        let engine = engine(&server);
        let association = association();
        let standby = StandbyRef {
            provider: StandbyProvider::Gcp,
            name: StandbyName::new(&association.deployment, association.id, 1),
            zone: association.standby.zone.clone(),
        };
        assert_eq!(standby.name.as_str(), NAME);
        Self {
            cloud,
            server,
            engine,
            association,
            standby,
        }
    }

    async fn create(&self) -> Result<(), ProviderError> {
        self.engine
            .create(&self.association, &self.standby, &self.association.policy.machine)
            .await
    }

    fn cloud(&self) -> std::sync::MutexGuard<'_, Cloud> {
        self.cloud.lock().unwrap()
    }

    fn inserts(&self) -> Vec<Recorded> {
        let seen = self.server.seen().into_iter();
        seen.filter(|request| request.method == "POST" && request.path.ends_with("/instances"))
            .collect()
    }

    fn changes(&self) -> Vec<String> {
        let seen = self.server.calls().into_iter().filter(|call| !call.starts_with("GET "));
        seen.map(|call| call.replace("/compute/v1/projects/p-1/zones/us-central1-a/", ""))
            .collect()
    }
}

fn engine(server: &FakeServer) -> ComputeEngine {
    let mut settings = ComputeSettings::new(
        "p-1".into(),
        "test".parse().unwrap(),
        "ssh-ed25519 AAAA operator".into(),
    );
    settings.base_url.clone_from(&server.url);
    settings.startup_script = Some("#!/bin/sh\nexit 0\n".into());
    settings.poll_every = Duration::from_millis(5);
    settings.operation_wait = Duration::from_millis(500);
    settings.call_limit = Duration::from_secs(5);
    ComputeEngine::new(settings, Arc::new(StaticToken::new(SecretString::from(TOKEN)))).unwrap()
}

fn association() -> Association {
    let policy = Policy {
        source_path: "/workspace".into(),
        excludes: Vec::new(),
        includes: Vec::new(),
        first: Vec::new(),
        before_pass: String::new(),
        lag_objective: Policy::DEFAULT_LAG_OBJECTIVE,
        max_deleted_percent: 50,
        machine: MachineSpec {
            provider: StandbyProvider::Gcp,
            machine_type: "e2-medium".into(),
            disk_gb: 100,
            disk_type: "pd-standard".into(),
            provisioning: Provisioning::Spot,
            zones: vec!["us-central1-a".parse().unwrap()],
        },
        max_disk_gb: Policy::DEFAULT_MAX_DISK_GB,
        bandwidth_kib_per_s: 0,
        retention: Policy::DEFAULT_RETENTION,
        stop_standby_after: Seconds(3600),
        when_deleted_at_vast: WhenDeletedAtVast::Hold,
        failover: Failover::Manual,
        superseded: SupersededGpu::Keep,
    };
    Association::new(
        "test".parse().unwrap(),
        GpuId::vast(5),
        policy,
        Timestamp::from_millis(0),
    )
}

#[tokio::test]
async fn an_order_makes_one_machine_whose_data_disk_outlives_it() {
    let stand = Stand::new().await;
    stand.create().await.unwrap();
    let inserts = stand.inserts();
    let body = inserts[0].body.as_ref().unwrap();
    assert_eq!(
        (&body["disks"][0]["autoDelete"], &body["disks"][1]["autoDelete"]),
        (&json!(true), &json!(false))
    );
    assert_eq!(body["disks"][1]["initializeParams"]["diskName"], format!("{NAME}-data"));
    for labelled in [
        body,
        &body["disks"][0]["initializeParams"],
        &body["disks"][1]["initializeParams"],
    ] {
        assert_eq!(labelled["labels"], labels("1"));
    }
    assert_eq!(body["scheduling"]["provisioningModel"], "SPOT");
    let metadata = body["metadata"]["items"].as_array().unwrap();
    assert!(metadata.contains(&json!({"key": "ssh-keys", "value": "warmspare:ssh-ed25519 AAAA operator"})));
    assert!(
        stand
            .server
            .seen()
            .iter()
            .all(|request| request.authorization == format!("Bearer {TOKEN}"))
    );

    stand.create().await.unwrap();
    assert_eq!(stand.inserts().len(), 1, "an order that landed was ordered again");
}

#[tokio::test]
async fn an_order_whose_answer_was_lost_goes_out_again_under_the_same_id() {
    let stand = Stand::with(Cloud {
        lost: vec![Reply::Text(502, "Bad Gateway".into())],
        ..Cloud::default()
    })
    .await;
    stand.create().await.unwrap();
    let ids: Vec<String> = stand
        .inserts()
        .iter()
        .map(|request| request.query("requestId").to_owned())
        .collect();
    assert!(ids.len() == 2 && ids[0] == ids[1] && !ids[0].is_empty(), "{ids:?}");
    assert_eq!(stand.cloud().instances.len(), 1);
}

#[tokio::test]
async fn a_server_that_stays_silent_leaves_the_outcome_unknown_and_the_next_call_finds_the_machine() {
    let silent = vec![Reply::Text(502, String::new()), Reply::Text(503, String::new())];
    let stand = Stand::with(Cloud {
        lost: silent,
        ..Cloud::default()
    })
    .await;
    let error = stand.create().await.unwrap_err();
    assert!(!error.certainly_did_not_happen(), "{error}");
    stand.create().await.unwrap();
    assert_eq!(stand.inserts().len(), 2, "the machine was there already");
}

#[tokio::test]
async fn an_accepted_order_that_fails_later_says_why() {
    for (code, expected) in [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", "no capacity"),
        ("QUOTA_EXCEEDED", "quota"),
    ] {
        let stand = Stand::with(Cloud {
            failure: Some(json!({"code": code, "message": "x"})),
            ..Cloud::default()
        })
        .await;
        let error = stand.create().await.unwrap_err();
        assert!(
            error.to_string().contains(expected) && error.certainly_did_not_happen(),
            "{code}: {error}"
        );
    }
    // Taken back while it booted: it exists, stopped, and holds its disk.
    let preempted = Cloud {
        failure: Some(json!({"code": "PREEMPTED", "message": "x"})),
        fails_after_landing: true,
        ..Cloud::default()
    };
    Stand::with(preempted).await.create().await.unwrap();
}

#[tokio::test]
async fn the_id_of_an_order_that_failed_is_not_used_for_a_new_one() {
    let stand = Stand::with(Cloud {
        failure: Some(json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "x"})),
        ..Cloud::default()
    })
    .await;
    stand.create().await.unwrap_err();
    stand.cloud().failure = None;
    stand.create().await.unwrap();
    assert_eq!(
        stand.cloud().instances.len(),
        1,
        "the provider ignored an order under a used id"
    );

    // The same when the earlier order succeeded and its machine was deleted since.
    stand.cloud().instances.clear();
    stand.cloud().disks.clear();
    stand.create().await.unwrap();
    assert_eq!(stand.cloud().instances.len(), 1);
}

#[tokio::test]
async fn an_order_that_takes_long_counts_as_taken() {
    let stand = Stand::with(Cloud {
        operations_never_end: true,
        ..Cloud::default()
    })
    .await;
    stand.create().await.unwrap();
}

#[tokio::test]
async fn what_carries_our_name_but_not_our_labels_is_left_alone() {
    let stand = Stand::new().await;
    stand
        .cloud()
        .instances
        .insert(NAME.into(), instance(&json!({"team": "research"}), "RUNNING"));
    stand
        .cloud()
        .disks
        .insert(format!("{NAME}-data"), json!({"name": format!("{NAME}-data")}));
    let engine = &stand.engine;
    let refused = |outcome: Result<(), ProviderError>| matches!(outcome, Err(ProviderError::NameTaken { .. }));
    assert!(refused(stand.create().await));
    assert!(refused(engine.look(&stand.standby).await.map(drop)));
    assert!(refused(engine.start(&stand.standby).await));
    assert!(refused(engine.stop(&stand.standby).await));
    assert!(refused(engine.delete(&stand.standby, warrant()).await.map(drop)));
    assert!(refused(engine.delete_disk(&stand.standby, warrant()).await.map(drop)));
    assert_eq!(stand.changes(), Vec::<String>::new());
}

#[tokio::test]
async fn an_old_disk_is_attached_only_when_it_is_of_the_same_attempt() {
    let stand = Stand::new().await;
    let disk = |labels: Value, users: Value| json!({"name": format!("{NAME}-data"), "labels": labels, "users": users});
    let put = |row: Value| stand.cloud().disks.insert(format!("{NAME}-data"), row);
    put(disk(labels("2"), json!([])));
    assert!(matches!(stand.create().await, Err(ProviderError::NameTaken { .. })));
    put(disk(
        labels("1"),
        json!(["projects/p-1/zones/us-central1-a/instances/other"]),
    ));
    assert!(matches!(stand.create().await, Err(ProviderError::NotReady { .. })));
    assert!(stand.inserts().is_empty());
    put(disk(labels("1"), json!([])));
    stand.create().await.unwrap();
    let inserts = stand.inserts();
    let data = &inserts[0].body.as_ref().unwrap()["disks"][1];
    assert_eq!(
        data["source"],
        format!("projects/p-1/zones/us-central1-a/disks/{NAME}-data")
    );
    assert_eq!(
        (&data["autoDelete"], data.get("initializeParams")),
        (&json!(false), None)
    );
}

#[tokio::test]
async fn a_name_in_use_is_ours_or_not_ready_or_taken() {
    let conflict = || {
        vec![
            missing(&format!("instances/{NAME}")),
            missing(&format!("disks/{NAME}-data")),
            refusal(409, "alreadyExists", "exists"),
        ]
    };
    let stand = Stand::with(Cloud {
        refusals: conflict(),
        ..Cloud::default()
    })
    .await;
    assert!(matches!(stand.create().await, Err(ProviderError::NotReady { .. })));
    stand
        .cloud()
        .instances
        .insert(NAME.into(), instance(&labels("1"), "STAGING"));
    stand.cloud().refusals = conflict();
    stand.create().await.unwrap();
    stand
        .cloud()
        .instances
        .insert(NAME.into(), instance(&labels("2"), "STAGING"));
    stand.cloud().refusals = conflict();
    assert!(matches!(stand.create().await, Err(ProviderError::NameTaken { .. })));
}

#[tokio::test]
async fn a_look_tells_what_is_there() {
    let stand = Stand::new().await;
    let look = async || stand.engine.look(&stand.standby).await.unwrap();
    let nothing = look().await;
    assert_eq!((nothing.machine, nothing.disk), (Observed::Absent, Observed::Absent));
    stand.create().await.unwrap();
    let booting = look().await;
    assert_eq!(
        (booting.machine, booting.disk),
        (Observed::Present(StandbySeen::Booting), Observed::Unknown)
    );
    stand.cloud().host_key = Some(HOST_KEY);
    let endpoint = Endpoint {
        provider: StandbyProvider::Gcp,
        instance: 6_142_870_129_347,
        address: "203.0.113.9".into(),
        port: 22,
        host_key: format!("ssh-ed25519 {HOST_KEY}"),
    };
    assert_eq!(look().await.machine, Observed::Present(StandbySeen::Running(endpoint)));
    stand.cloud().instances.get_mut(NAME).unwrap()["status"] = json!("TERMINATED");
    assert_eq!(look().await.machine, Observed::Present(StandbySeen::Stopped));
    stand.cloud().instances.clear();
    let bare = look().await;
    assert_eq!((bare.machine, bare.disk), (Observed::Absent, Observed::Present(())));
}

#[tokio::test]
async fn an_answer_that_promises_nothing_is_never_an_absence() {
    for bad in [
        Reply::Text(503, "x".into()),
        Reply::Text(200, "<html>".into()),
        Reply::Text(403, "x".into()),
    ] {
        let stand = Stand::with(Cloud {
            refusals: vec![bad.clone(), bad.clone()],
            ..Cloud::default()
        })
        .await;
        assert!(stand.engine.look(&stand.standby).await.is_err(), "{bad:?}");
    }
}

#[tokio::test]
async fn a_missing_project_or_zone_says_nothing_about_what_is_in_it() {
    let project = refusal(404, "notFound", "The resource 'projects/p-1' was not found");
    let zone = refusal(
        404,
        "notFound",
        "The resource 'projects/p-1/zones/us-central1-a' was not found",
    );
    for bad in [project, zone, Reply::Text(404, "<html>".into())] {
        let stand = Stand::with(Cloud {
            refusals: vec![bad.clone()],
            ..Cloud::default()
        })
        .await;
        let outcome = stand.engine.look(&stand.standby).await;
        assert!(matches!(outcome, Err(ProviderError::Invalid { .. })), "{bad:?}");
    }
}

#[tokio::test]
async fn a_silent_server_promises_nothing() {
    let server = FakeServer::start(|_| Reply::Hang).await;
    let mut settings = engine(&server).settings;
    settings.call_limit = Duration::from_millis(200);
    let tokens = Arc::new(StaticToken::new(SecretString::from(TOKEN)));
    let silent = ComputeEngine::new(settings, tokens).unwrap();
    assert!(matches!(silent.all().await, Err(ProviderError::OutcomeUnknown { .. })));
    assert_eq!(server.calls().len(), 2);
}

#[tokio::test]
async fn a_throttled_call_is_made_once_more_and_then_given_back() {
    let throttled = || refusal(403, "rateLimitExceeded", "Queries per minute");
    let stand = Stand::with(Cloud {
        refusals: vec![throttled()],
        ..Cloud::default()
    })
    .await;
    assert!(stand.engine.look(&stand.standby).await.is_ok());
    stand.cloud().refusals = vec![throttled(), throttled()];
    assert!(matches!(
        stand.engine.look(&stand.standby).await,
        Err(ProviderError::RateLimited { retry_after: None })
    ));
    stand.cloud().refusals = vec![Reply::Wait(429, 40)];
    let error = stand.engine.look(&stand.standby).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::RateLimited { retry_after: Some(wait) } if wait == Duration::from_secs(40)),
        "{error}"
    );
}

#[tokio::test]
async fn starting_and_stopping_happen_once_and_report_missing_capacity() {
    let stand = Stand::new().await;
    stand
        .cloud()
        .instances
        .insert(NAME.into(), instance(&labels("1"), "TERMINATED"));
    stand.engine.stop(&stand.standby).await.unwrap();
    stand.engine.start(&stand.standby).await.unwrap();
    stand.engine.start(&stand.standby).await.unwrap();
    stand.engine.stop(&stand.standby).await.unwrap();
    stand.engine.stop(&stand.standby).await.unwrap();
    assert_eq!(
        stand.changes(),
        [
            format!("POST instances/{NAME}/start"),
            format!("POST instances/{NAME}/stop")
        ]
    );
    stand
        .cloud()
        .instances
        .insert(NAME.into(), instance(&labels("1"), "TERMINATED"));
    stand.cloud().failure = Some(json!({"code": "ZONE_RESOURCE_POOL_EXHAUSTED", "message": "x"}));
    assert!(matches!(
        stand.engine.start(&stand.standby).await,
        Err(ProviderError::CapacityExhausted { .. })
    ));
    stand.cloud().instances.clear();
    assert!(matches!(
        stand.engine.start(&stand.standby).await,
        Err(ProviderError::NotFound { .. })
    ));
}

#[tokio::test]
async fn deleting_a_machine_never_takes_its_data_disk_with_it() {
    let stand = Stand::new().await;
    let mut tampered = instance(&labels("1"), "RUNNING");
    tampered["disks"][1]["autoDelete"] = json!(true);
    stand.cloud().instances.insert(NAME.into(), tampered.clone());
    assert_eq!(
        stand.engine.delete(&stand.standby, warrant()).await.unwrap(),
        Destroyed::Ordered
    );
    assert_eq!(
        stand.changes(),
        [
            format!("POST instances/{NAME}/setDiskAutoDelete"),
            format!("DELETE instances/{NAME}")
        ]
    );
    assert_eq!(
        stand.engine.delete(&stand.standby, warrant()).await.unwrap(),
        Destroyed::AlreadyGone
    );

    // When that cannot be undone the machine stays.
    stand.cloud().instances.insert(NAME.into(), tampered);
    stand.cloud().failure = Some(json!({"code": "INTERNAL_ERROR", "message": "x"}));
    stand.engine.delete(&stand.standby, warrant()).await.unwrap_err();
    assert_eq!(
        stand.changes().iter().filter(|call| call.starts_with("DELETE")).count(),
        1
    );
}

#[tokio::test]
async fn a_data_disk_grows_once_and_only_ours() {
    let stand = Stand::new().await;
    let disk = format!("{NAME}-data");
    let put = |labels: Value| {
        let row = json!({"name": disk, "labels": labels, "users": ["x"], "sizeGb": "100"});
        stand.cloud().disks.insert(disk.clone(), row);
    };
    put(json!({}));
    stand.engine.grow_disk(&stand.standby, 150).await.unwrap_err();
    assert!(stand.changes().is_empty(), "a disk without our labels was changed");
    put(labels("1"));
    for gb in [150, 150, 120] {
        stand.engine.grow_disk(&stand.standby, gb).await.unwrap();
    }
    assert_eq!(stand.changes(), [format!("POST disks/{disk}/resize")]);
    assert_eq!(stand.cloud().disks[&disk]["sizeGb"], "150");
}

#[tokio::test]
async fn a_data_disk_is_deleted_only_when_nothing_uses_it() {
    let stand = Stand::new().await;
    let put = |users: Value| {
        stand.cloud().disks.insert(
            format!("{NAME}-data"),
            json!({"name": "x", "labels": labels("1"), "users": users}),
        )
    };
    put(json!(["x"]));
    assert!(matches!(
        stand.engine.delete_disk(&stand.standby, warrant()).await,
        Err(ProviderError::NotReady { .. })
    ));
    assert!(stand.changes().is_empty());
    put(json!([]));
    stand.cloud().failure = Some(json!({"code": "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE", "message": "x"}));
    assert!(matches!(
        stand.engine.delete_disk(&stand.standby, warrant()).await,
        Err(ProviderError::NotReady { .. })
    ));
    stand.cloud().failure = None;
    assert_eq!(
        stand.engine.delete_disk(&stand.standby, warrant()).await.unwrap(),
        Destroyed::Ordered
    );
    assert_eq!(
        stand.engine.delete_disk(&stand.standby, warrant()).await.unwrap(),
        Destroyed::AlreadyGone
    );
}

/// Two pages of instances, one of disks.
fn pages(request: &Recorded) -> Reply {
    let row = |name: &str, attempt: &str| json!({"name": name, "labels": labels(attempt), "status": "RUNNING"});
    if request.path.ends_with("/operations") {
        let operation = json!({"name": "systemevent-1", "status": "DONE", "targetId": "6142870129347", "insertTime": "2026-11-23T05:00:00.250-08:00"});
        return Reply::Json(200, json!({"items": [operation]}));
    }
    let empty = json!({"warning": {"code": "NO_RESULTS_ON_PAGE", "message": "none"}});
    let disks = json!({"disks": [row(NAME, "1"), row(&format!("{NAME}-data"), "1")]});
    Reply::Json(
        200,
        match (request.path.ends_with("/instances"), request.query("pageToken")) {
            (true, "") => {
                json!({"items": {"zones/us-central1-a": {"instances": [row(NAME, "1")]}, "zones/us-east1-b": empty}, "nextPageToken": "t 2"})
            }
            (true, _) => {
                json!({"items": {"zones/us-east1-b": {"instances": [row("ws-test-vast-5-2", "2"), {"name": "odd", "labels": {"managed-by": "warmspare"}}]}}})
            }
            (false, _) => {
                json!({"items": {"zones/us-central1-a": disks, "regions/us-east1": {"disks": [row("ws-test-vast-5-1-data", "1")]}}})
            }
        },
    )
}

#[tokio::test]
async fn everything_that_carries_our_labels_is_listed_from_every_page() {
    let server = FakeServer::start(pages).await;
    let all = engine(&server).all().await.unwrap();
    let shown: Vec<_> = all
        .iter()
        .map(|one| {
            (
                one.kind,
                one.standby.name.as_str(),
                one.standby.zone.as_str(),
                one.attempt,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (LabelledKind::Machine, NAME, "us-central1-a", 1),
            (LabelledKind::Machine, "ws-test-vast-5-2", "us-east1-b", 2),
            (LabelledKind::Disk, NAME, "us-central1-a", 1),
        ]
    );
    assert_eq!(
        server.seen()[0].query("filter"),
        r#"(labels.managed-by = "warmspare") (labels.warmspare-deployment = "test")"#
    );
    assert_eq!(server.seen()[1].query("pageToken"), "t 2");
}

#[tokio::test]
async fn a_list_with_a_hole_is_an_error() {
    let unreachable = json!({"items": {}, "unreachables": ["zones/us-east1-b"]});
    let partial = json!({"items": {"zones/us-east1-b": {"warning": {"code": "UNREACHABLE", "message": "x"}}}});
    let overall = json!({"items": {}, "warning": {"code": "PARTIAL_SUCCESS", "message": "x"}});
    for page in [unreachable, partial, overall] {
        let body = page.clone();
        let server = FakeServer::start(move |_| Reply::Json(200, body.clone())).await;
        let outcome = engine(&server).all().await;
        assert!(matches!(outcome, Err(ProviderError::OutcomeUnknown { .. })), "{page}");
    }
}

#[test]
fn wrong_settings_are_named() {
    let right = || ComputeSettings::new("p-1".into(), "test".parse().unwrap(), "ssh-ed25519 AAAA x".into());
    let refuse = |settings: ComputeSettings| {
        let tokens = Arc::new(StaticToken::new(SecretString::from(TOKEN)));
        ComputeEngine::new(settings, tokens).unwrap_err().to_string()
    };
    assert!(
        refuse(ComputeSettings {
            project: "../x".into(),
            ..right()
        })
        .contains("project")
    );
    assert!(
        refuse(ComputeSettings {
            ssh_user: "root:x".into(),
            ..right()
        })
        .contains("SSH user")
    );
    assert!(
        refuse(ComputeSettings {
            operator_public_key: "ssh-rsa A\nroot:ssh-rsa B".into(),
            ..right()
        })
        .contains("public key")
    );
    assert!(
        refuse(ComputeSettings {
            base_url: "http://example.com/".into(),
            ..right()
        })
        .contains("https")
    );
}

/// Drives the adapter through every call it knows, and gives all requests to the checker.
#[tokio::test]
async fn every_request_fits_googles_published_schema() {
    let stand = Stand::new().await;
    let engine = &stand.engine;
    stand.create().await.unwrap();
    engine.look(&stand.standby).await.unwrap();
    engine.grow_disk(&stand.standby, 150).await.unwrap();
    engine.stop(&stand.standby).await.unwrap();
    let mut stopped = instance(&labels("1"), "TERMINATED");
    stopped["disks"][1]["autoDelete"] = json!(true);
    stand.cloud().instances.insert(NAME.into(), stopped);
    engine
        .set_scheduling(&stand.standby, Provisioning::Standard)
        .await
        .unwrap();
    engine.start(&stand.standby).await.unwrap();
    engine.delete(&stand.standby, warrant()).await.unwrap();
    stand.cloud().disks.get_mut(&format!("{NAME}-data")).unwrap()["users"] = json!([]);
    stand.create().await.unwrap();
    engine.delete(&stand.standby, warrant()).await.unwrap();
    stand.cloud().disks.get_mut(&format!("{NAME}-data")).unwrap()["users"] = json!([]);
    engine.delete_disk(&stand.standby, warrant()).await.unwrap();
    let lists = FakeServer::start(pages).await;
    self::engine(&lists).all().await.unwrap();
    let preempted = self::engine(&lists).preemptions(&stand.standby.zone).await.unwrap();
    let at = "2026-11-23T13:00:00.250Z".parse().ok();
    assert_eq!(
        preempted,
        [Preemption {
            instance: 6_142_870_129_347,
            at
        }]
    );

    let requests: Vec<Recorded> = stand.server.seen().into_iter().chain(lists.seen()).collect();
    let kinds: std::collections::BTreeSet<String> = requests
        .iter()
        .map(|one| format!("{} {}", one.method, one.path.rsplit('/').next().unwrap_or("")))
        .collect();
    for verb in [
        "POST instances",
        "POST start",
        "POST stop",
        "POST resize",
        "POST setScheduling",
        "POST setDiskAutoDelete",
        "GET getGuestAttributes",
        "GET disks",
        "GET operations",
    ] {
        assert!(kinds.contains(verb), "{verb} was not driven: {kinds:?}");
    }
    check_against_discovery(&requests);
}

fn check_against_discovery(requests: &[Recorded]) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    for one in requests {
        writeln!(
            file,
            "{}",
            json!({"method": one.method, "path": one.path, "query": one.query, "body": one.body})
        )
        .unwrap();
    }
    published_schema::check("compute.v1.trimmed.json", file.path());
}
