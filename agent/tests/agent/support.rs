//! A GPU made of a real sshd and real directories, and a standby made of the real agent.
#![allow(unreachable_pub, reason = "one test binary; the modules share this one")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use warmspare_agent::ssh::private_place;
use warmspare_agent::state::PointFile;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId, RecoveryPointId};
use warmspare_wire::agent::{
    Accept, Answer, Bind, Call, Host, Live, Outcome, PassActivity, PassReport, PointChoice, RecoveryPoint, Refusal,
    Request, Restore, RestoreActivity, Status, Sync, Urgency,
};

pub const AGENT: &str = env!("CARGO_BIN_EXE_warmspare-agent");
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until something is there; the message says what never came.
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not happen within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub fn user() -> String {
    let id = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(id.stdout).unwrap().trim().to_owned()
}

/// A machine with an sshd of its own, for the current user.
pub struct Machine {
    pub place: TempDir,
    pub port: u16,
    address: String,
    /// A program that everything of this machine runs in, with its arguments.
    through: Vec<String>,
    sshd: Option<Child>,
}

/// A port that no other machine of this run gets, also while this one is down, and that the system gives to nobody by itself.
fn own_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 20).unwrap() * 1000;
    loop {
        let port = first + GIVEN.fetch_add(1, Ordering::Relaxed) % 1000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Machine {
    pub fn start(authorized: &[&str]) -> Self {
        Self::start_at("127.0.0.1", &[], authorized)
    }

    /// Starts one that answers at this address, inside another program if one is named.
    pub fn start_at(address: &str, through: &[&str], authorized: &[&str]) -> Self {
        let place = tempfile::Builder::new().prefix("gpu-").tempdir().unwrap();
        // sshd -D reads this as its own user; as root it wants the way there closed to others.
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut machine = Self {
            place,
            port: 0,
            address: address.to_owned(),
            through: through.iter().map(ToString::to_string).collect(),
            sshd: None,
        };
        machine.new_host_key();
        fs::create_dir(machine.tree()).unwrap();
        machine.authorize(authorized);
        machine.boot();
        machine
    }

    pub fn tree(&self) -> PathBuf {
        self.place.path().join("tree")
    }

    pub fn path(&self) -> String {
        self.tree().to_str().unwrap().to_owned()
    }

    pub fn host(&self) -> Host {
        Host {
            address: self.address.clone(),
            port: self.port,
            user: user(),
        }
    }

    pub fn authorize(&self, lines: &[&str]) {
        fs::write(self.place.path().join("authorized_keys"), lines.join("\n") + "\n").unwrap();
    }

    pub fn new_host_key(&self) {
        let key = self.place.path().join("host_key");
        let _ = fs::remove_file(&key);
        let made = Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f"])
            .arg(&key)
            .stdin(Stdio::null())
            .status();
        assert!(made.unwrap().success());
    }

    pub fn write_config(&self, extra: &str) {
        let at = |name: &str| self.place.path().join(name).display().to_string();
        let config = format!(
            "ListenAddress {}\nPort {}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nMaxStartups 100\nPermitRootLogin yes\n{extra}\nSetEnv SHLVL=5\n",
            self.address,
            self.port,
            at("host_key"),
            at("authorized_keys"),
        );
        fs::write(at("sshd_config"), config).unwrap();
    }

    pub fn boot(&mut self) {
        self.boot_with("", &[]);
    }

    /// Boots with more lines in sshd's configuration, through another program if one is named.
    pub fn boot_with(&mut self, extra: &str, through: &[&str]) {
        if is_root() {
            fs::create_dir_all("/run/sshd").unwrap();
        }
        for _ in 0..20 {
            if self.port == 0 {
                self.port = own_port();
            }
            self.write_config(extra);
            let log = fs::File::create(self.place.path().join("sshd.log")).unwrap();
            let outer = self.through.iter().map(String::as_str);
            let words: Vec<&str> = outer.chain(through.iter().copied()).chain(["/usr/sbin/sshd"]).collect();
            let mut sshd = Command::new(words[0])
                .args(&words[1..])
                .arg("-D")
                .arg("-e")
                .arg("-f")
                .arg(self.place.path().join("sshd_config"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            let up = eventually("sshd started or ended", || {
                if sshd.try_wait().unwrap().is_some() {
                    return Some(false);
                }
                TcpStream::connect((self.address.as_str(), self.port))
                    .is_ok()
                    .then_some(true)
            });
            if up {
                self.sshd = Some(sshd);
                return;
            }
            self.port = 0;
        }
        panic!(
            "no sshd: {}",
            fs::read_to_string(self.place.path().join("sshd.log")).unwrap()
        );
    }

    /// Puts a program in front of rsync on this machine: `before` runs first, `after` when rsync is done. There, `hold_after_list`
    /// lets the list go by that a first pass begins with.
    pub fn wrap_rsync(&mut self, before: &str, after: &str) {
        let bin = self.place.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let script = format!(
            "#!/bin/sh\nhold() {{ echo $$ >> {0}/holding; while [ -e {0}/hold ] && [ ! -e {0}/go-$$ ]; do sleep 0.01; done; }}\nhold_after_list() {{ if [ -e {0}/listed ]; then hold; else touch {0}/listed; fi; }}\n{before}\n/usr/bin/rsync \"$@\"\ncode=$?\n{after}\nexit $code\n",
            self.place.path().display()
        );
        write(&bin.join("rsync"), script);
        fs::set_permissions(bin.join("rsync"), fs::Permissions::from_mode(0o755)).unwrap();
        self.halt();
        self.boot_with(&format!("SetEnv SHLVL=5 PATH={}:/usr/bin:/bin", bin.display()), &[]);
    }

    /// Makes the wrapped rsync wait where it calls `hold`.
    pub fn hold(&self) {
        let _ = fs::remove_file(self.place.path().join("holding"));
        fs::write(self.place.path().join("hold"), "").unwrap();
    }

    /// Waits until the wrapped rsync waits.
    pub fn wait_until_held(&self) {
        eventually("rsync was held", || self.is_held().then_some(()));
    }

    pub fn is_held(&self) -> bool {
        // A shell makes the file before it writes into it.
        fs::metadata(self.place.path().join("holding")).is_ok_and(|found| found.len() > 0)
    }

    /// Lets the rsync that waits go on, and the next one wait.
    pub fn release_once(&self) {
        let waiting = fs::read_to_string(self.place.path().join("holding")).unwrap();
        self.hold();
        for pid in waiting.lines() {
            fs::write(self.place.path().join(format!("go-{pid}")), "").unwrap();
        }
    }

    pub fn release(&self) {
        fs::remove_file(self.place.path().join("hold")).unwrap();
    }

    /// Ends sshd and every connection, as when a container stops.
    pub fn halt(&mut self) {
        if let Some(mut sshd) = self.sshd.take() {
            let children = descendants(sshd.id());
            let _ = sshd.kill();
            let _ = sshd.wait();
            for child in children {
                kill(child);
            }
        }
    }
}

impl Machine {
    /// The watchers of this machine's trees, found by the tree in their arguments.
    pub fn watchers(&self) -> Vec<u32> {
        let needle = self.place.path().as_os_str().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let of_ours = words.windows(needle.len()).any(|window| window == needle);
            if of_ours && words.split(|byte| *byte == 0).nth(1) == Some(b"watch") {
                found.push(pid);
            }
        }
        found
    }

    /// Everything that serves a connection: sshd's children, a shell, rsync, a relay.
    pub fn connections(&self) -> Vec<u32> {
        self.sshd.as_ref().map_or_else(Vec::new, |sshd| descendants(sshd.id()))
    }

    pub fn kill_watchers(&self) {
        self.watchers().into_iter().for_each(kill);
        eventually("the watcher ended", || self.watchers().is_empty().then_some(()));
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.halt();
        self.watchers().into_iter().for_each(kill);
        // Directories that a test closed must not outlive it.
        let _ = Command::new("chmod")
            .arg("-R")
            .arg("u+rwX")
            .arg(self.place.path())
            .status();
    }
}

pub fn kill(pid: u32) {
    if let Some(pid) = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

pub fn descendants(root: u32) -> Vec<u32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
        parents.insert(pid, parent.unwrap_or(0));
    }
    let mut found = vec![root];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, p)| **p == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    found
}

