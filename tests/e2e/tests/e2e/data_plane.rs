//! What only a real data disk shows: passes that cost what changed, copying between two beats, and a disk that fills and grows.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::{FallocateFlags, fallocate, statvfs, syncfs};
use serde_json::{Value, json};
use warmspare_e2e::{
    Setting, Stage, await_phase, await_view, configure, created, fast_on_real_disks, newest_point_directory,
    next_point, play, protected_gpu, running_gpu, until, warmspare, word,
};

const MIB: u64 = 1 << 20;

/// With a data disk of 10 GB that may grow to so many.
fn on_a_small_disk(cap: &str) -> Option<Setting> {
    Some(
        fast_on_real_disks()?
            .with("gcp_disk_size", "10")
            .with("max_disk_gb", cap),
    )
}

/// Waits until the watcher on the GPU knows the whole tree.
async fn watched(stage: &Stage, gpu: u64) -> anyhow::Result<()> {
    let view = await_view(stage, gpu, "the watcher knows the tree", |view| {
        view["watcher"]["watching"]["directories"].as_u64().is_some()
            && word(&view["last_pass"]["scope"]) != "everything"
    })
    .await?;
    assert_eq!(view["missed"]["changes"], 0, "{view:#}");
    Ok(())
}

/// Waits until the newest recovery point has a file with this content, and answers what the pass that made it reports.
async fn arrives(stage: &Stage, file: &str, content: &str) -> anyhow::Result<Value> {
    let mut point = PathBuf::new();
    until(&format!("{file} is on the standby with {content:?}"), async || {
        point = newest_point_directory(stage)?;
        Ok(fs::read_to_string(point.join(file)).is_ok_and(|found| found == content))
    })
    .await?;
    let stored: Value = serde_json::from_slice(&fs::read(point.with_added_extension("json"))?)?;
    Ok(stored["report"].clone())
}

#[test]
fn a_change_arrives_by_a_pass_that_looked_at_changes_only() {
    let Some(setting) = fast_on_real_disks() else { return };
    play(setting, |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            watched(stage, gpu).await?;
            let workspace = stage.workspace(gpu)?;
            let before = newest_point_directory(stage)?;
            fs::write(workspace.join("runs/3.txt"), "result 3, improved\n")?;
            let report = arrives(stage, "runs/3.txt", "result 3, improved\n").await?;
            assert_eq!(
                (&report["scope"], &report["changed_files"]),
                (&json!("changes"), &json!(1))
            );
            assert_eq!(
                fs::read_to_string(before.join("runs/3.txt"))?,
                "result 3\n",
                "points do not change"
            );

            // What only rsync may judge: a new directory, a deletion, a link, an excluded cache.
            fs::create_dir_all(workspace.join("epoch-2/__pycache__"))?;
            fs::write(workspace.join("epoch-2/__pycache__/a.pyc"), "made again by itself")?;
            fs::write(workspace.join("epoch-2/model.pt"), vec![5_u8; 200_000])?;
            std::os::unix::fs::symlink("epoch-2/model.pt", workspace.join("latest.pt"))?;
            fs::remove_file(workspace.join("runs/4.txt"))?;
            fs::write(workspace.join("epoch-2/done"), "2")?;
            let report = arrives(stage, "epoch-2/done", "2").await?;
            assert_eq!(report["scope"], "changes");
            next_point(stage, gpu).await?;
            fs::remove_dir_all(workspace.join("epoch-2/__pycache__"))?;
            assert_eq!(
                warmspare_e2e::tree::differences(&workspace, &newest_point_directory(stage)?)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn between_two_beats_the_standby_copies_by_itself() {
    let Some(setting) = fast_on_real_disks() else { return };
    play(setting, |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            watched(stage, gpu).await?;
            await_view(stage, gpu, "live mode", |view| view["live_until"].is_string()).await?;
            // No beat can come from here on.
            stage.kill_serve().await;
            let workspace = stage.workspace(gpu)?;
            // The last beat may have asked for a pass that was still to start; not for two.
            for round in ["one", "two", "three"] {
                fs::write(workspace.join("log.txt"), round)?;
                let report = arrives(stage, "log.txt", round).await?;
                assert_eq!(report["scope"], "changes");
            }
            let alone = newest_point_directory(stage)?;
            let alone = word(&json!(alone.file_name().and_then(|name| name.to_str()))).to_owned();
            stage.start_serve().await?;
            // The next beat hears of it, and goes on from there.
            fs::write(workspace.join("log.txt"), "four")?;
            arrives(stage, "log.txt", "four").await?;
            let view = await_view(stage, gpu, "the standby's own passes", |view| {
                word(&view["latest_recovery_point"]["id"]) > alone.as_str() && view["live_until"].is_string()
            })
            .await?;
            assert_eq!(view["phase"], "protected");
            assert!(fs::exists(newest_point_directory(stage)?.with_file_name(&alone))?);
            Ok(())
        })
    });
}

