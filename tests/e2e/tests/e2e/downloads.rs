//! Downloads that do not go as they should: each ends with what is wrong and the way out, and harms nothing that is there.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use warmspare_e2e::{Stage, fast, next_point, play, program, protected_gpu, tree, until, word};

const MIB: usize = 1 << 20;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// What does not compress.
fn noise(size: usize) -> Vec<u8> {
    let mut seed = 7_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.to_le_bytes()[7]
    };
    (0..size).map(|_| next()).collect()
}

/// `warmspare download`, with its environment.
fn download(stage: &Stage, gpu: u64, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .args(["download", &gpu.to_string()])
        .args(words)
        .env("WARMSPARE_URL", stage.serve_url())
        .env("WARMSPARE_TOKEN", stage.token())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn downloaded(stage: &Stage, gpu: u64, words: &[&str]) -> anyhow::Result<Output> {
    Ok(download(stage, gpu, words).output().await?)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary directories are text")
}

/// An API whose standbys are behind a link that goes silent once so many bytes came through.
struct Link {
    url: String,
    passed: Arc<AtomicUsize>,
}

impl Link {
    async fn lay(stage: &Stage, at_most: usize) -> anyhow::Result<Self> {
        let (api, link) = (local().await?, local().await?);
        let passed = Arc::new(AtomicUsize::new(0));
        let url = format!("http://{}", api.local_addr()?);
        let standby = link.local_addr()?;
        let (serve, token) = (stage.serve_url(), stage.token().to_owned());
        let count = Arc::clone(&passed);
        tokio::spawn(async move {
            // The one question of a download is where its standby is.
            let (person, _) = api.accept().await?;
            let real = answer(person, &serve, &token, standby).await?;
            let (near, _) = link.accept().await?;
            let far = TcpStream::connect((real.0.as_str(), real.1)).await?;
            carry(near, far, at_most, &count).await
        });
        Ok(Self { url, passed })
    }
}

async fn local() -> std::io::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await
}

/// Passes a question on and answers another address than the standby's, which it returns.
async fn answer(mut person: TcpStream, serve: &str, token: &str, instead: SocketAddr) -> anyhow::Result<(String, u16)> {
    let mut asked = Vec::new();
    let (path, body) = loop {
        let mut chunk = [0; 4096];
        let read = person.read(&mut chunk).await?;
        asked.extend_from_slice(&chunk[..read]);
        let so_far = String::from_utf8_lossy(&asked).into_owned();
        let question = so_far.split_once("\r\n\r\n").map(|(head, body)| {
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            (path, serde_json::from_str::<Value>(body))
        });
        if let Some((path, Ok(body))) = question {
            break (path, body);
        }
        anyhow::ensure!(read > 0, "no question: {so_far}");
    };
    let real = reqwest::Client::new()
        .post(format!("{serve}{path}"))
        .bearer_auth(token)
        .json(&body);
    let mut terms: Value = real.send().await?.json().await?;
    let port = terms["port"].as_u64().context("the terms name no port")?;
    let real = (word(&terms["address"]).to_owned(), port.try_into()?);
    terms["address"] = json!(instead.ip());
    terms["port"] = json!(instead.port());
    let terms = terms.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        terms.len()
    );
    person.write_all(format!("{head}{terms}").as_bytes()).await?;
    Ok(real)
}

async fn carry(near: TcpStream, far: TcpStream, at_most: usize, passed: &AtomicUsize) -> anyhow::Result<()> {
    let (mut from_near, mut to_near) = near.into_split();
    let (mut from_far, mut to_far) = far.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_near, &mut to_far).await });
    let mut chunk = vec![0; 16 << 10];
    while passed.load(Ordering::Relaxed) < at_most {
        let read = from_far.read(&mut chunk).await?;
        if read == 0 {
            break;
        }
        to_near.write_all(&chunk[..read]).await?;
        passed.fetch_add(read, Ordering::Relaxed);
    }
    // Both ends stay open, and nothing comes any more.
    let _ = up.await;
    Ok(())
}

