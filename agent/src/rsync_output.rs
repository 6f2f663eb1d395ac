//! Understanding what rsync prints: changes, progress, totals, and which failures name a single file.

use warmspare_domain::units::Bytes;
use warmspare_wire::agent::Progress;

/// What a full scan saw of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Itemized {
    /// It is new or not as it was.
    Changed,
    /// It is gone.
    Deleted,
}

/// More changed names than this are not kept.
pub const MOST_NAMED: usize = 200_000;

/// What a transfer changed, from rsync's itemized lines and its closing statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Itemized lines: everything that was not as it should be, deletions and attributes included.
    pub differences: u64,
    /// Regular files created or changed, in content or attributes.
    pub changed_files: u64,
    /// Regular files that did not exist before.
    pub created_files: u64,
    /// Directories that were there and got their attributes.
    pub directories_set_right: u64,
    /// Whether two names of one file appeared.
    pub hard_links: bool,
    /// The first itemized lines, for a person.
    pub first: Vec<String>,
    /// What was changed, by name, where rsync was told to print names; attributes of directories are left out. At most
    /// [`MOST_NAMED`].
    pub named: Vec<(Vec<u8>, Itemized)>,
    /// The closing statistics; `None` when rsync did not get that far.
    pub totals: Option<Totals>,
}

/// rsync's closing statistics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files in the tree.
    pub files: u64,
    /// Their size.
    pub bytes: Bytes,
    /// The size of those that were brought.
    pub moved: Bytes,
    /// Bytes that crossed the network, both ways.
    pub wire_bytes: Bytes,
}

/// One line of rsync's standard output, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// Something was changed, or differs.
    Change,
    /// Progress of the whole transfer.
    Progress(Progress),
    /// A number of the closing statistics, or nothing of interest.
    Other,
}

impl Tally {
    /// Adds what an earlier part of the same work changed and put on the wire; the totals of the tree are the later one's, and so is
    /// what could not be read.
    pub fn absorb(&mut self, earlier: &Self) {
        self.differences += earlier.differences;
        self.changed_files += earlier.changed_files;
        self.created_files += earlier.created_files;
        self.hard_links |= earlier.hard_links;
        if let (Some(totals), Some(before)) = (&mut self.totals, earlier.totals) {
            totals.wire_bytes = Bytes(totals.wire_bytes.0.saturating_add(before.wire_bytes.0));
        }
    }

    /// Takes in one line of standard output.
    pub fn read(&mut self, line: &str) -> Line {
        if let Some(item) = Item::read(line.trim_end()) {
            self.name(&item, line);
            self.count(item, line.trim_end());
            return Line::Change;
        }
        let line = line.trim_end();
        if let Some(progress) = read_progress(line) {
            return Line::Progress(progress);
        }
        self.read_total(line);
        Line::Other
    }

    fn count(&mut self, item: Item, line: &str) {
        self.differences += 1;
        if self.first.len() < 5 {
            self.first.push(line.chars().take(200).collect());
        }
        match item {
            Item::File { created, linked } => {
                self.changed_files += 1;
                self.created_files += u64::from(created);
                self.hard_links |= linked;
            }
            Item::Attributes => self.directories_set_right += 1,
            Item::Deleted | Item::Other => {}
        }
    }

    fn name(&mut self, item: &Item, line: &str) {
        let seen = match item {
            Item::Deleted => Itemized::Deleted,
            Item::Attributes => return,
            Item::File { .. } | Item::Other => Itemized::Changed,
        };
        let name = line.get(12..).unwrap_or_default().trim_end_matches(['\r', '\n', '/']);
        if !name.is_empty() && self.named.len() < MOST_NAMED {
            self.named.push((unescape(name), seen));
        }
    }

    fn read_total(&mut self, line: &str) {
        let Some((label, value)) = line.split_once(": ") else {
            return;
        };
        let number = leading_number(value).unwrap_or(0);
        let totals = self.totals.get_or_insert_default();
        match label {
            "Number of files" => {
                let regular = value.split_once("reg: ").and_then(|(_, rest)| leading_number(rest));
                totals.files = regular.unwrap_or(0);
            }
            "Total file size" => totals.bytes = Bytes(number),
            "Total transferred file size" => totals.moved = Bytes(number),
            "Total bytes sent" | "Total bytes received" => {
                totals.wire_bytes = Bytes(totals.wire_bytes.0.saturating_add(number));
            }
            _ => {}
        }
    }
}

enum Item {
    File {
        created: bool,
        linked: bool,
    },
    Deleted,
    /// Of a directory that was there before.
    Attributes,
    Other,
}

