//! The adapter against answers as Vast gives them, and every request of it against Vast's OpenAPI.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use warmspare_domain::ids::{AssociationId, Epoch};
use warmspare_domain::observed::SshHost;
use warmspare_domain::units::MicroUsd;

use super::*;
use crate::adapters::fake_server::{FakeServer, Recorded, Reply};
use crate::adapters::published_schema::shared;
use crate::contract::warrant;
use crate::ports::RentalLabel;

const KEY: &str = "vast-key-0123456789";

fn settings(server: &FakeServer) -> VastSettings {
    VastSettings {
        base_url: server.url.clone(),
        pace: 0.0,
        call_limit: Duration::from_secs(5),
        ..VastSettings::new(SecretString::from(KEY))
    }
}

fn gpus(server: &FakeServer) -> VastGpus {
    VastGpus::new(settings(server)).unwrap()
}

/// Answers that come in this order; after the last one everything is a server error.
async fn script(replies: Vec<Reply>) -> FakeServer {
    let replies = Mutex::new(replies.into_iter());
    FakeServer::start(move |_| {
        replies
            .lock()
            .unwrap()
            .next()
            .unwrap_or(Reply::Text(500, "the script has ended".into()))
    })
    .await
}

fn ok(body: Value) -> Reply {
    Reply::Json(200, body)
}

fn row(id: u64, actual: &str, intended: &str) -> Value {
    json!({"id": id, "actual_status": actual, "intended_status": intended, "cur_state": intended, "next_state": intended,
        "label": null, "ssh_host": "ssh7.vast.ai", "ssh_port": 37044, "gpu_name": "RTX 4090", "num_gpus": 1, "end_date": 4_000_000_000.0})
}

fn page(rows: &[Value], next: Option<&str>) -> Reply {
    ok(json!({"success": true, "instances": rows, "next_token": next, "instances_found": rows.len()}))
}

fn vast(id: u64) -> GpuId {
    GpuId::vast(id)
}

fn account(credit: f64) -> Reply {
    ok(json!({"id": 9, "credit": credit, "api_key": KEY, "email": "a@b.c"}))
}

