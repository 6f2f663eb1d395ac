//! The Rust side of a sim: start it, turn its knobs, look at what is left, end it.

use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::compute;
use crate::delivery::Attempt;
use crate::faults::Fault;
use crate::inventory::{self, Left, LeftDisk};
use crate::journal::Recorded;
use crate::knobs::{Knobs, NoSuchMachine};
use crate::machine::{self, Machine, MachineError, Site};
use crate::options::{DataDisks, Options};
use crate::sshd;
use crate::volume;
use crate::watchdog;
use crate::world::{Foundation, World};
use crate::{server, token};

/// Why a sim could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be used.
    #[error(
        "cannot use {path} as the sim's directory: {why}; give a directory you may write to, whose path has only letters, digits and / . _ -"
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The port is taken or not allowed.
    #[error("cannot listen on 127.0.0.1:{port}; choose another port, or 0 for a free one")]
    Port {
        /// The port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A program that machines need does not work.
    #[error("cannot prepare machines")]
    Machines(#[from] MachineError),
    /// Data disks cannot be real ones.
    #[error(
        "cannot make btrfs file systems on loop devices: {why}; use plain directories, or run as root with btrfs-progs and mount installed"
    )]
    DataDisks {
        /// What is missing.
        why: String,
    },
    /// The HTTP client for notifications could not be made.
    #[error("cannot make an HTTP client")]
    Client(#[from] reqwest::Error),
}

/// A running sim. Dropping it ends every machine; [`Simcloud::shutdown`] also waits for the server.
#[derive(Debug)]
pub struct Simcloud {
    world: Arc<World>,
    server: JoinHandle<()>,
}

impl Simcloud {
    /// Starts a sim.
    ///
    /// # Errors
    /// When its directory, its port or the programs it needs (sshd, ssh-keygen, sh) are not to be had.
    pub async fn start(options: Options) -> Result<Self, StartError> {
        if options.data_disks == DataDisks::Btrfs {
            check_btrfs_disks()?;
        }
        let (root, temporary) = open_directory(&options)?;
        let login_user = machine::login_user()?;
        if rustix::process::geteuid().is_root() {
            // sshd as root insists on its privilege separation directory, which Debian makes only when its service starts.
            let path = Path::new("/run/sshd");
            std::fs::create_dir_all(path).map_err(|error| StartError::Directory {
                path: path.to_owned(),
                why: error.to_string(),
            })?;
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port)).await;
        let listener = listener.map_err(|source| StartError::Port {
            port: options.port,
            source,
        })?;
        let address = listener.local_addr().map_err(|source| StartError::Port {
            port: options.port,
            source,
        })?;
        let cloud = uuid::Uuid::new_v4().simple().to_string();
        let kept = if temporary.is_some() {
            watchdog::Directory::Temporary
        } else {
            watchdog::Directory::Kept
        };
        let world = World::new(Foundation {
            standby_port: options.standby_ssh_port.unwrap_or_else(sshd::random_port),
            watchdog: watchdog::start(&root, &cloud, kept)?,
            site: Site { root, cloud },
            login_user,
            temporary,
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()?,
            options,
        });
        let _ = world.base_url.set(format!("http://{address}"));
        let server = tokio::spawn(serve(listener, Arc::clone(&world)));
        Ok(Self { world, server })
    }

    /// `http://127.0.0.1:<port>`, where everything is served.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.world.base_url().to_owned()
    }

    /// Stands in for `https://console.vast.ai`.
    #[must_use]
    pub fn vast_url(&self) -> String {
        self.base_url()
    }

    /// Stands in for `https://compute.googleapis.com`; the API's paths start with `/compute/v1/`.
    #[must_use]
    pub fn compute_url(&self) -> String {
        self.base_url()
    }

    /// Stands in for `https://cloudbilling.googleapis.com`.
    #[must_use]
    pub fn billing_url(&self) -> String {
        self.base_url()
    }

    /// The token endpoint that service-account files from [`Simcloud::write_service_account`] name.
    #[must_use]
    pub fn token_uri(&self) -> String {
        format!("{}/token", self.base_url())
    }

    /// What the sim was told at its start.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.world.options
    }

    /// How long so many seconds of the real providers take here.
    #[must_use]
    pub fn scaled(&self, seconds: f64) -> Duration {
        self.world.scale.of(seconds)
    }

    /// The one account that can log in to the machines.
    #[must_use]
    pub fn login_user(&self) -> &str {
        &self.world.login_user
    }

    /// The SSH port of every standby.
    #[must_use]
    pub fn standby_ssh_port(&self) -> u16 {
        self.world.standby_port
    }

    /// The directory with all machines and disks.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.world.root()
    }

    /// Writes a service-account key file whose tokens this sim issues and accepts.
    ///
    /// # Errors
    /// When `openssl` is missing or the file cannot be written.
    pub fn write_service_account(&self, path: &Path) -> Result<(), MachineError> {
        token::write_service_account(&self.world, path)
    }

    /// The knobs: outbids, preemptions, shortages.
    #[must_use]
    pub fn knobs(&self) -> Knobs<'_> {
        Knobs(&self.world)
    }

    /// Lets a fault wait for its requests.
    pub fn inject(&self, fault: Fault) {
        self.world.faults.add(fault);
    }

    /// The faults that have not struck as often as they should.
    #[must_use]
    pub fn faults_waiting(&self) -> Vec<Fault> {
        self.world.faults.waiting()
    }

    /// Forgets all waiting faults.
    pub fn clear_faults(&self) {
        self.world.faults.clear();
    }

    /// Every machine that exists.
    #[must_use]
    pub fn machines_left(&self) -> Vec<Left> {
        inventory::machines(&self.world)
    }

    /// Every disk that exists, boot disks included.
    #[must_use]
    pub fn disks_left(&self) -> Vec<LeftDisk> {
        inventory::disks(&self.world)
    }

    /// Every request that arrived, in order.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.world.journal.all()
    }

    /// Writes the requests to the Compute Engine side as `tools/discovery_contract.py` reads them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_compute_requests(&self, path: &Path) -> io::Result<()> {
        self.world.journal.write(path, Recorded::is_compute)
    }

    /// Writes the requests to the Cloud Storage side as `tools/discovery_contract.py` reads them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_storage_requests(&self, path: &Path) -> io::Result<()> {
        self.world
            .journal
            .write(path, |entry| entry.path.starts_with("/storage/"))
    }

    /// Writes the requests to the price list as `tools/discovery_contract.py` reads them.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_billing_requests(&self, path: &Path) -> io::Result<()> {
        self.world
            .journal
            .write(path, |entry| entry.path.starts_with("/v1/services/"))
    }

    /// How many objects the bucket has.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.world.state().storage.len()
    }

    /// Empties the bucket, as when somebody deleted it and made it anew.
    pub fn lose_bucket(&self) {
        self.world.state().storage.clear();
    }

    /// Writes the requests to the Vast side, one JSON object a line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_vast_requests(&self, path: &Path) -> io::Result<()> {
        self.world.journal.write(path, |entry| entry.path.starts_with("/api/"))
    }

    /// Every delivery attempt of a notification, in order.
    #[must_use]
    pub fn notification_attempts(&self) -> Vec<Attempt> {
        self.world.state().vast.webhooks.attempts.clone()
    }

    /// The home directory of a machine: a Vast contract number, or a VM's name.
    ///
    /// # Errors
    /// When there is no such machine.
    pub fn home(&self, name: &str) -> Result<PathBuf, NoSuchMachine> {
        Knobs(&self.world).machine(name).map(|machine| machine.home())
    }

    /// The public host key of a machine.
    ///
    /// # Errors
    /// `Ok(None)` never happens; a missing machine is an error.
    pub fn host_key(&self, name: &str) -> Result<String, NoSuchMachine> {
        let machine = Knobs(&self.world).machine(name)?;
        machine.host_key().map_err(|_| NoSuchMachine(name.to_owned()))
    }

    /// Where a disk's files are.
    #[must_use]
    pub fn disk_directory(&self, zone: &str, name: &str) -> PathBuf {
        compute::disks::directory(&self.world, &(zone.to_owned(), name.to_owned()))
    }

    /// Ends every machine and the server, and removes a temporary directory.
    pub async fn shutdown(mut self) {
        close(&self.world);
        // Open keep-alive connections must not hold the end up.
        if tokio::time::timeout(Duration::from_secs(2), &mut self.server)
            .await
            .is_err()
        {
            self.server.abort();
        }
    }
}