impl Item {
    // Eleven characters `YXcstpoguax`, then perhaps a name. Source: rsync(1), --itemize-changes.
    fn read(line: &str) -> Option<Self> {
        if line.starts_with("*deleting") {
            return Some(Self::Deleted);
        }
        let code = line.as_bytes().get(..11)?;
        let (update, kind) = (code[0], code[1]);
        let ends = matches!(line.as_bytes().get(11), None | Some(b' '));
        if !ends || !b"<>ch.".contains(&update) || !b"fdLDS".contains(&kind) {
            return None;
        }
        if !code[2..].iter().all(|c| b"+.? ".contains(c) || c.is_ascii_alphabetic()) {
            return None;
        }
        Some(if kind == b'f' {
            Self::File {
                created: code[2] == b'+',
                linked: update == b'h',
            }
        } else if kind == b'd' && code[2] != b'+' {
            Self::Attributes
        } else {
            Self::Other
        })
    }
}

/// `  1238099  14%  146.38kB/s  0:00:08 (xfr#5, to-chk=169/396)`. Source: rsync(1), --info=progress2.
fn read_progress(line: &str) -> Option<Progress> {
    let mut words = line.split_whitespace();
    let bytes_done: u64 = words.next()?.parse().ok()?;
    let percent: u64 = words.next()?.strip_suffix('%')?.parse().ok()?;
    let bytes_per_second = read_rate(words.next()?)?;
    // "ir-chk" instead of "to-chk": rsync is still listing files, so no total is known.
    let (files_done, files_total) = line
        .split_once("to-chk=")
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .and_then(|rest| rest.split_once('/'))
        .and_then(|(left, all)| Some((left.parse::<u64>().ok()?, all.parse::<u64>().ok()?)))
        .map_or((0, 0), |(left, all)| (all.saturating_sub(left), all));
    let total = if files_total > 0 && percent > 0 {
        bytes_done.saturating_mul(100) / percent
    } else {
        0
    };
    Some(Progress {
        bytes_done: Bytes(bytes_done),
        bytes_total: Bytes(total),
        files_done,
        files_total,
        bytes_per_second,
    })
}

fn read_rate(word: &str) -> Option<u64> {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let scale = match word.get(digits.len()..)? {
        "B/s" => 1.0,
        "kB/s" => 1024.0,
        "MB/s" => 1024.0 * 1024.0,
        "GB/s" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let rate = digits.parse::<f64>().ok()? * scale;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float becomes the nearest integer that exists"
    )]
    Some(rate as u64)
}

fn leading_number(text: &str) -> Option<u64> {
    let digits: String = text
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == ',')
        .filter(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// What one line of rsync's standard error says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// A file was gone when its turn came: normal on a machine that works.
    Vanished,
    /// This file of the source could not be read, or changed while it was read. The name as rsync gave it, absolute or in the tree.
    Unreadable(Vec<u8>),
    /// The disk that is written to is full.
    DiskFull,
    /// Says nothing that the exit code does not.
    Noise,
    /// Anything else.
    Other,
}

/// Understands one line of rsync's standard error (under `LC_ALL=C`).
#[must_use]
pub fn read_complaint(line: &str) -> Complaint {
    let line = line.trim();
    if line.contains("No space left on device") || line.contains("Disk quota exceeded") {
        return Complaint::DiskFull;
    }
    if line.contains("file has vanished: ") || line.contains("directory has vanished: ") {
        return Complaint::Vanished;
    }
    let noise = [
        "rsync error: ",
        "rsync warning: ",
        "IO error encountered",
        "WARNING: ",
        "cannot delete non-empty directory",
    ];
    if line.is_empty() || noise.iter().any(|start| line.starts_with(start)) {
        return Complaint::Noise;
    }
    if let Some(name) = line
        .strip_prefix("ERROR: ")
        .and_then(|rest| rest.split_once(" failed verification -- update ").map(|(name, _)| name))
    {
        return Complaint::Unreadable(unescape(name));
    }
    named_by_the_sender(line).map_or(Complaint::Other, Complaint::Unreadable)
}

// What the sender says about one file that it cannot read. Source: rsync 3.1.3 (which names no role), 3.2.7 and 3.4, flist.c and
// sender.c. Our own side always names its role, so a line without one is the sender's.
fn named_by_the_sender(line: &str) -> Option<Vec<u8>> {
    let text = line.strip_prefix("rsync: ")?;
    let text = text.strip_prefix("[sender] ").unwrap_or(text);
    if text.starts_with('[') {
        return None;
    }
    let openers = [
        "send_files failed to open \"",
        "read errors mapping \"",
        "readlink_stat(\"",
        "opendir \"",
        "readdir(\"",
        "llistxattr(\"",
        "lgetxattr(\"",
    ];
    let name = openers.iter().find_map(|opener| {
        let (_, rest) = text.split_once(opener)?;
        let name = rest.split_once("\",").or_else(|| rest.split_once('"'))?.0;
        Some(name)
    })?;
    Some(unescape(name))
}

