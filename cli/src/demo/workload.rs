//! A process that behaves like training: an append-only log, checkpoints rewritten and rotated, a tree of small files. It never pauses.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use sha2::{Digest, Sha256};

/// Writes like training until it is killed.
#[derive(Debug, Args)]
pub struct Workload {
    /// Where to write.
    directory: PathBuf,
    /// Files of the initial tree.
    #[arg(long, default_value_t = 0)]
    initial_files: u32,
}

/// The log's name in the workspace.
pub(super) const LOG: &str = "training.log";

/// Where checkpoints go.
pub(super) const CHECKPOINTS: &str = "checkpoints";

const STEP: Duration = Duration::from_millis(20);
const STEPS_PER_CHECKPOINT: u64 = 40;
const STEPS_PER_SAMPLE: u64 = 5;
const CHECKPOINTS_KEPT: u64 = 3;
const CHECKPOINT_SIZE: usize = 2 << 20;

impl Workload {
    /// Writes until it is killed.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn run(&self) -> anyhow::Result<std::process::ExitCode> {
        let directory = &self.directory;
        fs::create_dir_all(directory.join(CHECKPOINTS))?;
        self.write_initial_tree()?;
        let mut log = File::options().create(true).append(true).open(directory.join(LOG))?;
        let mut checkpoint = vec![0_u8; CHECKPOINT_SIZE];
        for step in 0_u64.. {
            note(
                &mut log,
                &format!(
                    "step {step} loss {:.4}",
                    1.0 / f64::from(u32::try_from(step % 100_000)? + 1).sqrt()
                ),
            )?;
            if step % STEPS_PER_SAMPLE == 0 {
                let samples = directory.join("samples").join(format!("{:03}", step % 50));
                fs::create_dir_all(&samples)?;
                fs::write(samples.join(format!("{step}.json")), format!("{{\"step\":{step}}}\n"))?;
            }
            if step % STEPS_PER_CHECKPOINT == STEPS_PER_CHECKPOINT - 1 {
                let number = step / STEPS_PER_CHECKPOINT;
                // A checkpoint changes in part, as a model does.
                let part = rand::random_range(0..CHECKPOINT_SIZE / 2);
                rand::fill(&mut checkpoint[part..part + CHECKPOINT_SIZE / 4]);
                let name = format!("step-{number}.pt");
                publish(&directory.join(CHECKPOINTS), &name, &checkpoint)?;
                note(
                    &mut log,
                    &format!("checkpoint {name} {}", hex::encode(Sha256::digest(&checkpoint))),
                )?;
                if let Some(old) = number.checked_sub(CHECKPOINTS_KEPT) {
                    drop(fs::remove_file(
                        directory.join(CHECKPOINTS).join(format!("step-{old}.pt")),
                    ));
                }
            }
            std::thread::sleep(STEP);
        }
        unreachable!("steps do not end")
    }

    fn write_initial_tree(&self) -> anyhow::Result<()> {
        for number in 0..self.initial_files {
            let directory = self.directory.join("dataset").join(format!("{:02}", number % 40));
            fs::create_dir_all(&directory)?;
            fs::write(
                directory.join(format!("{number}.txt")),
                format!("sample {number}\n").repeat(20),
            )?;
        }
        Ok(())
    }
}

/// One line, on disk before the next step: `<milliseconds since 1970> <words>`.
fn note(log: &mut File, words: &str) -> anyhow::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
    log.write_all(format!("{now} {words}\n").as_bytes())?;
    log.sync_data()?;
    Ok(())
}

/// A checkpoint appears whole or not at all.
fn publish(directory: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let fresh = directory.join(format!(".{name}.new"));
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(fresh, directory.join(name))?;
    Ok(())
}
