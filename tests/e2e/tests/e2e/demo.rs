//! The demo's stage as a visitor has it: what it prints works in a second terminal, and Ctrl-C or a closed window leaves nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use warmspare_e2e::{program, until};

/// Reads on until a line fits.
async fn line(lines: &mut Lines<BufReader<ChildStdout>>, fits: impl Fn(&str) -> bool) -> anyhow::Result<String> {
    while let Some(line) = lines.next_line().await? {
        if fits(&line) {
            return Ok(line);
        }
    }
    anyhow::bail!("it ended before it said so")
}

/// What a second terminal makes of a command after it took over the environment.
async fn typed(environment: &[String], command: &str) -> anyhow::Result<String> {
    let output = Command::new("bash")
        .args(["-c", &format!("{}\n{command}", environment.join("\n"))])
        .output()
        .await?;
    anyhow::ensure!(output.status.success(), "{command}: {output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

/// The processes that live in a directory, or were told of it.
fn processes_of(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let directory = directory.to_str().context("a plain path")?;
    let speaks_of_it = |process: &PathBuf| {
        let of_it = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
        let words = [of_it("cmdline"), of_it("environ")].concat();
        String::from_utf8_lossy(&words).contains(directory)
    };
    let all = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    Ok(all.filter(speaks_of_it).collect())
}

/// A stage that stays, and what it prints. `hang_up` is `default`, or `ignore` as for what `nohup` starts.
fn stay(hang_up: &str, errors: Stdio) -> anyhow::Result<(Child, Lines<BufReader<ChildStdout>>)> {
    let mut demo = Command::new("env")
        .arg(format!("--{hang_up}-signal=HUP"))
        .arg(program())
        .args(["demo", "--stay", "--fast"])
        .stdout(Stdio::piped())
        .stderr(errors)
        .kill_on_drop(true)
        .process_group(0)
        .spawn()?;
    let lines = BufReader::new(demo.stdout.take().context("its output")?).lines();
    Ok((demo, lines))
}

/// What it tells a visitor to type first.
async fn environment(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<[String; 2]> {
    Ok([
        line(lines, |line| line.starts_with("export ")).await?,
        line(lines, |line| line.starts_with("GPU=")).await?,
    ])
}

/// To everything that the terminal started, as a terminal sends it.
fn send(signal: Signal, demo: &Child) -> anyhow::Result<()> {
    let group = demo.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
    Ok(kill_process_group(group.context("it runs")?, signal)?)
}

async fn leaves_nothing_after(signal: Signal, demo: &mut Child, environment: &[String]) -> anyhow::Result<()> {
    let workspace = PathBuf::from(typed(environment, "echo -n $WORKSPACE").await?);
    let stage = workspace.ancestors().find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("ws-")
    });
    let stage = stage.context("the stage's directory")?;
    assert!(stage.is_dir() && !processes_of(stage)?.is_empty());
    send(signal, demo)?;
    let ended = timeout(Duration::from_secs(60), demo.wait())
        .await
        .context("it goes on")?;
    assert_eq!(ended?.code(), Some(0));
    assert!(!stage.exists());
    until("every process is gone", async || Ok(processes_of(stage)?.is_empty())).await
}

#[tokio::test]
async fn a_stage_that_stays_is_used_as_it_says_and_leaves_nothing_after_ctrl_c() -> anyhow::Result<()> {
    let (mut demo, mut lines) = stay("ignore", Stdio::inherit())?;
    let environment = environment(&mut lines).await?;
    send(Signal::HUP, &demo)?;
    let listed = typed(&environment, "warmspare list").await?;
    assert!(listed.contains("protected"), "{listed}");
    let remove = typed(&environment, "echo -n $SIM/gpus/$GPU/remove").await?;
    reqwest::Client::new().post(remove).send().await?.error_for_status()?;
    line(&mut lines, |line| line.contains(": holding, because the GPU is lost")).await?;

    leaves_nothing_after(Signal::INT, &mut demo, &environment).await
}

#[tokio::test]
async fn a_stage_whose_terminal_is_closed_leaves_nothing() -> anyhow::Result<()> {
    let (mut demo, mut lines) = stay("default", Stdio::piped())?;
    let environment = environment(&mut lines).await?;
    // What it says from now on, nobody reads.
    drop((lines, demo.stderr.take()));
    leaves_nothing_after(Signal::HUP, &mut demo, &environment).await
}
