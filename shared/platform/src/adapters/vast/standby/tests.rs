//! The adapter against a small Vast that keeps what it is told.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use warmspare_domain::ids::GpuId;
use warmspare_domain::observed::StandbySeen;

use super::super::VastSettings;
use super::*;
use crate::adapters::fake_server::{FakeServer, Recorded, Reply};
use crate::contract::{fixture, warrant};

const LABEL: &str = "ws/test/vast-7/s1";
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIabc operator@here";

/// What the small Vast has.
#[derive(Debug, Clone)]
struct Vast {
    rows: Vec<Value>,
    offers: Vec<Value>,
    log: String,
    /// The answer to an order, when it is not the usual one, and whether the instance comes to be all the same.
    odd_order: Option<(Reply, bool)>,
    /// How many lists to come miss every row.
    short_lists: u32,
}

type Shared = Arc<Mutex<Vast>>;

fn ok(body: Value) -> Reply {
    Reply::Json(200, body)
}

fn number(path: &str) -> u64 {
    path.split('/').rev().find_map(|part| part.parse().ok()).unwrap_or(0)
}

fn wanted(row: &Value, filters: &Value) -> bool {
    filters.as_object().into_iter().flatten().all(|(field, condition)| {
        let mut list = condition["in"].as_array().cloned().unwrap_or_default();
        list.extend(condition.get("eq").cloned());
        list.contains(&row[field])
    })
}

fn answer(vast: &Shared, request: &Recorded) -> Reply {
    let mut vast = vast.lock().unwrap();
    let body = request.body.clone().unwrap_or_default();
    let id = number(&request.path);
    match (
        request.method.as_str(),
        request.path.split('/').nth(3).unwrap_or_default(),
    ) {
        ("GET", "instances") => {
            let filters = serde_json::from_str(request.query("select_filters")).unwrap();
            let short = vast.short_lists > 0;
            vast.short_lists = vast.short_lists.saturating_sub(1);
            let there = vast.rows.iter().filter(|row| !short && wanted(row, &filters));
            let rows: Vec<_> = there.cloned().collect();
            ok(json!({"success": true, "total_instances": rows.len(), "instances": rows, "next_token": null}))
        }
        ("POST", "bundles") => ok(json!({"offers": vast.offers})),
        ("PUT", "asks") => {
            let odd = vast.odd_order.take();
            if odd.as_ref().is_none_or(|(_, lands)| *lands) {
                let mut row = instance(5000 + id, "running");
                row["label"] = body["label"].clone();
                vast.rows.push(row);
            }
            odd.map_or_else(
                || ok(json!({"success": true, "new_contract": 5000 + id})),
                |(reply, _)| reply,
            )
        }
        ("PUT", "instances") => {
            for row in vast.rows.iter_mut().filter(|row| row["id"] == json!(id)) {
                if let Some(label) = body.get("label") {
                    row["label"] = label.clone();
                }
                if let Some(state) = body.get("state") {
                    let actual = if state == "running" { "running" } else { "exited" };
                    (row["intended_status"], row["actual_status"]) = (state.clone(), json!(actual));
                }
            }
            ok(json!({"success": true}))
        }
        ("POST", "instances") => ok(json!({"success": true})),
        ("DELETE", "instances") => {
            vast.rows.retain(|row| row["id"] != json!(id));
            ok(json!({"success": true}))
        }
        _ => Reply::Text(500, "not part of the small Vast".into()),
    }
}

fn instance(id: u64, intended: &str) -> Value {
    json!({"id": id, "actual_status": if intended == "running" { "running" } else { "exited" }, "intended_status": intended,
        "cur_state": intended, "next_state": intended, "label": LABEL, "gpu_name": "RTX 3060", "num_gpus": 1, "machine_id": 1, "host_id": 1,
        "public_ipaddr": "198.51.100.7 ", "ports": {"22/tcp": [{"HostPort": "30022"}]}, "end_date": 4_000_000_000.0, "dph_total": 0.05})
}

fn offer(id: u64, price: f64) -> Value {
    json!({"id": id, "machine_id": id, "host_id": id, "num_gpus": 1, "gpu_name": "RTX 3060", "cpu_ram": 16_000, "disk_space": 500.0,
        "dph_total": price, "reliability": 0.99, "direct_port_count": 3, "duration": 900_000.0, "verification": "verified",
        "rentable": true, "rented": false, "resource_type": "gpu", "inet_down_cost": 0.001})
}

