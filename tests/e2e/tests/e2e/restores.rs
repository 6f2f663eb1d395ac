//! What comes back is what was there: content, modes, times, symbolic links, hard links, extended attributes, odd names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use warmspare_e2e::{
    Stage, await_phase, await_view, created, failed, fast, newest_point_directory, next_point, play, protected_gpu,
    running_gpu, tree, until, warmspare, word,
};

/// A tree with everything that a file system can hold and training does.
fn plant(root: &Path, files: u32, big_bytes: usize) -> anyhow::Result<()> {
    for number in 0..files {
        let directory = root.join(format!("data/{:03}", number % 97));
        fs::create_dir_all(&directory)?;
        let path = directory.join(format!("sample {number}.json"));
        fs::write(
            &path,
            format!("{{\"sample\": {number}}}\n").repeat(1 + number as usize % 7),
        )?;
        let modified = UNIX_EPOCH + Duration::new(1_600_000_000 + u64::from(number), number % 1_000_000);
        fs::File::open(&path)?.set_modified(modified)?;
        if number % 11 == 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440 + number % 7))?;
        }
        if number % 13 == 0 {
            fs::hard_link(&path, directory.join(format!("again {number}")))?;
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut block = vec![0_u8; 1 << 20];
    let big = fs::File::create(root.join("model.safetensors"))?;
    for offset in (0..big_bytes).step_by(block.len()) {
        for chunk in block.chunks_exact_mut(8) {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        big.write_all_at(&block, offset as u64)?;
    }
    fs::File::create(root.join("sparse.bin"))?.set_len(64 << 20)?;
    symlink("model.safetensors", root.join("latest"))?;
    symlink("/nowhere/at/all", root.join("dangling"))?;
    for odd in [
        &b"new\nline"[..],
        b"caf\xe9",
        b" leading",
        b"-rf",
        b"$(reboot)",
        b"quo'te\"s",
        b"*",
    ] {
        fs::write(root.join(OsStr::from_bytes(odd)), odd)?;
    }
    fs::create_dir_all(root.join("empty directory"))?;
    rustix::fs::setxattr(
        root.join("model.safetensors"),
        "user.epoch",
        b"17\0binary",
        rustix::fs::XattrFlags::empty(),
    )?;
    Ok(())
}

fn restored_equals_source(files: u32, big_bytes: usize) {
    play(fast(), move |stage| {
        Box::pin(async move {
            let gpu = running_gpu(stage).await?;
            plant(&stage.workspace(gpu)?, files, big_bytes)?;
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            next_point(stage, gpu).await?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &newest_point_directory(stage)?)?,
                Vec::<String>::new()
            );
            failed(stage, gpu).await?;
            await_phase(stage, gpu, &["holding"]).await?;
            let target = running_gpu(stage).await?;
            let wish = json!({"onto": target.to_string()});
            stage
                .api(
                    reqwest::Method::POST,
                    &format!("/v1/associations/{gpu}/restore"),
                    Some(wish),
                )
                .await?;
            await_view(stage, gpu, "the data on the new GPU", |view| {
                word(&view["gpu"]) == format!("vast-{target}")
            })
            .await?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &stage.workspace(target)?)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn a_restored_tree_equals_its_source() {
    restored_equals_source(1500, 24 << 20);
}

#[test]
#[ignore = "1 GiB and 20,000 files take minutes on a small machine: make test-long"]
fn a_restored_gibibyte_of_20000_files_equals_its_source() {
    restored_equals_source(20_000, 1 << 30);
}

async fn download(stage: &Stage, gpu: u64, target: &Path) -> anyhow::Result<()> {
    let target = target.to_str().expect("temporary directories are text");
    let output = warmspare(stage, &["download", &gpu.to_string(), target, "--json"]).await?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn a_standby_that_rests_after_a_loss_wakes_for_a_download() {
    play(fast().with("stop_standby_after_s", "1"), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            plant(&stage.workspace(gpu)?, 50, 1 << 20)?;
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            next_point(stage, gpu).await?;
            failed(stage, gpu).await?;
            let is_up = || {
                stage
                    .cloud
                    .machines_left()
                    .iter()
                    .any(|machine| machine.zone.is_some() && machine.is_on)
            };
            until("the standby rests", async || Ok(!is_up())).await?;
            let target = stage.directory().join("downloaded");
            download(stage, gpu, &target).await?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &target)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn a_download_goes_straight_from_the_standby_and_is_whole() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            plant(&stage.workspace(gpu)?, 200, 2 << 20)?;
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["protected"]).await?;
            next_point(stage, gpu).await?;
            let target = stage.directory().join("downloaded");
            download(stage, gpu, &target).await?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &target)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn what_arrived_before_a_gpu_was_lost_in_its_first_pass_is_downloaded() {
    play(fast().with("bandwidth_kib_per_s", "4096"), |stage| {
        Box::pin(async {
            let gpu = running_gpu(stage).await?;
            plant(&stage.workspace(gpu)?, 50, 48 << 20)?;
            created(stage, gpu).await?;
            await_phase(stage, gpu, &["seeding"]).await?;
            let name = gpu.to_string();
            let target = stage.directory().join("downloaded");
            let target = target.to_str().expect("temporary directories are text");
            let partial = ["download", &name, target, "--point", "partial"];
            // Code comes first.
            until("the code arrived", async || {
                let _ = warmspare(stage, &partial).await?;
                Ok(Path::new(target).join("data/007/sample 7.json").exists())
            })
            .await?;
            failed(stage, gpu).await?;
            await_phase(stage, gpu, &["holding"]).await?;
            let health = warmspare(stage, &["show", &name]).await?;
            let health = String::from_utf8_lossy(&health.stdout).into_owned();
            assert!(
                health.contains("what arrived of the first pass can be downloaded"),
                "{health}"
            );

            fs::remove_dir_all(target)?;
            let output = warmspare(stage, &partial).await?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let warned = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "{said}{warned}");
            assert!(said.contains("of an unfinished first pass are in"), "{said}");
            assert!(warned.contains("Files may be missing"), "{warned}");
            for number in 0..50 {
                let path = format!("data/{number:03}/sample {number}.json");
                let got = fs::read(Path::new(target).join(&path))?;
                assert!(got == fs::read(stage.workspace(gpu)?.join(&path))?, "{path} differs");
            }
            for (refused, why) in [
                (&["download", &name, target][..], "ask for `partial`"),
                (
                    &["restore", &name, "--rent", "0.40", "--point", "partial"],
                    "can only be downloaded",
                ),
            ] {
                let output = warmspare(stage, refused).await?;
                let words = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(!output.status.success() && words.contains(why), "{refused:?}: {words}");
            }
            Ok(())
        })
    });
}

#[test]
fn a_deleted_path_is_put_back_while_the_gpu_runs_and_later_ones_stay_as_they_are() {
    play(fast(), |stage| {
        Box::pin(async move {
            let gpu = protected_gpu(stage).await?;
            let workspace = stage.workspace(gpu)?;
            let name = gpu.to_string();
            fs::create_dir_all(workspace.join("runs"))?;
            for file in ["best.pt", "notes"] {
                fs::write(workspace.join("runs").join(file), "of this morning")?;
            }
            let point = next_point(stage, gpu).await?;
            let point = word(&point["id"]);
            fs::remove_file(workspace.join("runs/best.pt"))?;
            fs::write(workspace.join("runs/notes"), "written since")?;
            next_point(stage, gpu).await?;

            let output = warmspare(stage, &["restore", &name, "--path", "runs/", "--point", point]).await?;
            let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
            assert_eq!(output.status.code(), Some(1), "{out}{err}");
            assert!(
                out.contains("1 were there before, differ, and stay as they are"),
                "{out}{err}"
            );
            assert!(err.contains("--replace"), "{err}");
            let read = |file: &str| fs::read_to_string(workspace.join("runs").join(file));
            assert_eq!(
                (read("best.pt")?, read("notes")?),
                ("of this morning".into(), "written since".into())
            );

            let words = ["restore", &name, "--path", "runs/notes", "--point", point, "--replace"];
            let output = warmspare(stage, &words).await?;
            let out = String::from_utf8(output.stdout)?;
            assert!(output.status.success(), "{out}");
            assert_eq!(read("notes")?, "of this morning");
            let (_, aside) = out.split_once("on the GPU in ").expect(&out);
            let aside = workspace.join(aside.trim()).join("runs/notes");
            assert_eq!(fs::read_to_string(aside)?, "written since");

            for (words, expected) in [
                (
                    vec!["restore", &name, "--path", "runs/none"],
                    "none has anything at \"runs/none\"",
                ),
                (vec!["restore", &name, "--path", "/etc/passwd"], "below source_path"),
                (vec!["restore", &name, "--replace", "--rent", "0.5"], "--rent"),
                (vec!["restore", &name], "--path"),
            ] {
                let output = warmspare(stage, &words).await?;
                let err = String::from_utf8(output.stderr)?;
                assert!(!output.status.success() && err.contains(expected), "{words:?}: {err}");
            }
            failed(stage, gpu).await?;
            let output = warmspare(stage, &["restore", &name, "--path", "runs"]).await?;
            let err = String::from_utf8(output.stderr)?;
            assert!(err.contains("is lost") && err.contains("download"), "{err}");
            Ok(())
        })
    });
}

#[test]
fn what_was_named_to_come_first_is_told_to_the_agent_and_may_change_once_the_gpu_is_lost() {
    play(fast(), |stage| {
        Box::pin(async move {
            let gpu = protected_gpu(stage).await?;
            let name = gpu.to_string();
            let output = warmspare(stage, &["configure", &name, "--first", "/abs"]).await?;
            assert!(String::from_utf8(output.stderr)?.contains("below source_path"));
            failed(stage, gpu).await?;
            await_phase(stage, gpu, &["holding"]).await?;
            let words = ["configure", &name, "--first", "src", "--first", "runs/best.pt"];
            assert!(warmspare(stage, &words).await?.status.success());
            let target = running_gpu(stage).await?;
            let onto = ["restore", &name, "--onto", &target.to_string()];
            assert!(warmspare(stage, &onto).await?.status.success());
            let view = await_view(stage, gpu, "the data on the new GPU", |view| {
                word(&view["gpu"]) == format!("vast-{target}")
            })
            .await?;
            assert_eq!(view["policy"]["first"], json!(["src", "runs/best.pt"]));
            Ok(())
        })
    });
}
