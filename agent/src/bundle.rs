//! A bundle: entries of a recovery point in one stream, on their way to a target.
//!
//! Both ends are the same program, pushed by its content hash, so the stream needs no version. It is a frame for each entry, the
//! content of files behind theirs, and a closing frame: a stream without one broke off.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::attributes::{self, Attributes};
use crate::frame::write_frame;
use crate::inventory::{Entry, Kind};
use crate::tree::Finder;

/// What comes before an entry's content. The name is the frame's tail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// What the entry is.
    pub item: Item,
    /// What it has besides its content.
    pub attributes: Attributes,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A directory.
    Directory,
    /// A regular file of `size` bytes; its content follows.
    File {
        /// Its size in bytes.
        size: u64,
        /// Offset and length of what is no hole, where it has holes: only that follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pieces: Option<Vec<(u64, u64)>>,
    },
    /// A large file; what follows is appended to a part of this name, which becomes the file when it is whole.
    Large {
        /// Its size in bytes.
        size: u64,
        /// How long the part is already.
        from: u64,
        /// The part's name.
        part: String,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: Vec<u8>,
    },
    /// One more name of a file that came before in the same stream.
    Twin {
        /// The first name.
        of: Vec<u8>,
    },
    /// The stream ends here.
    End,
}

impl Item {
    /// How many bytes of content follow.
    #[must_use]
    pub fn content(&self) -> u64 {
        match self {
            Self::File { size, pieces: None } => *size,
            Self::File {
                pieces: Some(pieces), ..
            } => pieces
                .iter()
                .fold(0, |sum, (_, length)| u64::saturating_add(sum, *length)),
            Self::Large { size, from, .. } => size.saturating_sub(*from),
            Self::Directory | Self::Link { .. } | Self::Twin { .. } | Self::End => 0,
        }
    }
}

/// Writes entries of one tree into a stream.
#[derive(Debug)]
pub struct Packer {
    tree: Finder,
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Packer {
    /// A packer for this tree.
    ///
    /// # Errors
    /// When there is no such tree.
    pub fn new(tree: &Path) -> io::Result<Self> {
        Ok(Self {
            tree: Finder::below(tree)?,
            first_names: HashMap::new(),
        })
    }

    /// Packs one entry.
    ///
    /// # Errors
    /// When it cannot be read as it was listed, or nobody takes it.
    pub fn pack(&mut self, entry: &Entry, to: &mut impl Write) -> io::Result<()> {
        match entry.kind {
            Kind::Directory => {
                let extended = attributes::extended(&self.open(&entry.name, OFlags::DIRECTORY)?)?;
                write_frame(to, &head(entry, Item::Directory, extended), &entry.name)
            }
            Kind::Link => {
                let target = self.tree.read_link(path_of(&entry.name))?;
                write_frame(to, &head(entry, Item::Link { target }, Vec::new()), &entry.name)
            }
            Kind::File => self.pack_file(entry, to),
        }
    }

    fn pack_file(&mut self, entry: &Entry, to: &mut impl Write) -> io::Result<()> {
        let mut file = self.open(&entry.name, OFlags::empty())?;
        if entry.twin {
            let found = file.metadata()?;
            let identity = (found.dev(), found.ino());
            if let Some(of) = self.first_names.get(&identity) {
                let item = Item::Twin { of: of.clone() };
                return write_frame(to, &head(entry, item, Vec::new()), &entry.name);
            }
            self.first_names.insert(identity, entry.name.to_vec());
        }
        let pieces = if entry.sparse {
            Some(pieces(&file, entry.size)?)
        } else {
            None
        };
        let content = pieces.clone().unwrap_or_else(|| vec![(0, entry.size)]);
        let item = Item::File {
            size: entry.size,
            pieces,
        };
        write_frame(&mut *to, &head(entry, item, attributes::extended(&file)?), &entry.name)?;
        for (offset, length) in content {
            if offset > 0 {
                file.seek(SeekFrom::Start(offset))?;
            }
            if io::copy(&mut Read::by_ref(&mut file).take(length), to)? < length {
                return Err(io::Error::other("a file of the recovery point is shorter than it was"));
            }
        }
        Ok(())
    }

    /// Opens a large file behind what of it arrived before, and writes what comes before its content.
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub fn begin_large(&mut self, entry: &Entry, part: &str, from: u64, to: &mut impl Write) -> io::Result<File> {
        let mut file = self.open(&entry.name, OFlags::empty())?;
        let item = Item::Large {
            size: entry.size,
            from,
            part: part.to_owned(),
        };
        write_frame(to, &head(entry, item, attributes::extended(&file)?), &entry.name)?;
        file.seek(SeekFrom::Start(from))?;
        Ok(file)
    }

    /// Packs the root directory of the tree.
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub fn pack_root(&mut self, to: &mut impl Write) -> io::Result<()> {
        let root = self.open(b"", OFlags::DIRECTORY)?;
        let head = Head {
            item: Item::Directory,
            attributes: Attributes::of(&root)?,
        };
        write_frame(to, &head, b"")
    }

    fn open(&mut self, name: &[u8], more: OFlags) -> io::Result<File> {
        self.tree.open(path_of(name), OFlags::RDONLY | more)
    }
}

/// Closes a stream.
///
/// # Errors
/// When nobody takes it.
pub fn close(to: &mut impl Write) -> io::Result<()> {
    let end = Head {
        item: Item::End,
        attributes: Attributes::default(),
    };
    write_frame(&mut *to, &end, b"")?;
    to.flush()
}

fn head(entry: &Entry, item: Item, extended: Vec<(Vec<u8>, Vec<u8>)>) -> Head {
    let attributes = Attributes {
        mode: entry.mode,
        owner: entry.owner,
        modified: entry.modified,
        extended,
    };
    Head { item, attributes }
}

fn path_of(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}

/// Where a file has data: offset and length.
fn pieces(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let (mut pieces, mut at) = (Vec::new(), 0);
    while at < size {
        let start = match rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        pieces.push((start, end - start));
        at = end;
    }
    rustix::fs::seek(file.as_fd(), rustix::fs::SeekFrom::Start(0))?;
    Ok(pieces)
}
