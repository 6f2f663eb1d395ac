//! The watched directories, and where each of them lies now.
//!
//! inotify watches directories by inode and names them by number. Names change, and events come late, so nothing here trusts what
//! a path was: after every event that moves, makes or removes a directory, that one path is looked at again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

use super::dirty::Change;
use crate::marker::MARKER_DIRECTORY;
use crate::tree::Spot;

/// The number of a watched directory.
type Number = i32;

/// An event that cannot be followed up: whoever watched must begin anew.
#[derive(Debug)]
pub enum Lost {
    /// Begin anew with everything watched again.
    Track,
    /// There is nothing left to watch: the root is gone, moved or unmounted.
    Root,
    /// The machine does not let us watch.
    Limits(String),
}

/// The watched directories.
#[derive(Debug)]
pub struct Directories {
    events: OwnedFd,
    root: PathBuf,
    root_number: Number,
    places: HashMap<Number, (Number, Rc<[u8]>)>,
    children: BTreeMap<(Number, Rc<[u8]>), Number>,
    waiting: Vec<(Number, Found)>,
    /// Those with a directory in them that is closed to us: it may open together with them.
    closed: HashSet<Number>,
}

/// What a directory that is listed means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It was there when watching began.
    AtFirst,
    /// It came later: everything in it is a change.
    Later,
}

/// How a directory is named to the system.
enum Reached {
    AsItIs(PathBuf),
    Otherwise(Spot),
}

impl Reached {
    fn path(&self) -> PathBuf {
        match self {
            Self::AsItIs(path) => path.clone(),
            Self::Otherwise(spot) => spot.path(),
        }
    }
}

/// The longest path in bytes that the system takes. Source: path_resolution(7), where the zero byte at the end is counted.
const LONGEST: usize = 4095;

/// More events at once than we care to follow.
const MOST_EVENTS: usize = 400_000;

/// Deeper than any path that can be opened.
const DEEPEST: usize = 2048;

fn wanted() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::ATTRIB
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE
        | WatchFlags::ONLYDIR
        | WatchFlags::DONT_FOLLOW
        | WatchFlags::EXCL_UNLINK
}

