//! The first pass of a large tree, in the order in which its parts are needed: should it never end, the best of it is there.
//!
//! Nothing here decides what the recovery point holds: the pass over everything that follows puts all of it right.

use std::path::PathBuf;

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::Progress;

use super::Pass;
use crate::changes;
use crate::error::AgentError;
use crate::incoming::{Incoming, Start};
use crate::inventory::{CACHES, SMALL, is_cached};
use crate::name_list::NameList;
use crate::rsync::Transfer;
use crate::rsync_output::{MOST_NAMED, Tally, Totals};
use crate::tree::{self, Census};

/// With less than this in large files the order does not matter: nothing keeps the rest waiting, and each part costs a listing of the tree.
const WORTH_IT: u64 = 32 << 20;

/// Large files travel newest first, so many bytes at once: a checkpoint goes alone, and thousands of images do not take thousands of calls.
const BATCH: u64 = 1 << 30;

/// How code and configuration are named.
const CODE: [&str; 24] = [
    "*.py",
    "*.ipynb",
    "*.sh",
    "*.yaml",
    "*.yml",
    "*.toml",
    "*.cfg",
    "*.ini",
    "*.conf",
    "*.json",
    "*.md",
    "*.txt",
    "*.rs",
    "*.c",
    "*.cc",
    "*.cpp",
    "*.cu",
    "*.h",
    "*.hpp",
    "*.js",
    "*.ts",
    "*.go",
    "Makefile",
    "Dockerfile",
];

/// What the first pass has to do, and what was there before its present part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Backlog {
    files: u64,
    bytes: Bytes,
    before: Census,
    part: Part,
}

/// Whether rsync counts the whole tree, or only what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Some,
    All,
}

impl Backlog {
    /// What rsync says of its present run, as progress of the whole.
    pub(super) fn progress(&self, now: Progress) -> Progress {
        let files = match self.part {
            Part::Some => self.before.files + now.files_done,
            Part::All => now.files_done.max(self.before.files),
        };
        Progress {
            bytes_done: Bytes((self.before.bytes.0 + now.bytes_done.0).min(self.bytes.0)),
            bytes_total: self.bytes,
            files_done: files.min(self.files),
            files_total: self.files,
            bytes_per_second: now.bytes_per_second,
        }
    }
}

/// What the first listing of the GPU names.
#[derive(Debug, PartialEq, Eq)]
enum Listed {
    /// A cache, or something in one.
    Cached,
    /// A large file elsewhere.
    Large(Large),
}

#[derive(Debug, PartialEq, Eq)]
struct Large {
    modified: String,
    size: u64,
    name: PathBuf,
}

/// What rsync says of one entry: `>f+++++++++ SIZE YYYY/MM/DD-HH:MM:SS NAME`, as the output format asks for.
pub(super) struct Words<'l> {
    kind: &'l [u8],
    size: &'l [u8],
    modified: &'l [u8],
    pub(super) name: &'l [u8],
}

pub(super) fn words(line: &[u8]) -> Option<Words<'_>> {
    let mut words = line.splitn(4, |byte| *byte == b' ');
    Some(Words {
        kind: words.next()?,
        size: words.next()?,
        modified: words.next()?,
        name: words.next()?,
    })
}

impl Listed {
    fn read(line: &[u8]) -> Option<Self> {
        let words = words(line)?;
        if is_cached(words.name) {
            return Some(Self::Cached);
        }
        // A directory has a size, too.
        (words.kind.get(1) == Some(&b'f')).then_some(())?;
        Some(Self::Large(Large {
            modified: String::from_utf8(words.modified.to_vec()).ok()?,
            size: std::str::from_utf8(words.size).ok()?.parse().ok()?,
            name: tree::below(words.name, &[])?,
        }))
    }
}