async fn small_vast(rows: Vec<Value>, offers: Vec<Value>) -> (Shared, FakeServer) {
    let vast = Arc::new(Mutex::new(Vast {
        rows,
        offers,
        log: "hello\n2026 warmspare-host-key ssh-ed25519 AAAAold\nwarmspare-host-key ssh-ed25519 AAAAnew root@box\n"
            .to_owned(),
        odd_order: None,
        short_lists: 0,
    }));
    let shared = Arc::clone(&vast);
    let own = Arc::new(Mutex::new(String::new()));
    let url = Arc::clone(&own);
    let server = FakeServer::start(move |request| {
        if request.path == "/log" {
            assert_eq!(request.authorization, "", "the key went to a linked text");
            return Reply::Text(200, shared.lock().unwrap().log.clone());
        }
        if request.path.contains("request_logs") {
            return ok(json!({"success": true, "result_url": format!("{}/log", url.lock().unwrap())}));
        }
        answer(&shared, request)
    })
    .await;
    *own.lock().unwrap() = server.url.trim_end_matches('/').to_owned();
    (vast, server)
}

fn standbys(server: &FakeServer) -> VastStandbys {
    let vast = VastSettings {
        base_url: server.url.clone(),
        pace: 0.0,
        call_limit: Duration::from_secs(5),
        ..VastSettings::new(SecretString::from("vast-key-0123456789"))
    };
    let settings = VastStandbySettings {
        deployment: "test".parse().unwrap(),
        max_price_per_hour: VastStandbySettings::MAX_PRICE_PER_HOUR,
        image: VastStandbySettings::IMAGE.to_owned(),
        data_dir: "/var/lib/warmspare".to_owned(),
        operator_public_key: KEY.to_owned(),
    };
    VastStandbys::new(Arc::new(VastGpus::new(vast).unwrap()), settings).unwrap()
}

fn association() -> Association {
    let mut association = fixture(7);
    association.policy.machine.provider = StandbyProvider::Vastai;
    association
}

fn standby() -> StandbyRef {
    StandbyRef {
        name: StandbyName::new(&"test".parse().unwrap(), AssociationId::of(GpuId::vast(7)), 1),
        zone: Zone::at_vast(),
        provider: StandbyProvider::Vastai,
    }
}

fn orders(server: &FakeServer) -> Vec<Recorded> {
    let seen = server.seen().into_iter();
    seen.filter(|one| one.path.contains("/asks/")).collect()
}

async fn create(server: &FakeServer) -> Result<(), ProviderError> {
    let association = association();
    standbys(server)
        .create(&association, &standby(), &association.policy.machine)
        .await
}

#[tokio::test]
async fn the_order_is_on_demand_labelled_and_never_made_twice() {
    let (_, server) = small_vast(vec![], vec![offer(2, 0.06), offer(1, 0.05)]).await;
    create(&server).await.unwrap();
    create(&server).await.unwrap();
    let orders = orders(&server);
    assert_eq!(orders.len(), 1, "{orders:?}");
    let body = orders[0].body.clone().unwrap();
    assert_eq!(orders[0].path, "/api/v0/asks/1/");
    assert_eq!(
        (&body["label"], body.get("price")),
        (&json!(LABEL), None),
        "a standby by bid can be outbid"
    );
    assert_eq!(body["disk"], json!(association().policy.machine.disk_gb));
    let onstart = body["onstart"].as_str().unwrap();
    assert!(
        onstart.len() <= 4048 && onstart.contains("AAAAC3NzaC1lZDI1NTE5AAAAIabc"),
        "{onstart}"
    );
}

#[tokio::test]
async fn a_list_that_misses_the_standby_once_does_not_rent_another() {
    let (vast, server) = small_vast(vec![], vec![offer(2, 0.06), offer(1, 0.05)]).await;
    create(&server).await.unwrap();
    vast.lock().unwrap().short_lists = 1;
    create(&server).await.unwrap();
    assert_eq!(orders(&server).len(), 1);
}