impl Directories {
    /// Begins to watch a tree. [`Self::walk`] does the rest.
    ///
    /// # Errors
    /// When the root cannot be watched.
    pub fn open(root: &Path) -> Result<Self, Lost> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)
            .map_err(|error| Lost::Limits(limits("max_user_instances", error)))?;
        // The root itself may be reached through a link; what lies below it may not.
        let root = fs::canonicalize(root).map_err(|_| Lost::Root)?;
        let number = match inotify::add_watch(&events, &root, wanted() | WatchFlags::MOVE_SELF) {
            Ok(number) => number,
            Err(error @ (Errno::NOSPC | Errno::NOMEM)) => return Err(Lost::Limits(limits("max_user_watches", error))),
            Err(_) => return Err(Lost::Root),
        };
        Ok(Self {
            events,
            root,
            root_number: number,
            places: HashMap::from([(number, (number, Rc::from(&b""[..])))]),
            children: BTreeMap::new(),
            waiting: vec![(number, Found::AtFirst)],
            closed: HashSet::new(),
        })
    }

    /// Becomes readable when something happened.
    #[must_use]
    pub fn events(&self) -> &OwnedFd {
        &self.events
    }

    /// The tree, without symbolic links.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// How many are watched.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Whether every directory that is known of is watched and was listed.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Lists directories that wait for it, until an instant.
    ///
    /// # Errors
    /// When the machine does not let us watch one of them.
    pub fn walk(&mut self, until: Instant, mark: &mut impl FnMut(&[u8], Change)) -> Result<(), Lost> {
        while let Some((number, found)) = self.waiting.pop() {
            self.list(number, found, mark)?;
            if Instant::now() >= until {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes in everything that happened up to now.
    ///
    /// # Errors
    /// When it cannot be followed.
    pub fn drain(&mut self, mark: &mut impl FnMut(&[u8], Change)) -> Result<(), Lost> {
        let mut happened = Vec::new();
        let mut space = vec![MaybeUninit::uninit(); 1 << 16];
        let mut followed = 0;
        loop {
            if followed > MOST_EVENTS {
                return Err(Lost::Track);
            }
            {
                let mut reader = inotify::Reader::new(&self.events, &mut space);
                // As many as one read gave: the buffer must be empty when the reader goes.
                loop {
                    match reader.next() {
                        Ok(event) => {
                            let name = event.file_name().map(|name| Box::from(name.to_bytes()));
                            happened.push((event.wd(), event.events(), name));
                        }
                        Err(Errno::INTR) => {}
                        Err(Errno::WOULDBLOCK) => break,
                        Err(_) => return Err(Lost::Track),
                    }
                    if reader.is_buffer_empty() {
                        break;
                    }
                }
            }
            if happened.is_empty() {
                return Ok(());
            }
            followed += happened.len();
            for (number, what, name) in happened.drain(..) {
                self.follow(number, what, name.as_deref(), mark)?;
            }
        }
    }

    fn follow(
        &mut self,
        number: Number,
        what: ReadFlags,
        name: Option<&[u8]>,
        mark: &mut impl FnMut(&[u8], Change),
    ) -> Result<(), Lost> {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(Lost::Track);
        }
        let ends = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT | ReadFlags::IGNORED;
        if number == self.root_number && what.intersects(ends) {
            return Err(Lost::Root);
        }
        if what.contains(ReadFlags::UNMOUNT) {
            return Err(Lost::Track);
        }
        if what.contains(ReadFlags::IGNORED) {
            self.forget(number);
            return Ok(());
        }
        if !self.places.contains_key(&number) {
            return Ok(());
        }
        let place = self.path(number)?;
        let Some(name) = name else {
            mark(&place, Change::Itself);
            return Ok(());
        };
        let path = join(&place, name);
        if is_ours(&path) {
            return Ok(());
        }
        let taken = what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM);
        let is_directory = what.contains(ReadFlags::ISDIR);
        let change = if taken && is_directory {
            Change::Replaced
        } else {
            Change::Itself
        };
        mark(&path, change);
        if taken || what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            mark(&place, Change::Itself);
        }
        if !is_directory {
            return Ok(());
        }
        if taken {
            self.detach(number, name);
        }
        match self.child(number, name).filter(|_| what.contains(ReadFlags::ATTRIB)) {
            None => self.attach(number, name, Found::Later)?,
            Some(child) if self.closed.remove(&child) => self.waiting.push((child, Found::Later)),
            Some(_) => {}
        }
        Ok(())
    }

    /// Watches what is a directory at this name now, if anything, and has it listed.
    fn attach(&mut self, parent: Number, name: &[u8], found: Found) -> Result<(), Lost> {
        let reached = self.reach(&join(&self.path(parent)?, name));
        let number = match inotify::add_watch(&self.events, reached.path(), wanted()) {
            Ok(number) => number,
            // Gone again, or no directory any more.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            // Closed to us and then to rsync, too.
            Err(Errno::ACCESS | Errno::PERM) => {
                self.closed.insert(parent);
                return Ok(());
            }
            Err(error @ (Errno::NOSPC | Errno::NOMEM)) => return Err(Lost::Limits(limits("max_user_watches", error))),
            Err(error) => return Err(Lost::Limits(format!("a directory cannot be watched: {error}"))),
        };
        self.place(number, parent, name)?;
        self.waiting.push((number, found));
        Ok(())
    }

    fn place(&mut self, number: Number, parent: Number, name: &[u8]) -> Result<(), Lost> {
        if number == self.root_number {
            // The root below itself: somebody mounted it there.
            return Err(Lost::Limits("the tree is mounted inside itself".into()));
        }
        let key = (parent, Rc::from(name));
        match self.children.get(&key).copied() {
            Some(there) if there == number => return Ok(()),
            Some(_) => self.detach(parent, name),
            None => {}
        }
        if let Some(before) = self.places.insert(number, key.clone()) {
            self.children.remove(&before);
        }
        self.children.insert(key, number);
        Ok(())
    }

    fn child(&self, parent: Number, name: &[u8]) -> Option<Number> {
        self.children.get(&(parent, Rc::from(name))).copied()
    }

    /// Stops watching a directory and all below it.
    fn detach(&mut self, parent: Number, name: &[u8]) {
        let Some(top) = self.children.remove(&(parent, Rc::from(name))) else {
            return;
        };
        let mut leaving = vec![top];
        while let Some(number) = leaving.pop() {
            self.places.remove(&number);
            let _ = inotify::remove_watch(&self.events, number);
            let first = (number, Rc::from(&b""[..]));
            let below: Vec<_> = self
                .children
                .range(first..)
                .take_while(|((parent, _), _)| *parent == number)
                .map(|(key, child)| (key.clone(), *child))
                .collect();
            for (key, child) in below {
                self.children.remove(&key);
                leaving.push(child);
            }
        }
    }

    /// The kernel watches it no longer.
    fn forget(&mut self, number: Number) {
        if let Some(key) = self.places.remove(&number)
            && self.children.get(&key) == Some(&number)
        {
            self.children.remove(&key);
        }
    }

    fn list(&mut self, number: Number, found: Found, mark: &mut impl FnMut(&[u8], Change)) -> Result<(), Lost> {
        // A directory may have gone while it waited.
        if !self.places.contains_key(&number) {
            return Ok(());
        }
        let place = self.path(number)?;
        let reached = self.reach(&place);
        let Ok(listing) = fs::read_dir(reached.path()) else {
            return Ok(());
        };
        for entry in listing.flatten() {
            let name = entry.file_name();
            let path = join(&place, name.as_bytes());
            if is_ours(&path) {
                continue;
            }
            if found == Found::Later {
                mark(&path, Change::Itself);
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.attach(number, name.as_bytes(), found)?;
            }
        }
        Ok(())
    }

    fn reach(&self, path: &[u8]) -> Reached {
        let whole = self.root.join(OsStr::from_bytes(path));
        if whole.as_os_str().len() <= LONGEST {
            return Reached::AsItIs(whole);
        }
        let spot = Spot::of(&self.root, Path::new(OsStr::from_bytes(path))).ok().flatten();
        spot.map_or(Reached::AsItIs(whole), Reached::Otherwise)
    }

    fn path(&self, number: Number) -> Result<Vec<u8>, Lost> {
        let mut names = Vec::new();
        let mut at = number;
        while at != self.root_number {
            let (parent, name) = self.places.get(&at).ok_or(Lost::Track)?;
            names.push(name);
            // Two moves that we have not followed yet may make a ring.
            if names.len() > DEEPEST {
                return Err(Lost::Track);
            }
            at = *parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path = join(&path, name);
        }
        Ok(path)
    }
}

