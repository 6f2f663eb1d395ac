//! Filling a target over several connections at once: small files bundled as tar streams, large ones one by one, in the order in
//! which somebody who starts to work there needs them.
//!
//! Nothing here has to succeed: unless everything arrived, rsync goes over the whole tree and brings the rest, and the verification
//! reads everything back whatever happened. Nothing that is on the target is overwritten here.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use warmspare_wire::agent::Progress;

use crate::error::AgentError;
use crate::inventory::{Entry, Kind, LARGE, Share, Turn};
use crate::process;
use crate::progress::{Done, Meter};
use crate::rsync::Wish;
use crate::ssh::{Machine, fingerprint};
use crate::survey::{Survey, There, survey};

/// One bundle: small enough that a broken one costs little, large enough that starting tar twice does not count.
const BUNDLE: (usize, u64) = (8192, 128 << 20);

/// Below this, several streams take longer to start than rsync takes to finish.
const WORTH_IT: (u64, u64) = (48, 4 << 20);

/// More connections than this help nobody: by then the disk or the link is the limit.
const LANES_AT_MOST: usize = 4;

const GLANCE: Duration = Duration::from_millis(100);

// --skip-old-files: what appeared meanwhile is not ours to replace. tar may stop at the end of the archive, before the zeros that fill its
// last block have come: somebody must take those.
const UNPACK: &str = "exec /bin/sh -c 'unset CDPATH; umask 022; IFS= read -r p && cd \"$p\" || exit 91; \
    tar --extract --file=- --numeric-owner --preserve-permissions --xattrs --xattrs-include=\"user.*\" --skip-old-files \
    2>/dev/null && exec wc -c >/dev/null'";

// Directories come last, when nothing changes their times any more; here tar sets those of directories that exist, too.
const UNPACK_DIRECTORIES: &str = "exec /bin/sh -c 'unset CDPATH; umask 022; IFS= read -r p && cd \"$p\" || exit 91; \
    tar --extract --file=- --numeric-owner --preserve-permissions --xattrs --xattrs-include=\"user.*\" 2>/dev/null && exec wc -c >/dev/null'";

// Target, file, part, offset, size, time, owner, permissions: one line each, then the bytes. The part becomes the file when it is whole.
// Only root gives a file to somebody else, so that a refusal is no failure.
const APPEND: &str = "exec /bin/sh -c 'unset CDPATH; umask 077; IFS= read -r p && IFS= read -r f && IFS= read -r s && \
    IFS= read -r o && IFS= read -r n && IFS= read -r t && IFS= read -r w && IFS= read -r m && \
    cd \"$p\" || exit 91; mkdir -p .warmspare/restore || exit 92; \
    s=.warmspare/restore/$s; [ -e \"$s\" ] || : > \"$s\"; [ \"$(stat -c %s \"$s\")\" = \"$o\" ] || exit 94; \
    cat >> \"$s\"; [ \"$(stat -c %s \"$s\")\" = \"$n\" ] || exit 95; umask 022; d=$(dirname \"./$f\"; echo .); d=${d%??}; \
    mkdir -p \"$d\" || exit 92; if [ -e \"./$f\" ] || [ -L \"./$f\" ]; then rm -f \"$s\"; exit 96; fi; \
    chown \"$w\" \"$s\" 2>/dev/null; touch -d \"@$t\" \"$s\" && chmod \"$m\" \"$s\" && mv \"$s\" \"./$f\"'";

// The root keeps the time that rsync gave it.
const TIDY: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && cd \"$p\" || exit 91; [ -L .warmspare ] && exit 0; \
    [ -L .warmspare/restore ] && exit 0; [ -d .warmspare/restore ] || exit 0; t=$(stat -c %y .); \
    rm -f .warmspare/restore/part-*; rmdir .warmspare/restore .warmspare 2>/dev/null; touch -d \"$t\" .; exit 0'";

