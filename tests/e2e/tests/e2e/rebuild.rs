//! The records are lost, with all that `warmspare serve` kept of them; `warmspare rebuild` makes them anew from the standbys.

use serde_json::{Value, json};
use warmspare_e2e::{
    Setting, Stage, Story, await_phase, await_view, configure, failed, fast, is_on, next_point, play_with_errors,
    protected_gpu, running_gpu, standbys, tree, until, warmspare, word,
};

/// What the sweep says of a standby that nobody owns.
const ORPHAN: &str = "no association owns it";

fn play_loss(setting: Setting, story: impl for<'s> FnOnce(&'s mut Stage) -> Story<'s>) {
    play_with_errors(setting, &[ORPHAN], story);
}

/// The records vanish while nobody looks. The sweep reports the standby and leaves it alone.
async fn lose_records(stage: &mut Stage) -> anyhow::Result<()> {
    let before = standbys(stage);
    stage.kill_serve().await;
    let records = stage.state_dir().join("associations");
    std::fs::remove_dir_all(&records)?;
    stage.start_serve().await?;
    until("the sweep reports the standby", async || {
        Ok(std::fs::read_to_string(stage.log_path())?.contains(ORPHAN))
    })
    .await?;
    assert_eq!(standbys(stage), before, "it is left alone");
    let (_, list) = stage.api(reqwest::Method::GET, "/v1/associations", None).await?;
    assert_eq!(list, json!([]));
    Ok(())
}

async fn rebuild(stage: &Stage, arguments: &[&str]) -> anyhow::Result<(bool, Value)> {
    let output = warmspare(stage, &[&["rebuild", "--json"], arguments].concat()).await?;
    let answer = serde_json::from_slice(&output.stdout)
        .map_err(|error| anyhow::anyhow!("{error}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((output.status.success(), answer))
}

/// Rebuilds the one record and answers its line.
async fn rebuild_the_one(stage: &Stage) -> anyhow::Result<Value> {
    let (done, answer) = rebuild(stage, &[]).await?;
    let lines = answer["associations"].as_array().cloned().unwrap_or_default();
    assert!(done && lines.len() == 1, "{answer:#}");
    assert_eq!(lines[0]["result"], "rebuilt", "{answer:#}");
    Ok(lines[0].clone())
}

async fn point_ids(stage: &Stage, gpu: u64) -> anyhow::Result<Vec<String>> {
    let path = format!("/v1/associations/{gpu}/recovery-points");
    let (status, points) = stage.api(reqwest::Method::GET, &path, None).await?;
    assert!(status.is_success(), "{points}");
    let points = points.as_array().cloned().unwrap_or_default();
    Ok(points.iter().map(|point| word(&point["id"]).to_owned()).collect())
}

/// Copying goes on from where it was: a change on the GPU is in a new recovery point, and the newest of the old ones is still there.
async fn copying_goes_on(stage: &Stage, association: u64, gpu: u64, newest: &str) -> anyhow::Result<()> {
    await_phase(stage, association, &["protected"]).await?;
    std::fs::write(stage.workspace(gpu)?.join("later.txt"), "later")?;
    next_point(stage, association).await?;
    let points = point_ids(stage, association).await?;
    assert!(points.iter().any(|id| id == newest), "{newest} is not in {points:?}");
    assert_eq!(standbys(stage).len(), 1);
    Ok(())
}

/// Waits until the agent copies under the epoch: the record has it at once, the standby only when it was bound again.
async fn await_point_of_epoch(stage: &Stage, gpu: u64, epoch: u64) -> anyhow::Result<()> {
    let changing = stage.workspace(gpu)?.join("changing.txt");
    let mut turn = 0_u32;
    until("a recovery point of the new epoch", async || {
        turn += 1;
        // A pass that finds nothing changed confirms the point of the epoch before.
        std::fs::write(&changing, turn.to_string())?;
        Ok(stage.view(gpu).await?["latest_recovery_point"]["epoch"] == epoch)
    })
    .await
}

#[test]
fn a_protected_gpu_is_protected_again_with_its_points_and_its_source() {
    play_loss(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            configure(stage, gpu, json!({"excludes": ["*.cache"], "max_deleted_percent": 70})).await?;
            await_point_of_epoch(stage, gpu, 2).await?;
            let before = stage.view(gpu).await?;
            let newest = point_ids(stage, gpu).await?.pop().expect("a recovery point");
            lose_records(stage).await?;

            let (done, dry) = rebuild(stage, &["--dry-run"]).await?;
            assert!(done, "{dry:#}");
            assert_eq!(dry["associations"][0]["result"], "rebuilt", "{dry:#}");
            let (status, _) = stage
                .api(reqwest::Method::GET, &format!("/v1/associations/{gpu}"), None)
                .await?;
            assert_eq!(status, reqwest::StatusCode::NOT_FOUND, "a dry run writes nothing");

            let line = rebuild_the_one(stage).await?;
            assert_eq!((&line["epoch"], &line["phase"]), (&json!(2), &json!("holding")));
            copying_goes_on(stage, gpu, gpu, &newest).await?;
            let after = stage.view(gpu).await?;
            for field in ["epoch", "gpu", "standby", "zone"] {
                assert_eq!(after[field], before[field], "{field}");
            }
            for rule in ["source_path", "excludes", "max_deleted_percent"] {
                assert_eq!(after["policy"][rule], before["policy"][rule], "{rule}");
            }
            let (done, again) = rebuild(stage, &[]).await?;
            assert!(done, "{again:#}");
            assert_eq!(again["associations"][0]["result"], "exists");
            Ok(())
        })
    });
}

