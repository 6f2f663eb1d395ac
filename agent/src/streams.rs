//! Filling a target over several connections at once: small files in bundles, large ones one by one, in the order in which somebody
//! who starts to work there needs them. Our own program unpacks them there; where it cannot run, rsync does everything.
//!
//! Nothing here has to succeed: unless everything arrived, rsync goes over the whole tree and brings the rest, and the verification
//! reads everything back whatever happened. Nothing that is on the target is overwritten here.

use std::collections::{HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use warmspare_domain::ids::PathBelow;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::Progress;

use crate::bundle::{self, Packer};
use crate::error::AgentError;
use crate::inventory::{Entry, Kind, LARGE, Share, Turn};
use crate::process;
use crate::progress::{Done, Meter};
use crate::ssh::{Machine, fingerprint};
use crate::survey::{Survey, There, survey};
use crate::wish::{GLANCE, Wish};

/// One bundle: small enough that a broken one costs little, large enough that starting two programs for it does not count.
const BUNDLE: (usize, u64) = (16_384, 128 << 20);

/// How many bytes are collected before they are handed to ssh.
const PIECE: usize = 256 << 10;

/// Below this, several streams take longer to start than rsync takes to finish.
const WORTH_IT: (u64, Bytes) = (48, Bytes(4 << 20));

/// More connections than this help nobody: by then the disk or the link is the limit.
const LANES_AT_MOST: usize = 4;

/// A target on which nothing moves for so long is stuck, or its disk is.
const STANDS_STILL: Duration = Duration::from_secs(600);

// Fixed text; path and name come over standard input, and then the stream.
const UNPACK: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && IFS= read -r n && cd \"$p\" || exit 91; \
    [ ! -L .warmspare ] || exit 90; exec \"./.warmspare/$n\" restore-unpack'";

const TIDY: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && cd \"$p\" || exit 91; [ -L .warmspare ] && exit 0; \
    [ -L .warmspare/restore ] && exit 0; [ -d .warmspare/restore ] || exit 0; \
    rm -f .warmspare/restore/part-*; rmdir .warmspare/restore 2>/dev/null; exit 0'";

/// What is to be filled from what.
#[derive(Debug)]
pub struct Filling<'a> {
    /// The target.
    pub machine: &'a Machine,
    /// The name of our program there, if it is there.
    pub program: Option<&'a str>,
    /// The directory there.
    pub target_path: &'a str,
    /// The recovery point.
    pub tree: &'a Path,
    /// What is in it.
    pub list: &'a [Entry],
    /// Paths that travel before all others.
    pub first: &'a [PathBelow],
    /// Set once they are there.
    pub first_there: &'a AtomicBool,
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

/// Whether so much is brought sooner by several streams.
#[must_use]
pub fn are_worth_it(files: u64, bytes: Bytes) -> bool {
    files >= WORTH_IT.0 || bytes >= WORTH_IT.1
}

impl Filling<'_> {
    /// Brings as much as it can.
    ///
    /// # Errors
    /// Only when the work is no longer wanted.
    pub fn run(&self, mut watch: impl FnMut(Option<Progress>) -> Wish) -> Result<Filled, AgentError> {
        let Some(program) = self.program else {
            return Ok(Filled::default());
        };
        let Some(survey) = survey(self.machine, self.target_path, program, self.list, &mut || watch(None)) else {
            process::log("restore: our program does not run on the target, rsync does everything");
            return Ok(Filled::default());
        };
        let done = self.already(&survey);
        let plan = self.plan(&survey);
        let (files, bytes) = plan
            .iter()
            .fold((0, 0), |sum, job| (sum.0 + job.files(), sum.1 + job.bytes(self)));
        if !are_worth_it(files, Bytes(bytes)) {
            let whole = Whole::No;
            return Ok(Filled { done, whole });
        }
        let named_left = plan.iter().filter(|job| job.is_named(self)).count();
        let can_tell = self.can_tell_of_the_first(&survey);
        self.first_there.store(can_tell && named_left == 0, Ordering::SeqCst);
        let work = Work {
            filling: self,
            program,
            named_left: AtomicUsize::new(named_left),
            can_tell,
            jobs: Mutex::new(plan),
            children: Mutex::new(HashSet::new()),
            stop: AtomicBool::new(false),
            broken: AtomicBool::new(survey.there.contains(&There::Other)),
            done,
        };
        let whole = work.run(&mut watch)?;
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

    /// Whether there is anything that a person named, and nothing else stands in its place.
    fn can_tell_of_the_first(&self, survey: &Survey) -> bool {
        let mut named = (self.list.iter().zip(&survey.there))
            .filter(|(entry, _)| entry.place_among(self.first).is_some())
            .map(|(_, there)| *there)
            .peekable();
        named.peek().is_some() && named.all(|there| there != There::Other)
    }

    /// What is missing, in the order of turns; the newest of the large files first.
    fn plan(&self, survey: &Survey) -> VecDeque<Job> {
        let missing = |at: &usize| survey.there.get(*at) == Some(&There::Missing);
        let mut order: Vec<usize> = (0..self.list.len()).filter(missing).collect();
        order.retain(|at| self.list.get(*at).is_some_and(|entry| entry.kind != Kind::Directory));
        order.sort_by_cached_key(|at| {
            let entry = self.list.get(*at);
            let turn = entry.map(|entry| entry.turn(self.first));
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
            let its_turn = entry.turn(self.first);
            if its_turn != turn || open.is_full(BUNDLE.0, BUNDLE.1) {
                turn = its_turn;
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
    /// The length of a part with holes would not tell how much of it arrived.
    fn travels_alone(&self) -> bool {
        self.kind == Kind::File && self.size >= LARGE && !self.sparse
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

    /// Whether it brings anything that a person named.
    fn is_named(&self, filling: &Filling<'_>) -> bool {
        let named = |at: &usize| {
            let entry = filling.list.get(*at);
            entry.is_some_and(|entry| entry.place_among(filling.first).is_some())
        };
        match self {
            Self::Bundle(share) => share.entries.iter().any(named),
            Self::Large { at, .. } => named(at),
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
    program: &'a str,
    jobs: Mutex<VecDeque<Job>>,
    /// How many jobs with something that a person named have not arrived.
    named_left: AtomicUsize,
    /// Whether these jobs are all that is missing of it.
    can_tell: bool,
    children: Mutex<HashSet<u32>>,
    stop: AtomicBool,
    /// Whether anything was in the way or did not arrive.
    broken: AtomicBool,
    done: Done,
}

impl Work<'_> {
    fn run(&self, watch: &mut impl FnMut(Option<Progress>) -> Wish) -> Result<Whole, AgentError> {
        let files = self
            .filling
            .list
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .count();
        let bytes = self.filling.list.iter().map(|entry| entry.size).sum();
        let mut meter = Meter::new(u64::try_from(files).unwrap_or(u64::MAX), bytes);
        thread::scope(|scope| {
            let work = scope.spawn(|| self.work());
            let mut looked = Instant::now();
            let mut motion = ((0, 0), looked);
            while !work.is_finished() {
                thread::sleep(Duration::from_millis(5));
                if looked.elapsed() < GLANCE {
                    continue;
                }
                looked = Instant::now();
                let now = (
                    self.done.files.load(Ordering::Relaxed),
                    self.done.bytes.load(Ordering::Relaxed),
                );
                if now != motion.0 {
                    motion = (now, looked);
                } else if motion.1.elapsed() >= STANDS_STILL && !self.stop.load(Ordering::SeqCst) {
                    process::log("restore: nothing moved for ten minutes, rsync carries on");
                    self.end();
                }
                if let Wish::Stop(reason) = watch(Some(meter.read(&self.done, looked))) {
                    self.end();
                    return Err(AgentError::Interrupted(reason.into()));
                }
            }
            let _ = watch(Some(meter.read(&self.done, Instant::now())));
            Ok(work.join().unwrap_or(Whole::No))
        })
    }

    fn work(&self) -> Whole {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).len();
        thread::scope(|scope| {
            for lane in 0..lanes().min(jobs) {
                scope.spawn(move || self.drive(&self.filling.machine.lane(lane)));
            }
        });
        self.complete_directories()
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
                Job::Bundle(share) => self.send_bundle(machine, share, counted),
                Job::Large { at, part, arrived } => self.send_large(machine, *at, part, *arrived, counted),
            };
            match outcome {
                Ok(()) => {
                    self.done.add(job.files(), 0);
                    if job.is_named(self.filling) && self.named_left.fetch_sub(1, Ordering::SeqCst) == 1 {
                        self.filling.first_there.store(self.can_tell, Ordering::SeqCst);
                    }
                }
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
        if self.broken.load(Ordering::SeqCst) || self.stop.load(Ordering::SeqCst) || left > 0 {
            return Whole::No;
        }
        let mut directories = Share::default();
        for (at, entry) in self.filling.list.iter().enumerate() {
            if entry.kind == Kind::Directory {
                directories.add(at, entry);
            }
        }
        let sent = self.send(self.filling.machine, |to| {
            let mut to = BufWriter::new(to);
            let mut packer = Packer::new(self.filling.tree)?;
            packer.pack_root(&mut to)?;
            for entry in self.entries(&directories) {
                packer.pack(entry, &mut to)?;
            }
            bundle::close(&mut to)
        });
        match sent {
            Ok(()) => Whole::AsFarAsKnown,
            Err(error) => {
                process::log(&format!("restore: directories are left to rsync: {error}"));
                Whole::No
            }
        }
    }

    fn entries<'s>(&'s self, share: &'s Share) -> impl Iterator<Item = &'s Entry> {
        share.entries.iter().filter_map(|at| self.filling.list.get(*at))
    }

    fn send_bundle(&self, machine: &Machine, share: &Share, mut counted: Counted<'_>) -> io::Result<()> {
        self.send(machine, |to| {
            let mut to = BufWriter::with_capacity(
                PIECE,
                Counting {
                    counted: &mut counted,
                    to,
                },
            );
            let mut packer = Packer::new(self.filling.tree)?;
            for entry in self.entries(share) {
                packer.pack(entry, &mut to)?;
            }
            bundle::close(&mut to)
        })?;
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
        let entry = self.filling.list.get(at).ok_or_else(no_pipe)?;
        counted.give(arrived);
        self.send(machine, |to| {
            let mut packer = Packer::new(self.filling.tree)?;
            let mut file = packer.begin_large(entry, part, arrived, to)?;
            if arrived + counted.pour(&mut file, to)? != entry.size {
                return Err(io::Error::other(
                    "a file of the recovery point is not as long as it was",
                ));
            }
            bundle::close(to)
        })?;
        counted.complete();
        Ok(())
    }

    /// Has our program on the target unpack what `write` writes.
    fn send(&self, machine: &Machine, write: impl FnOnce(&mut ChildStdin) -> io::Result<()>) -> io::Result<()> {
        let mut ssh = self.start(machine.pipe(UNPACK).stdout(Stdio::null()))?;
        let written = ssh.stdin.take().ok_or_else(no_pipe).and_then(|mut to| {
            to.write_all(format!("{}\n{}\n", self.filling.target_path, self.program).as_bytes())?;
            write(&mut to)
        });
        // It is waited for, whatever happened.
        let ended = self.finish(ssh, written.is_err());
        written.and(ended)
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

fn not_wanted() -> io::Error {
    io::Error::other("it is not wanted any more")
}

/// Counts what one job brings, never more than it has; takes it back when the job fails.
struct Counted<'a> {
    done: &'a Done,
    stop: &'a AtomicBool,
    most: u64,
    given: u64,
}

impl Counted<'_> {
    // From a file to a pipe the kernel moves the bytes by itself.
    fn pour(&mut self, from: &mut File, to: &mut ChildStdin) -> io::Result<u64> {
        let mut poured = 0;
        loop {
            if self.stop.load(Ordering::SeqCst) {
                return Err(not_wanted());
            }
            match io::copy(&mut from.take(1 << 20), to)? {
                0 => return Ok(poured),
                moved => {
                    self.give(moved);
                    poured += moved;
                }
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

/// What goes to the target, counted on its way.
struct Counting<'c, 'a, 't> {
    counted: &'c mut Counted<'a>,
    to: &'t mut ChildStdin,
}

impl Write for Counting<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.counted.stop.load(Ordering::SeqCst) {
            return Err(not_wanted());
        }
        let written = self.to.write(bytes)?;
        self.counted.give(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
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
    use crate::ssh::tests::machine;
    use std::collections::HashMap;

    fn file(name: &str, size: u64, seconds: i64) -> Entry {
        Entry {
            name: name.as_bytes().into(),
            kind: Kind::File,
            size,
            mode: 0o644,
            modified: (seconds, 0),
            sparse: false,
            owner: (0, 0),
            twin: false,
        }
    }

    fn paths<const N: usize>(texts: [&str; N]) -> [PathBelow; N] {
        texts.map(|text| text.parse().unwrap())
    }

    fn plan(list: &[Entry], first: &[PathBelow], survey: &Survey) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let machine = machine("10.0.0.1", "root").unwrap();
        let filling = Filling {
            machine: &machine,
            program: None,
            target_path: "/x",
            tree: place.path(),
            list,
            first,
            first_there: &AtomicBool::new(false),
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
        assert_eq!(plan(&list, &[], &survey), expected);
        let named = plan(&list, &paths(["data.bin", ".cache/hub"]), &survey);
        assert_eq!(
            named[..3],
            ["data.bin", ".cache/hub/blob from 0", "config.yaml+train.py"]
        );
        survey.may_keep_parts = false;
        assert!(!plan(&list, &[], &survey).iter().any(|job| job.contains(" from ")));
    }

    #[test]
    fn the_first_is_not_said_to_be_there_when_something_else_is_or_nothing_was_named() {
        let place = tempfile::tempdir().unwrap();
        let machine = machine("10.0.0.1", "root").unwrap();
        let list = [file("src/train.py", 10, 1), file("other", 10, 1)];
        let tells = |first: &str, there: There| {
            let filling = Filling {
                machine: &machine,
                program: None,
                target_path: "/x",
                tree: place.path(),
                list: &list,
                first: &paths([first]),
                first_there: &AtomicBool::new(false),
            };
            filling.can_tell_of_the_first(&Survey {
                there: vec![there, There::Other],
                parts: HashMap::new(),
                may_keep_parts: true,
            })
        };
        assert!(tells("src", There::Same) && tells("src", There::Missing));
        assert!(!tells("src", There::Other), "a file that is stale");
        assert!(!tells("scr", There::Same), "a path that nothing has");
    }
}