#[tokio::test]
async fn an_offer_that_will_not_do_is_not_taken() {
    let mut gpu = instance(7, "running");
    (gpu["label"], gpu["machine_id"], gpu["host_id"]) = (json!("mine"), json!(71), json!(72));
    for (field, value) in [
        ("resource_type", json!("disk")),
        ("cpu_ram", json!(0)),
        ("cpu_ram", Value::Null),
        ("dph_total", json!(0.11)),
        ("dph_total", Value::Null),
        ("reliability", json!(0.9)),
        ("direct_port_count", json!(0)),
        ("verification", json!("unverified")),
        ("disk_space", json!(10.0)),
        ("duration", json!(3600.0)),
        ("rented", json!(true)),
        ("machine_id", json!(71)),
        ("host_id", json!(72)),
    ] {
        let mut bad = offer(1, 0.05);
        bad[field] = value.clone();
        let mut storage = bad.clone();
        storage["num_gpus"] = json!(0);
        let (_, server) = small_vast(vec![gpu.clone()], vec![bad, storage]).await;
        let error = create(&server).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::NoOffer { .. }),
            "{field} = {value}: {error}"
        );
        assert!(error.certainly_did_not_happen());
        assert_eq!(orders(&server).len(), 0, "{field} = {value}");
    }
}

#[tokio::test]
async fn a_real_cpu_offer_comes_before_a_cheaper_gpu() {
    let mut cpu = offer(9, 0.09);
    (cpu["num_gpus"], cpu["gpu_name"], cpu["resource_type"]) = (json!(0), Value::Null, json!("cpu"));
    let (_, server) = small_vast(vec![], vec![offer(1, 0.01), cpu]).await;
    create(&server).await.unwrap();
    assert_eq!(orders(&server)[0].path, "/api/v0/asks/9/");
}

#[tokio::test]
async fn traffic_counts_when_offers_are_compared() {
    let mut dear = offer(1, 0.05);
    dear["inet_down_cost"] = json!(0.05);
    let (_, server) = small_vast(vec![], vec![dear, offer(2, 0.06)]).await;
    create(&server).await.unwrap();
    assert_eq!(orders(&server)[0].path, "/api/v0/asks/2/");
}

#[tokio::test]
async fn odd_answers_to_an_order_leave_one_standby_and_no_surprise() {
    let stillborn = json!({"success": false, "new_contract": 5001, "msg": "not startable"});
    let gone = json!({"error": "no_such_ask", "msg": "No ask by id 1 is available."});
    for (reply, lands, expected) in [
        (ok(stillborn), true, 5002),
        (Reply::Json(404, gone.clone()), false, 5002),
        (Reply::Json(410, gone), false, 5002),
        (Reply::Text(502, String::new()), true, 5001),
    ] {
        let (vast, server) = small_vast(vec![], vec![offer(1, 0.05), offer(2, 0.06)]).await;
        vast.lock().unwrap().odd_order = Some((reply.clone(), lands));
        create(&server).await.unwrap();
        let ids: Vec<_> = vast.lock().unwrap().rows.iter().map(|row| row["id"].clone()).collect();
        assert_eq!(ids, [json!(expected)], "{reply:?}");
    }
    let (vast, server) = small_vast(vec![], vec![offer(1, 0.05), offer(2, 0.06)]).await;
    vast.lock().unwrap().odd_order = Some((Reply::Text(502, String::new()), false));
    let error = create(&server).await.unwrap_err();
    assert!(!error.certainly_did_not_happen(), "{error}");
    assert_eq!(
        orders(&server).len(),
        1,
        "another was ordered while the first may still land"
    );
}

#[tokio::test]
async fn deleting_the_machine_keeps_the_data_until_the_disk_may_go() {
    let mut other = instance(6000, "running");
    other["label"] = json!("ws/test/vast-7/e3");
    let (vast, server) = small_vast(vec![instance(5001, "running"), other.clone()], vec![]).await;
    let standbys = standbys(&server);
    let early = standbys.delete_disk(&standby(), warrant()).await.unwrap_err();
    assert!(matches!(early, ProviderError::NotReady { .. }), "{early}");

    assert_eq!(
        standbys.delete(&standby(), warrant()).await.unwrap(),
        Destroyed::Ordered
    );
    assert_eq!(vast.lock().unwrap().rows.len(), 2, "the data went with the machine");
    let look = standbys.look(&standby()).await.unwrap();
    assert_eq!((look.machine, look.disk), (Observed::Absent, Observed::Present(())));
    assert_eq!(
        standbys.delete(&standby(), warrant()).await.unwrap(),
        Destroyed::AlreadyGone
    );
    let kinds: Vec<_> = standbys.all().await.unwrap().into_iter().map(|row| row.kind).collect();
    assert_eq!(kinds, [LabelledKind::Disk]);

    // What is left of it is made a machine again, data and all, when it is ordered before the disk went.
    create(&server).await.unwrap();
    assert_eq!(orders(&server).len(), 0);
    assert!(matches!(
        standbys.look(&standby()).await.unwrap().machine,
        Observed::Present(_)
    ));

    standbys.delete(&standby(), warrant()).await.unwrap();
    assert_eq!(
        standbys.delete_disk(&standby(), warrant()).await.unwrap(),
        Destroyed::Ordered
    );
    assert_eq!(vast.lock().unwrap().rows, [other], "only the standby goes");
    let look = standbys.look(&standby()).await.unwrap();
    assert_eq!((look.machine, look.disk), (Observed::Absent, Observed::Absent));
}