#[tokio::test]
async fn a_look_reads_every_page_and_names_only_what_was_asked_for() {
    let server = script(vec![
        page(&[row(1, "running", "running")], Some("next page")),
        page(&[row(2, "loading", "running"), row(99, "running", "running")], None),
        page(&[row(30, "offline", "running")], None),
    ])
    .await;
    let wanted: Vec<GpuId> = (1..=30).rev().map(vast).collect();
    let seen = gpus(&server).look(&wanted).await.unwrap();
    let states: Vec<_> = seen.values().map(|row| (row.id, row.seen.clone())).collect();
    let proxy = SshHost {
        address: "ssh7.vast.ai".into(),
        port: 37044,
    };
    assert_eq!(
        states,
        [
            (vast(1), GpuSeen::Running(proxy)),
            (vast(2), GpuSeen::Starting),
            (vast(30), GpuSeen::Dark)
        ]
    );
    let requests = server.seen();
    assert_eq!(
        requests[0].query("select_filters"),
        json!({"id": {"in": (1..=25).collect::<Vec<_>>()}}).to_string()
    );
    assert_eq!(
        (
            requests[0].query("limit"),
            requests[0].query("after_token"),
            requests[1].query("after_token")
        ),
        ("25", "", "next page")
    );
    assert_eq!(requests[2].query("select_filters"), r#"{"id":{"in":[26,27,28,29,30]}}"#);
    assert!(
        requests
            .iter()
            .all(|one| one.authorization == format!("Bearer {KEY}") && !format!("{:?}", one.query).contains(KEY))
    );
}

#[tokio::test]
async fn what_may_be_missing_is_never_absent() {
    let one = || row(1, "running", "running");
    let broken = || Reply::Text(502, "Bad Gateway".into());
    let holes = [
        ("second page fails", vec![page(&[one()], Some("t")), broken(), broken()]),
        (
            "a row without an id",
            vec![page(&[one(), json!({"id": null, "actual_status": "running"})], None)],
        ),
        ("a row that is no object", vec![page(&[one(), json!("?")], None)]),
        (
            "fewer rows than announced",
            vec![ok(
                json!({"instances": [one()], "next_token": null, "total_instances": 2}),
            )],
        ),
        (
            "the same page for ever",
            vec![page(&[one()], Some("t")), page(&[one()], Some("t"))],
        ),
        ("no list at all", vec![ok(json!({"success": true}))]),
        ("success false", vec![ok(json!({"success": false, "msg": "try later"}))]),
        (
            "not JSON",
            vec![Reply::Text(200, "<html>".into()), Reply::Text(200, "<html>".into())],
        ),
        (
            "bad key",
            vec![Reply::Json(
                401,
                json!({"error": "auth_error", "msg": "Invalid user key"}),
            )],
        ),
    ];
    for (name, replies) in holes {
        let server = script(replies).await;
        assert!(gpus(&server).look(&[vast(1), vast(2)]).await.is_err(), "{name}");
    }
}

#[tokio::test]
async fn a_row_with_odd_fields_hides_no_other() {
    let odd =
        json!({"id": "2", "actual_status": 7, "ports": "none", "num_gpus": {}, "label": ["x"], "dph_total": "free"});
    let server = script(vec![page(&[row(1, "running", "running"), odd], None)]).await;
    assert_eq!(gpus(&server).all().await.unwrap().len(), 2);
}

#[tokio::test]
async fn empty_credit_explains_a_pause_and_is_asked_for_once() {
    let paused = || {
        page(
            &[
                row(1, "exited", "stopped"),
                row(2, "exited", "stopped"),
                row(3, "running", "running"),
            ],
            None,
        )
    };
    let cause = async |replies: Vec<Reply>| {
        let server = script(replies).await;
        let seen = gpus(&server).look(&[vast(1), vast(2), vast(3)]).await.unwrap();
        (
            seen[&vast(1)].seen.clone(),
            server
                .calls()
                .iter()
                .filter(|call| call.contains("users/current"))
                .count(),
        )
    };
    assert_eq!(
        cause(vec![paused(), account(0.0)]).await,
        (GpuSeen::Paused(PauseCause::OutOfCredit), 1)
    );
    assert_eq!(
        cause(vec![paused(), account(-0.5)]).await,
        (GpuSeen::Paused(PauseCause::OutOfCredit), 1)
    );
    assert_eq!(
        cause(vec![paused(), account(3.0)]).await,
        (GpuSeen::Paused(PauseCause::OutbidOrStopped), 1)
    );
    let denied = Reply::Json(403, json!({"msg": "no user_read"}));
    assert_eq!(
        cause(vec![paused(), denied]).await,
        (GpuSeen::Paused(PauseCause::OutbidOrStopped), 1)
    );
    assert_eq!(
        cause(vec![page(&[row(1, "running", "running")], None)]).await.1,
        0,
        "nothing is paused"
    );
}

#[tokio::test]
async fn a_read_is_made_once_more_after_a_short_refusal_only() {
    let list = || page(&[row(1, "running", "running")], None);
    let text = || Reply::Text(429, "API requests too frequent: endpoint threshold=1.0".into());
    for replies in [
        vec![text(), list()],
        vec![Reply::Wait(429, 2), list()],
        vec![Reply::Text(503, String::new()), list()],
    ] {
        let server = script(replies).await;
        assert_eq!(gpus(&server).all().await.unwrap().len(), 1);
    }
    let server = script(vec![Reply::Wait(429, 60), list()]).await;
    let error = gpus(&server).all().await.unwrap_err();
    assert!(
        matches!(error, ProviderError::RateLimited { retry_after: Some(wait) } if wait == Duration::from_secs(60)),
        "{error}"
    );
    let server = script(vec![text(), text(), list()]).await;
    assert!(matches!(
        gpus(&server).all().await,
        Err(ProviderError::RateLimited { retry_after: None })
    ));
    assert_eq!(server.calls().len(), 2);

    let quota = Reply::Json(429, json!({"error": "search_quota_exceeded", "msg": "x"}));
    let server = script(vec![page(&[], None), page(&[], None), quota, list()]).await;
    let error = gpus(&server).rent(&wish()).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::RateLimited { retry_after: Some(wait) } if wait <= Duration::from_secs(86_400)),
        "{error}"
    );
    assert_eq!(server.calls().len(), 3, "a spent quota was asked again");
}

