//! `warmspare download`: the data goes straight from the standby to this machine, never through the API.

use std::io::IsTerminal;
use std::path::{Component, Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, value_parser};
use serde_json::{Value, json};
use tokio::process::Command;
use warmspare_domain::association::PointChoice;
use warmspare_domain::ids::{CheckpointName, GpuId};
use warmspare_domain::units::Bytes;

use super::words::text;
use crate::client::{Api, NotNow, print_json};

mod anteroom;
mod place;
mod transfer;

use place::{Note, Place};
use transfer::{Broken, Sink, Standby, Unpacking};

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
    /// Go ahead although the directory holds something else or the disk looks too small. Files of the same names are overwritten, all
    /// others stay.
    #[arg(long)]
    force: bool,
    /// How long the permission lasts, in hours.
    #[arg(long, default_value_t = 1, value_parser = value_parser!(u32).range(1..=24))]
    hours: u32,
}

impl Download {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let path = self.path.as_deref().map(encode).transpose()?;
        if self.tar && std::io::stdout().is_terminal() {
            eprintln!(
                "warmspare: a tar stream is nothing for a terminal; redirect it: warmspare download GPU --tar > FILE"
            );
            return Ok(ExitCode::from(2));
        }
        check_programs(if self.tar || path.is_some() { "tar" } else { "rsync" }).await?;
        let look = |directory: &PathBuf| Place::look(directory, self.force);
        let place = self.directory.as_ref().map(look).transpose()?;
        let keys = tempfile::tempdir().context("cannot make a directory for the download's key")?;
        let public_key = make_key(keys.path()).await?;
        let terms = self.terms_for(place.as_ref(), &public_key).await?;
        let content = Content::of(&terms);
        let standby = Standby {
            keys: keys.path(),
            terms: &terms,
        };
        let outcome = match place {
            None => self.write_tar(standby, path, &content).await,
            Some(place) => self.fill(standby, Arc::new(place), path, &content).await,
        };
        match outcome {
            Ok(()) => self.say(&content),
            Err(broken) => self.give_up(broken),
        }
    }

    /// The terms for what was asked for; where nothing was and a download was begun in the directory, for that one.
    async fn terms_for(&self, place: Option<&Place>, public_key: &str) -> anyhow::Result<Value> {
        let begun = place.and_then(|place| place.begun(self.gpu));
        let (None, Some(begun), Some(place)) = (&self.point, begun, place) else {
            return self.ask_for_terms(public_key, self.point.as_ref()).await;
        };
        let shown = place.path().display();
        eprintln!("going on with recovery point {begun} in {shown}");
        let terms = self.ask_for_terms(public_key, Some(&begun)).await;
        terms.with_context(|| {
            format!("cannot go on with the download in {shown}; with --force the newest recovery point is put over it")
        })
    }

    async fn write_tar(&self, standby: Standby<'_>, path: Option<String>, content: &Content) -> Result<(), Broken> {
        if path.is_none() && !self.force {
            place::check_room_for_output(content.bytes())?;
        }
        standby
            .stream(path.as_deref(), || Ok(Sink::Output(std::io::stdout())))
            .await
    }

    async fn fill(
        &self,
        standby: Standby<'_>,
        place: Arc<Place>,
        path: Option<String>,
        content: &Content,
    ) -> Result<(), Broken> {
        let begun = Note {
            gpu: self.gpu,
            point: content.point().to_owned(),
            complete: false,
        };
        // One path of an unfinished download does not finish it, and more of a first pass may arrive.
        let has_gaps = content.is_partial() || path.is_some() && place.is_unfinished();
        let outcome = match path {
            Some(path) => {
                let (into, wanted) = (Arc::clone(&place), begun.clone());
                let open = move || {
                    into.prepare(&wanted, None)?;
                    Unpacking::start(&into.open_anteroom()?).map(Sink::Tar)
                };
                let arrived = standby.stream(Some(&path), open).await;
                arrived.and_then(|()| Ok(place.move_in(&begun)?))
            }
            None => {
                place.prepare(&begun, Some(content.bytes()))?;
                standby.pull(&place, place.existing(&begun), content.bytes()).await
            }
        };
        if outcome.is_err() {
            place.leave_nothing();
            return outcome;
        }
        let done = Note {
            complete: !has_gaps,
            ..begun
        };
        Ok(place.conclude(&done)?)
    }

    fn say(&self, content: &Content) -> anyhow::Result<ExitCode> {
        let Some(directory) = &self.directory else {
            return Ok(ExitCode::SUCCESS);
        };
        if self.api.json {
            let mut said = json!({"directory": directory});
            if let Some(path) = &self.path {
                said["path"] = json!(path);
            }
            said[content.name] = content.figures.clone();
            print_json(&said)?;
            return Ok(ExitCode::SUCCESS);
        }
        let (words, directory) = (content.words(), directory.display());
        match &self.path {
            Some(path) => println!("{} of {words} is in {directory}", path.display()),
            None => println!(
                "{} files, {} of {words} are in {directory}",
                content.figures["files"],
                content.bytes()
            ),
        }
        content.warn();
        Ok(ExitCode::SUCCESS)
    }

    /// Says what broke, what there is now, and what to do.
    fn give_up(&self, broken: Broken) -> anyhow::Result<ExitCode> {
        let (state, again) = match (&self.directory, &self.path) {
            (None, _) => ("what was written is not complete", "to start over"),
            (Some(_), Some(_)) => ("the download is not complete", "to start over"),
            (Some(_), None) => ("the download is not complete", "to go on where it stopped"),
        };
        match broken {
            Broken::Local(error) => Err(error),
            Broken::Refused(reason) => match &self.path {
                Some(path) => bail!("{}: {reason}; nothing was downloaded", path.display()),
                None => bail!("{reason}; nothing was downloaded"),
            },
            Broken::Stopped { exit_code } => {
                eprintln!("warmspare: {broken}; {state}. Run the same command again {again}");
                Ok(ExitCode::from(exit_code))
            }
            Broken::DiskFull => bail!("{broken}; {state}. Make room, then run the same command again {again}"),
            Broken::Silent | Broken::Other(_) => bail!("{broken}; {state}. Run the same command again {again}"),
        }
    }

    /// Asks until the standby is up.
    async fn ask_for_terms(&self, public_key: &str, point: Option<&PointChoice>) -> anyhow::Result<Value> {
        let path = format!("/v1/associations/{}/download", self.gpu);
        let wish = json!({"public_key": public_key, "hours": self.hours, "point": point.map(ToString::to_string)});
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
            CheckpointName::PARTIAL
        } else {
            "point"
        };
        Self {
            name,
            figures: terms[name].clone(),
        }
    }

    fn bytes(&self) -> Bytes {
        Bytes(self.figures["bytes"].as_u64().unwrap_or_default())
    }

    fn is_partial(&self) -> bool {
        self.name == CheckpointName::PARTIAL
    }

    fn point(&self) -> &str {
        if self.is_partial() {
            CheckpointName::PARTIAL
        } else {
            text(&self.figures, "id")
        }
    }

    fn words(&self) -> String {
        if self.is_partial() {
            "an unfinished first pass".to_owned()
        } else {
            format!("recovery point {}", self.point())
        }
    }

    fn warn(&self) {
        if self.is_partial() {
            eprintln!(
                "Files may be missing, and those that are there may not fit together. The beginnings of large files lie in directories named {PARTIAL_FILES}."
            );
        }
    }
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

/// Says what to install before anything is asked for.
async fn check_programs(transfer: &str) -> anyhow::Result<()> {
    for program in [transfer, "ssh", "ssh-keygen"] {
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
    Ok(())
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

    use super::encode;

    #[test]
    fn a_path_is_encoded_so_that_no_shell_sees_anything_in_it() {
        assert_eq!(encode(Path::new("runs/7")).unwrap(), "runs/7");
        assert_eq!(encode(Path::new("a b;$(id)\n")).unwrap(), "a%20b%3b%24%28id%29%0a");
        for bad in ["", "/etc", "../x", "a/../b"] {
            assert!(encode(Path::new(bad)).is_err(), "{bad:?} was accepted");
        }
    }
}