/// The agent in a data directory.
pub struct Standby {
    pub place: TempDir,
    pub data: PathBuf,
    pub home: PathBuf,
}

pub fn association() -> AssociationId {
    AssociationId::of(GpuId::vast(7))
}

impl Standby {
    pub fn new() -> Self {
        let place = tempfile::Builder::new().prefix("standby-").tempdir().unwrap();
        let data = place.path().join("data");
        Self::at(place, data)
    }

    pub fn at(place: TempDir, data: PathBuf) -> Self {
        let home = place.path().join("home");
        fs::create_dir_all(&home).unwrap();
        Self { place, data, home }
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(AGENT);
        command.arg("--data").arg(&self.data).env("HOME", &self.home);
        command
    }

    pub fn call(&self, request: Request) -> Outcome {
        self.call_with(&serde_json::to_value(Call::new(request)).unwrap())
    }

    /// A call that need not be one.
    pub fn call_with(&self, call: &serde_json::Value) -> Outcome {
        let output = run(self.command().arg("call"), &serde_json::to_vec(call).unwrap());
        assert!(output.status.success(), "{output:?}");
        let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
        answer.outcome
    }

    pub fn key(&self) -> String {
        match self.call(Request::Prepare) {
            Outcome::Prepared { public_key } => public_key,
            other => panic!("{other:?}"),
        }
    }

