//! The Vast side: outbids in their order, signed notifications, listings, keys, refusals.

mod rig;

use std::time::Instant;

use rig::{Mailbox, Rig, until};
use serde_json::{Value, json};
use simcloud::{Birth, Delivery, Options, RateLimits, signature};

#[tokio::test(flavor = "multi_thread")]
async fn an_outbid_is_announced_with_a_valid_signature_before_the_gpu_stops() {
    let rig = Rig::start().await;
    let mailbox = Mailbox::open(&[]).await;
    let secret = mailbox.subscribe(&rig, &["outbid", "instance_started"]).await;
    let (id, at) = rig.gpu("gpu-a").await;
    // Four seconds here: there is time to look at it meanwhile, also where much else runs.
    rig.sim.knobs().outbid(id, Some(400.0)).unwrap();

    let letter = mailbox.wait_for("outbid", 1).await.remove(0);
    let flipped = until("intended_status flips", async || {
        (rig.row(id).await["intended_status"] == "stopped").then(Instant::now)
    })
    .await;
    assert!(letter.at < flipped, "the notice comes first");
    assert_eq!(
        rig.row(id).await["actual_status"],
        "running",
        "the container still runs when the status flips"
    );
    assert_eq!(rig.ssh_text(at, "echo alive"), "alive");
    rig.gpu_status(id, "exited").await;
    let row = rig.row(id).await;
    assert_eq!(
        (&row["cur_state"], &row["next_state"]),
        (&json!("stopped"), &json!("stopped"))
    );
    assert!(
        row["status_msg"].as_str().unwrap().starts_with("success, running"),
        "the message stays stale"
    );

    let expected = signature(&secret, letter.header("x-vast-timestamp"), &letter.raw);
    assert_eq!(letter.header("x-vast-signature-256"), expected);
    assert_ne!(
        signature("another secret", letter.header("x-vast-timestamp"), &letter.raw),
        expected
    );
    assert_eq!(letter.header("x-vast-delivery-attempt"), "1");
    assert_eq!(letter.body["event_id"], letter.header("x-vast-event-id"));
    assert_eq!(
        letter.body["subject"],
        format!("Your Interruptible Instance #{id} Has Been Outbid")
    );
    assert!(
        letter.body.get("instance_id").is_none(),
        "the real body has no instance id"
    );
    assert_eq!(mailbox.wait_for("instance_started", 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_gpu_comes_back_by_itself_when_the_other_tenant_leaves() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.ssh_text(at, "echo kept > workspace/file");
    rig.sim.knobs().outbid(id, None).unwrap();
    rig.gpu_status(id, "exited").await;
    let (status, refused) = rig
        .vast("PUT", &format!("v0/instances/{id}/"), json!({"state": "running"}))
        .await;
    assert_eq!(
        (status, &refused["success"], &refused["error"]),
        (200, &json!(false), &json!("resources_unavailable"))
    );

    rig.sim.knobs().outbid_clears(id).unwrap();
    let again = rig.gpu_address(id).await;
    assert_eq!(rig.ssh_text(again, "cat workspace/file"), "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_bid_wins_the_gpu_back_and_a_lowered_one_loses_it_silently() {
    let rig = Rig::start().await;
    let mailbox = Mailbox::open(&[]).await;
    mailbox.subscribe(&rig, &["outbid"]).await;
    let (id, _) = rig.gpu("gpu-a").await;
    let bid = |price: f64| json!({"client_id": "me", "price": price});
    rig.vast("PUT", &format!("v0/instances/bid_price/{id}/"), bid(0.002))
        .await;
    rig.gpu_status(id, "exited").await;
    assert!(
        mailbox.letters().is_empty(),
        "lowering one's own bid is announced to nobody"
    );
    rig.vast("PUT", &format!("v0/instances/bid_price/{id}/"), bid(5.0))
        .await;
    rig.gpu_address(id).await;

    let (_, made) = rig.vast("PUT", "v0/asks/9003/", json!({"image": "x"})).await;
    let (status, refused) = rig
        .vast(
            "PUT",
            &format!("v0/instances/bid_price/{}/", made["new_contract"]),
            bid(1.0),
        )
        .await;
    assert_eq!(
        (status, &refused["msg"]),
        (400, &json!("Can't change price of on-demand contract."))
    );
    for out_of_range in [0.0, 33.0] {
        let (status, refused) = rig
            .vast("PUT", &format!("v0/instances/bid_price/{id}/"), bid(out_of_range))
            .await;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_args")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_retried_doubled_and_lost_as_told() {
    let rig = Rig::start().await;
    let mailbox = Mailbox::open(&[503, 429, 200]).await;
    mailbox.subscribe(&rig, &["client:instance_created"]).await;
    let (_, made) = rig.vast("PUT", "v0/asks/9000/", json!({"image": "x"})).await;
    assert_eq!(made["success"], true);
    let tries = mailbox.wait_for("instance_created", 3).await;
    let attempts: Vec<&str> = tries
        .iter()
        .map(|letter| letter.header("x-vast-delivery-attempt"))
        .collect();
    assert_eq!(attempts, ["1", "2", "3"]);
    assert!(
        tries
            .iter()
            .all(|letter| letter.body["event_id"] == tries[0].body["event_id"])
    );

    rig.sim.knobs().set_delivery(Delivery::Twice);
    rig.vast("PUT", "v0/asks/9001/", json!({"image": "x"})).await;
    let all = mailbox.wait_for("instance_created", 5).await;
    assert_eq!(all[3].body["event_id"], all[4].body["event_id"]);

    rig.sim.knobs().set_delivery(Delivery::Lost);
    rig.vast("PUT", "v0/asks/9002/", json!({"image": "x"})).await;
    let (_, inbox) = rig.vast("GET", "v0/notifications/inbox/", Value::Null).await;
    assert_eq!(
        inbox["notifications"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|one| one["notif_type"] == "instance_created")
            .count(),
        3
    );
    assert_eq!(mailbox.letters().len(), 5, "a lost notification arrives nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_listing_is_paged_filtered_and_ends() {
    let rig = Rig::start().await;
    for offer in (0..4).flat_map(|slice| (0..7).map(move |at| 9_000 + slice * 10 + at)) {
        let wish = json!({"image": "x", "label": format!("l-{}", offer % 2)});
        assert_eq!(rig.vast("PUT", &format!("v0/asks/{offer}/"), wish).await.0, 200);
    }
    let (_, first) = rig.vast("GET", "v1/instances/?limit=100", Value::Null).await;
    assert_eq!(
        (&first["instances_found"], &first["total_instances"]),
        (&json!(25), &json!(28)),
        "25 rows at most"
    );
    let token = first["next_token"].as_str().unwrap();
    let (_, second) = rig
        .vast(
            "GET",
            &format!("v1/instances/?after_token={}", token.replace('=', "%3D")),
            Value::Null,
        )
        .await;
    assert_eq!(
        (&second["instances_found"], &second["next_token"]),
        (&json!(3), &Value::Null)
    );
    let mut ids: Vec<u64> = [&first, &second]
        .iter()
        .flat_map(|page| page["instances"].as_array().unwrap())
        .map(|row| row["id"].as_u64().unwrap())
        .collect();
    ids.dedup();
    assert_eq!(ids.len(), 28, "no row twice, none missing");

    let filter = format!("{{\"id\":{{\"in\":[{},\"{}\"]}}}}", ids[0], ids[27])
        .replace('"', "%22")
        .replace('{', "%7B")
        .replace('}', "%7D");
    let (_, chosen) = rig
        .vast("GET", &format!("v1/instances/?select_filters={filter}"), Value::Null)
        .await;
    assert_eq!(chosen["instances_found"], 2, "numbers may come as strings");
    let (_, labelled) = rig
        .vast(
            "GET",
            "v1/instances/?limit=0&select_filters=%7B%22label%22:%7B%22eq%22:%22l-1%22%7D%7D",
            Value::Null,
        )
        .await;
    assert_eq!(labelled["instances_found"], 5, "a limit of zero means five");
    let (status, refused) = rig
        .vast(
            "GET",
            "v1/instances/?select_filters=%7B%22dph_total%22:%7B%22lt%22:1%7D%7D",
            Value::Null,
        )
        .await;
    assert_eq!(
        (status, &refused["error"]),
        (400, &json!("invalid_request")),
        "computed columns cannot be filtered"
    );
    let (status, refused) = rig.vast("GET", "v1/instances/?after_token=nonsense", Value::Null).await;
    assert_eq!((status, &refused["error"]), (400, &json!("invalid_token")));
    assert_eq!(
        rig.send("wrong", "GET", "/api/v1/instances/", None).await.unwrap().0,
        401
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bid_below_the_floor_leaves_a_stopped_contract_that_bills() {
    let rig = Rig::start().await;
    let (status, made) = rig
        .vast("PUT", "v0/asks/9000/", json!({"image": "x", "price": 0.001}))
        .await;
    assert_eq!((status, &made["success"]), (200, &json!(false)));
    let left = rig.sim.machines_left();
    assert_eq!(left[0].name, made["new_contract"].to_string());
    assert!(left[0].usd_per_hour > 0.0 && !left[0].is_on);
    let row = rig.row(made["new_contract"].as_u64().unwrap()).await;
    assert_eq!(
        (&row["intended_status"], &row["actual_status"]),
        (&json!("stopped"), &Value::Null)
    );

    let (status, refused) = rig
        .vast(
            "PUT",
            "v0/asks/9000/",
            json!({"image": "x", "price": 0.001, "cancel_unavail": true}),
        )
        .await;
    assert_eq!((status, &refused["error"]), (410, &json!("no_such_ask")));
    assert_eq!(rig.vast("PUT", "v0/asks/1/", json!({"image": "x"})).await.0, 404);
    assert_eq!(
        rig.vast("PUT", "v0/asks/9001/", json!({"image": "x", "price": 500}))
            .await
            .1["error"],
        "invalid_price"
    );
    rig.sim.knobs().set_offers(false);
    assert_eq!(rig.vast("POST", "v0/bundles/", json!({})).await.1["offers"], json!([]));
    assert_eq!(rig.vast("PUT", "v0/asks/9001/", json!({"image": "x"})).await.0, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn search_coerces_numbers_and_knows_no_cpu_machines() {
    let rig = Rig::start().await;
    let query = json!({"num_gpus": {"eq": "1"}, "gpu_name": {"eq": "RTX 4090"}, "geolocation": {"in": ["US"]}, "reliability": {"gt": "0.99"},
        "order": [["dph_total", "asc"]], "limit": 3, "allocated_storage": 60.0, "type": "on-demand"});
    let (_, found) = rig.vast("POST", "v0/bundles/", query.clone()).await;
    let offers = found["offers"].as_array().unwrap();
    assert_eq!(offers.len(), 3);
    assert!(offers.iter().all(|offer| offer["geolocation"] == "Texas, US"));
    assert!(offers[0]["dph_total"].as_f64() <= offers[1]["dph_total"].as_f64());
    let (_, wrapped) = rig
        .vast("PUT", "v0/search/asks/", json!({"select_cols": ["*"], "q": query}))
        .await;
    assert_eq!(wrapped["offers"].as_array().unwrap().len(), 3);
    let (_, none) = rig.vast("POST", "v0/bundles/", json!({"num_gpus": {"eq": 0}})).await;
    assert!(
        none["offers"]
            .as_array()
            .unwrap()
            .iter()
            .all(|offer| offer["resource_type"] == "disk" && offer["cpu_ram"] == 0)
    );
    let (status, refused) = rig.vast("POST", "v0/bundles/", json!({"gpu_name": "RTX 4090"})).await;
    assert_eq!(
        (status, refused["msg"].as_str().unwrap()),
        (400, "q.gpu_name: Input should be a valid dictionary")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn search_compares_driver_versions_as_numbers_and_knows_every_published_filter() {
    let rig = Rig::start().await;
    let found = async |query: Value| {
        let (status, found) = rig.vast("POST", "v0/bundles/", query).await;
        assert_eq!(status, 200, "{found}");
        found["offers"].as_array().unwrap().len()
    };
    assert!(found(json!({"driver_version": {"gte": 560_020_000}})).await > 0);
    assert!(found(json!({"driver_version": {"eq": "560035003"}})).await > 0);
    assert_eq!(found(json!({"driver_version": {"gte": 560_040_000}})).await, 0);
    for published in [
        "gpu_max_power",
        "gpu_max_temp",
        "mobo_name",
        "os_version",
        "ubuntu_version",
    ] {
        assert!(found(json!({published: {"neq": "0"}})).await > 0, "{published}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attached_key_works_after_a_while_and_a_detached_one_no_more() {
    let rig = Rig::start().await;
    let (_, made) = rig.vast("PUT", "v0/asks/9000/", json!({"image": "x"})).await;
    let id = made["new_contract"].as_u64().unwrap();
    let at = rig.gpu_address(id).await;
    assert!(!rig.ssh(at, "true").status.success(), "no key, no login");
    let path = format!("v0/instances/{id}/ssh/");
    let (_, attached) = rig.vast("POST", &path, json!({"ssh_key": rig.public_key()})).await;
    assert_eq!(attached["success"], true);
    let (status, again) = rig.vast("POST", &path, json!({"ssh_key": rig.public_key()})).await;
    assert_eq!((status, &again["success"]), (200, &json!(false)));
    until("the key works", async || {
        rig.ssh(at, "true").status.success().then_some(())
    })
    .await;

    let (_, listed) = rig.vast("GET", &path, Value::Null).await;
    let keys: Value = serde_json::from_str(listed["ssh_keys"].as_str().unwrap()).unwrap();
    rig.vast("DELETE", &format!("{path}{}/", keys[0]["id"]), Value::Null)
        .await;
    assert!(!rig.ssh(at, "true").status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn account_keys_have_the_published_shape() {
    let rig = Rig::start().await;
    let text = rig.public_key();
    let (_, made) = rig.vast("POST", "v0/ssh/", json!({"ssh_key": text})).await;
    let key = &made["key"];
    assert_eq!((&key["public_key"], &key["key"]), (&json!(text), &Value::Null));
    let created = key["created_at"].as_str().unwrap();
    assert!(created.contains('T') && created.ends_with('Z'), "{created}");
    let (_, listed) = rig.vast("GET", "v0/ssh/", Value::Null).await;
    assert_eq!(
        (&listed[0]["key"], &listed[0]["public_key"]),
        (&json!(text), &Value::Null)
    );
    assert_eq!(listed[0]["created_at"], created);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    for (method, path, body, wanted) in [
        ("POST", "v0/ssh/", json!({}), (400, "no_ssh_key")),
        ("DELETE", "v0/ssh/1/", Value::Null, (400, "no_ssh_key")),
        (
            "POST",
            "v0/instances/1/ssh/",
            json!({"ssh_key": text}),
            (404, "no_such_instance"),
        ),
    ] {
        let (status, refused) = rig.vast(method, path, body).await;
        assert_eq!((status, refused["error"].as_str().unwrap()), wanted, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_has_its_own_word_for_an_unknown_instance() {
    let rig = Rig::start().await;
    for (method, path, wanted) in [
        ("PUT", "v0/instances/1/", (404, "no_such_instance")),
        ("DELETE", "v0/instances/1/", (404, "no_such_instance")),
        ("PUT", "v0/instances/bid_price/1/", (404, "no_such_instance")),
        ("PUT", "v0/instances/reboot/1/", (200, "invalid_id")),
        ("PUT", "v0/instances/recycle/1/", (400, "invalid_id")),
        ("PUT", "v0/instances/request_logs/1/", (404, "invalid_id")),
    ] {
        let body = json!({"state": "running", "client_id": "me", "price": 0.3});
        let (status, refused) = rig.vast(method, path, body).await;
        assert_eq!((status, refused["error"].as_str().unwrap()), wanted, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rsync_module_serves_the_disk_of_a_stopped_gpu() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.ssh_text(at, "echo last-words > workspace/file");
    rig.sim.knobs().stop_silently(id).unwrap();
    let (status, module) = rig.vast("PUT", "v0/commands/rsync/", json!({"client_id": "me", "src_id": format!("C.{id}"), "dst_id": null, "src_path": "/workspace/", "dst_path": "/tmp"})).await;
    assert_eq!((status, &module["success"]), (200, &json!(true)));
    let agent = std::net::SocketAddr::new(
        module["src_addr"].as_str().unwrap().parse().unwrap(),
        u16::try_from(module["src_port"].as_u64().unwrap()).unwrap(),
    );
    let into = rig.file("rescued");
    let pulled = rig.rsync(
        agent,
        &[
            "-a",
            &format!("remote::C.{id}/workspace/"),
            &format!("{}/", into.display()),
        ],
    );
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    assert_eq!(std::fs::read_to_string(into.join("file")).unwrap(), "last-words\n");

    rig.sim.knobs().host_offline(id).unwrap();
    let (_, offline) = rig
        .vast(
            "PUT",
            "v0/commands/rsync/",
            json!({"src_id": format!("C.{id}"), "dst_id": null}),
        )
        .await;
    assert_eq!(offline["success"], false);
    assert!(
        !rig.rsync(
            agent,
            &[
                "-a",
                &format!("remote::C.{id}/workspace/"),
                &format!("{}/", into.display())
            ]
        )
        .status
        .success()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offline_host_hangs_and_comes_back_with_everything() {
    let rig = Rig::start().await;
    let mailbox = Mailbox::open(&[]).await;
    mailbox.subscribe(&rig, &["instance_offline", "instance_online"]).await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.sim.knobs().host_offline(id).unwrap();
    assert_eq!(rig.row(id).await["actual_status"], "offline");
    mailbox.wait_for("instance_offline", 1).await;
    let silent = std::net::TcpStream::connect(at).map(|stream| {
        stream
            .set_read_timeout(Some(std::time::Duration::from_millis(300)))
            .unwrap();
        std::io::Read::read(&mut &stream, &mut [0; 8]).is_err()
    });
    assert!(silent.unwrap_or(true), "no banner comes from a host without network");
    rig.sim.knobs().host_online(id).unwrap();
    mailbox.wait_for("instance_online", 1).await;
    assert_eq!(rig.ssh_text(at, "echo alive"), "alive");
    rig.sim.knobs().status_unknown(id).unwrap();
    assert_eq!(rig.row(id).await["actual_status"], "unknown");
    assert_eq!(rig.ssh_text(at, "echo alive"), "alive");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recycled_gpu_is_empty_and_has_another_host_key() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.ssh_text(at, "echo gone > workspace/file");
    let key = rig.sim.host_key(&id.to_string()).unwrap();
    assert_eq!(
        rig.vast("PUT", &format!("v0/instances/recycle/{id}/"), json!({}))
            .await
            .1["success"],
        true
    );
    assert_eq!(rig.row(id).await["actual_status"], "recycling");
    let again = rig.gpu_address(id).await;
    assert_eq!(rig.ssh_text(again, "ls workspace | wc -l"), "0");
    assert_ne!(rig.sim.host_key(&id.to_string()).unwrap(), key);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reboot_does_not_win_back_a_gpu_that_another_tenant_has() {
    let rig = Rig::start().await;
    let (id, at) = rig.gpu("gpu-a").await;
    rig.sim.knobs().outbid(id, Some(10.0)).unwrap();
    rig.gpu_status(id, "exited").await;
    let (_, answer) = rig.vast("PUT", &format!("v0/instances/reboot/{id}/"), json!({})).await;
    assert_eq!(answer["success"], true);
    assert_eq!(rig.row(id).await["actual_status"], "rebooting");
    rig.gpu_status(id, "exited").await;
    assert!(!rig.ssh(at, "true").status.success());
    rig.sim.knobs().outbid_clears(id).unwrap();
    rig.gpu_address(id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_credit_stops_every_gpu_and_refuses_starts_and_rentals() {
    let rig = Rig::start().await;
    let mailbox = Mailbox::open(&[]).await;
    mailbox.subscribe(&rig, &["low_credit"]).await;
    let (first, _) = rig.gpu("gpu-a").await;
    let (second, _) = rig.gpu("gpu-b").await;
    rig.sim.knobs().set_credit(0.0);
    mailbox.wait_for("low_credit", 1).await;
    rig.gpu_status(first, "exited").await;
    rig.gpu_status(second, "exited").await;
    let (status, refused) = rig
        .vast("PUT", &format!("v0/instances/{first}/"), json!({"state": "running"}))
        .await;
    assert_eq!((status, &refused["error"]), (400, &json!("missing_billing")));
    assert_eq!(
        rig.vast("PUT", "v0/asks/9004/", json!({"image": "x"})).await.1["error"],
        "missing_billing"
    );
    rig.sim.knobs().set_credit(10.0);
    rig.sim.knobs().expire(second).unwrap();
    assert_eq!(
        rig.vast("PUT", &format!("v0/instances/{second}/"), json!({"state": "running"}))
            .await
            .0,
        400,
        "an expired contract cannot start"
    );
    assert_eq!(
        rig.vast("PUT", &format!("v0/instances/{first}/"), json!({"state": "running"}))
            .await
            .1["success"],
        true
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_cannot_be_undone_by_a_later_command() {
    let rig = Rig::start().await;
    let (id, _) = rig.gpu("gpu-a").await;
    rig.vast("DELETE", &format!("v0/instances/{id}/"), json!({})).await;
    rig.vast("PUT", &format!("v0/instances/{id}/"), json!({"state": "running"}))
        .await;
    assert_eq!(
        rig.vast("DELETE", &format!("v0/instances/{id}/"), json!({})).await.0,
        200,
        "again while it goes"
    );
    until("the row is gone", async || rig.row(id).await.is_null().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn knobs_hide_rows_refuse_starts_and_spoil_births() {
    let rig = Rig::start().await;
    let (id, _) = rig.gpu("gpu-a").await;
    rig.sim.knobs().set_hidden(id, true).unwrap();
    assert!(rig.row(id).await.is_null());
    assert_eq!(
        rig.vast("GET", "v1/instances/", Value::Null).await.1["total_instances"],
        0
    );
    rig.sim.knobs().set_hidden(id, false).unwrap();
    assert_eq!(rig.row(id).await["id"], id);
    rig.sim.knobs().stop_silently(id).unwrap();
    assert_eq!(rig.row(id).await["actual_status"], "exited");
    rig.sim.knobs().set_start_refused(id, true).unwrap();
    let (status, refused) = rig
        .vast("PUT", &format!("v0/instances/{id}/"), json!({"state": "running"}))
        .await;
    assert_eq!((status, &refused["success"]), (200, &json!(false)));

    rig.sim.knobs().next_birth(Birth::SitsStopped);
    let (_, made) = rig.vast("PUT", "v0/asks/9000/", json!({"image": "x"})).await;
    let sitting = made["new_contract"].as_u64().unwrap();
    assert_eq!(
        (&made["success"], &rig.row(sitting).await["intended_status"]),
        (&json!(true), &json!("stopped"))
    );
    rig.vast("PUT", &format!("v0/instances/{sitting}/"), json!({"state": "running"}))
        .await;
    rig.gpu_address(sitting).await;
    rig.sim.knobs().next_birth(Birth::BadImage);
    let (_, made) = rig.vast("PUT", "v0/asks/9001/", json!({"image": "x"})).await;
    let bad = made["new_contract"].as_u64().unwrap();
    until("the bad image gives up", async || {
        let row = rig.row(bad).await;
        (row["intended_status"] == "stopped" && row["actual_status"] == "loading").then_some(())
    })
    .await;
    assert!(rig.sim.knobs().outbid(1, None).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn call_limits_bite_with_and_without_a_hint() {
    let rig = Rig::with(Options {
        rate_limits: RateLimits::WithoutRetryAfter,
        time_scale: 0.5,
        ..Options::default()
    })
    .await;
    assert_eq!(rig.vast("GET", "v0/instances/", Value::Null).await.0, 200);
    assert_eq!(
        rig.vast("GET", "v0/instances/", Value::Null).await,
        (429, json!("API requests too frequent: endpoint threshold=20"))
    );
    assert_eq!(
        rig.vast("GET", "v1/instances/", Value::Null).await.0,
        200,
        "limits are per endpoint"
    );
    rig.sim.knobs().set_rate_limits(RateLimits::WithRetryAfter);
    let (status, refused) = rig.vast("GET", "v0/instances/", Value::Null).await;
    assert_eq!((status, &refused["error"]), (429, &json!("HTTPTooManyRequests")));
    assert!(refused["retry_after"].as_f64().unwrap() > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_checked_limited_tested_and_rotated() {
    let rig = Rig::start().await;
    let refuse = |body: Value| rig.vast("POST", "v0/webhooks/", body);
    assert_eq!(
        refuse(json!({"name": "a", "webhook_url": "http://example.com/", "event_types": ["outbid"]}))
            .await
            .0,
        400
    );
    assert_eq!(
        refuse(json!({"name": "a", "webhook_url": "https://example.com/", "event_types": ["no_such_type"]}))
            .await
            .0,
        400
    );
    let mailbox = Mailbox::open(&[204, 401, 500]).await;
    let secret = mailbox.subscribe(&rig, &["outbid"]).await;
    assert_eq!(
        refuse(json!({"name": "a", "webhook_url": mailbox.url, "event_types": ["outbid"]}))
            .await
            .0,
        400,
        "the same address twice"
    );
    let (_, listed) = rig.vast("GET", "v0/webhooks/", Value::Null).await;
    assert!(!listed.to_string().contains(&secret), "the secret is shown once");
    let id = &listed["webhooks"][0]["id"];
    assert_eq!(
        rig.vast("POST", &format!("v0/webhooks/{id}/test/"), json!({})).await.1["success"],
        true
    );
    assert_eq!(mailbox.letters()[0].body["subject"], "Vast.ai webhook test");
    assert_eq!(
        rig.vast("POST", &format!("v0/webhooks/{id}/test/"), json!({})).await,
        (
            400,
            json!({"success": false, "error": "invalid_args", "msg": "Webhook URL is not deliverable"})
        )
    );
    assert_eq!(
        rig.vast("POST", &format!("v0/webhooks/{id}/test/"), json!({})).await.0,
        502
    );
    let (_, rotated) = rig
        .vast("POST", &format!("v0/webhooks/{id}/rotate-secret/"), json!({}))
        .await;
    assert_ne!(rotated["webhook"]["webhook_secret"], secret);
    for at in 0..3 {
        assert_eq!(
            refuse(json!({"name": "a", "webhook_url": format!("https://example.com/{at}"), "event_types": ["outbid"]}))
                .await
                .0,
            200
        );
    }
    assert_eq!(
        refuse(json!({"name": "a", "webhook_url": "https://example.com/5", "event_types": ["outbid"]}))
            .await
            .1["msg"],
        "Maximum of 4 webhooks per user"
    );
    assert_eq!(
        rig.vast("DELETE", &format!("v0/webhooks/{id}/"), json!({})).await.0,
        200
    );
}