fn join(place: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(place.len() + 1 + name.len());
    path.extend(place);
    if !place.is_empty() {
        path.push(b'/');
    }
    path.extend(name);
    path
}

fn is_ours(path: &[u8]) -> bool {
    path.strip_prefix(MARKER_DIRECTORY.as_bytes())
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn limits(name: &str, error: impl Into<io::Error>) -> String {
    let allowed = fs::read_to_string(format!("/proc/sys/fs/inotify/{name}")).unwrap_or_else(|_| "unknown".into());
    format!(
        "the GPU's host allows too few watches (fs.inotify.{name} is {}; {}); every pass scans the whole tree instead. \
         On a machine of your own raise it: sysctl fs.inotify.{name}=1048576",
        allowed.trim(),
        error.into()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use rustix::fs::Mode;

    #[test]
    fn a_directory_is_watched_however_deep_it_lies() {
        let place = tempfile::tempdir().unwrap();
        let deep: PathBuf = (0..30).map(|level| format!("{level:d<199}")).collect();
        let root = crate::tree::open_root(place.path()).unwrap();
        let bottom = crate::tree::make_directory(root.as_fd(), &deep, Mode::RWXU).unwrap();
        let mut watched = Directories::open(place.path()).unwrap();
        watched
            .walk(Instant::now() + std::time::Duration::from_secs(60), &mut |_, _| {})
            .unwrap();
        assert!(watched.is_settled());
        assert_eq!(watched.count(), 31);
        rustix::fs::mkdirat(&bottom, c"new", Mode::RWXU).unwrap();
        let mut changed = Vec::new();
        watched.drain(&mut |path, _| changed.push(path.to_vec())).unwrap();
        assert!(changed.contains(&deep.join("new").into_os_string().into_encoded_bytes()));
        assert_eq!(watched.count(), 32);
    }
}
