//! Comparing a recovery point with a host, every byte on both sides.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use warmspare_wire::agent::{Host, PointChoice, Progress};

use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::inventory::{self, Entry, Share};
use crate::name_list::NameList;
use crate::progress::{Done, Meter};
use crate::recovery_points::{self, tree_of};
use crate::rsync::Transfer;
use crate::source;
use crate::ssh::Machine;
use crate::state::PointFile;
use crate::streams;
use crate::wish::{GLANCE, Wish};

/// What a comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Entries of the recovery point that are missing on the host or differ there.
    pub count: u64,
    /// The first of them, as rsync itemizes them.
    pub examples: String,
}

/// Compares a recovery point with a directory on a host (where the bound GPU's host key, or a restore target's, is pinned).
///
/// # Errors
/// When nothing is bound, no recovery point fits, or the host cannot be reached.
pub fn verify(
    dir: &DataDir,
    choice: &PointChoice,
    host: Option<&Host>,
    path: Option<&str>,
) -> Result<(PointFile, Differences), AgentError> {
    let binding = dir.binding()?.ok_or(AgentError::NotBound)?;
    let point = recovery_points::choose(dir, choice)?;
    let path = path.unwrap_or(&binding.bind.source_path);
    source::check_path(path)?;
    let host = host.unwrap_or(&binding.bind.source);
    // A restore target has its key pinned under the epoch that it will have.
    let job = dir.restore_file()?.filter(|job| job.target == *host);
    let epoch = job.map_or(binding.epoch(), |job| job.epoch);
    let machine = Machine::new(dir, host, binding.association(), epoch)?;
    machine.connect()?;
    let lock = dir
        .try_lock("verify.lock")?
        .ok_or_else(|| AgentError::Interrupted("another verification is under way".into()))?;
    let tree = tree_of(dir, &point.point.id);
    let list = inventory::list(&tree).map_err(|error| AgentError::io("list the recovery point", error))?;
    let comparison = Comparison {
        dir,
        machine: &machine,
        lock: &lock,
        tree: &tree,
        target_path: path,
        list: &list,
    };
    let differences = comparison.run(|_| Wish::GoOn)?;
    Ok((point, differences))
}

/// What is to be compared with what.
#[derive(Debug)]
pub struct Comparison<'a> {
    /// The agent's directory.
    pub dir: &'a DataDir,
    /// The other machine.
    pub machine: &'a Machine,
    /// Held as long as anything reads.
    pub lock: &'a File,
    /// The recovery point.
    pub tree: &'a Path,
    /// The directory on the other machine.
    pub target_path: &'a str,
    /// Everything in the recovery point.
    pub list: &'a [Entry],
}

/// One share: short enough that both ends have something to read at any time, and that progress is seen.
const SHARE: (usize, u64) = (10_000, 512 << 20);

impl Comparison<'_> {
    /// Reads everything on both sides, several shares at a time.
    ///
    /// # Errors
    /// When it could not read everything on both sides.
    pub fn run(&self, mut watch: impl FnMut(Option<Progress>) -> Wish) -> Result<Differences, AgentError> {
        let shares = inventory::shares(self.list, SHARE.0, SHARE.1);
        let (files, bytes) = shares
            .iter()
            .fold((0, 0), |sum, share| (sum.0 + share.files, sum.1 + share.bytes));
        let reading = Reading {
            comparison: self,
            next: AtomicUsize::new(0),
            done: Done::default(),
            found: Mutex::new(Ok((Differences::default(), 0))),
            stop: Mutex::new(None),
            busy: AtomicUsize::new(0),
        };
        let whole = shares.len() <= 1;
        if whole {
            let transfer = Transfer::compare(self.machine, self.tree, self.target_path);
            reading.note(reading.read(&transfer, self.machine));
        } else {
            reading.all(&shares, &mut Meter::new(files, bytes), &mut watch);
            // The root directory itself is in no share.
            let root = Transfer::compare_root(self.machine, self.tree, self.target_path);
            reading.note(reading.read(&root, self.machine));
        }
        if let Some(reason) = reading.stop.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(AgentError::Interrupted(reason.into()));
        }
        let (differences, read) = reading.found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        if read != files {
            return Err(AgentError::Rsync(format!(
                "{read} files were compared instead of {files}"
            )));
        }
        Ok(differences)
    }
}

