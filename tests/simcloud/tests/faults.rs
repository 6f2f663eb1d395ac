//! Faults: each one bites, and only whom it should.

mod rig;

use std::time::{Duration, Instant};

use rig::{Rig, ZONE};
use serde_json::{Value, json};
use simcloud::{Fault, FaultAction};

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_has_done_the_work() {
    let rig = Rig::start().await;
    rig.sim
        .inject(Fault::once("PUT", "/api/v0/asks/*/", FaultAction::LoseAnswer));
    let lost = rig
        .send(
            "sim-vast-key",
            "PUT",
            "/api/v0/asks/9000/",
            Some(json!({"image": "x", "label": "mine"})),
        )
        .await;
    assert!(lost.is_err(), "the client gets no answer");
    let (_, listed) = rig.vast("GET", "v1/instances/", Value::Null).await;
    assert_eq!(listed["instances"][0]["label"], "mine");

    rig.sim.inject(Fault::once(
        "POST",
        "/compute/v1/projects/*/zones/*/instances",
        FaultAction::LoseAnswer,
    ));
    let path = format!("/compute/v1/projects/sim-project/zones/{ZONE}/instances");
    assert!(
        rig.send("sim-compute-token", "POST", &path, Some(rig.standby_body("sb-1")))
            .await
            .is_err()
    );
    assert_eq!(
        rig.compute("GET", &format!("zones/{ZONE}/instances/sb-1"), Value::Null)
            .await
            .0,
        200
    );
    assert!(
        rig.sim
            .requests()
            .iter()
            .filter(|one| one.answer_lost)
            .all(|one| one.status == 200)
    );

    rig.sim
        .inject(Fault::once("PUT", "/api/v0/asks/*", FaultAction::DropRequest));
    assert!(
        rig.send("sim-vast-key", "PUT", "/api/v0/asks/9001/", Some(json!({"image": "x"})))
            .await
            .is_err()
    );
    assert_eq!(
        rig.vast("GET", "v1/instances/", Value::Null).await.1["total_instances"],
        1,
        "a dropped request did nothing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_come_as_often_as_told_and_then_stop() {
    let rig = Rig::start().await;
    let list = || rig.vast("GET", "v1/instances/", Value::Null);
    rig.sim
        .inject(Fault::once("GET", "/api/v1/instances", FaultAction::Status { code: 502 }).times(2));
    assert_eq!((list().await.0, list().await.0, list().await.0), (502, 502, 200));
    rig.sim.inject(Fault::once(
        "GET",
        "/api/v1/instances/",
        FaultAction::TooManyRequests { retry_after: None },
    ));
    assert_eq!(
        list().await,
        (429, json!("API requests too frequent: endpoint threshold=4.5"))
    );
    rig.sim.inject(Fault::once(
        "GET",
        "/api/v1/instances/",
        FaultAction::TooManyRequests { retry_after: Some(7) },
    ));
    let answer = rig
        .client
        .get(format!("{}/api/v1/instances/", rig.sim.vast_url()))
        .bearer_auth("sim-vast-key")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            answer.status().as_u16(),
            answer.headers()["retry-after"].to_str().unwrap()
        ),
        (429, "7")
    );
    rig.sim.inject(Fault::once(
        "GET",
        "/api/v1/instances/",
        FaultAction::SuccessFalse {
            error: "e".into(),
            msg: "m".into(),
        },
    ));
    assert_eq!(list().await, (200, json!({"success": false, "error": "e", "msg": "m"})));
    rig.sim
        .inject(Fault::once("GET", "/compute/*", FaultAction::RateLimitExceeded));
    let (status, limited) = rig.compute("GET", "zones", Value::Null).await;
    assert_eq!(
        (status, limited["error"]["errors"][0]["reason"].as_str()),
        (403, Some("rateLimitExceeded"))
    );
    rig.sim.inject(Fault::once(
        "POST",
        "/api/v1/instances/",
        FaultAction::Status { code: 500 },
    ));
    assert_eq!(list().await.0, 200, "another method is left alone");
    assert_eq!(rig.sim.faults_waiting().len(), 1);
    rig.sim.clear_faults();
    assert!(rig.sim.faults_waiting().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_is_slow_and_right() {
    let rig = Rig::start().await;
    rig.sim.inject(Fault::once(
        "GET",
        "/api/v0/users/current",
        FaultAction::Slow { milliseconds: 400 },
    ));
    let before = Instant::now();
    assert_eq!(rig.vast("GET", "v0/users/current/", Value::Null).await.0, 200);
    assert!(before.elapsed() >= Duration::from_millis(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_page_can_fail_alone() {
    let rig = Rig::start().await;
    for offer in [9_000, 9_001, 9_002] {
        rig.vast("PUT", &format!("v0/asks/{offer}/"), json!({"image": "x"}))
            .await;
    }
    rig.sim
        .inject(Fault::once("GET", "/api/v1/instances/", FaultAction::Status { code: 503 }).when_query("after_token="));
    let (status, first) = rig.vast("GET", "v1/instances/?limit=2", Value::Null).await;
    assert_eq!((status, &first["instances_found"]), (200, &json!(2)));
    let path = format!(
        "v1/instances/?limit=2&after_token={}",
        first["next_token"].as_str().unwrap().replace('=', "%3D")
    );
    assert_eq!(rig.vast("GET", &path, Value::Null).await.0, 503);
    assert_eq!(rig.vast("GET", &path, Value::Null).await.1["instances_found"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_api_turns_the_same_knobs() {
    let rig = Rig::start().await;
    let control = |method: &'static str, path: String, body: Value| {
        let rig = &rig;
        async move {
            rig.send(
                "none",
                method,
                &format!("/sim/{path}"),
                (!body.is_null()).then_some(body),
            )
            .await
            .unwrap()
        }
    };
    let (id, _) = rig.gpu("gpu-a").await;
    rig.standby("sb-1").await;
    let (_, state) = control("GET", "state".into(), Value::Null).await;
    assert_eq!(
        (
            state["machines"].as_array().unwrap().len(),
            state["disks"].as_array().unwrap().len()
        ),
        (2, 2)
    );
    assert!(state["usd_per_hour"].as_f64().unwrap() > 0.0);
    assert_eq!(
        control("POST", format!("gpus/{id}/outbid"), json!({"kill_after_seconds": 1}))
            .await
            .0,
        200
    );
    rig.gpu_status(id, "exited").await;
    assert_eq!(
        control("POST", format!("gpus/{id}/outbid-clears"), Value::Null).await.0,
        200
    );
    rig.gpu_address(id).await;
    assert_eq!(
        control("POST", "standbys/sb-1/preempt".into(), Value::Null).await.0,
        200
    );
    assert_eq!(rig.standby_status("sb-1").await, "STOPPING");
    assert_eq!(
        control("POST", "zones/us-central1-a/capacity-out".into(), Value::Null)
            .await
            .0,
        200
    );
    assert_eq!(
        control(
            "POST",
            "settings".into(),
            json!({"offers": false, "delivery": "twice", "quota": "immediate", "rate_limits": "off"})
        )
        .await
        .0,
        200
    );
    assert_eq!(
        control("POST", "settings".into(), json!({"ofers": false})).await.0,
        400,
        "a misspelt setting is refused"
    );
    let fault = json!({"method": "GET", "path": "/api/v0/users/current", "action": {"status": {"code": 500}}});
    assert_eq!(control("POST", "faults".into(), fault).await.0, 200);
    assert_eq!(rig.vast("GET", "v0/users/current/", Value::Null).await.0, 500);
    assert_eq!(control("POST", "gpus/1/outbid".into(), Value::Null).await.0, 404);

    let file = rig.file("requests.jsonl");
    rig.sim.write_compute_requests(&file).unwrap();
    let lines = std::fs::read_to_string(file).unwrap();
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["method"], &first["body"]["name"]),
        (&json!("POST"), &json!("sb-1"))
    );
    assert!(lines.lines().all(|line| line.contains("\"path\":\"/compute/")));
}
