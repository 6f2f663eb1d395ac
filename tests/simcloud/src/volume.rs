//! A data disk that is a real one: a btrfs file system in a sparse image file, on a loop device while its machine is on.
//!
//! The loop device belongs to the mount (`mount -o loop`), so the kernel detaches it with the mount's last user, whoever unmounts.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::machine::{MachineError, file_error, run};
use crate::processes::CLOUD_VARIABLE;

/// As the standby's start-up script mounts it (`infra/standby-startup.sh`).
const MOUNT_OPTIONS: &str = "loop,nodev,nosuid,noatime,compress=zstd:1";

/// The smallest file system that btrfs resizes (EINVAL below).
const SMALLEST: u64 = 256 << 20;

/// How long a mount may stay busy after its machine's last process ended, which is an instant; a test may be reading in it.
const BUSY_AT_MOST: Duration = Duration::from_secs(5);

/// Why disks cannot be btrfs file systems on loop devices here; fine when they can be. Tried once: whoever asks before a start, and the
/// start itself, hear the same.
pub(crate) fn check() -> Result<(), String> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    FOUND.get_or_init(try_one).clone()
}

fn try_one() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("mounting takes root".to_owned());
    }
    let place = tempfile::Builder::new().prefix("simcloud-disk-").tempdir();
    let place = place.map_err(|error| error.to_string())?;
    let at = place.path().join("mounted");
    let tried = || {
        fs::create_dir(&at).map_err(file_error("create", &at))?;
        let image = place.path().join("image");
        make(&image, SMALLEST)?;
        let mut volume = Volume::new(image, at.clone());
        volume.mount("none")?;
        volume.unmount()
    };
    tried().map_err(|failure| match failure {
        MachineError::Program { program, detail } => format!("{program}: {detail}"),
        MachineError::File { .. } | MachineError::NotListening { .. } | MachineError::NotRunning(_) => {
            failure.to_string()
        }
    })
}

/// Makes an image of so many bytes, of which the host's disk holds only what is written, with an empty file system.
pub(crate) fn make(image: &Path, bytes: u64) -> Result<(), MachineError> {
    File::create(image)
        .and_then(|file| file.set_len(bytes))
        .map_err(file_error("create", image))?;
    run(Command::new("mkfs.btrfs").args(["-q", "-L", "warmspare"]).arg(image)).map(drop)
}

/// Enlarges an image and the device that it is on, as a provider does. The file system in it is the guest's to grow.
pub(crate) fn grow(image: &Path, bytes: u64) -> Result<(), MachineError> {
    File::options()
        .write(true)
        .open(image)
        .and_then(|file| file.set_len(bytes))
        .map_err(file_error("enlarge", image))?;
    let devices = run(Command::new("losetup")
        .args(["--noheadings", "--output", "NAME", "-j"])
        .arg(image))?;
    for device in devices.split_whitespace() {
        run(Command::new("losetup").arg("-c").arg(device))?;
    }
    Ok(())
}

/// An image, and where it is mounted while its machine is on.
#[derive(Debug)]
pub(crate) struct Volume {
    image: PathBuf,
    at: PathBuf,
    is_mounted: bool,
}

impl Volume {
    pub(crate) fn new(image: PathBuf, at: PathBuf) -> Self {
        Self {
            image,
            at,
            is_mounted: false,
        }
    }

    pub(crate) fn is_at(&self, place: &Path) -> bool {
        self.at == place
    }

    /// Mounts it, grown to its device, as the start-up script does. `cloud` marks what runs for it as the sim's own.
    pub(crate) fn mount(&mut self, cloud: &str) -> Result<(), MachineError> {
        if self.is_mounted {
            return Ok(());
        }
        let mut mount = Command::new("mount");
        mount
            .env(CLOUD_VARIABLE, cloud)
            .args(["-t", "btrfs", "-o", MOUNT_OPTIONS]);
        run(mount.arg(&self.image).arg(&self.at))?;
        self.is_mounted = true;
        let private = fs::set_permissions(&self.at, fs::Permissions::from_mode(0o700));
        private.map_err(file_error("set the mode of", &self.at))?;
        run(Command::new("btrfs")
            .args(["filesystem", "resize", "max"])
            .arg(&self.at))
        .map(drop)
    }

    /// Unmounts it. Nothing of the machine uses it any more; whoever else does keeps what is open.
    pub(crate) fn unmount(&mut self) -> Result<(), MachineError> {
        if !self.is_mounted {
            return Ok(());
        }
        let deadline = Instant::now() + BUSY_AT_MOST;
        while run(Command::new("umount").arg(&self.at)).is_err() {
            if Instant::now() >= deadline {
                run(Command::new("umount").arg("--lazy").arg(&self.at))?;
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.is_mounted = false;
        Ok(())
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        if let Err(failure) = self.unmount() {
            tracing::error!(error = %failure, "a data disk stays mounted");
        }
    }
}
