//! A real machine: a directory, a host key, authorized keys, and an sshd of its own on a loopback address.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::processes::{CLOUD_VARIABLE, MACHINE_VARIABLE, Marks, kill_all, signal_all};
use crate::sshd::{self, ForcedCommand};
use crate::volume::Volume;

/// How long sshd may take to listen; it takes some 20 ms, on a busy host more.
const SSHD_START_LIMIT: Duration = Duration::from_secs(15);

/// Why a machine could not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A file of the machine could not be written or read.
    #[error("cannot {what} {path}")]
    File {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A program could not be started or failed.
    #[error("cannot run {program}: {detail}; install the Debian packages openssh-server, openssh-client and rsync")]
    Program {
        /// The program's name.
        program: String,
        /// What it said.
        detail: String,
    },
    /// sshd did not come up.
    #[error("sshd of machine {machine} does not listen on {address}: {log}")]
    NotListening {
        /// The machine's name.
        machine: String,
        /// Where it should listen.
        address: SocketAddr,
        /// The end of its log.
        log: String,
    },
    /// The machine is off.
    #[error("machine {0} is not running")]
    NotRunning(String),
}

pub(crate) fn file_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MachineError {
    let path = path.to_owned();
    move |source| MachineError::File { what, path, source }
}

/// What all machines of one sim share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    /// Distinguishes this sim from others on the same host.
    pub(crate) cloud: String,
}

/// The name of the account that this process runs as, and the only one that can log in to the machines.
///
/// # Errors
/// `Program` when `id -un` fails.
pub fn login_user() -> Result<String, MachineError> {
    run(Command::new("id").arg("-un")).map(|name| name.trim().to_owned())
}

/// One real machine.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    directory: PathBuf,
    marks: Marks,
    power: Mutex<Option<Running>>,
    /// Disks that are mounted while the machine is on. Locked after `power`.
    volumes: Mutex<Vec<Volume>>,
    /// Set when the machine is to stay off for good.
    retired: AtomicBool,
}

#[derive(Debug)]
struct Running {
    sshd: Child,
    address: SocketAddr,
    listening: bool,
}

impl Machine {
    /// Makes the directory, the host key and an empty list of authorized keys; the machine is off.
    pub(crate) fn create(site: &Site, name: &str) -> Result<Arc<Self>, MachineError> {
        let directory = site.root.join("machines").join(name);
        let home = directory.join("home");
        fs::create_dir_all(&home).map_err(file_error("create", &home))?;
        let marks = Marks {
            cloud: site.cloud.clone(),
            machine: name.to_owned(),
        };
        let machine = Self {
            name: name.to_owned(),
            directory,
            marks,
            power: Mutex::new(None),
            volumes: Mutex::default(),
            retired: AtomicBool::new(false),
        };
        machine.new_host_key()?;
        machine.authorize(&[])?;
        Ok(Arc::new(machine))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory in which sessions start.
    pub(crate) fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// Replaces the host key, as a container built anew has another one.
    pub(crate) fn new_host_key(&self) -> Result<(), MachineError> {
        let key = self.directory.join("host_key");
        let _ = fs::remove_file(&key);
        let mut keygen = Command::new("ssh-keygen");
        keygen
            .args(["-q", "-t", "ed25519", "-N", "", "-C", &self.name, "-f"])
            .arg(&key);
        run(&mut keygen).map(drop)
    }

    /// The public host key: `ssh-ed25519 <base64> <comment>`.
    pub(crate) fn host_key(&self) -> Result<String, MachineError> {
        let path = self.directory.join("host_key.pub");
        fs::read_to_string(&path)
            .map(|text| text.trim().to_owned())
            .map_err(file_error("read", &path))
    }

    /// Writes the whole list of keys that may log in.
    pub(crate) fn authorize(&self, keys: &[String]) -> Result<(), MachineError> {
        let path = self.directory.join("authorized_keys");
        let text: String = keys.iter().map(|key| format!("{}\n", key.trim())).collect();
        replace(&path, &text, 0o600)
    }

    /// Starts sshd on this address and returns when it accepts connections. A machine that is on stays as it is.
    pub(crate) fn start(&self, address: SocketAddr, command: &ForcedCommand) -> Result<(), MachineError> {
        let mut power = self.lock();
        if power.is_some() {
            return Ok(());
        }
        if self.retired.load(Ordering::SeqCst) {
            return Err(MachineError::NotRunning(self.name.clone()));
        }
        self.write_configuration(address, command)?;
        for volume in self.lock_volumes().iter_mut() {
            volume.mount(&self.marks.cloud)?;
        }
        *power = Some(Running {
            sshd: self.spawn_sshd()?,
            address,
            listening: false,
        });
        drop(power);
        let started = self.await_listening(address);
        match (&started, self.lock().as_mut()) {
            (Ok(()), Some(running)) => running.listening = true,
            (Ok(()), None) | (Err(_), _) => {}
        }
        if started.is_err() {
            self.stop();
        }
        started
    }

    /// Cuts the power: no sshd, no session, none of its processes is left when this returns, and no disk of it is mounted.
    pub(crate) fn stop(&self) {
        let mut power = self.lock();
        let running = power.take();
        kill_all(&self.marks, running.as_ref().map(|running| running.sshd.id()));
        if let Some(mut running) = running {
            let _ = running.sshd.wait();
        }
        let _ = fs::remove_file(self.directory.join("sshd.pid"));
        for volume in self.lock_volumes().iter_mut() {
            if let Err(failure) = volume.unmount() {
                tracing::error!(error = %failure, "a data disk stays mounted");
            }
        }
    }

    /// Attaches a disk, which is mounted from the next start on, or at once when the machine is on.
    pub(crate) fn plug(&self, mut volume: Volume) -> Result<(), MachineError> {
        let power = self.lock();
        if power.is_some() {
            volume.mount(&self.marks.cloud)?;
        }
        self.lock_volumes().push(volume);
        Ok(())
    }

    /// Detaches the disk that is, or would be, mounted there.
    pub(crate) fn unplug(&self, at: &Path) -> Result<(), MachineError> {
        let _power = self.lock();
        let mut volumes = self.lock_volumes();
        for volume in volumes.iter_mut().filter(|volume| volume.is_at(at)) {
            volume.unmount()?;
        }
        volumes.retain(|volume| !volume.is_at(at));
        Ok(())
    }

    /// Cuts the power for good: no later start succeeds.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.stop();
    }