/// What is to be filled from what.
#[derive(Debug)]
pub struct Filling<'a> {
    /// The target.
    pub machine: &'a Machine,
    /// The directory there.
    pub target_path: &'a str,
    /// The recovery point.
    pub tree: &'a Path,
    /// What is in it.
    pub list: &'a [Entry],
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Filled {
    /// Files and bytes that are on the target now, as far as it knows.
    pub done: Done,
    /// Whether it brought all that was missing and found nothing else in the way.
    pub whole: Whole,
}

/// Whether rsync still has something to bring.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Whole {
    /// As far as a listing tells, nothing: the verification reads it back and is what counts.
    AsFarAsKnown,
    /// Something, or it is not known.
    #[default]
    No,
}

/// How many connections to use.
#[must_use]
pub fn lanes() -> usize {
    thread::available_parallelism()
        .map_or(2, usize::from)
        .clamp(2, LANES_AT_MOST)
}

impl Filling<'_> {
    /// Brings as much as it can.
    ///
    /// # Errors
    /// Only when the work is no longer wanted.
    pub fn run(&self, mut watch: impl FnMut(Option<Progress>) -> Wish) -> Result<Filled, AgentError> {
        let Some(survey) = survey(self.machine, self.target_path, self.list, &mut || watch(None)) else {
            return Ok(Filled::default());
        };
        let done = self.already(&survey);
        let plan = self.plan(&survey);
        let (files, bytes) = plan
            .iter()
            .fold((0, 0), |sum, job| (sum.0 + job.files(), sum.1 + job.bytes(self)));
        if files < WORTH_IT.0 && bytes < WORTH_IT.1 {
            let whole = Whole::No;
            return Ok(Filled { done, whole });
        }
        let work = Work {
            filling: self,
            jobs: Mutex::new(plan),
            children: Mutex::new(HashSet::new()),
            stop: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            broken: AtomicBool::new(survey.there.contains(&There::Other)),
            done,
        };
        work.run(&mut watch)?;
        let whole = work.complete_directories();
        let done = work.done;
        Ok(Filled { done, whole })
    }

    /// Clears away what large files that were never finished left on the target.
    pub fn tidy(&self) {
        // Parts that stay cost space there and nothing else; the next restore clears them.
        let _ = self.machine.run(TIDY, format!("{}\n", self.target_path).as_bytes());
    }

    fn already(&self, survey: &Survey) -> Done {
        let done = Done::default();
        for (entry, there) in self.list.iter().zip(&survey.there) {
            if *there == There::Same && entry.kind == Kind::File {
                done.add(1, entry.size);
            }
        }
        done
    }

    /// What is missing, in the order of turns; the newest of the large files first.
    fn plan(&self, survey: &Survey) -> VecDeque<Job> {
        let missing = |at: &usize| survey.there.get(*at) == Some(&There::Missing);
        let mut order: Vec<usize> = (0..self.list.len()).filter(missing).collect();
        order.retain(|at| self.list.get(*at).is_some_and(|entry| entry.kind != Kind::Directory));
        order.sort_by_cached_key(|at| {
            let entry = self.list.get(*at);
            let turn = entry.map(Entry::turn);
            let newest = entry
                .filter(|_| turn == Some(Turn::Newest))
                .map(|e| std::cmp::Reverse(e.modified));
            (turn, newest, *at)
        });
        let mut jobs = VecDeque::new();
        let (mut open, mut twins) = (Share::default(), Share::default());
        let mut turn = Turn::First;
        for at in order {
            let Some(entry) = self.list.get(at) else { continue };
            if entry.turn() != turn || open.is_full(BUNDLE.0, BUNDLE.1) {
                turn = entry.turn();
                jobs.push_back(Job::Bundle(std::mem::take(&mut open)));
            }
            if entry.twin {
                twins.add(at, entry);
            } else if entry.travels_alone() && survey.may_keep_parts {
                let part = part_of(entry);
                let arrived = survey
                    .parts
                    .get(part.as_bytes())
                    .copied()
                    .filter(|size| *size <= entry.size);
                jobs.push_back(Job::Large {
                    at,
                    part,
                    arrived: arrived.unwrap_or(0),
                });
            } else {
                open.add(at, entry);
            }
        }
        jobs.extend([Job::Bundle(open), Job::Bundle(twins)]);
        jobs.retain(|job| !matches!(job, Job::Bundle(share) if share.entries.is_empty()));
        jobs
    }
}