#[tokio::test]
async fn a_crash_between_stopping_and_relabelling_leaves_a_machine_to_delete() {
    let (_, server) = small_vast(vec![instance(5001, "stopped")], vec![]).await;
    let look = standbys(&server).look(&standby()).await.unwrap();
    assert_eq!(
        (look.machine, look.disk),
        (Observed::Present(StandbySeen::Stopped), Observed::Unknown)
    );
}

#[tokio::test]
async fn a_running_standby_is_known_by_the_newest_key_that_its_container_printed() {
    let (vast, server) = small_vast(vec![instance(5001, "running")], vec![]).await;
    let standbys = standbys(&server);
    let Observed::Present(StandbySeen::Running(endpoint)) = standbys.look(&standby()).await.unwrap().machine else {
        panic!("it is not up");
    };
    assert_eq!(
        (endpoint.address.as_str(), endpoint.port, endpoint.instance),
        ("198.51.100.7", 30022, 5001)
    );
    assert_eq!(
        (endpoint.host_key.as_str(), endpoint.provider),
        ("ssh-ed25519 AAAAnew", StandbyProvider::Vastai)
    );

    for log in [
        "",
        "warmspare-host-key ssh-rsa AAAA",
        "warmspare-host-key ssh-ed25519 AAAA;rm",
    ] {
        vast.lock().unwrap().log = log.to_owned();
        let look = super::tests::standbys(&server).look(&standby()).await.unwrap();
        assert_eq!(look.machine, Observed::Present(StandbySeen::Booting), "{log:?}");
    }
}

#[tokio::test]
async fn what_a_host_does_to_a_standby_is_never_an_absence() {
    for (actual, intended, expected) in [
        ("offline", "running", StandbySeen::Booting),
        ("unknown", "running", StandbySeen::Booting),
        ("loading", "running", StandbySeen::Booting),
        ("exited", "stopped", StandbySeen::Stopped),
        ("running", "stopped", StandbySeen::Stopping),
    ] {
        let mut row = instance(5001, intended);
        row["actual_status"] = json!(actual);
        let (_, server) = small_vast(vec![row], vec![]).await;
        let look = standbys(&server).look(&standby()).await.unwrap();
        assert_eq!(look.machine, Observed::Present(expected), "{actual}/{intended}");
    }
}

#[tokio::test]
async fn a_standby_is_nobodys_gpu() {
    let mut gpu = instance(7, "running");
    gpu["label"] = json!("my-training");
    let (_, server) = small_vast(vec![instance(5001, "running"), gpu], vec![]).await;
    let standbys = standbys(&server);
    let listed = crate::ports::Gpus::all(standbys.vast.as_ref()).await.unwrap();
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), [GpuId::vast(7)]);
}

#[test]
fn labels_lead_back_to_the_same_standby_and_to_nothing_else() {
    for text in [LABEL, "ws/test/vast-7/s12/disk"] {
        assert_eq!(StandbyLabel::parse(text).unwrap().to_string(), text);
    }
    for other in [
        "ws/test/vast-7/e1",
        "ws/test/vast-7/s1/x",
        "ws/test/vast-7/s",
        "ws/test/vast-7",
        "s1",
        "",
        "ws/test/vast-7/s1/disk/x",
    ] {
        assert_eq!(StandbyLabel::parse(other), None, "{other}");
    }
}

#[test]
fn nothing_but_plain_words_gets_into_the_start_up_commands() {
    let settings = |data_dir: &str, key: &str| VastStandbySettings {
        deployment: "test".parse().unwrap(),
        max_price_per_hour: MicroUsd(1),
        image: String::new(),
        data_dir: data_dir.to_owned(),
        operator_public_key: key.to_owned(),
    };
    assert!(onstart::script(&settings("data", KEY)).is_ok());
    for (data_dir, key) in [
        ("a b", KEY),
        ("$(x)", KEY),
        ("-rf", KEY),
        ("", KEY),
        ("data", "ssh-ed25519 A'B"),
        ("data", "x y"),
        ("data", ""),
    ] {
        assert!(onstart::script(&settings(data_dir, key)).is_err(), "{data_dir} {key}");
    }
}