    pub fn bind_request(&self, gpu: &Machine, epoch: Epoch) -> Bind {
        Bind {
            association: association(),
            epoch,
            source: gpu.host(),
            source_path: gpu.path(),
            accept: Accept::Nothing,
            max_deleted_percent: 50,
            excludes: vec![],
            includes: vec![],
            first: vec![],
            before_pass: String::new(),
            bandwidth_kib_per_s: 0,
            gpu: None,
        }
    }

    pub fn bind(&self, gpu: &Machine, epoch: Epoch) -> Status {
        status_of(self.call(Request::Bind(self.bind_request(gpu, epoch))))
    }

    pub fn try_sync(&self, epoch: Epoch, urgency: Urgency, wait_ms: u64) -> Outcome {
        self.call(Request::Sync(Sync {
            epoch,
            urgency,
            wait_ms,
            live: Live::Off,
        }))
    }

    pub fn sync(&self, epoch: Epoch) -> Status {
        status_of(self.try_sync(epoch, Urgency::Due, 30_000))
    }

    /// A pass that must complete.
    pub fn pass(&self, epoch: Epoch) -> Status {
        let status = self.sync(epoch);
        assert!(status.halt.is_none() && status.last_failure.is_none(), "{status:#?}");
        assert_eq!(status.pass, PassActivity::Idle);
        status
    }

    /// What became of the pass that runs, without asking for another.
    pub fn settled(&self) -> Status {
        eventually("the pass ended", || {
            Some(self.status()).filter(|status| status.pass == PassActivity::Idle)
        })
    }

    pub fn status(&self) -> Status {
        status_of(self.call(Request::Status))
    }

    pub fn points(&self) -> Vec<RecoveryPoint> {
        match self.call(Request::RecoveryPoints) {
            Outcome::RecoveryPoints(points) => points,
            other => panic!("{other:?}"),
        }
    }