/// A protected GPU with one file of so many bytes.
async fn gpu_with(stage: &Stage, size: usize) -> anyhow::Result<u64> {
    let gpu = protected_gpu(stage).await?;
    fs::write(stage.workspace(gpu)?.join("big"), noise(size))?;
    next_point(stage, gpu).await?;
    Ok(gpu)
}

#[test]
fn a_standby_that_falls_silent_is_named_and_the_download_goes_on_later() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = gpu_with(stage, 24 * MIB).await?;
            let target = stage.directory().join("target");
            let link = Link::lay(stage, 8 * MIB).await?;
            let broken = download(stage, gpu, &[text(&target)])
                .env("WARMSPARE_URL", &link.url)
                .output();
            let archive = Link::lay(stage, 8 * MIB).await?;
            let unpacked = stage.directory().join("unpacked");
            let broken_too = download(stage, gpu, &[text(&unpacked), "--path", "big"])
                .env("WARMSPARE_URL", &archive.url)
                .output();
            let (broken, broken_too) = tokio::join!(broken, broken_too);
            let (broken, broken_too) = (broken?, broken_too?);
            for (output, again) in [(&broken, "to go on where it stopped"), (&broken_too, "to start over")] {
                let said = said(output);
                assert_eq!(output.status.code(), Some(1), "{said}");
                assert!(
                    said.contains("the standby does not answer") && said.contains(again),
                    "{said}"
                );
            }
            let arrived = fs::metadata(target.join(".warmspare/beginnings/big"))?.len();
            assert!(
                (4 * MIB as u64..24 * MIB as u64).contains(&arrived),
                "{arrived} bytes arrived"
            );

            // The newest point is another one by now.
            fs::write(stage.workspace(gpu)?.join("later"), "x")?;
            next_point(stage, gpu).await?;
            let rest = downloaded(stage, gpu, &[text(&target)]).await?;
            assert!(
                rest.status.success() && said(&rest).contains("going on with"),
                "{}",
                said(&rest)
            );
            assert!(!target.join("later").exists(), "two points were mixed");
            fs::remove_file(stage.workspace(gpu)?.join("later"))?;
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &target)?,
                Vec::<String>::new()
            );
            Ok(())
        })
    });
}

#[test]
fn a_download_that_is_stopped_says_how_to_go_on() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = gpu_with(stage, 8 * MIB).await?;
            let target = stage.directory().join("target");
            let interrupt = |process| kill_process(process, Signal::INT);
            let press_ctrl_c = |process| kill_process_group(process, Signal::INT);
            let stop: [&dyn Fn(Pid) -> rustix::io::Result<()>; 2] = [&interrupt, &press_ctrl_c];
            for (words, again, stop) in [
                (&[text(&target)][..], "to go on where it stopped", stop[0]),
                (&[text(&target)], "to go on where it stopped", stop[1]),
                (&[text(&target), "--path", "big"], "to start over", stop[0]),
                (&[text(&target), "--path", "big"], "to start over", stop[1]),
                (&["--tar"], "to start over", stop[0]),
                (&["--tar"], "to start over", stop[1]),
            ] {
                let link = Link::lay(stage, 4 * MIB).await?;
                let mut command = download(stage, gpu, words);
                let command = command.env("WARMSPARE_URL", &link.url).process_group(0);
                let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
                let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
                until("most of it arrived", async || {
                    Ok(link.passed.load(Ordering::Relaxed) >= 4 * MIB)
                })
                .await?;
                stop(id.context("it ended already")?)?;
                let output = child.wait_with_output().await?;
                let said = said(&output);
                assert_eq!(output.status.code(), Some(130), "{said}");
                assert!(
                    said.contains("was stopped") && said.contains("not complete") && said.contains(again),
                    "{said}"
                );
            }
            // One path does not finish it: the beginnings of other files are not taken for whole ones.
            let one = downloaded(stage, gpu, &[text(&target), "--path", "runs"]).await?;
            assert!(one.status.success(), "{}", said(&one));
            let rest = downloaded(stage, gpu, &[text(&target)]).await?;
            assert!(rest.status.success(), "{}", said(&rest));
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &target)?,
                Vec::<String>::new()
            );

            // Nor does one that breaks off make it unfinished: what was changed since stays.
            fs::write(target.join("model.pt"), "mine")?;
            fs::remove_file(target.join("big"))?;
            let link = Link::lay(stage, 4 * MIB).await?;
            let words = [text(&target), "--path", "big"];
            let mut command = download(stage, gpu, &words);
            let cut = command.env("WARMSPARE_URL", &link.url).output().await?;
            assert_eq!(cut.status.code(), Some(1), "{}", said(&cut));
            assert!(!target.join("big").exists(), "the beginning of a file has its name");
            let rest = downloaded(stage, gpu, &[text(&target)]).await?;
            assert!(rest.status.success(), "{}", said(&rest));
            assert_eq!(fs::read(target.join("model.pt"))?, b"mine");
            assert_eq!(fs::read(target.join("big"))?, noise(8 * MIB));
            Ok(())
        })
    });
}