impl Pass<'_> {
    /// Fetches what a person named, then code and configuration, then large files, the newest first, then everything but caches.
    pub(super) fn seed(&mut self, incoming: &mut Incoming) -> Result<Tally, AgentError> {
        let mut seeded = Tally::default();
        if self.makes_room {
            self.give_up_what_is_gone(incoming)?;
        }
        let listed = self.pull(&self.listing(incoming), |_| Ok(()))?;
        if self.makes_room {
            self.give_up_beginnings(incoming, &listed)?;
        }
        let Some(totals) = listed.tally.totals else {
            return Ok(seeded);
        };
        // What it lists it did not change.
        seeded.totals = Some(Totals {
            wire_bytes: totals.wire_bytes,
            ..Totals::default()
        });
        let named = &listed.tally.named;
        let (large, caches) = sort(named.iter().filter_map(|(line, _)| Listed::read(line)));
        let backlog = (totals.files, totals.bytes);
        let first = self.binding.bind.first.clone();
        if large.iter().map(|file| file.size).sum::<u64>() < WORTH_IT && first.is_empty() {
            self.begin_part(incoming, backlog, Part::All)?;
            return Ok(seeded);
        }
        incoming.start = Start::Resumed;
        for path in first {
            let list = NameList::write(self.dir, "first", [path.as_str().as_bytes()])?;
            let (source, filters) = (&self.binding.bind.source_path, self.binding.filters());
            let transfer = Transfer::pull_first(&self.machine, source, &filters, list.path(), &incoming.path);
            self.part(incoming, backlog, Part::Some, &incoming.receive(transfer), &mut seeded)?;
        }
        let code = [without_caches(), code_only(), vec![format!("--max-size={SMALL}")]].concat();
        self.part(incoming, backlog, Part::Some, &self.some(incoming, &code), &mut seeded)?;
        for names in batches(large) {
            let list = changes::write_list(self.dir, &names)?;
            let bind = &self.binding.bind;
            let filters = self.binding.filters();
            let transfer =
                Transfer::pull_listed(&self.machine, &bind.source_path, &filters, list.path(), &incoming.path);
            self.part(incoming, backlog, Part::Some, &incoming.receive(transfer), &mut seeded)?;
        }
        // Without caches the closing pass fetches the same, and looks at every file only once.
        if caches || named.len() == MOST_NAMED {
            let rest = self.some(incoming, &without_caches());
            self.part(incoming, backlog, Part::All, &rest, &mut seeded)?;
        }
        self.begin_part(incoming, backlog, Part::All)?;
        Ok(seeded)
    }

    fn part(
        &mut self,
        incoming: &Incoming,
        backlog: (u64, Bytes),
        part: Part,
        transfer: &Transfer,
        seeded: &mut Tally,
    ) -> Result<(), AgentError> {
        self.begin_part(incoming, backlog, part)?;
        seeded.absorb(&self.pull(transfer, |_| Ok(()))?.tally);
        Ok(())
    }

    fn begin_part(&mut self, incoming: &Incoming, (files, bytes): (u64, Bytes), part: Part) -> Result<(), AgentError> {
        let io = |error| AgentError::io("count what arrived so far", error);
        self.backlog = Some(Backlog {
            files,
            bytes,
            before: tree::census(&incoming.path).map_err(io)?,
            part,
        });
        Ok(())
    }

    fn listing(&self, incoming: &Incoming) -> Transfer {
        let path = &self.binding.bind.source_path;
        Transfer::list_large(&self.machine, path, &self.binding.filters(), SMALL, &incoming.path)
    }

    fn some(&self, incoming: &Incoming, more: &[String]) -> Transfer {
        let filters = [self.binding.filters(), more.to_vec()].concat();
        let path = &self.binding.bind.source_path;
        incoming.receive(Transfer::pull_some(&self.machine, path, &filters, &incoming.path))
    }
}

fn without_caches() -> Vec<String> {
    let names = CACHES.iter().map(|name| String::from_utf8_lossy(name));
    names.map(|name| format!("--exclude={name}/")).collect()
}

fn code_only() -> Vec<String> {
    let wanted = ["*/"].iter().chain(&CODE).map(|name| format!("--include={name}"));
    wanted
        .chain(["--exclude=*".to_owned(), "--prune-empty-dirs".to_owned()])
        .collect()
}

/// The large files, and whether there are caches.
fn sort(listed: impl Iterator<Item = Listed>) -> (Vec<Large>, bool) {
    let (mut large, mut caches) = (Vec::new(), false);
    for entry in listed {
        match entry {
            Listed::Cached => caches = true,
            Listed::Large(file) => large.push(file),
        }
    }
    (large, caches)
}

fn batches(mut large: Vec<Large>) -> Vec<Vec<PathBuf>> {
    large.sort_by(|a, b| b.modified.cmp(&a.modified).then_with(|| a.name.cmp(&b.name)));
    let (mut batches, mut open, mut bytes) = (Vec::new(), Vec::new(), 0_u64);
    for file in large {
        open.push(file.name);
        bytes = bytes.saturating_add(file.size);
        if bytes >= BATCH {
            batches.push(std::mem::take(&mut open));
            bytes = 0;
        }
    }
    batches.extend(Some(open).filter(|open| !open.is_empty()));
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_come_newest_first_and_caches_not_at_all() {
        let lines: [&[u8]; 7] = [
            b">f+++++++++ 2000000 2026/11/24-05:01:45 old.pt",
            b">f+++++++++ 2147483648 2026/11/24-07:01:45 runs/new one.pt",
            b">f+++++++++ 2000000 2026/11/24-06:01:45 line\nbreak",
            b">f+++++++++ 9000000 2026/11/24-08:01:45 .cache/pip/wheel",
            b">f+++++++++ 9000000 2026/11/24-08:01:45 ../../etc/passwd",
            b"cd+++++++++ 67108864 2026/11/24-08:01:45 many",
            b"garbage",
        ];
        let (large, caches) = sort(lines.into_iter().filter_map(Listed::read));
        assert!(caches);
        let found = batches(large);
        let expected: [&[&str]; 2] = [&["runs/new one.pt"], &["line\nbreak", "old.pt"]];
        let expected = expected.map(|names| names.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(found, expected);
    }

    #[test]
    fn progress_is_of_the_whole_and_never_more_than_all() {
        let mut backlog = Backlog {
            files: 100,
            bytes: Bytes(1000),
            before: Census {
                files: 40,
                bytes: Bytes(300),
                hard_links: false,
            },
            part: Part::Some,
        };
        let now = Progress {
            bytes_done: Bytes(100),
            files_done: 10,
            bytes_per_second: 7,
            ..Progress::default()
        };
        let told = |backlog: &Backlog| {
            let progress = backlog.progress(now);
            (progress.files_done, progress.bytes_done.0, progress.bytes_total.0)
        };
        assert_eq!(told(&backlog), (50, 400, 1000));
        backlog.part = Part::All;
        assert_eq!(told(&backlog), (40, 400, 1000));
        backlog.before.bytes = Bytes(950);
        assert_eq!(told(&backlog), (40, 1000, 1000));
    }
}