    /// The pass behind each recovery point whose tree is there.
    pub fn reports(&self) -> Vec<(RecoveryPointId, PassReport)> {
        let all = fs::read_dir(self.data.join("recovery-points")).unwrap().flatten();
        all.map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|end| end == "json") && path.with_extension("").is_dir())
            .filter_map(|path| serde_json::from_slice::<PointFile>(&fs::read(path).ok()?).ok())
            .map(|stored| (stored.point.id, stored.report))
            .collect()
    }

    pub fn newest_tree(&self) -> PathBuf {
        let newest = self.status().points.latest.expect("a recovery point");
        self.point_tree(&newest)
    }

    pub fn point_tree(&self, point: &RecoveryPoint) -> PathBuf {
        self.data.join("recovery-points").join(point.id.as_str())
    }

    pub fn restore_request(&self, target: &Machine, epoch: Epoch, wait_ms: u64) -> Restore {
        Restore {
            epoch,
            point: PointChoice::Latest,
            target: target.host(),
            target_path: target.path(),
            first: vec![],
            wait_ms,
            gpu: None,
        }
    }

    pub fn restore(&self, target: &Machine, epoch: Epoch) -> RestoreActivity {
        status_of(self.call(Request::Restore(self.restore_request(target, epoch, 60_000)))).restore
    }

    fn change_watch_file(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let note = self.data.join("watch.json");
        let mut stored: serde_json::Value = serde_json::from_slice(&fs::read(&note).unwrap()).unwrap();
        change(&mut stored);
        fs::write(&note, stored.to_string()).unwrap();
    }

    /// Makes the next pass a full scan, as if a quarter of an hour had gone by.
    pub fn age_full_scan(&self) {
        self.change_watch_file(|stored| stored["seen"]["full_at"] = "2020-01-01T00:00:00.000Z".into());
    }

    /// Makes the next pass look for a watcher, as if the pause after a vain look were over.
    pub fn try_again(&self) {
        self.change_watch_file(|stored| stored["try_again"] = serde_json::Value::Null);
    }

    /// The processes that work for this standby, found by the data directory in their arguments.
    /// The ssh processes that keep a connection open, and those that use one.
    pub fn connections(&self) -> Vec<u32> {
        let here = fs::canonicalize(&self.data).unwrap();
        let all = fs::read_dir("/proc").unwrap().flatten();
        all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok())
            .filter(|pid| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|at| at == here))
            .filter(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "ssh"))
            .collect()
    }

    pub fn workers(&self) -> Vec<u32> {
        let needle = self.data.as_os_str().as_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let of_ours = words.windows(needle.len()).any(|window| window == needle);
            let is_worker = String::from_utf8_lossy(&words).contains("-worker\0");
            if of_ours && is_worker {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if thread::panicking() {
            for log in fs::read_dir(self.data.join("logs")).into_iter().flatten().flatten() {
                eprintln!(
                    "{}: {}",
                    log.path().display(),
                    fs::read_to_string(log.path()).unwrap_or_default()
                );
            }
        }
        for worker in self.workers() {
            for child in descendants(worker) {
                kill(child);
            }
            kill(worker);
        }
        if let Some(place) = self.data.canonicalize().ok().and_then(|root| private_place(&root)) {
            let _ = fs::remove_dir_all(place);
        }
        let _ = Command::new("chmod")
            .arg("-R")
            .arg("u+rwX")
            .arg(&self.data)
            .stderr(Stdio::null())
            .status();
    }
}

/// A file system in a file.
pub struct Disk {
    pub at: PathBuf,
    pub place: TempDir,
}

impl Disk {
    pub fn make(kind: &str, megabytes: u64) -> Option<Self> {
        if !is_root() {
            eprintln!("SKIPPED: a disk of its own ({kind}) needs root");
            return None;
        }
        let place = tempfile::Builder::new().prefix("disk-").tempdir().unwrap();
        let (image, at) = (place.path().join("image"), place.path().join("mnt"));
        fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let run = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
        let made = run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image))
            && run(Command::new("mount").args(["-o", "loop"]).args([&image, &at]));
        if !made {
            eprintln!("SKIPPED: this machine cannot make and mount a {kind} disk");
            return None;
        }
        Some(Self { at, place })
    }

    /// Such a disk, with a standby on it that is bound to a GPU.
    pub fn bound(kind: &str, megabytes: u64) -> Option<(Self, Machine, Standby)> {
        let disk = Self::make(kind, megabytes)?;
        let standby = disk.standby();
        let gpu = Machine::start(&[&standby.key()]);
        standby.bind(&gpu, Epoch::FIRST);
        Some((disk, gpu, standby))
    }

    pub fn standby(&self) -> Standby {
        let place = tempfile::Builder::new().prefix("standby-").tempdir().unwrap();
        Standby::at(place, self.at.join("data"))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

pub fn status_of(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Status(status) => *status,
        other => panic!("no status: {other:?}"),
    }
}

