//! The Compute Engine side: what is refused, what fails late, what is answered once.

mod rig;

use rig::{Rig, ZONE, until};
use serde_json::{Value, json};
use simcloud::QuotaRefusal;

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (
        answer.0,
        answer.1["error"]["errors"][0]["reason"].as_str().unwrap_or_default(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capacity_error_shows_only_in_the_operation_and_leaves_nothing() {
    let rig = Rig::start().await;
    rig.sim.knobs().capacity_out(ZONE);
    let (status, operation) = rig
        .compute("POST", &format!("zones/{ZONE}/instances"), rig.standby_body("sb-1"))
        .await;
    assert_eq!(status, 200, "accepted at first");
    assert!(
        operation["error"].is_null() && operation["status"] != "DONE",
        "{operation}"
    );
    let done = rig.operation(&operation).await;
    let error = &done["error"]["errors"][0];
    assert_eq!(error["code"], "ZONE_RESOURCE_POOL_EXHAUSTED");
    assert_eq!(
        error["errorDetails"][0]["errorInfo"]["metadatas"]["vmType"],
        "e2-medium"
    );
    let zone = format!("'projects/sim-project/zones/{ZONE}'");
    assert!(error["message"].as_str().unwrap().contains(&zone), "{error}");
    assert!(
        error["errorDetails"][0]["errorInfo"]["metadatas"]["zonesAvailable"]
            .as_str()
            .unwrap()
            .contains("us-central1-b")
    );
    assert_eq!(
        rig.compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
            .await
            .0,
        404
    );
    assert!(rig.sim.machines_left().is_empty() && rig.sim.disks_left().is_empty());

    rig.sim.knobs().capacity_back(ZONE);
    rig.standby("sb-1").await;
    let (_, stopped) = rig
        .compute("POST", &format!("zones/{ZONE}/instances/sb-1/stop"), Value::Null)
        .await;
    rig.operation(&stopped).await;
    rig.sim.knobs().capacity_out(ZONE);
    let (_, start) = rig
        .compute("POST", &format!("zones/{ZONE}/instances/sb-1/start"), Value::Null)
        .await;
    assert_eq!(
        rig.operation(&start).await["error"]["errors"][0]["code"],
        "ZONE_RESOURCE_POOL_EXHAUSTED"
    );
    assert_eq!(rig.standby_status("sb-1").await, "TERMINATED");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exceeded_quota_shows_late_or_at_once() {
    let rig = Rig::start().await;
    rig.sim.knobs().set_quota(Some(QuotaRefusal::InOperation));
    let (_, operation) = rig
        .compute("POST", &format!("zones/{ZONE}/instances"), rig.standby_body("sb-1"))
        .await;
    assert_eq!(
        rig.operation(&operation).await["error"]["errors"][0]["code"],
        "QUOTA_EXCEEDED"
    );
    rig.sim.knobs().set_quota(Some(QuotaRefusal::Immediate));
    let refused = rig
        .compute("POST", &format!("zones/{ZONE}/instances"), rig.standby_body("sb-1"))
        .await;
    assert_eq!(reason(&refused), (403, "quotaExceeded"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_real_one_refuses_is_refused() {
    let rig = Rig::start().await;
    let cases: [(&str, &str, Value); 12] = [
        ("upper case in the name", "/name", json!("Standby")),
        ("a dash at the end", "/name", json!("sb-")),
        ("an upper-case label", "/labels/gpu-id", json!("A")),
        ("a label with shell characters", "/labels/gpu-id", json!("$(reboot)")),
        (
            "an unknown machine type",
            "/machineType",
            json!(format!("zones/{ZONE}/machineTypes/e9-huge")),
        ),
        (
            "a machine type of another zone",
            "/machineType",
            json!("zones/us-central1-b/machineTypes/e2-medium"),
        ),
        (
            "Spot with automatic restart",
            "/scheduling/automaticRestart",
            json!(true),
        ),
        (
            "an unknown provisioning model",
            "/scheduling/provisioningModel",
            json!("CHEAP"),
        ),
        (
            "a size that is no number",
            "/disks/1/initializeParams/diskSizeGb",
            json!("many"),
        ),
        ("no disks", "/disks", json!([])),
        ("no network", "/networkInterfaces", json!([])),
        ("a metadata key with a space", "/metadata/items/0/key", json!("a b")),
    ];
    for (what, pointer, value) in cases {
        let mut body = rig.standby_body("sb-1");
        *body.pointer_mut(pointer).unwrap() = value;
        let refused = rig.compute("POST", &format!("zones/{ZONE}/instances"), body).await;
        assert_eq!(reason(&refused), (400, "invalid"), "{what}: {}", refused.1);
    }
    let mut body = rig.standby_body("sb-1");
    body["colour"] = json!("red");
    assert_eq!(
        rig.compute("POST", &format!("zones/{ZONE}/instances"), body).await.0,
        400,
        "unknown field"
    );
    let path = |query: &str| format!("zones/{ZONE}/instances?{query}");
    assert_eq!(
        rig.compute("POST", &path("request_id=x"), rig.standby_body("sb-1"))
            .await
            .0,
        400,
        "unknown query parameter"
    );
    assert_eq!(
        rig.compute("POST", &path("requestId=x"), rig.standby_body("sb-1"))
            .await
            .0,
        400,
        "no UUID"
    );
    assert_eq!(
        rig.compute("GET", "zones/europe-west1-a/instances", Value::Null)
            .await
            .0,
        400,
        "a zone that does not exist"
    );
    assert_eq!(
        reason(
            &rig.compute("GET", &format!("zones/{ZONE}/instances/none"), Value::Null)
                .await
        ),
        (404, "notFound")
    );
    assert_eq!(
        rig.send("wrong", "GET", "/compute/v1/projects/sim-project/zones", None)
            .await
            .unwrap()
            .0,
        401
    );
    assert!(
        rig.sim.machines_left().is_empty() && rig.sim.disks_left().is_empty(),
        "a refused insert leaves nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_with_the_same_request_id_is_the_same_operation() {
    let rig = Rig::start().await;
    let path = format!("zones/{ZONE}/instances?requestId=6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let (_, first) = rig.compute("POST", &path, rig.standby_body("sb-1")).await;
    let (status, again) = rig.compute("POST", &path, rig.standby_body("sb-1")).await;
    assert_eq!((status, &again["name"]), (200, &first["name"]));
    assert_eq!(again["clientOperationId"], "6ba7b810-9dad-11d1-80b4-00c04fd430c8");
    let without = rig
        .compute("POST", &format!("zones/{ZONE}/instances"), rig.standby_body("sb-1"))
        .await;
    assert_eq!(reason(&without), (409, "alreadyExists"));
    assert_eq!(rig.sim.machines_left().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_simultaneous_inserts_of_one_name_exactly_one_succeeds() {
    let rig = std::sync::Arc::new(Rig::start().await);
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let rig = std::sync::Arc::clone(&rig);
        tries.spawn(async move {
            rig.compute("POST", &format!("zones/{ZONE}/instances"), rig.standby_body("sb-1"))
                .await
                .0
        });
    }
    let mut statuses = tries.join_all().await;
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    let machines = std::fs::read_dir(rig.sim.root().join("machines")).unwrap().count();
    assert_eq!((rig.sim.machines_left().len(), machines), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_made_again_under_its_name_is_not_hit_by_what_befell_the_first() {
    let rig = Rig::start().await;
    rig.standby("sb-1").await;
    rig.sim.knobs().preempt("sb-1").unwrap();
    let (_, deleted) = rig
        .compute("DELETE", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
        .await;
    rig.operation(&deleted).await;
    rig.standby("sb-1").await;
    tokio::time::sleep(rig.sim.scaled(35.0)).await;
    assert_eq!(
        rig.standby_status("sb-1").await,
        "RUNNING",
        "the first one's preemption is over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_by_label_and_paged() {
    let rig = Rig::start().await;
    for (name, gpu) in [("sb-1", "1"), ("sb-2", "2"), ("sb-3", "3")] {
        let mut body = rig.standby_body(name);
        body["labels"]["gpu-id"] = json!(gpu);
        assert_eq!(
            rig.compute("POST", &format!("zones/{ZONE}/instances"), body).await.0,
            200
        );
    }
    let (_, all) = rig
        .compute(
            "GET",
            "aggregated/instances?filter=labels.managed-by%20%3D%20%22standby%22",
            Value::Null,
        )
        .await;
    let here = |body: &Value| {
        body["items"][format!("zones/{ZONE}")]["instances"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(here(&all), 3);
    assert_eq!(
        all["items"]["zones/us-west1-a"]["warning"]["code"],
        "NO_RESULTS_ON_PAGE"
    );
    let (_, one) = rig
        .compute(
            "GET",
            "aggregated/instances?filter=(labels.managed-by%3Dstandby)%20(labels.gpu-id%3D%222%22)",
            Value::Null,
        )
        .await;
    assert_eq!(here(&one), 1);
    let (_, none) = rig
        .compute(
            "GET",
            "aggregated/instances?filter=status%3D%22TERMINATED%22%20AND%20labels.gpu-id:*",
            Value::Null,
        )
        .await;
    assert_eq!(here(&none), 0);
    assert_eq!(
        rig.compute("GET", "aggregated/instances?filter=labels.", Value::Null)
            .await
            .0,
        400
    );

    let (_, first) = rig
        .compute("GET", "aggregated/instances?maxResults=2", Value::Null)
        .await;
    let token = first["nextPageToken"].as_str().unwrap();
    let (_, second) = rig
        .compute(
            "GET",
            &format!("aggregated/instances?maxResults=2&pageToken={token}"),
            Value::Null,
        )
        .await;
    assert_eq!(
        (here(&first), here(&second), &second["nextPageToken"]),
        (2, 1, &Value::Null)
    );
    let (_, disks) = rig
        .compute(
            "GET",
            "aggregated/disks?filter=labels.managed-by%3Dstandby",
            Value::Null,
        )
        .await;
    assert_eq!(
        disks["items"][format!("zones/{ZONE}")]["disks"]
            .as_array()
            .unwrap()
            .len(),
        3,
        "only data disks carry the label"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_and_metadata_need_a_fresh_fingerprint_and_new_keys_reach_the_guest() {
    let rig = Rig::start().await;
    let mut body = rig.standby_body("sb-1");
    body["metadata"]["items"][1]["value"] = json!("");
    let (_, operation) = rig.compute("POST", &format!("zones/{ZONE}/instances"), body).await;
    let early = rig
        .compute(
            "GET",
            &format!("zones/{ZONE}/instances/sb-1/getGuestAttributes?queryPath=hostkeys/"),
            Value::Null,
        )
        .await;
    assert_eq!(
        reason(&early),
        (404, "notFound"),
        "not written before the guest has booted"
    );
    rig.operation(&operation).await;
    let at = rig.standby_address("sb-1").await;
    assert!(!rig.ssh(at, "true").status.success());

    let (_, vm) = rig
        .compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
        .await;
    let line = format!("{}:{}", rig.sim.login_user(), rig.public_key());
    let metadata =
        |fingerprint: &Value| json!({"fingerprint": fingerprint, "items": [{"key": "ssh-keys", "value": line}]});
    let path = format!("zones/{ZONE}/instances/sb-1/setMetadata");
    let stale = rig.compute("POST", &path, metadata(&json!("AAAA"))).await;
    assert_eq!(reason(&stale), (412, "conditionNotMet"));
    assert_eq!(
        rig.compute("POST", &path, metadata(&vm["metadata"]["fingerprint"]))
            .await
            .0,
        200
    );
    until("the new key works", async || {
        rig.ssh(at, "true").status.success().then_some(())
    })
    .await;

    let labels = json!({"labels": {"epoch": "2"}, "labelFingerprint": vm["labelFingerprint"]});
    let (_, operation) = rig
        .compute("POST", &format!("zones/{ZONE}/instances/sb-1/setLabels"), labels)
        .await;
    rig.operation(&operation).await;
    let (_, vm) = rig
        .compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
        .await;
    assert_eq!(vm["labels"], json!({"epoch": "2"}));
    let (_, serial) = rig
        .compute("GET", &format!("zones/{ZONE}/instances/sb-1/serialPort"), Value::Null)
        .await;
    assert!(
        serial["contents"]
            .as_str()
            .unwrap()
            .contains("-----BEGIN SSH HOST KEY KEYS-----")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_file_yields_a_token_that_works_and_a_forged_one_does_not() {
    use gcp_auth::TokenProvider as _;
    let rig = Rig::start().await;
    let file = rig.file("account.json");
    rig.sim.write_service_account(&file).unwrap();
    let account = gcp_auth::CustomServiceAccount::from_file(&file).unwrap();
    let token = account
        .token(&["https://www.googleapis.com/auth/compute"])
        .await
        .unwrap();
    let (status, zones) = rig
        .send(token.as_str(), "GET", "/compute/v1/projects/sim-project/zones", None)
        .await
        .unwrap();
    assert_eq!(status, 200, "{zones}");

    let other = rig::Rig::start().await;
    let foreign = rig.file("foreign.json");
    other.sim.write_service_account(&foreign).unwrap();
    let text = std::fs::read_to_string(&foreign)
        .unwrap()
        .replace(&other.sim.token_uri(), &rig.sim.token_uri());
    let forged = gcp_auth::CustomServiceAccount::from_json(&text).unwrap();
    assert!(
        forged
            .token(&["https://www.googleapis.com/auth/compute"])
            .await
            .is_err(),
        "signed by another key"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_may_name_googles_own_token_endpoint_but_no_strangers() {
    use base64::Engine as _;
    let rig = Rig::start().await;
    let file = rig.file("account.json");
    rig.sim.write_service_account(&file).unwrap();
    let account: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let (key, message) = (rig.file("account.pem"), rig.file("claims.txt"));
    std::fs::write(&key, account["private_key"].as_str().unwrap()).unwrap();
    let encoded = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let signed = |claims: &Value| {
        let header = encoded(br#"{"alg":"RS256","typ":"JWT"}"#);
        let text = format!("{header}.{}", encoded(claims.to_string().as_bytes()));
        std::fs::write(&message, &text).unwrap();
        let mut sign = std::process::Command::new("openssl");
        let done = sign
            .args(["dgst", "-sha256", "-sign"])
            .arg(&key)
            .arg(&message)
            .output()
            .unwrap();
        assert!(done.status.success());
        format!("{text}.{}", encoded(&done.stdout))
    };
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let end = since_1970.unwrap().as_secs() + 3_600;
    for (audience, status) in [
        ("https://oauth2.googleapis.com/token", 200),
        (rig.sim.token_uri().as_str(), 200),
        ("https://oauth2.example.com/token", 400),
    ] {
        let scope = "https://www.googleapis.com/auth/compute";
        let claims = json!({"iss": account["client_email"], "aud": audience, "scope": scope, "exp": end});
        let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
        let body = format!("{grant}&assertion={}", signed(&claims));
        let answer = rig.client.post(rig.sim.token_uri()).body(body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{audience}");
    }
}
