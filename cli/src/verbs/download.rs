//! `warmspare download`: the data goes straight from the standby to this machine, never through the API.

use std::path::{Component, Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::GpuId;
use warmspare_domain::units::Bytes;

use super::words::text;
use crate::client::{Api, NotNow, print_json};

/// How long a resting standby may take to wake: a minute or two live, see `reference/google/compute.md`.
const WAKES_WITHIN: Duration = Duration::from_secs(300);

/// Where the standby keeps the beginnings of files, beside where each will lie.
const PARTIAL_FILES: &str = ".warmspare-partial";

/// Download a recovery point, straight from the standby. Repeating it goes on where it stopped.
#[derive(Debug, Args)]
pub(crate) struct Download {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// Where to put the files; made when it is missing.
    #[arg(required_unless_present = "tar")]
    directory: Option<PathBuf>,
    /// Write one tar stream to standard output instead.
    #[arg(long, conflicts_with_all = ["directory", "json"])]
    tar: bool,
    /// Only what lies at this path of the recovery point.
    #[arg(long, value_name = "PATH")]
    path: Option<PathBuf>,
    /// This recovery point instead of the newest: its id, or the name of a checkpoint. `partial` is what arrived of a first pass
    /// that is not complete.
    #[arg(long)]
    point: Option<PointChoice>,
    /// How long the permission lasts, in hours.
    #[arg(long, default_value_t = 1)]
    hours: u32,
}

impl Download {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.path.as_deref().map(encode).transpose()?;
        let through_tar = self.tar || path.is_some();
        for program in [if through_tar { "tar" } else { "rsync" }, "ssh", "ssh-keygen"] {
            let found = Command::new(program)
                .arg(if program == "tar" { "--version" } else { "-V" })
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .stdin(Stdio::null())
                .spawn();
            found
                .with_context(|| format!("`{program}` is needed for the download; install rsync and openssh-client"))?
                .wait()
                .await?;
        }
        if let Some(directory) = &self.directory {
            std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        let keys = tempfile::tempdir().context("cannot make a directory for the download's key")?;
        let public_key = make_key(keys.path()).await?;
        let terms = self.ask_for_terms(&public_key).await?;
        let content = Content::of(&terms);
        let Some(directory) = &self.directory else {
            write_tar(keys.path(), &terms, path.as_deref(), None).await?;
            return Ok(ExitCode::SUCCESS);
        };
        if let Some(path) = path.as_deref() {
            write_tar(keys.path(), &terms, Some(path), Some(directory)).await?;
            return self.say_path(directory, &content);
        }
        pull(keys.path(), &terms, directory, content.bytes()).await?;
        if self.api.json {
            let mut said = json!({"directory": directory});
            said[content.name] = content.figures.clone();
            print_json(&said)?;
        } else {
            println!(
                "{} files, {} of {} are in {}",
                content.figures["files"],
                Bytes(content.bytes()),
                content.words(),
                directory.display()
            );
            content.warn();
        }
        Ok(ExitCode::SUCCESS)
    }

    fn say_path(&self, directory: &Path, content: &Content) -> anyhow::Result<ExitCode> {
        if self.api.json {
            let mut said = json!({"directory": directory, "path": self.path});
            said[content.name] = content.figures.clone();
            print_json(&said)?;
        } else {
            let path = self.path.as_deref().unwrap_or(Path::new("")).display();
            println!("{path} of {} is in {}", content.words(), directory.display());
            content.warn();
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Asks until the standby is up.
    async fn ask_for_terms(&self, public_key: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/associations/{}/download", self.gpu);
        let wish = json!({"public_key": public_key, "hours": self.hours, "point": self.point.as_ref().map(ToString::to_string)});
        let began = Instant::now();
        let mut said = false;
        loop {
            match self.api.post(&path, &wish).await {
                Ok(terms) => return Ok(terms),
                Err(error) if error.is::<NotNow>() && began.elapsed() < WAKES_WITHIN => {
                    if !said {
                        eprintln!(
                            "{error}; asking again for up to {} minutes",
                            WAKES_WITHIN.as_secs() / 60
                        );
                        said = true;
                    }
                    tokio::time::sleep(Duration::from_secs(3)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// What there is to download.
struct Content {
    name: &'static str,
    figures: Value,
}

impl Content {
    fn of(terms: &Value) -> Self {
        let name = if terms["partial"].is_object() {
            "partial"
        } else {
            "point"
        };
        Self {
            name,
            figures: terms[name].clone(),
        }
    }

    fn bytes(&self) -> u64 {
        self.figures["bytes"].as_u64().unwrap_or_default()
    }

    fn words(&self) -> String {
        match self.name {
            "partial" => "an unfinished first pass".to_owned(),
            _ => format!("recovery point {}", text(&self.figures, "id")),
        }
    }

    fn warn(&self) {
        if self.name == "partial" {
            eprintln!(
                "Files may be missing, and those that are there may not fit together. The beginnings of large files lie in directories named {PARTIAL_FILES}."
            );
        }
    }
}

async fn pull(keys: &Path, terms: &Value, directory: &Path, total: u64) -> anyhow::Result<()> {
    let ssh = format!("ssh {}", ssh_options(keys, terms)?.join(" "));
    let source = format!("{}@{}:recovery-point/", text(terms, "user"), text(terms, "address"));
    let mut rsync = Command::new("rsync");
    rsync
        .args([
            "-aHX",
            "--partial",
            "--info=progress2",
            "--no-inc-recursive",
            "-e",
            &ssh,
            "--",
            &source,
        ])
        .arg(directory);
    let mut child = rsync
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start rsync")?;
    let bar = ProgressBar::new(total);
    bar.set_style(ProgressStyle::with_template(
        "{bar:40} {bytes} of {total_bytes}  {binary_bytes_per_sec}  {eta} left",
    )?);
    if let Some(mut output) = child.stdout.take() {
        let mut chunk = [0; 4096];
        while let Ok(read @ 1..) = output.read(&mut chunk).await {
            if let Some(done) = bytes_done(&String::from_utf8_lossy(&chunk[..read])) {
                bar.set_position(done);
            }
        }
    }
    let status = child.wait().await?;
    bar.finish_and_clear();
    if !status.success() {
        bail!(
            "the download broke off ({status}); what arrived stays in {}. Run the same command again to go on",
            directory.display()
        );
    }
    Ok(())
}

/// Options without a space in any, because rsync splits them there.
fn ssh_options(keys: &Path, terms: &Value) -> anyhow::Result<Vec<String>> {
    let known_hosts = keys.join("known_hosts");
    std::fs::write(&known_hosts, format!("standby {}\n", text(terms, "host_key")))?;
    let fixed = "-F none -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o HostKeyAlias=standby -o ConnectTimeout=20";
    let mut options: Vec<String> = fixed.split(' ').map(str::to_owned).collect();
    options.extend(["-o".into(), format!("UserKnownHostsFile={}", known_hosts.display())]);
    options.extend(["-i".into(), keys.join("key").display().to_string()]);
    options.extend(["-p".into(), terms["port"].to_string()]);
    Ok(options)
}

/// Writes the tar stream that the standby sends, to standard output or unpacked into a directory.
async fn write_tar(keys: &Path, terms: &Value, path: Option<&str>, into: Option<&Path>) -> anyhow::Result<()> {
    let order = path.map_or_else(|| "warmspare-tar".to_owned(), |path| format!("warmspare-tar {path}"));
    let mut ssh = Command::new("ssh");
    ssh.args(ssh_options(keys, terms)?)
        .args(["-l", text(terms, "user"), "--", text(terms, "address"), &order])
        .stdin(Stdio::null());
    let unpacked = match into {
        None => None,
        Some(directory) => {
            let (ours, theirs) = std::io::pipe().context("cannot make a pipe")?;
            ssh.stdout(theirs);
            let mut tar = Command::new("tar");
            tar.args(["--extract", "--file=-", "--directory"])
                .arg(directory)
                .stdin(ours);
            Some(tar.spawn().context("cannot start tar")?)
        }
    };
    let mut child = ssh.spawn().context("cannot start ssh")?;
    // It holds the pipe's end that tar waits on.
    drop(ssh);
    let sent = child.wait().await?;
    let unpacked = match unpacked {
        Some(mut tar) => tar.wait().await?.success(),
        None => true,
    };
    if !sent.success() || !unpacked {
        bail!("the download broke off ({sent}); what was written is not complete. Run the same command again");
    }
    Ok(())
}

/// A path as the standby reads it: every byte but letters, digits and `/._-` as `%` and two hexadecimal digits.
fn encode(path: &Path) -> anyhow::Result<String> {
    use std::os::unix::ffi::OsStrExt;
    if !path.components().all(|part| matches!(part, Component::Normal(_))) || path.as_os_str().is_empty() {
        bail!(
            "{} is not a path below the synced directory, such as runs/7",
            path.display()
        );
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    let encoded = path.as_os_str().as_bytes().iter().map(|byte| {
        if plain(byte) {
            char::from(*byte).to_string()
        } else {
            format!("%{byte:02x}")
        }
    });
    Ok(encoded.collect())
}

/// rsync writes `  1,234,567  12%  1.2MB/s  0:00:03` over and over on one line.
fn bytes_done(output: &str) -> Option<u64> {
    let last = output.rsplit(['\r', '\n']).find(|line| line.contains('%'))?;
    last.split_whitespace().next()?.replace([',', '.'], "").parse().ok()
}

/// A key for this one download.
async fn make_key(directory: &Path) -> anyhow::Result<String> {
    let key = directory.join("key");
    let status = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
        .arg(&key)
        .status()
        .await?;
    if !status.success() {
        bail!("ssh-keygen could not make a key in {}", directory.display());
    }
    Ok(std::fs::read_to_string(key.with_extension("pub"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{bytes_done, encode};

    #[test]
    fn a_path_is_encoded_so_that_no_shell_sees_anything_in_it() {
        assert_eq!(encode(Path::new("runs/7")).unwrap(), "runs/7");
        assert_eq!(encode(Path::new("a b;$(id)\n")).unwrap(), "a%20b%3b%24%28id%29%0a");
        for bad in ["", "/etc", "../x", "a/../b"] {
            assert!(encode(Path::new(bad)).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn rsyncs_progress_line_is_read() {
        assert_eq!(
            bytes_done("\r      1,234,567  12%    1.18MB/s    0:00:03"),
            Some(1_234_567)
        );
        assert_eq!(bytes_done("sending incremental file list\n"), None);
    }
}