pub fn refusal_of(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

/// A GPU and a standby that may log in to it, bound under the first epoch.
pub fn bound() -> (Machine, Standby) {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    standby.bind(&gpu, Epoch::FIRST);
    (gpu, standby)
}

/// One entry of a tree, as far as a copy must keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: char,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, i64),
    pub size: u64,
    pub content: Vec<u8>,
    /// The first path, in order, that is the same file.
    pub same_as: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Reads a tree whole, without any of the agent's code. Our marker is left out.
pub fn read_tree(root: &Path) -> BTreeMap<Vec<u8>, Entry> {
    let mut tree = BTreeMap::new();
    let mut names: Vec<Vec<u8>> = vec![vec![]];
    while let Some(name) = names.pop() {
        let path = root.join(std::ffi::OsStr::from_bytes(&name));
        let found = fs::symlink_metadata(&path).unwrap();
        let kind = found.file_type();
        let (letter, content) = if kind.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let mut child = name.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend(entry.unwrap().file_name().into_vec());
                if child != b".warmspare" {
                    names.push(child);
                }
            }
            ('d', vec![])
        } else if kind.is_symlink() {
            ('l', fs::read_link(&path).unwrap().into_os_string().into_vec())
        } else if kind.is_file() {
            ('f', fs::read(&path).unwrap())
        } else {
            ('?', vec![])
        };
        let entry = Entry {
            kind: letter,
            mode: found.mode(),
            owner: (found.uid(), found.gid()),
            mtime: (found.mtime(), found.mtime_nsec()),
            size: if letter == 'f' { found.size() } else { 0 },
            content,
            same_as: None,
            xattrs: if letter == 'l' { BTreeMap::new() } else { xattrs(&path) },
        };
        tree.insert(name, entry);
    }
    link_groups(root, &mut tree);
    tree
}