/// Undoes rsync's `\#ooo`, its way of printing bytes that a terminal should not see.
fn unescape(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let octal = bytes
            .get(at..at + 5)
            .and_then(|code| code.strip_prefix(b"\\#"))
            .filter(|digits| digits.iter().all(|d| (b'0'..=b'7').contains(d)))
            .map(|digits| digits.iter().fold(0_u32, |value, d| value * 8 + u32::from(d - b'0')))
            .and_then(|value| u8::try_from(value).ok());
        name.push(octal.unwrap_or(*byte));
        at += if octal.is_some() { 5 } else { 1 };
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_tallied_from_its_lines() {
        let mut tally = Tally::default();
        let output = ".d..t......\n>f+++++++++\n>f.st......\ncf...p.....\nhf+++++++++\ncL+++++++++\n*deleting  \n\
            \nNumber of files: 10 (reg: 5, dir: 4, link: 1)\nNumber of created files: 2 (reg: 2)\nTotal file size: 1234 bytes\n\
            Total transferred file size: 77 bytes\nTotal bytes sent: 436\nTotal bytes received: 133\n\nsent 436 bytes  received 133 bytes  1138.00 bytes/sec\n";
        for line in output.lines() {
            tally.read(line);
        }
        assert_eq!((tally.differences, tally.changed_files, tally.created_files), (7, 4, 2));
        assert!(tally.hard_links);
        let totals = tally.totals.unwrap();
        assert_eq!(
            (totals.files, totals.bytes, totals.moved, totals.wire_bytes),
            (5, Bytes(1234), Bytes(77), Bytes(569))
        );
    }

    #[test]
    fn names_are_read_as_rsync_prints_them() {
        let mut tally = Tally::default();
        for line in [
            ">f+++++++++ a b ",
            r">f.st...... line\#012break\#377",
            "*deleting   d/x",
            "*deleting   d/",
            ".d..t...... d2/",
            "cd+++++++++ new/",
            "cL+++++++++ link",
        ] {
            tally.read(line);
        }
        let names: Vec<_> = tally
            .named
            .iter()
            .map(|(name, seen)| (name.as_slice(), *seen))
            .collect();
        let (changed, deleted) = (Itemized::Changed, Itemized::Deleted);
        assert_eq!(
            names,
            [
                (&b"a b "[..], changed),
                (b"line\nbreak\xff", changed),
                (b"d/x", deleted),
                (b"d", deleted),
                (b"new", changed),
                (b"link", changed)
            ]
        );
    }

    #[test]
    fn progress_has_totals_once_the_list_is_complete() {
        let mut tally = Tally::default();
        let line = "        1000  50%    1.95kB/s    0:00:08 (xfr#5, to-chk=169/396)";
        let Line::Progress(progress) = tally.read(line) else {
            panic!("not progress");
        };
        assert_eq!((progress.files_done, progress.files_total), (227, 396));
        assert_eq!((progress.bytes_done, progress.bytes_total), (Bytes(1000), Bytes(2000)));
        assert_eq!(progress.bytes_per_second, 1996);
        let early = tally.read("   1000  50%    1.95MB/s    0:00:08 (xfr#5, ir-chk=169/396)");
        assert!(matches!(early, Line::Progress(p) if p.files_total == 0 && p.bytes_total == Bytes(0)));
    }

    #[test]
    fn complaints_name_the_file_or_are_not_forgiven() {
        let unreadable = |name: &str| Complaint::Unreadable(name.as_bytes().to_vec());
        let table = [
            (r#"file has vanished: "/w/a""#, Complaint::Vanished),
            (
                r#"rsync: [sender] send_files failed to open "/w/a b": Permission denied (13)"#,
                unreadable("/w/a b"),
            ),
            (
                r#"rsync: [sender] read errors mapping "/w/a": No data available (61)"#,
                unreadable("/w/a"),
            ),
            (
                r#"rsync: [sender] opendir "/w/d" failed: Permission denied (13)"#,
                unreadable("/w/d"),
            ),
            ("ERROR: d/x failed verification -- update discarded.", unreadable("d/x")),
            (
                r"ERROR: d\#012x failed verification -- update retained.",
                unreadable("d\nx"),
            ),
            (
                "rsync error: some files/attrs were not transferred (code 23)",
                Complaint::Noise,
            ),
            (
                r#"rsync: [receiver] mkstemp "/s/x" failed: No space left on device (28)"#,
                Complaint::DiskFull,
            ),
            (
                r#"rsync: [receiver] mkstemp "/s/x" failed: Permission denied (13)"#,
                Complaint::Other,
            ),
            (
                r#"rsync: [sender] change_dir "/w" failed: Permission denied (13)"#,
                Complaint::Other,
            ),
            (
                "rsync: connection unexpectedly closed (0 bytes received so far) [Receiver]",
                Complaint::Other,
            ),
        ];
        for (line, expected) in table {
            assert_eq!(read_complaint(line), expected, "{line}");
        }
    }
}