fn wish() -> RentWish {
    let like = json!({"id": 5, "actual_status": "offline", "label": "mine", "gpu_name": "RTX 4090", "num_gpus": 1, "disk_space": 72.0,
        "image_uuid": "vastai/base-image:x", "geolocation": "Texas, US", "is_bid": true});
    let like = Instance::deserialize(&like).unwrap();
    RentWish {
        label: RentalLabel {
            deployment: "test".parse().unwrap(),
            association: AssociationId::of(vast(5)),
            epoch: Epoch::FIRST.next(),
        },
        like: status::row(&like, SshPreference::Direct, Timestamp::from_millis(0)).unwrap(),
        max_price_per_hour: MicroUsd(500_000),
    }
}

const LABEL: &str = "ws/test/vast-5/e2";

fn offer(id: u64, min_bid: f64, place: &str) -> Value {
    json!({"id": id, "machine_id": id, "num_gpus": 1, "gpu_name": "RTX 4090", "disk_space": 500.0, "dph_total": min_bid, "min_bid": min_bid,
        "storage_total_cost": 0.01, "verification": "verified", "rentable": true, "rented": false, "geolocation": place})
}

/// A market whose renting goes by `take(offer, label of the order)`; what lands is in the list, under its label.
struct Market {
    server: FakeServer,
    landed: Arc<Mutex<Vec<Value>>>,
}

impl Market {
    async fn new(take: impl Fn(u64) -> (bool, Reply) + Send + Sync + 'static) -> Self {
        let landed: Arc<Mutex<Vec<Value>>> = Arc::default();
        let list = Arc::clone(&landed);
        let server = FakeServer::start(move |request| market(request, &list, &take)).await;
        Self { server, landed }
    }

    fn taken(&self) -> Vec<String> {
        let calls = self.server.calls().into_iter();
        calls
            .filter(|call| call.contains("/asks/") || call.starts_with("DELETE "))
            .map(|call| call.replace("/api/v0/", ""))
            .collect()
    }
}

fn market(request: &Recorded, landed: &Mutex<Vec<Value>>, take: &(impl Fn(u64) -> (bool, Reply) + ?Sized)) -> Reply {
    let body = request.body.clone().unwrap_or_default();
    match (
        request.method.as_str(),
        request.path.split('/').nth(3).unwrap_or_default(),
    ) {
        ("GET", "instances") => page(&landed.lock().unwrap(), None),
        ("POST", "bundles") if body["geolocation"] == json!({"eq": "US"}) => {
            ok(json!({"offers": [offer(12, 0.20, "Ohio, US"), offer(11, 0.15, ", US")]}))
        }
        ("POST", "bundles") => ok(
            json!({"offers": [offer(21, 0.10, "Quebec, CA"), offer(11, 0.15, ", US"), offer(22, 0.11, "Sweden, SE"),
            offer(23, 0.12, "Sweden, SE"), offer(24, 0.13, "Sweden, SE")]}),
        ),
        ("PUT", "asks") => {
            let id: u64 = request.path.split('/').nth(4).unwrap().parse().unwrap();
            let (lands, reply) = take(id);
            if lands {
                let mut new = row(7000 + id, "loading", "running");
                new["label"] = body["label"].clone();
                landed.lock().unwrap().push(new);
            }
            reply
        }
        ("PUT", "instances") => ok(json!({"success": true})),
        ("DELETE", _) => {
            landed.lock().unwrap().clear();
            ok(json!({"success": true}))
        }
        _ => Reply::Text(500, "not part of the market".into()),
    }
}

#[tokio::test]
async fn renting_takes_the_cheapest_near_the_standby_and_carries_the_label() {
    let market = Market::new(|id| {
        (
            true,
            ok(json!({"success": true, "new_contract": 7000 + id, "instance_api_key": "k"})),
        )
    })
    .await;
    assert_eq!(gpus(&market.server).rent(&wish()).await.unwrap(), vast(7011));
    let seen = market.server.seen();
    let order = seen[3].body.clone().unwrap();
    assert_eq!(
        (&order["label"], &order["disk"], &order["image"]),
        (&json!(LABEL), &json!(72), &json!("vastai/base-image:x"))
    );
    assert_eq!(
        (&order["price"], &order["cancel_unavail"], &order["runtype"]),
        (&json!(0.18), &json!(true), &json!("ssh_direc ssh_proxy"))
    );
    let search = seen[2].body.clone().unwrap();
    assert_eq!(
        (&search["type"], &search["min_bid"], &search["verified"]),
        (&json!("bid"), &json!({"lte": 0.5}), &json!({"eq": true}))
    );

    assert_eq!(
        server_call(&seen[4]),
        ("PUT /api/v0/instances/7011/".into(), Some(json!({"state": "running"}))),
        "it may sit at `stopped`"
    );

    // Again: it is there already.
    assert_eq!(gpus(&market.server).rent(&wish()).await.unwrap(), vast(7011));
    assert_eq!(market.taken().len(), 1, "the same wish was rented twice");
}