#[test]
fn after_a_failover_the_new_gpu_is_copied_and_the_old_one_is_not_read() {
    play_loss(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["holding"]).await?;
            let wish = json!({"rent": {"max_dollars_per_hour": 2.0}});
            let path = format!("/v1/associations/{gpu}/restore");
            let (status, answer) = stage.api(reqwest::Method::POST, &path, Some(wish)).await?;
            assert!(status.is_success(), "{answer}");
            let moved = |view: &Value| view["phase"] == "protected" && view["epoch"] != 1;
            let view = await_view(stage, gpu, "the data on another GPU", moved).await?;
            let new: u64 = word(&view["gpu"]).trim_start_matches("vast-").parse()?;
            next_point(stage, gpu).await?;
            let newest = point_ids(stage, gpu).await?.pop().expect("a recovery point");
            std::fs::write(stage.workspace(gpu)?.join("old.txt"), "written on the old GPU")?;
            lose_records(stage).await?;

            let line = rebuild_the_one(stage).await?;
            assert_eq!(line["gpu"], json!(format!("vast-{new}")), "{line:#}");
            assert_eq!(line["epoch"], view["epoch"]);
            copying_goes_on(stage, gpu, new, &newest).await?;
            let after = stage.view(gpu).await?;
            assert_eq!((&after["epoch"], &after["gpu"]), (&view["epoch"], &view["gpu"]));
            assert_eq!(after["superseded"], json!([format!("vast-{gpu}")]));
            let copied = warmspare_e2e::newest_point_directory(stage)?;
            assert!(!copied.join("old.txt").exists(), "the old GPU was read");
            assert!(is_on(stage, new), "the new GPU runs on");
            Ok(())
        })
    });
}

