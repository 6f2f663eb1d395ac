//! What of a recovery point is on the target already. What is there whole is not sent again, and what is there otherwise is left
//! to rsync, which replaces a file in one step.

use std::collections::{HashMap, HashSet};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::inventory::{Entry, Kind};
use crate::ssh::Machine;
use crate::tree::{self, Walk};
use crate::unpack::PARTS;
use crate::wish::{GLANCE, Wish};

/// What we name parts is shorter; a hostile target may name thousands.
const LONGEST_PART: usize = 64;

/// What the target has of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum There {
    /// Nothing.
    Missing,
    /// The same, as far as kind, size and time tell.
    Same,
    /// Something else, or something else on the way there.
    Other,
}

/// What the target has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// One answer for each entry of the list.
    pub there: Vec<There>,
    /// How many bytes of which large files arrived before, by the name of the part.
    pub parts: HashMap<Vec<u8>, u64>,
    /// Whether parts may be kept there.
    pub may_keep_parts: bool,
}

// Fixed text; path and name come over standard input.
const SURVEY: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && IFS= read -r n && cd \"$p\" || exit 91; \
    [ ! -L .warmspare ] || exit 92; exec \"./.warmspare/$n\" restore-survey'";

/// The hidden verb: runs on the target, in the directory to be filled.
pub const LIST: &str = "restore-survey";

const START: &[u8] = b"warmspare-survey\n";

/// A tree of some million files is listed in less.
const PATIENCE: Duration = Duration::from_secs(600);

/// Asks our program on the target. `None` when it cannot run there, breaks off, or lists without end: rsync alone does the work then.
pub fn survey(
    machine: &Machine,
    path: &str,
    program: &str,
    list: &[Entry],
    watch: &mut impl FnMut() -> Wish,
) -> Option<Survey> {
    let mut child = machine
        .pipe(SURVEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    if let Some(mut stdin) = child.stdin.take() {
        // Whoever does not read it does not answer either.
        let _ = stdin.write_all(format!("{path}\n{program}\n").as_bytes());
    }
    let stdout = child.stdout.take()?;
    let until = Instant::now() + PATIENCE;
    let found = thread::scope(|scope| {
        let (sender, receiver) = channel();
        scope.spawn(move || sender.send(read(stdout, list)));
        let found = loop {
            match receiver.recv_timeout(GLANCE) {
                Ok(found) => break found,
                Err(RecvTimeoutError::Timeout) if watch() == Wish::GoOn && Instant::now() < until => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break None,
            }
        };
        if found.is_none() {
            let _ = child.kill();
        }
        found
    });
    let ended = child.wait().ok()?;
    found.filter(|_| ended.success())
}

/// The target's end: lists a directory, the root itself left out.
///
/// # Errors
/// When a directory cannot be read, or nobody listens.
pub fn list(root: &Path, to: impl Write) -> io::Result<()> {
    let mut to = BufWriter::with_capacity(1 << 18, to);
    to.write_all(b"\n")?;
    to.write_all(START)?;
    tree::walk(root, &mut |found| {
        let node = found.node;
        let kind = match () {
            () if node.is_directory() => 'd',
            () if node.is_file() => 'f',
            () if node.is_link() => 'l',
            () => 'o',
        };
        let (seconds, nanoseconds) = node.modified();
        write!(to, "{kind} {} {seconds}.{nanoseconds:09} ", node.size())?;
        to.write_all(found.path.as_os_str().as_bytes())?;
        to.write_all(b"\0")?;
        Ok(Walk::Enter)
    })?;
    to.flush()
}

fn read(output: impl Read, list: &[Entry]) -> Option<Survey> {
    // Whoever lists far more than we look for is not worth waiting for.
    let most = 1 << 30;
    let mut output = BufReader::with_capacity(1 << 18, output.take(most));
    skip_greeting(&mut output)?;
    let places: HashMap<&[u8], usize> = list.iter().enumerate().map(|(at, e)| (&*e.name, at)).collect();
    let mut survey = Survey {
        there: vec![There::Missing; list.len()],
        parts: HashMap::new(),
        may_keep_parts: true,
    };
    let mut record = Vec::new();
    loop {
        record.clear();
        // No path that rsync copies is longer than 4,095 bytes: what lists a longer one is left to it.
        let read = output.by_ref().take(1 << 14).read_until(0, &mut record).ok()?;
        if read == 0 {
            break;
        }
        let found = Found::read(record.strip_suffix(b"\0")?)?;
        if let Some((at, entry)) = places.get(found.name).and_then(|at| Some((*at, list.get(*at)?))) {
            *survey.there.get_mut(at)? = found.against(entry);
        } else if let Some(part) = found.name.strip_prefix(PARTS.as_bytes()) {
            if let Some(part) = part.strip_prefix(b"/").filter(|part| part.starts_with(b"part-"))
                && found.kind == b'f'
                && part.len() < LONGEST_PART
                && survey.parts.len() < 100_000
            {
                survey.parts.insert(part.to_vec(), found.size);
            }
        } else if matches!(found.name, b".warmspare" | b".warmspare/restore") && found.kind != b'd' {
            survey.may_keep_parts = false;
        }
    }
    close_ways(&mut survey.there, list);
    Some(survey)
}

fn skip_greeting(output: &mut impl BufRead) -> Option<()> {
    let mut line = Vec::new();
    for _ in 0..1000 {
        line.clear();
        output.by_ref().take(1 << 14).read_until(b'\n', &mut line).ok()?;
        if line == START {
            return Some(());
        }
        if line.is_empty() {
            return None;
        }
    }
    None
}

/// Below something that is no directory there, nothing may be written: a symbolic link would lead out of the target.
fn close_ways(there: &mut [There], list: &[Entry]) {
    let closed: HashSet<&[u8]> = list
        .iter()
        .zip(there.iter())
        .filter(|(entry, there)| entry.kind == Kind::Directory && **there == There::Other)
        .map(|(entry, _)| &*entry.name)
        .collect();
    if closed.is_empty() {
        return;
    }
    for (entry, there) in list.iter().zip(there.iter_mut()) {
        let mut ways = (0..entry.name.len()).filter(|at| entry.name.get(*at) == Some(&b'/'));
        if ways.any(|at| entry.name.get(..at).is_some_and(|way| closed.contains(way))) {
            *there = There::Other;
        }
    }
}

struct Found<'a> {
    kind: u8,
    size: u64,
    modified: Option<(i64, i64)>,
    name: &'a [u8],
}