fn link_groups(root: &Path, tree: &mut BTreeMap<Vec<u8>, Entry>) {
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for (name, entry) in tree.iter_mut().filter(|(_, entry)| entry.kind != 'd') {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        let inode = fs::symlink_metadata(path).unwrap().ino();
        entry.same_as = Some(first.entry(inode).or_insert_with(|| name.clone()).clone());
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = [0_u8; 4096];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let of_users = names[..length]
        .split(|b| *b == 0)
        .filter(|name| name.starts_with(b"user."));
    of_users
        .map(|name| {
            let mut value = [0_u8; 4096];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect()
}

/// Fails with the first difference, not with two whole trees.
pub fn assert_same_tree(left: &Path, right: &Path) {
    let (a, b) = (read_tree(left), read_tree(right));
    let shown = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
    for (name, entry) in &a {
        let Some(other) = b.get(name) else {
            panic!("{:?} is missing in {}", shown(name), right.display());
        };
        assert_eq!(entry, other, "{:?} differs", shown(name));
    }
    for name in b.keys() {
        assert!(a.contains_key(name), "{:?} is only in {}", shown(name), right.display());
    }
}

pub fn set_mtime(path: &Path, seconds: i64, nanoseconds: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let instant = Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds,
    };
    let times = Timestamps {
        last_access: instant,
        last_modification: instant,
    };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Regular files in a tree.
pub fn count_files(root: &Path) -> u64 {
    let files = read_tree(root).values().filter(|entry| entry.kind == 'f').count();
    u64::try_from(files).unwrap()
}

pub fn write(path: &Path, content: impl AsRef<[u8]>) {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).unwrap();
    }
    fs::write(path, content).unwrap();
}

/// Removes a tree as its owner would, also one with directories closed to changes.
pub fn remove_tree(tree: &Path) {
    let opened = Command::new("chmod").args(["-R", "u+rwX"]).arg(tree).status();
    assert!(opened.unwrap().success());
    fs::remove_dir_all(tree).unwrap();
}

pub fn set_xattr(path: &Path, name: &str, value: &str) {
    let set = Command::new("setfattr")
        .args(["-n", name, "-v", value])
        .arg(path)
        .status();
    assert!(set.unwrap().success(), "setfattr {}", path.display());
}

/// A tree with everything in it that a copy could lose.
pub fn grow_rich_tree(root: &Path) {
    use std::os::unix::fs::symlink;
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for (number, name) in odd_names().iter().enumerate() {
        write(
            &root.join("names").join(std::ffi::OsStr::from_bytes(name)),
            format!("odd {number}"),
        );
    }
    for (number, bits) in [0o600, 0o644, 0o755, 0o4755, 0o2640, 0o444, 0o777]
        .into_iter()
        .enumerate()
    {
        let path = root.join(format!("modes/{number}"));
        write(&path, format!("mode {number}"));
        mode(&path, bits);
    }
    for (number, (seconds, nanoseconds)) in [
        (0, 1),
        (1_000_000_000, 999_999_999),
        (1_795_441_530, 123_456_789),
        (4_000_000_000, 5),
    ]
    .into_iter()
    .enumerate()
    {
        let path = root.join(format!("times/{number}"));
        write(&path, format!("time {number}"));
        set_mtime(&path, seconds, nanoseconds);
    }
    fs::create_dir_all(root.join("links/deep/er")).unwrap();
    for (number, target) in ["../modes/0", "/etc/passwd", "nowhere", "deep", "..", "odd\nname"]
        .into_iter()
        .enumerate()
    {
        symlink(target, root.join(format!("links/{number}"))).unwrap();
    }
    write(&root.join("links/one"), "three names");
    fs::hard_link(root.join("links/one"), root.join("links/two")).unwrap();
    fs::hard_link(root.join("links/one"), root.join("links/deep/er/three")).unwrap();
    write(&root.join("xattrs/file"), "with attributes");
    set_xattr(&root.join("xattrs/file"), "user.origin", "a GPU");
    set_xattr(&root.join("xattrs"), "user.kind", "a directory");
    grow_sparse_file(&root.join("sparse"));
    fs::create_dir_all(root.join("empty/directory")).unwrap();
    write(&root.join("empty/file"), "");
    write(&root.join("closed/inside"), "may not be changed");
    mode(&root.join("closed"), 0o555);
    mode(&root.join("empty"), 0o1777);
    set_mtime(&root.join("links/deep"), 1_234_567_890, 987_654_321);
}

pub fn odd_names() -> Vec<Vec<u8>> {
    vec![
        b"a b".to_vec(),
        b"line\nbreak".to_vec(),
        b"not \xff\xfe utf-8".to_vec(),
        b"-rf".to_vec(),
        b"$(touch pwned)`touch pwned`".to_vec(),
        b"quote'\"s".to_vec(),
        b"back\\slash\\#012".to_vec(),
        b"*".to_vec(),
        b" leading and trailing ".to_vec(),
        "ünïcödé 🚀".as_bytes().to_vec(),
        vec![b'x'; 255],
        b"\x01\x7f\t\r".to_vec(),
    ]
}

fn grow_sparse_file(path: &Path) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"an island", 32 << 20).unwrap();
}

/// Bytes that no transfer can make smaller.
pub fn noise(length: u64) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let random = fs::File::open("/dev/urandom").unwrap();
    random.take(length).read_to_end(&mut bytes).unwrap();
    bytes
}

/// A generator whose seed is printed, so that a failure can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let from_environment = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = from_environment.unwrap_or_else(|| u64::from(std::process::id()) * 7919 + 1);
        println!("SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