fn server_call(request: &Recorded) -> (String, Option<Value>) {
    (format!("{} {}", request.method, request.path), request.body.clone())
}

#[tokio::test]
async fn the_machine_on_which_the_gpu_was_lost_comes_last_and_the_standbys_own_never() {
    let gone = Reply::Json(410, json!({"error": "no_such_ask", "msg": "gone"}));
    let market = Market::new(move |_| (false, gone.clone())).await;
    let mut lost = row(5, "offline", "stopped");
    lost["machine_id"] = json!(11);
    let mut standby = row(6, "running", "running");
    (standby["machine_id"], standby["label"]) = (json!(21), json!("ws/test/vast-5/s1"));
    let mut another = row(7, "running", "running");
    (another["machine_id"], another["label"]) = (json!(22), json!("ws/test/vast-8/s1"));
    market.landed.lock().unwrap().extend([lost, standby, another]);
    gpus(&market.server).rent(&wish()).await.unwrap_err();
    let expected = ["12", "11", "22", "23", "24"].map(|offer| format!("PUT asks/{offer}/"));
    assert_eq!(market.taken(), expected);
}

#[tokio::test]
async fn a_list_that_misses_the_rented_gpu_does_not_rent_a_second_one() {
    let mut rented = row(7011, "running", "running");
    rented["label"] = json!(LABEL);
    let started = ok(json!({"success": true}));
    let server = script(vec![page(&[], None), page(&[rented], None), started]).await;
    assert_eq!(gpus(&server).rent(&wish()).await.unwrap(), vast(7011));
    let orders = server.calls().into_iter().filter(|call| call.contains("/asks/"));
    assert_eq!(orders.count(), 0);
}

#[tokio::test]
async fn an_offer_that_vanished_leads_to_the_next_and_the_search_ends() {
    let gone = |id: u64| {
        Reply::Json(
            if id == 11 { 404 } else { 410 },
            json!({"error": "no_such_ask", "msg": "gone"}),
        )
    };
    let market = Market::new(move |id| (false, gone(id))).await;
    let error = gpus(&market.server).rent(&wish()).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::NoOffer { .. }) && error.to_string().contains("5 tried"),
        "{error}"
    );
    assert_eq!(
        market.taken(),
        [
            "PUT asks/11/",
            "PUT asks/12/",
            "PUT asks/21/",
            "PUT asks/22/",
            "PUT asks/23/"
        ]
    );
}

#[tokio::test]
async fn a_contract_that_was_made_but_cannot_start_is_destroyed_at_once() {
    let market = Market::new(|id| match id {
        11 => (
            true,
            ok(json!({"success": false, "new_contract": 7011, "msg": "bid too low"})),
        ),
        _ => (true, ok(json!({"success": true, "new_contract": 7000 + id}))),
    })
    .await;
    assert_eq!(gpus(&market.server).rent(&wish()).await.unwrap(), vast(7012));
    assert_eq!(
        market.taken(),
        ["PUT asks/11/", "DELETE instances/7011/", "PUT asks/12/"]
    );
    assert_eq!(market.landed.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn after_a_lost_answer_the_label_tells() {
    for lost in [
        Reply::Text(502, String::new()),
        Reply::Text(200, "<html>".into()),
        ok(json!({"success": true})),
    ] {
        let reply = lost.clone();
        let market = Market::new(move |_| (true, reply.clone())).await;
        assert_eq!(
            gpus(&market.server).rent(&wish()).await.unwrap(),
            vast(7011),
            "{lost:?}"
        );
        let market = Market::new(move |_| (false, lost.clone())).await;
        let error = gpus(&market.server).rent(&wish()).await.unwrap_err();
        assert!(!error.certainly_did_not_happen(), "{error}");
        assert_eq!(
            market.taken().len(),
            1,
            "a second GPU was ordered while the first may exist"
        );
    }
}

#[tokio::test]
async fn a_silent_server_is_a_lost_answer() {
    let market = Market::new(|_| (true, Reply::Hang)).await;
    let gpus = VastGpus::new(VastSettings {
        call_limit: Duration::from_secs(2),
        ..settings(&market.server)
    })
    .unwrap();
    assert_eq!(gpus.rent(&wish()).await.unwrap(), vast(7011));
}

#[tokio::test]
async fn what_every_offer_would_answer_ends_the_search() {
    let broke = Reply::Json(
        400,
        json!({"success": false, "error": "missing_billing", "msg": "You lack credit, see the billing page."}),
    );
    let market = Market::new(move |_| (false, broke.clone())).await;
    let error = gpus(&market.server).rent(&wish()).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::OutOfCredit { .. }) && error.certainly_did_not_happen(),
        "{error}"
    );
    let market = Market::new(|_| (false, Reply::Wait(429, 12))).await;
    assert!(matches!(
        gpus(&market.server).rent(&wish()).await,
        Err(ProviderError::RateLimited { .. })
    ));
    assert_eq!(market.taken().len(), 1);
}