#[test]
fn nothing_of_the_users_is_overwritten_or_mixed_without_force() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            let older = word(&next_point(stage, gpu).await?["id"]).to_owned();
            fs::write(stage.workspace(gpu)?.join("newer"), "x")?;
            next_point(stage, gpu).await?;
            let mine = stage.directory().join("mine");
            fs::create_dir(&mine)?;
            fs::write(mine.join("model.pt"), "mine")?;
            let refused = downloaded(stage, gpu, &[text(&mine)]).await?;
            assert!(
                !refused.status.success() && said(&refused).contains("--force"),
                "{}",
                said(&refused)
            );
            assert_eq!(tree::read(&mine)?.len(), 1);

            let target = stage.directory().join("target");
            let whole = downloaded(stage, gpu, &[text(&target)]).await?;
            assert!(whole.status.success(), "{}", said(&whole));
            let refused = downloaded(stage, gpu, &[text(&target), "--point", &older]).await?;
            assert!(
                !refused.status.success() && said(&refused).contains(&older),
                "{}",
                said(&refused)
            );
            assert_eq!(
                tree::differences(&stage.workspace(gpu)?, &target)?,
                Vec::<String>::new()
            );

            // The same point again brings what is missing and leaves what was changed since.
            fs::write(target.join("model.pt"), "mine")?;
            fs::remove_file(target.join("newer"))?;
            for words in [&[text(&target)][..], &[text(&target), "--path", "model.pt"]] {
                let again = downloaded(stage, gpu, words).await?;
                assert!(again.status.success(), "{}", said(&again));
                assert_eq!(fs::read(target.join("model.pt"))?, b"mine");
                assert!(target.join("newer").exists());
            }
            let forced = downloaded(stage, gpu, &[text(&target), "--point", &older, "--force"]).await?;
            assert!(
                forced.status.success() && said(&forced).contains("all others stay"),
                "{}",
                said(&forced)
            );
            assert!(target.join("newer").exists() && fs::read(target.join("model.pt"))?.len() == 300_000);
            Ok(())
        })
    });
}

