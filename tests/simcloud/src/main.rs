//! `simcloud`: a simulated Vast.ai and Compute Engine on one port, until it is told to end.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use simcloud::{DataDisks, Options, RateLimits, Simcloud};

/// Simulated Vast.ai and Google Compute Engine with real machines on loopback.
#[derive(Debug, Parser)]
struct Arguments {
    /// Directory for machines and disks; a temporary one without it.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// TCP port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Factor on every simulated duration: 1 is as measured live.
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// SSH port of every standby; a free one without it.
    #[arg(long)]
    standby_ssh_port: Option<u16>,
    /// Enforce Vast's published call limits.
    #[arg(long)]
    enforce_rate_limits: bool,
    /// Data disks are btrfs file systems of their size on loop devices (as root).
    #[arg(long)]
    btrfs_disks: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let options = Options {
        dir: arguments.dir,
        port: arguments.port,
        time_scale: arguments.time_scale,
        standby_ssh_port: arguments.standby_ssh_port,
        rate_limits: if arguments.enforce_rate_limits {
            RateLimits::WithRetryAfter
        } else {
            RateLimits::Off
        },
        data_disks: if arguments.btrfs_disks {
            DataDisks::Btrfs
        } else {
            DataDisks::Directories
        },
        ..Options::default()
    };
    let sim = match Simcloud::start(options).await {
        Ok(sim) => sim,
        Err(error) => {
            let mut cause: Option<&dyn std::error::Error> = Some(&error);
            while let Some(one) = cause {
                eprintln!("simcloud: {one}");
                cause = one.source();
            }
            return ExitCode::FAILURE;
        }
    };
    let key_file = sim.root().join("service-account.json");
    if let Err(error) = sim.write_service_account(&key_file) {
        eprintln!("simcloud: no service-account file: {error}");
    }
    announce(&sim, &key_file);
    wait_for_end().await;
    sim.shutdown().await;
    ExitCode::SUCCESS
}

/// Prints what a client needs, as lines a shell can read.
fn announce(sim: &Simcloud, key_file: &std::path::Path) {
    let options = sim.options();
    println!("VAST_URL={}", sim.vast_url());
    println!("VAST_API_KEY={}", options.vast_api_key);
    println!("SIM_COMPUTE_URL={}", sim.compute_url());
    println!("SIM_COMPUTE_TOKEN={}", options.compute_token);
    println!("GOOGLE_APPLICATION_CREDENTIALS={}", key_file.display());
    println!("SIM_PROJECT={}", options.project);
    println!("SIM_BILLING_URL={}", sim.billing_url());
    println!("SIM_STORAGE_URL={}", sim.base_url());
    println!("SIM_BUCKET={}", options.bucket);
    println!("SIM_STANDBY_SSH_PORT={}", sim.standby_ssh_port());
    println!("SIM_LOGIN_USER={}", sim.login_user());
    println!("SIM_CONTROL={}/sim/state", sim.base_url());
    println!("SIM_ROOT={}", sim.root().display());
}

async fn wait_for_end() {
    let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    match terminate {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}