#[tokio::test]
async fn destroying_knows_gone_from_refused() {
    let unknown = Reply::Json(
        404,
        json!({"success": false, "error": "no_such_instance", "msg": "Instance 5 not found."}),
    );
    let rows = [
        (ok(json!({"success": true})), "Ok(Ordered)"),
        (unknown, "Ok(AlreadyGone)"),
        (
            ok(json!({"success": false, "error": "no_such_instance"})),
            "Ok(AlreadyGone)",
        ),
        (Reply::Text(404, "<html>no route</html>".into()), "Err(Invalid"),
        (
            Reply::Json(404, json!({"error": "auth_error", "msg": "x"})),
            "Err(Denied",
        ),
        (Reply::Text(504, String::new()), "Err(OutcomeUnknown"),
        (ok(json!({"success": false, "msg": "busy"})), "Err(Invalid"),
    ];
    for (reply, expected) in rows {
        let server = script(vec![reply]).await;
        let outcome = format!("{:?}", gpus(&server).destroy(vast(5), warrant()).await);
        assert!(outcome.starts_with(expected), "{outcome}, not {expected}");
    }
}

#[tokio::test]
async fn the_odd_answers_of_keys_starts_and_single_reads_are_understood() {
    let server = script(vec![
        ok(json!({"success": true, "msg": "SSH key added to instance."})),
        ok(json!({"success": false, "msg": "SSH key already associated with instance."})),
        ok(json!({"success": true, "ssh_keys": "[{\"id\": 3, \"public_key\": \"ssh-ed25519 A\"}]"})),
        ok(json!({"success": false, "error": "resources_unavailable", "msg": "Required resources are currently unavailable, state change queued."})),
        ok(json!({"instances": null})),
        ok(json!({"instances": row(5, "running", "running")})),
        ok(json!({"success": true, "src_addr": "198.51.100.7", "src_port": "10022"})),
    ]).await;
    let gpus = gpus(&server);
    gpus.attach_key(vast(5), "ssh-ed25519 A").await.unwrap();
    gpus.attach_key(vast(5), "ssh-ed25519 A").await.unwrap();
    assert_eq!(
        gpus.attached_keys(vast(5)).await.unwrap(),
        [AttachedKey {
            id: 3,
            public_key: "ssh-ed25519 A".into()
        }]
    );
    assert!(matches!(
        gpus.start(vast(5)).await,
        Err(ProviderError::CapacityExhausted { .. })
    ));
    assert_eq!(gpus.show(vast(5)).await.unwrap(), None);
    assert_eq!(gpus.show(vast(5)).await.unwrap().unwrap().id, vast(5));
    let module = gpus.rsync_module_address(vast(5)).await.unwrap();
    assert_eq!(
        (module.ssh.address.as_str(), module.ssh.port, module.module.as_str()),
        ("198.51.100.7", 10022, "C.5")
    );
}

#[tokio::test]
async fn the_key_is_in_no_message() {
    let echo = Reply::Json(401, json!({"error": "auth_error", "msg": format!("bad key {KEY}")}));
    let server = script(vec![echo]).await;
    let gpus = gpus(&server);
    let error = gpus.all().await.unwrap_err();
    assert!(
        !error.to_string().contains(KEY) && error.to_string().contains("[secret]"),
        "{error}"
    );
    assert!(!format!("{gpus:?}").contains(KEY));
}