#[test]
fn a_wrong_path_or_point_is_named_and_leaves_nothing() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            next_point(stage, gpu).await?;
            let target = stage.directory().join("target");
            for (words, reason) in [
                (
                    &[text(&target), "--path", "runs/99"][..],
                    "runs/99: there is nothing at this path",
                ),
                (
                    &["--tar", "--path", "runs/99"],
                    "runs/99: there is nothing at this path",
                ),
                (&[text(&target), "--point", "nope"], "checkpoint nope"),
            ] {
                let refused = downloaded(stage, gpu, words).await?;
                let said = said(&refused);
                assert_eq!(refused.status.code(), Some(1), "{said}");
                assert!(said.contains(reason) && said.trim_end().lines().count() == 1, "{said}");
                assert!(!said.contains("again"), "{said}");
                assert!(!target.exists());
            }
            let terminal = fs::OpenOptions::new().read(true).write(true).open("/dev/ptmx")?;
            let mut command = download(stage, gpu, &["--tar"]);
            let refused = command
                .stdout(terminal)
                .stderr(Stdio::piped())
                .spawn()?
                .wait_with_output()
                .await?;
            assert_eq!(refused.status.code(), Some(2));
            assert!(said(&refused).contains("terminal"), "{}", said(&refused));
            Ok(())
        })
    });
}

#[test]
fn a_download_works_where_names_have_spaces_and_keeps_holes() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = protected_gpu(stage).await?;
            fs::File::create(stage.workspace(gpu)?.join("holes"))?.set_len(64 * MIB as u64)?;
            next_point(stage, gpu).await?;
            let temporary = stage.directory().join("a b");
            fs::create_dir(&temporary)?;
            for words in [&["all of it"][..], &["one file", "--path", "holes"]] {
                let mut command = download(stage, gpu, words);
                let output = command
                    .env("TMPDIR", &temporary)
                    .current_dir(stage.directory())
                    .output()
                    .await?;
                assert!(output.status.success(), "{}", said(&output));
                let got = fs::metadata(stage.directory().join(words[0]).join("holes"))?;
                assert_eq!(got.len(), 64 * MIB as u64);
                assert!(got.blocks() * 512 < MIB as u64, "{} blocks", got.blocks());
            }
            Ok(())
        })
    });
}

#[test]
fn a_disk_that_is_too_small_is_named() {
    play(fast(), |stage| {
        Box::pin(async {
            let gpu = gpu_with(stage, 8 * MIB).await?;
            let full = fs::OpenOptions::new().write(true).open("/dev/full")?;
            let mut command = download(stage, gpu, &["--tar"]);
            let output = command
                .stdout(full)
                .stderr(Stdio::piped())
                .spawn()?
                .wait_with_output()
                .await?;
            assert_eq!(output.status.code(), Some(1));
            assert!(said(&output).contains("the disk is full"), "{}", said(&output));

            let disk = stage.directory().join("disk");
            fs::create_dir(&disk)?;
            let on_it = async |words: &[&str]| -> anyhow::Result<Output> {
                // A file system of its own, which goes with the process.
                let mount = "mount -t tmpfs -o size=4m none \"$0\" && exec \"$@\" > \"$0/output\"";
                let mut command = Command::new("unshare");
                command
                    .args(["--map-root-user", "--mount", "sh", "-c", mount])
                    .arg(&disk);
                let inner = download(stage, gpu, words);
                command
                    .arg(inner.as_std().get_program())
                    .args(inner.as_std().get_args());
                let environment = inner.as_std().get_envs();
                command.envs(environment.filter_map(|(name, value)| Some((name, value?))));
                Ok(command.stdin(Stdio::null()).output().await?)
            };
            let target = disk.join("target");
            let early = on_it(&[text(&target)]).await?;
            if said(&early).contains("unshare") || said(&early).contains("mount") {
                eprintln!("SKIPPED: this user may not mount: {}", said(&early));
                return Ok(());
            }
            for early in [early, on_it(&["--tar"]).await?] {
                let said = said(&early);
                assert!(said.contains("free; nothing was downloaded"), "{said}");
            }
            for words in [
                &[text(&target), "--force"][..],
                &[text(&target), "--path", "big"],
                &["--tar", "--force"],
            ] {
                let full = on_it(words).await?;
                let said = said(&full);
                assert_eq!(full.status.code(), Some(1), "{said}");
                assert!(
                    said.contains("the disk is full") && said.contains("Make room"),
                    "{said}"
                );
            }
            Ok(())
        })
    });
}