/// The GPU was the user's choice, so no label says that it is ours, and its address changed since: only its agent knows it.
#[test]
fn restored_onto_a_gpu_of_the_users_it_is_known_again_at_another_address() {
    play_loss(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["holding"]).await?;
            let target = running_gpu(stage).await?;
            let wish = json!({"onto": target.to_string()});
            let path = format!("/v1/associations/{gpu}/restore");
            let (status, answer) = stage.api(reqwest::Method::POST, &path, Some(wish)).await?;
            assert!(status.is_success(), "{answer}");
            let moved = |view: &Value| view["gpu"] == format!("vast-{target}") && view["phase"] == "protected";
            await_view(stage, gpu, "the data on the new GPU", moved).await?;
            next_point(stage, gpu).await?;
            let newest = point_ids(stage, gpu).await?.pop().expect("a recovery point");
            stage.cloud.knobs().stop_silently(target).expect("the GPU exists");
            await_phase(stage, gpu, &["holding"]).await?;
            lose_records(stage).await?;

            let line = rebuild_the_one(stage).await?;
            assert_eq!(line["gpu"], json!(format!("vast-{target}")), "{line:#}");
            let path = format!("/api/v0/instances/{target}/");
            stage
                .vast(reqwest::Method::PUT, &path, Some(json!({"state": "running"})))
                .await?;
            copying_goes_on(stage, gpu, target, &newest).await?;
            assert_eq!(stage.view(gpu).await?["superseded"], json!([format!("vast-{gpu}")]));
            Ok(())
        })
    });
}

/// Somebody deletes the one standby's machine in the console; its data disk stays.
async fn delete_machine(stage: &Stage) -> anyhow::Result<()> {
    let machines = stage.cloud.machines_left();
    let machine = machines.into_iter().find(|machine| machine.zone.is_some());
    let machine = machine.expect("one standby");
    let (options, zone) = (stage.cloud.options(), machine.zone.unwrap_or_default());
    let place = format!(
        "{}/compute/v1/projects/{}/zones/{zone}",
        stage.cloud.compute_url(),
        options.project
    );
    let answer = reqwest::Client::new()
        .delete(format!("{place}/instances/{}", machine.name))
        .bearer_auth(&options.compute_token)
        .send()
        .await?;
    assert!(answer.status().is_success(), "{}", answer.text().await?);
    until("the machine is gone", async || Ok(standbys(stage).is_empty())).await
}

#[test]
fn a_disk_without_machine_gets_one_again_and_is_protected_with_its_points() {
    play_loss(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            next_point(stage, gpu).await?;
            let newest = point_ids(stage, gpu).await?.pop().expect("a recovery point");
            lose_records(stage).await?;
            delete_machine(stage).await?;
            rebuild_the_one(stage).await?;
            copying_goes_on(stage, gpu, gpu, &newest).await?;
            let disks = stage.cloud.disks_left();
            assert_eq!(disks.iter().filter(|disk| !disk.is_boot).count(), 1);
            Ok(())
        })
    });
}

#[test]
fn lost_while_holding_a_stopped_standby_is_started_and_its_data_restored() {
    play_loss(fast().with("stop_standby_after_s", "1"), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            next_point(stage, gpu).await?;
            failed(stage, gpu).await?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            let rests = |stage: &Stage| {
                let machines = stage.cloud.machines_left();
                !machines.iter().any(|machine| machine.zone.is_some() && machine.is_on)
            };
            until("the standby rests", async || Ok(rests(stage))).await?;
            lose_records(stage).await?;

            let (_, dry) = rebuild(stage, &["--dry-run"]).await?;
            assert_eq!(dry["associations"][0]["result"], "waiting", "{dry:#}");
            assert!(rests(stage), "a dry run starts nothing");
            rebuild_the_one(stage).await?;
            await_phase(stage, gpu, &["holding"]).await?;
            let target = running_gpu(stage).await?;
            let wish = json!({"onto": target.to_string()});
            let path = format!("/v1/associations/{gpu}/restore");
            let (status, answer) = stage.api(reqwest::Method::POST, &path, Some(wish)).await?;
            assert!(status.is_success(), "{answer}");
            let moved = |view: &Value| view["gpu"] == format!("vast-{target}") && view["phase"] == "protected";
            await_view(stage, gpu, "the data on the new GPU", moved).await?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &stage.workspace(target)?)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}