/// Drives the adapter through every call it knows and looks each one up in Vast's own description.
#[tokio::test]
async fn every_request_is_one_that_vast_describes() {
    let everything = json!({"success": true, "instances": [], "next_token": null, "offers": [offer(11, 0.1, "")], "new_contract": 5, "id": 9,
        "ssh_keys": "[]", "webhooks": [], "webhook": {"id": 1, "webhook_secret": "s"}, "src_addr": "h", "src_port": 1});
    let server = FakeServer::start(move |_| ok(everything.clone())).await;
    let gpus = gpus(&server);
    gpus.look(&[vast(5)]).await.unwrap();
    gpus.rent(&wish()).await.unwrap();
    gpus.destroy(vast(5), warrant()).await.unwrap();
    gpus.attach_key(vast(5), "k").await.unwrap();
    gpus.attached_keys(vast(5)).await.unwrap();
    gpus.detach_key(vast(5), 3).await.unwrap();
    gpus.start(vast(5)).await.unwrap();
    gpus.stop(vast(5)).await.unwrap();
    gpus.set_label(vast(5), "x").await.unwrap();
    gpus.change_bid(vast(5), MicroUsd(1000)).await.unwrap();
    gpus.show(vast(5)).await.unwrap_err();
    gpus.account().await.unwrap();
    gpus.rsync_module_address(vast(5)).await.unwrap();
    gpus.webhooks().await.unwrap();
    gpus.create_webhook("n", "https://x/", &["outbid"]).await.unwrap();
    gpus.test_webhook(1).await.unwrap();
    gpus.rotate_webhook_secret(1).await.unwrap();
    gpus.delete_webhook(1).await.unwrap();
    let Some(document) = shared("reference/vast/openapi.yaml") else {
        return;
    };
    let described = described(&std::fs::read_to_string(document).unwrap());
    assert!(described.len() > 80, "the description was not understood");
    let undescribed: BTreeSet<String> = server
        .calls()
        .iter()
        .map(|call| shape(call))
        .filter(|call| !described.contains(call))
        .collect();
    // Vast's own command uses it, its description leaves it out (`vast-api.md` §9).
    assert_eq!(
        undescribed.into_iter().collect::<Vec<_>>(),
        ["PUT /api/v0/commands/rsync"]
    );
}

/// `METHOD path` with every number as `{}` and without the slash at the end.
fn shape(call: &str) -> String {
    let parts = call.trim_end_matches('/').split('/');
    let parts = parts.map(|part| {
        if part.bytes().all(|byte| byte.is_ascii_digit()) && !part.is_empty() {
            "{}"
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// The calls of an OpenAPI document in block style, as [`shape`] writes them.
fn described(yaml: &str) -> BTreeSet<String> {
    let mut path = String::new();
    let mut calls = BTreeSet::new();
    for line in yaml.lines() {
        if let Some(found) = line.strip_prefix("  /").and_then(|rest| rest.strip_suffix(':')) {
            let parts = found.trim_end_matches('/').split('/');
            let parts: Vec<_> = parts
                .map(|part| if part.starts_with('{') { "{}" } else { part })
                .collect();
            path = format!("/{}", parts.join("/"));
        } else if let Some(method) = line.strip_prefix("    ").and_then(|rest| rest.strip_suffix(':'))
            && ["get", "put", "post", "delete"].contains(&method)
        {
            calls.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    calls
}

#[tokio::test]
async fn the_disk_of_a_paused_gpu_is_asked_for_by_its_module() {
    let offline = json!({"success": false, "error": "host_offline", "msg": "The host of this instance is offline."});
    let server = script(vec![
        ok(json!({"success": true, "src_addr": "203.0.113.7", "src_port": 40022})),
        ok(json!({"success": true, "src_addr": "203.0.113.7", "src_port": "40022"})),
        ok(json!({"success": true, "msg": "soon"})),
        ok(offline),
    ])
    .await;
    let gpus = gpus(&server);
    for _ in 0..2 {
        let module = gpus.disk_module(vast(101)).await.unwrap();
        assert_eq!((module.address.as_str(), module.port), ("203.0.113.7", 40022));
        assert_eq!(
            (module.user.as_str(), module.module.as_str()),
            ("vastai_kaalia", "C.101")
        );
    }
    gpus.disk_module(vast(101)).await.unwrap_err();
    gpus.disk_module(vast(101)).await.unwrap_err();
    let seen = server.seen();
    assert_eq!(
        (seen[0].method.as_str(), seen[0].path.as_str()),
        ("PUT", "/api/v0/commands/rsync/")
    );
    let body = seen[0].body.as_ref().unwrap();
    assert_eq!((&body["src_id"], &body["dst_id"]), (&json!("C.101"), &Value::Null));
}