impl Entry {
    /// Holes and extended attributes travel only in bundles, and a name with a line break cannot be said in a line.
    fn travels_alone(&self) -> bool {
        self.kind == Kind::File && self.size >= LARGE && !self.sparse && !self.tagged && !self.name.contains(&b'\n')
    }
}

/// A part belongs to one version of one file: of another it would be the wrong beginning.
fn part_of(entry: &Entry) -> String {
    let mut version = entry.name.to_vec();
    version.extend(format!("\0{} {:?}", entry.size, entry.modified).into_bytes());
    format!("part-{:016x}-{}", fingerprint(&version), entry.size)
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Job {
    Bundle(Share),
    Large { at: usize, part: String, arrived: u64 },
}

impl Job {
    fn files(&self) -> u64 {
        match self {
            Self::Bundle(share) => share.files,
            Self::Large { .. } => 1,
        }
    }

    fn bytes(&self, filling: &Filling<'_>) -> u64 {
        match self {
            Self::Bundle(share) => share.bytes,
            Self::Large { at, .. } => filling.list.get(*at).map_or(0, |entry| entry.size),
        }
    }
}

struct Work<'a> {
    filling: &'a Filling<'a>,
    jobs: Mutex<VecDeque<Job>>,
    children: Mutex<HashSet<u32>>,
    stop: AtomicBool,
    busy: AtomicUsize,
    /// Whether anything was in the way or did not arrive.
    broken: AtomicBool,
    done: Done,
}

