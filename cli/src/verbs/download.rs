//! `warmspare download`: the data goes straight from the standby to this machine, never through the API.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use warmspare_domain::ids::{GpuId, RecoveryPointId};
use warmspare_domain::units::Bytes;

use super::words::text;
use crate::client::{Api, NotNow, print_json};

/// How long a resting standby may take to wake: a minute or two live, see `reference/google/compute.md`.
const WAKES_WITHIN: Duration = Duration::from_secs(300);

/// Download a recovery point, straight from the standby. Repeating it goes on where it stopped.
#[derive(Debug, Args)]
pub(crate) struct Download {
    #[command(flatten)]
    api: Api,
    /// The Vast.ai contract number.
    gpu: GpuId,
    /// Where to put the files; made when it is missing.
    directory: PathBuf,
    /// This recovery point instead of the newest.
    #[arg(long)]
    point: Option<RecoveryPointId>,
    /// How long the permission lasts, in hours.
    #[arg(long, default_value_t = 1)]
    hours: u32,
}

impl Download {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        for program in ["rsync", "ssh", "ssh-keygen"] {
            let found = Command::new(program)
                .arg("-V")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .stdin(Stdio::null())
                .spawn();
            found
                .with_context(|| format!("`{program}` is needed for the download; install rsync and openssh-client"))?
                .wait()
                .await?;
        }
        std::fs::create_dir_all(&self.directory)
            .with_context(|| format!("cannot make {}", self.directory.display()))?;
        let keys = tempfile::tempdir().context("cannot make a directory for the download's key")?;
        let public_key = make_key(keys.path()).await?;
        let terms = self.ask_for_terms(&public_key).await?;
        let total = terms["point"]["bytes"].as_u64().unwrap_or_default();
        self.pull(keys.path(), &terms, total).await?;
        let point = text(&terms["point"], "id");
        if self.api.json {
            print_json(&json!({"directory": self.directory, "point": terms["point"]}))?;
        } else {
            println!(
                "{} files, {} of recovery point {point} are in {}",
                terms["point"]["files"],
                Bytes(total),
                self.directory.display()
            );
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Asks until the standby is up.
    async fn ask_for_terms(&self, public_key: &str) -> anyhow::Result<Value> {
        let path = format!("/v1/associations/{}/download", self.gpu);
        let wish = json!({"public_key": public_key, "hours": self.hours, "point": self.point});
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

    async fn pull(&self, keys: &Path, terms: &Value, total: u64) -> anyhow::Result<()> {
        let known_hosts = keys.join("known_hosts");
        std::fs::write(&known_hosts, format!("standby {}\n", text(terms, "host_key")))?;
        let ssh = [
            "ssh -F none -o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o HostKeyAlias=standby -o ConnectTimeout=20".to_owned(),
            format!("-o UserKnownHostsFile={}", known_hosts.display()),
            format!("-i {} -p {}", keys.join("key").display(), terms["port"]),
        ]
        .join(" ");
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
            .arg(&self.directory);
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
                self.directory.display()
            );
        }
        Ok(())
    }
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
    use super::bytes_done;

    #[test]
    fn rsyncs_progress_line_is_read() {
        assert_eq!(
            bytes_done("\r      1,234,567  12%    1.18MB/s    0:00:03"),
            Some(1_234_567)
        );
        assert_eq!(bytes_done("sending incremental file list\n"), None);
    }
}