impl<'a> Found<'a> {
    fn read(record: &'a [u8]) -> Option<Self> {
        let mut parts = record.splitn(4, |byte| *byte == b' ');
        let kind = *parts.next()?.first()?;
        let size = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
        let modified = read_time(std::str::from_utf8(parts.next()?).ok()?);
        let name = parts.next()?;
        Some(Self {
            kind,
            size,
            modified,
            name,
        })
    }

    fn against(&self, entry: &Entry) -> There {
        let same = match entry.kind {
            Kind::Directory => self.kind == b'd',
            Kind::Link => self.kind == b'l',
            Kind::File => self.kind == b'f' && self.size == entry.size && self.modified == Some(entry.modified),
        };
        if same { There::Same } else { There::Other }
    }
}

/// `1795441530.123456789`: nine digits after the point. Times before 1970 are left to rsync.
fn read_time(text: &str) -> Option<(i64, i64)> {
    let (seconds, fraction) = text.split_once('.')?;
    Some((
        seconds.parse().ok().filter(|s| *s >= 0)?,
        fraction.get(..9)?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8], kind: Kind, size: u64) -> Entry {
        Entry {
            name: name.into(),
            kind,
            size,
            mode: 0o644,
            modified: (1_795_441_530, 123_456_789),
            sparse: false,
            owner: (0, 0),
            twin: false,
        }
    }

    #[test]
    fn what_is_there_is_told_from_what_is_missing_or_different() {
        let list = [
            entry(b"a b\n", Kind::File, 5),
            entry(b"changed", Kind::File, 5),
            entry(b"link", Kind::Directory, 0),
            entry(b"link/in", Kind::File, 1),
            entry(b"missing", Kind::File, 1),
        ];
        let output = b"Welcome!\n\nwarmspare-survey\nf 5 1795441530.123456789 a b\n\0f 6 1795441530.123456789 changed\0\
            l 3 1.000000000 link\0f 7 1.000000000 foreign\0d 0 1.000000000 .warmspare\0f 9 1.000000000 .warmspare/restore/part-7\0";
        let survey = read(output.as_slice(), &list).unwrap();
        let expected = [There::Same, There::Other, There::Other, There::Other, There::Missing];
        assert_eq!(survey.there, expected);
        assert_eq!(survey.parts, HashMap::from([(b"part-7".to_vec(), 9)]));
        assert!(survey.may_keep_parts);
    }

    #[test]
    fn what_the_target_lists_is_understood() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("d")).unwrap();
        std::fs::write(place.path().join("d/line\nbreak"), "12345").unwrap();
        std::os::unix::fs::symlink("x", place.path().join("link")).unwrap();
        let mut listed = Vec::new();
        super::list(place.path(), &mut listed).unwrap();
        let mut expected = crate::inventory::list(place.path()).unwrap();
        expected.push(entry(b"missing", Kind::File, 1));
        let survey = read(listed.as_slice(), &expected).unwrap();
        assert_eq!(survey.there, [There::Same, There::Same, There::Same, There::Missing]);
    }

    #[test]
    fn an_answer_that_breaks_off_is_no_survey() {
        let list = [entry(b"a", Kind::File, 5)];
        for output in [
            "",
            "hello\n",
            "warmspare-survey\nf 5 17",
            "warmspare-survey\nnonsense\0",
        ] {
            assert_eq!(read(output.as_bytes(), &list), None, "{output:?}");
        }
    }
}