impl Work<'_> {
    fn run(&self, watch: &mut impl FnMut(Option<Progress>) -> Wish) -> Result<(), AgentError> {
        let files = self
            .filling
            .list
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .count();
        let bytes = self.filling.list.iter().map(|entry| entry.size).sum();
        let mut meter = Meter::new(u64::try_from(files).unwrap_or(u64::MAX), bytes);
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
        let lanes = lanes().min(jobs);
        self.busy.store(lanes, Ordering::SeqCst);
        thread::scope(|scope| {
            for lane in 0..lanes {
                scope.spawn(move || {
                    self.drive(&self.filling.machine.lane(lane));
                    self.busy.fetch_sub(1, Ordering::SeqCst);
                });
            }
            let mut looked = Instant::now();
            while self.busy.load(Ordering::SeqCst) > 0 {
                thread::sleep(Duration::from_millis(5));
                if looked.elapsed() < GLANCE {
                    continue;
                }
                looked = Instant::now();
                if let Wish::Stop(reason) = watch(Some(meter.read(&self.done, looked))) {
                    self.end();
                    return Err(AgentError::Interrupted(reason.into()));
                }
            }
            let _ = watch(Some(meter.read(&self.done, Instant::now())));
            Ok(())
        })
    }

    /// One connection's life.
    fn drive(&self, machine: &Machine) {
        if machine.connect().is_err() {
            return;
        }
        while !self.stop.load(Ordering::SeqCst) {
            let next = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            let Some(job) = next else { return };
            let counted = Counted {
                done: &self.done,
                stop: &self.stop,
                most: job.bytes(self.filling),
                given: 0,
            };
            let outcome = match &job {
                Job::Bundle(share) => self.send_bundle(machine, UNPACK, share.names(self.filling.list), counted),
                Job::Large { at, part, arrived } => self.send_large(machine, *at, part, *arrived, counted),
            };
            match outcome {
                Ok(()) => self.done.add(job.files(), 0),
                // rsync brings it, or says what is wrong. A lane that lost its connection does not take the next job.
                Err(error) => {
                    self.broken.store(true, Ordering::SeqCst);
                    process::log(&format!("restore: a stream broke off, rsync carries on: {error}"));
                    if machine.connect().is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Every directory as it is in the recovery point. What was there before is not touched, so only when nothing was in the way.
    fn complete_directories(&self) -> Whole {
        let left = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
        if self.broken.load(Ordering::SeqCst) || left > 0 {
            return Whole::No;
        }
        let mut directories = Share::default();
        for (at, entry) in self.filling.list.iter().enumerate() {
            if entry.kind == Kind::Directory {
                directories.add(at, entry);
            }
        }
        let mut names = b".\0".to_vec();
        names.extend(directories.names(self.filling.list));
        let counted = Counted {
            done: &self.done,
            stop: &self.stop,
            most: 0,
            given: 0,
        };
        match self.send_bundle(self.filling.machine, UNPACK_DIRECTORIES, names, counted) {
            Ok(()) => Whole::AsFarAsKnown,
            Err(error) => {
                process::log(&format!("restore: directories are left to rsync: {error}"));
                Whole::No
            }
        }
    }

    fn send_bundle(
        &self,
        machine: &Machine,
        unpack: &'static str,
        names: Vec<u8>,
        mut counted: Counted<'_>,
    ) -> io::Result<()> {
        let mut tar = process::tied("tar");
        tar.args([
            "--create",
            "--format=posix",
            "--pax-option=delete=atime,delete=ctime",
            "--sparse",
            "--numeric-owner",
        ])
        .args([
            "--xattrs",
            "--xattrs-include=user.*",
            "--no-recursion",
            "--blocking-factor=256",
        ])
        .arg("--directory")
        .arg(self.filling.tree)
        .args(["--null", "--verbatim-files-from", "--files-from=-", "--file=-"])
        .env("LC_ALL", "C")
        .stdout(Stdio::piped());
        let mut tar = self.start(&mut tar)?;
        let mut ssh = self.start(machine.pipe(unpack).stdout(Stdio::null()))?;
        let poured = thread::scope(|scope| {
            if let Some(mut stdin) = tar.stdin.take() {
                scope.spawn(move || stdin.write_all(&names));
            }
            let mut to = ssh.stdin.take().ok_or_else(no_pipe)?;
            to.write_all(format!("{}\n", self.filling.target_path).as_bytes())?;
            let mut from = tar.stdout.take().ok_or_else(no_pipe)?;
            counted.pour(&mut from, &mut to)
        });
        // Both are waited for, whatever happened.
        let ended = [self.finish(tar, poured.is_err()), self.finish(ssh, poured.is_err())];
        poured?;
        ended.into_iter().collect::<io::Result<()>>()?;
        counted.complete();
        Ok(())
    }

    fn send_large(
        &self,
        machine: &Machine,
        at: usize,
        part: &str,
        arrived: u64,
        mut counted: Counted<'_>,
    ) -> io::Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let entry = self.filling.list.get(at).ok_or_else(no_pipe)?;
        let mut file = File::open(self.filling.tree.join(std::ffi::OsStr::from_bytes(&entry.name)))?;
        file.seek(SeekFrom::Start(arrived))?;
        let (seconds, nanoseconds) = entry.modified;
        let mut head = format!("{}\n", self.filling.target_path).into_bytes();
        head.extend_from_slice(&entry.name);
        let (user, group) = entry.owner;
        let last = format!("{user}:{group}\n{:o}\n", entry.mode);
        head.extend(
            format!(
                "\n{part}\n{arrived}\n{}\n{seconds}.{nanoseconds:09}\n{last}",
                entry.size
            )
            .into_bytes(),
        );
        counted.give(arrived);
        let mut ssh = self.start(machine.pipe(APPEND).stdout(Stdio::null()))?;
        let mut pour = |to: Option<ChildStdin>| {
            let mut to = to.ok_or_else(no_pipe)?;
            to.write_all(&head)?;
            counted.pour(&mut file, &mut to)
        };
        let poured = pour(ssh.stdin.take());
        let ended = self.finish(ssh, poured.is_err());
        poured.and(ended)?;
        counted.complete();
        Ok(())
    }

    fn start(&self, command: &mut Command) -> io::Result<Child> {
        let child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.insert(child.id());
        drop(children);
        if self.stop.load(Ordering::SeqCst) {
            self.end();
        }
        Ok(child)
    }

    fn finish(&self, mut child: Child, broken: bool) -> io::Result<()> {
        if broken {
            let _ = child.kill();
        }
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            thread::sleep(Duration::from_millis(2));
        };
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.remove(&child.id());
        if ended.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("it ended with {ended}")))
        }
    }

    /// Ends every stream: whoever waits for one goes on at once.
    fn end(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        for child in children
            .iter()
            .filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw))
        {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
    }
}