    /// Freezes everything on the machine: connections neither fail nor answer, as when its host lost the network.
    pub(crate) fn freeze(&self) {
        let root = self.lock().as_ref().map(|running| running.sshd.id());
        signal_all(&self.marks, root, Signal::STOP);
    }

    /// Lets a frozen machine go on.
    pub(crate) fn thaw(&self) {
        let root = self.lock().as_ref().map(|running| running.sshd.id());
        signal_all(&self.marks, root, Signal::CONT);
    }

    /// Where its sshd listens; `None` while it is off.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.lock()
            .as_ref()
            .filter(|running| running.listening)
            .map(|running| running.address)
    }

    pub(crate) fn is_on(&self) -> bool {
        self.address().is_some()
    }

    /// Empties a directory in the home, making it when it is missing.
    pub(crate) fn empty(&self, directory: &str) -> Result<(), MachineError> {
        let path = self.home().join(directory);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(file_error("empty", &path))?;
        }
        fs::create_dir_all(&path).map_err(file_error("create", &path))
    }

    /// Stops the machine and removes its directory.
    pub(crate) fn delete(&self) -> Result<(), MachineError> {
        self.retire();
        match fs::remove_dir_all(&self.directory) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(file_error("remove", &self.directory)(source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Starts a program on the machine that outlives its caller and dies with the machine. Returns its process id.
    pub(crate) fn exec_detached(&self, program: &str, arguments: &[String]) -> Result<u32, MachineError> {
        let power = self.lock();
        if power.is_none() {
            return Err(MachineError::NotRunning(self.name.clone()));
        }
        let log_path = self.directory.join("exec.log");
        let log = fs::File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(file_error("open", &log_path))?;
        let errors = log.try_clone().map_err(file_error("open", &log_path))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(self.home())
            .env("HOME", self.home());
        command
            .env(MACHINE_VARIABLE, &self.marks.machine)
            .env(CLOUD_VARIABLE, &self.marks.cloud);
        command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
        let mut child = spawn(&mut command)?;
        let pid = child.id();
        std::thread::spawn(move || child.wait());
        drop(power);
        Ok(pid)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_volumes(&self) -> MutexGuard<'_, Vec<Volume>> {
        self.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_configuration(&self, address: SocketAddr, command: &ForcedCommand) -> Result<(), MachineError> {
        let session = self.directory.join("session");
        replace(&session, &command.script(), 0o755)?;
        let text = sshd::configuration(address, &self.directory, &self.marks);
        replace(&self.directory.join("sshd_config"), &text, 0o600)
    }

    fn spawn_sshd(&self) -> Result<Child, MachineError> {
        let log_path = self.directory.join("sshd.log");
        let log = fs::File::options().create(true).append(true).open(&log_path);
        let log = log.map_err(file_error("open", &log_path))?;
        let mut sshd = Command::new(sshd::path());
        sshd.arg("-D")
            .arg("-e")
            .arg("-f")
            .arg(self.directory.join("sshd_config"));
        sshd.env(MACHINE_VARIABLE, &self.marks.machine)
            .env(CLOUD_VARIABLE, &self.marks.cloud);
        sshd.stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        spawn(&mut sshd)
    }

    fn await_listening(&self, address: SocketAddr) -> Result<(), MachineError> {
        let deadline = Instant::now() + SSHD_START_LIMIT;
        while Instant::now() < deadline {
            if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() {
                return Ok(());
            }
            if self
                .lock()
                .as_mut()
                .is_none_or(|running| running.sshd.try_wait().is_ok_and(|ended| ended.is_some()))
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let log = fs::read_to_string(self.directory.join("sshd.log")).unwrap_or_default();
        let log = log.lines().rev().take(3).collect::<Vec<_>>().join(" | ");
        Err(MachineError::NotListening {
            machine: self.name.clone(),
            address,
            log,
        })
    }
}

fn spawn(command: &mut Command) -> Result<Child, MachineError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.spawn().map_err(|error| MachineError::Program {
        program,
        detail: error.to_string(),
    })
}

/// Runs a program to its end and returns its output.
pub(crate) fn run(command: &mut Command) -> Result<String, MachineError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let failed = |detail: String| MachineError::Program {
        program: program.clone(),
        detail,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Writes a file so that a reader sees the old text or the new one.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<(), MachineError> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, text).map_err(file_error("write", &temporary))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).map_err(file_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(file_error("write", path))
}