/// The one data disk's directory.
fn data_disk(stage: &Stage) -> anyhow::Result<PathBuf> {
    let disks = stage.cloud.disks_left();
    let disk = disks.into_iter().find(|disk| !disk.is_boot).context("no data disk")?;
    Ok(disk.directory.canonicalize()?)
}

/// Takes all of a disk but so many bytes. Nothing is written for it, on the disk or on this machine's; and what the disk must have no
/// room for stays small.
fn leave_free(disk: &Path, bytes: u64) -> anyhow::Result<()> {
    let ballast = fs::File::options()
        .create(true)
        .append(true)
        .open(disk.join("ballast"))?;
    // btrfs counts what came and what went with the next commit.
    syncfs(&ballast)?;
    let found = statvfs(disk)?;
    let free = found.f_bavail * found.f_frsize;
    let more = free.checked_sub(bytes).context("less is free already")?;
    fallocate(&ballast, FallocateFlags::empty(), ballast.metadata()?.len(), more)?;
    syncfs(&ballast)?;
    Ok(())
}

/// Content that neither compression nor sharing makes smaller.
fn noise(megabytes: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open("/dev/urandom")?
        .take(megabytes * MIB)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The sizes in GB that the disk was grown to, in order. Two beats at once may order one of them twice, which buys nothing.
fn growths(stage: &Stage) -> Vec<String> {
    let requests = stage.cloud.requests();
    let resizes = requests.iter().filter(|request| request.path.ends_with("/resize"));
    let mut sizes: Vec<_> = resizes
        .map(|request| word(&request.body["sizeGb"]).to_owned())
        .collect();
    sizes.dedup();
    sizes
}

async fn show(stage: &Stage, gpu: u64) -> anyhow::Result<String> {
    let shown = warmspare(stage, &["show", &gpu.to_string()]).await?;
    Ok(String::from_utf8_lossy(&shown.stdout).into_owned())
}

#[test]
fn a_disk_that_fills_is_thinned_then_grown_up_to_the_cap_and_no_copy_breaks() {
    let Some(setting) = on_a_small_disk("15") else { return };
    play(setting, |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            watched(stage, gpu).await?;
            let workspace = stage.workspace(gpu)?;
            let disk = data_disk(stage)?;

            // Every recovery point holds its own checkpoint, and there is room for two above the tenth that is kept free.
            leave_free(&disk, 1024 * MIB + 110 * MIB)?;
            for round in 0..8 {
                // In one step: a pass that finds half of it makes two recovery points hold what three do.
                let written = workspace.with_file_name("being-written");
                fs::write(&written, noise(40)?)?;
                fs::rename(&written, workspace.join("checkpoint.pt"))?;
                fs::write(workspace.join("round"), round.to_string())?;
                arrives(stage, "round", &round.to_string()).await?;
            }
            let view = await_view(stage, gpu, "older recovery points made room", |view| {
                view["disk_free"].as_u64() >= Some(1024 * MIB)
            })
            .await?;
            assert!(view["recovery_points"].as_u64() >= Some(2), "{view:#}");
            assert_eq!(growths(stage), Vec::<String>::new(), "thinning was enough");

            // More than every older recovery point together gives back.
            leave_free(&disk, 60 * MIB)?;
            let large = noise(300)?;
            fs::write(workspace.join("large.pt"), &large)?;
            fs::write(workspace.join("round"), "grown")?;
            arrives(stage, "round", "grown").await?;
            assert_eq!(growths(stage), ["15"]);
            assert!(fs::read(newest_point_directory(stage)?.join("large.pt"))? == large);
            let view = await_view(stage, gpu, "room again", |view| {
                view["disk_total"] == json!(15_u64 << 30) && view["last_failure"].is_null()
            })
            .await?;
            assert!(view["disk_free"].as_u64() > Some(4 << 30), "{view:#}");
            assert!(show(stage, gpu).await?.contains("free of 15.0 GiB, may grow to 15 GB"));

            // At the cap: said, however often it is tried, and no copy breaks.
            leave_free(&disk, 60 * MIB)?;
            fs::write(workspace.join("second.pt"), noise(300)?)?;
            fs::write(workspace.join("round"), "at the cap")?;
            let view = await_view(stage, gpu, "health says that the disk is full", |view| {
                view["health_reasons"].to_string().contains("is full and may not grow")
                    && view["last_failure"]["kind"] == "disk_full"
                    && view["last_failure"]["in_a_row"].as_u64() >= Some(8)
            })
            .await?;
            assert_eq!((&view["health"], &view["phase"]), (&json!("bad"), &json!("protected")));
            assert_eq!(growths(stage), ["15"]);
            let newest = newest_point_directory(stage)?;
            assert_eq!(fs::read_to_string(newest.join("round"))?, "grown");
            assert!(fs::read(newest.join("large.pt"))? == large);

            // As health says: a higher cap is all it takes.
            configure(stage, gpu, json!({"max_disk_gb": 20})).await?;
            arrives(stage, "round", "at the cap").await?;
            assert_eq!(growths(stage), ["15", "20"]);
            await_view(stage, gpu, "all is well", |view| view["health"] == "good").await?;
            assert_eq!(
                warmspare_e2e::tree::differences(&workspace, &newest_point_directory(stage)?)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn a_gpu_that_is_lost_and_back_while_the_disk_is_full_is_copied_again() {
    let Some(setting) = on_a_small_disk("0") else { return };
    play(setting, |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            fs::write(stage.workspace(gpu)?.join("large.pt"), noise(150)?)?;
            created(stage, gpu).await?;
            configure(stage, gpu, json!({"bandwidth_kib_per_s": 4096})).await?;
            await_phase(stage, gpu, &["seeding"]).await?;
            leave_free(&data_disk(stage)?, 20 * MIB)?;
            await_view(stage, gpu, "the disk is full", |view| {
                view["last_failure"]["kind"] == "disk_full"
            })
            .await?;
            stage.cloud.knobs().outbid(gpu, None).expect("the GPU exists");
            await_view(stage, gpu, "a rescue that waits for room", |view| {
                view["phase"] == "holding" && view["health_reasons"].to_string().contains("is fetched after")
            })
            .await?;
            stage.cloud.knobs().outbid_clears(gpu).expect("the GPU exists");
            await_phase(stage, gpu, &["provisioning", "seeding"]).await?;
            configure(stage, gpu, json!({"max_disk_gb": 15, "bandwidth_kib_per_s": 0})).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            assert_eq!(growths(stage), ["15"]);
            Ok(())
        })
    });
}

#[test]
fn a_rescue_that_needs_more_room_than_there_is_gets_it() {
    let Some(setting) = on_a_small_disk("15") else { return };
    play(setting, |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            watched(stage, gpu).await?;
            let workspace = stage.workspace(gpu)?;
            let large = noise(200)?;
            leave_free(&data_disk(stage)?, 60 * MIB)?;
            // Killed in the moment after the write: no pass fetched it, and none could have.
            fs::write(workspace.join("last.pt"), &large)?;
            stage.cloud.knobs().stop_silently(gpu).expect("the GPU exists");
            let view = await_view(stage, gpu, "the rescue", |view| {
                view["phase_detail"]["holding"]["rescue"] == "complete"
            })
            .await?;
            assert_eq!(
                (view["phase"].clone(), growths(stage)),
                (json!("holding"), vec!["15".to_owned()])
            );
            assert!(fs::read(newest_point_directory(stage)?.join("last.pt"))? == large);
            Ok(())
        })
    });
}