struct Reading<'a> {
    comparison: &'a Comparison<'a>,
    next: AtomicUsize,
    done: Done,
    /// The differences, and how many regular files rsync says it looked at.
    found: Mutex<Result<(Differences, u64), AgentError>>,
    stop: Mutex<Option<&'static str>>,
    busy: AtomicUsize,
}

impl Reading<'_> {
    fn all(&self, shares: &[Share], meter: &mut Meter, watch: &mut impl FnMut(Option<Progress>) -> Wish) {
        let lanes = streams::lanes().min(shares.len());
        self.busy.store(lanes, Ordering::SeqCst);
        thread::scope(|scope| {
            for lane in 0..lanes {
                scope.spawn(move || {
                    self.drive(&self.comparison.machine.lane(lane), shares);
                    self.busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
            let mut looked: Option<Instant> = None;
            while self.busy.load(Ordering::SeqCst) > 0 {
                thread::sleep(Duration::from_millis(5));
                if looked.is_some_and(|at| at.elapsed() < GLANCE) {
                    continue;
                }
                let now = Instant::now();
                looked = Some(now);
                if let Wish::Stop(reason) = watch(Some(meter.read(&self.done, now))) {
                    *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
                }
            }
            let _ = watch(Some(meter.read(&self.done, Instant::now())));
        });
    }

    fn drive(&self, machine: &Machine, shares: &[Share]) {
        if let Err(error) = machine.connect() {
            return self.note(Err(error));
        }
        while self.wish() == Wish::GoOn {
            let at = self.next.fetch_add(1, Ordering::SeqCst);
            let Some(share) = shares.get(at) else { return };
            let outcome = self.read_share(machine, at, share);
            if outcome.is_ok() {
                self.done.add(share.files, share.bytes);
            }
            self.note(outcome);
        }
    }

    fn read_share(&self, machine: &Machine, at: usize, share: &Share) -> Result<(Differences, u64), AgentError> {
        let comparison = self.comparison;
        let names = share.names(comparison.list);
        let list = NameList::write(comparison.dir, &format!("share-{at}"), names)?;
        let transfer = Transfer::compare_listed(machine, comparison.tree, comparison.target_path, list.path());
        self.read(&transfer, machine)
    }

    fn read(&self, transfer: &Transfer, machine: &Machine) -> Result<(Differences, u64), AgentError> {
        let done = transfer.run(self.comparison.dir, machine, self.comparison.lock, |_| self.wish())?;
        if let Some(name) = done.unreadable.first() {
            return Err(AgentError::Rsync(format!(
                "cannot read {}",
                String::from_utf8_lossy(name).escape_debug()
            )));
        }
        let Some(totals) = done.tally.totals else {
            return Err(AgentError::Rsync("the comparison did not end".into()));
        };
        let differences = Differences {
            count: done.tally.differences,
            examples: done.tally.first.join(", "),
        };
        Ok((differences, totals.files))
    }

    fn wish(&self) -> Wish {
        let failed = self.found.lock().unwrap_or_else(PoisonError::into_inner).is_err();
        match *self.stop.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => Wish::Stop(reason),
            None if failed => Wish::Stop("another part of the comparison failed"),
            None => Wish::GoOn,
        }
    }

    fn note(&self, outcome: Result<(Differences, u64), AgentError>) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok((all, files)) = found.as_mut() else { return };
        match outcome {
            Ok((differences, read)) => {
                all.count += differences.count;
                *files += read;
                if all.examples.len() < 500 && !differences.examples.is_empty() {
                    let between = if all.examples.is_empty() { "" } else { ", " };
                    all.examples.push_str(&format!("{between}{}", differences.examples));
                }
            }
            Err(error) => *found = Err(error),
        }
    }
}