fn no_pipe() -> io::Error {
    io::Error::other("a stream has no other end")
}

/// Counts what one job brings, never more than it has; takes it back when the job fails.
struct Counted<'a> {
    done: &'a Done,
    stop: &'a AtomicBool,
    most: u64,
    given: u64,
}

impl Counted<'_> {
    // Generic over the concrete ends: between two pipes, or a file and a pipe, the kernel moves the bytes by itself.
    fn pour<R: Read, W: Write>(&mut self, from: &mut R, to: &mut W) -> io::Result<()> {
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return Err(io::Error::other("it is not wanted any more"));
            }
            match io::copy(&mut from.by_ref().take(1 << 20), to)? {
                0 => return to.flush(),
                moved => self.give(moved),
            }
        }
    }

    fn give(&mut self, bytes: u64) {
        let bytes = bytes.min(self.most - self.given);
        self.given += bytes;
        self.done.add(0, bytes);
    }

    fn complete(&mut self) {
        self.give(self.most);
        self.most = 0;
        self.given = 0;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.done.bytes.fetch_sub(self.given, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::DataDir;
    use std::collections::HashMap;
    use warmspare_domain::ids::{AssociationId, Epoch, GpuId};
    use warmspare_wire::agent::Host;

    fn file(name: &str, size: u64, seconds: i64) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            kind: Kind::File,
            size,
            mode: 0o644,
            modified: (seconds, 0),
            sparse: false,
            owner: (0, 0),
            tagged: false,
            twin: false,
        }
    }

    fn plan(list: &[Entry], survey: &Survey) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let dir = DataDir::open(place.path()).unwrap();
        let host = Host {
            address: "10.0.0.1".into(),
            port: 22,
            user: "root".into(),
        };
        let machine = Machine::new(&dir, &host, AssociationId::of(GpuId::vast(7)), Epoch::FIRST).unwrap();
        let filling = Filling {
            machine: &machine,
            target_path: "/x",
            tree: place.path(),
            list,
        };
        let shown = |at: &usize| String::from_utf8_lossy(&list[*at].name).into_owned();
        filling
            .plan(survey)
            .iter()
            .map(|job| match job {
                Job::Bundle(share) => share.entries.iter().map(shown).collect::<Vec<_>>().join("+"),
                Job::Large { at, arrived, .. } => format!("{} from {arrived}", shown(at)),
            })
            .collect()
    }

    #[test]
    fn code_travels_first_then_the_newest_checkpoint_and_caches_last() {
        let mut list = vec![
            file(".cache/hub/blob", 1 << 30, 9),
            file("config.yaml", 10, 1),
            file("data.bin", 2 << 20, 3),
            file("runs/1.pt", 1 << 30, 5),
            file("runs/2.pt", 1 << 30, 6),
            file("train.py", 10, 1),
            file("there", 10, 1),
            file("twin", 10, 1),
        ];
        list[7].twin = true;
        let mut survey = Survey {
            there: vec![There::Missing; list.len()],
            parts: HashMap::new(),
            may_keep_parts: true,
        };
        survey.there[6] = There::Same;
        survey.parts.insert(part_of(&list[3]).into_bytes(), 77);
        let expected = [
            "config.yaml+train.py",
            "runs/2.pt from 0",
            "runs/1.pt from 77",
            "data.bin",
            ".cache/hub/blob from 0",
            "twin",
        ];
        assert_eq!(plan(&list, &survey), expected);
        survey.may_keep_parts = false;
        assert!(!plan(&list, &survey).iter().any(|job| job.contains(" from ")));
    }
}