impl Drop for Simcloud {
    fn drop(&mut self) {
        close(&self.world);
        self.server.abort();
    }
}

/// Whether data disks can be [`DataDisks::Btrfs`] here: makes one, mounts it and takes it down again.
///
/// # Errors
/// `DataDisks` when not: no root, no loop devices, no btrfs.
pub fn check_btrfs_disks() -> Result<(), StartError> {
    volume::check().map_err(|why| StartError::DataDisks { why })
}

async fn serve(listener: TcpListener, world: Arc<World>) {
    let ended = world.ended();
    if let Err(error) = axum::serve(listener, server::router(world))
        .with_graceful_shutdown(ended)
        .await
    {
        tracing::error!(%error, "the sim's server ended");
    }
}

/// Ends everything that lives outside this process. Safe to call again.
fn close(world: &World) {
    world.closed.send_replace(true);
    let machines: Vec<Arc<Machine>> = {
        let state = world.state();
        let gpus = state.vast.instances.values().map(|gpu| Arc::clone(&gpu.machine));
        let vms = state.compute.instances.values().map(|vm| Arc::clone(&vm.machine));
        let agent = state.vast.host_agent.iter().map(|agent| Arc::clone(&agent.machine));
        gpus.chain(vms).chain(agent).collect()
    };
    for machine in machines {
        machine.retire();
    }
    let watchdog = world.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(mut watchdog) = watchdog {
        // Its input closes and it sweeps once more, for what a step in flight may have started just now.
        drop(watchdog.stdin.take());
        let _ = watchdog.wait();
    }
    drop(world.temporary.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn open_directory(options: &Options) -> Result<(PathBuf, Option<tempfile::TempDir>), StartError> {
    let refused = |path: &Path, why: String| StartError::Directory {
        path: path.to_owned(),
        why,
    };
    let (path, temporary) = match &options.dir {
        Some(path) => (path.clone(), None),
        None => {
            let made = tempfile::Builder::new().prefix("simcloud-").tempdir();
            let made = made.map_err(|error| refused(&std::env::temp_dir(), error.to_string()))?;
            (made.path().to_owned(), Some(made))
        }
    };
    std::fs::create_dir_all(path.join("machines")).map_err(|error| refused(&path, error.to_string()))?;
    let path = path.canonicalize().map_err(|error| refused(&path, error.to_string()))?;
    // The path stands in sshd's configuration and in session scripts, where other characters would need quoting.
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-');
    if !path.to_str().is_some_and(|text| text.chars().all(plain)) {
        return Err(refused(&path, "its path has unusual characters".to_owned()));
    }
    Ok((path, temporary))
}
