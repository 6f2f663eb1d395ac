//! The command line of the agent.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use warmspare_agent::data_dir::DataDir;
use warmspare_agent::error::AgentError;
use warmspare_agent::terminal::{self, Format};
use warmspare_agent::watch::relay;
use warmspare_agent::{call, download, process, put_back, put_in, rescue, restore, survey, sync, unpack, watch};
use warmspare_domain::ids::{CheckpointName, Epoch, PathBelow, RecoveryPointId};
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{Compare, Existing, Host, Live, PointChoice, PutBack, Request, Restore, Sync, Urgency};

/// Keeps a GPU's files on a standby: pulls them, keeps recovery points, restores and verifies them.
#[derive(Parser)]
#[command(name = "warmspare-agent", version)]
struct Cli {
    /// The agent's directory.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/warmspare", global = true)]
    data: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Reads one call as JSON on standard input and prints one answer.
    Call,
    /// Runs a pass, or waits for the one under way.
    Sync {
        /// A pass under way is not enough: start one more after it.
        #[arg(long)]
        last_gasp: bool,
        /// How long to wait for the end.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        wait: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Says how the standby stands.
    Status(Output),
    /// Lists the recovery points, oldest first.
    RecoveryPoints(Output),
    /// Lists what changed between two recovery points.
    Compare {
        /// The older one.
        from: RecoveryPointId,
        /// The newer one, or the name of a checkpoint; the latest unless given.
        to: Option<PointChoice>,
        /// How many changes to list.
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        at_most: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Pushes a recovery point to a host and verifies it there; again to resume.
    Restore {
        #[command(flatten)]
        target: Target,
        /// The directory there.
        #[arg(long, value_name = "PATH")]
        path: String,
        #[command(flatten)]
        which: Which,
        /// The epoch that the host will have; the next one unless given.
        #[arg(long, value_name = "NUMBER", value_parser = read_epoch)]
        epoch: Option<Epoch>,
        /// How long to wait for the end.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        wait: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Puts one path of a recovery point back onto the bound GPU.
    PutBack {
        /// A file or directory, below the directory that is copied.
        path: PathBelow,
        /// The recovery point, by its id or the name of a checkpoint; the newest that has the path unless given.
        #[arg(long, value_name = "ID|NAME")]
        point: Option<PointChoice>,
        /// What is there and differs makes room, and is moved below .warmspare/replaced/.
        #[arg(long)]
        replace: bool,
        /// How long to wait for the end.
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        wait: u64,
        #[command(flatten)]
        output: Output,
    },
    /// Compares a recovery point with a host, every byte; with the bound GPU unless another is named.
    Verify {
        /// The host, as user@address:port.
        #[arg(long, value_name = "HOST", value_parser = read_host)]
        host: Option<Host>,
        /// The directory there.
        #[arg(long, value_name = "PATH")]
        path: Option<String>,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        output: Output,
    },
    /// On a GPU, in a training script: has the standby keep these files, or the whole tree, as they are now, under a name.
    Checkpoint {
        /// Its name, to ask for it when restoring; one that is given again means the newest.
        name: CheckpointName,
        /// Its files; directories with all that is in them; none for the whole tree.
        paths: Vec<PathBuf>,
        /// The directory that is copied; found from the first path, or from here, unless given.
        #[arg(long, value_name = "DIR")]
        tree: Option<PathBuf>,
        /// Wait until the standby has it, at most so long.
        #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "300", require_equals = true)]
        wait: Option<u64>,
    },
    /// On a GPU: remembers which paths of a tree change, for the standby that asks. The standby starts it by itself.
    #[command(name = watch::WATCH)]
    Watch {
        /// The tree.
        tree: PathBuf,
        /// Start it in the background.
        #[arg(long)]
        detach: bool,
    },
    #[command(name = relay::RELAY, hide = true)]
    WatchRelay { tree: PathBuf },
    #[command(name = sync::VERB, hide = true)]
    PassWorker,
    #[command(name = rescue::VERB, hide = true)]
    RescueWorker,
    #[command(name = put_back::VERB, hide = true)]
    PutBackWorker,
    #[command(name = restore::VERB, hide = true)]
    RestoreWorker,
    #[command(name = survey::LIST, hide = true)]
    RestoreSurvey,
    #[command(name = put_in::PUT_IN, hide = true)]
    PutIn,
    #[command(name = unpack::UNPACK, hide = true)]
    RestoreUnpack,
    #[command(name = process::TIED, hide = true)]
    Tied {
        parent: u32,
        program: OsString,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    #[command(name = download::SERVE, hide = true)]
    ServeDownload { what: PointChoice, until: Timestamp },
}

#[derive(Args)]
struct Output {
    /// Print one JSON answer instead of words.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Which {
    /// The recovery point, by its id or the name of a checkpoint; the latest unless given.
    #[arg(long = "point", value_name = "ID|NAME")]
    point: Option<PointChoice>,
}

#[derive(Args)]
struct Target {
    /// The host, as user@address:port.
    #[arg(long = "to", value_name = "HOST", value_parser = read_host)]
    host: Host,
}

fn main() -> ExitCode {
    let Cli { data, verb } = Cli::parse();
    // Workers change directory; a relative name must keep its meaning.
    run(absolute(data), verb)
}

fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn done(what: &str, outcome: io::Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(data: PathBuf, verb: Verb) -> ExitCode {
    match verb {
        Verb::Call => answer_call(&data),
        Verb::Sync {
            last_gasp,
            wait,
            output,
        } => {
            let request = Request::Sync(Sync {
                epoch: terminal::bound_epoch(&data),
                urgency: if last_gasp { Urgency::LastGasp } else { Urgency::Due },
                wait_ms: wait.saturating_mul(1000),
                live: Live::Off,
            });
            terminal::show(&data, &request, output.format()).into()
        }
        Verb::Status(output) => terminal::show(&data, &Request::Status, output.format()).into(),
        Verb::RecoveryPoints(output) => terminal::show(&data, &Request::RecoveryPoints, output.format()).into(),
        Verb::Compare {
            from,
            to,
            at_most,
            output,
        } => {
            let to = to.unwrap_or(PointChoice::Latest);
            let request = Request::Compare(Compare { from, to, at_most });
            terminal::show(&data, &request, output.format()).into()
        }
        Verb::Restore {
            target,
            path,
            which,
            epoch,
            wait,
            output,
        } => {
            let next = || terminal::bound_epoch(&data).next();
            let request = Request::Restore(Restore {
                epoch: epoch.unwrap_or_else(next),
                point: which.choice(),
                target: target.host,
                target_path: path,
                first: vec![],
                wait_ms: wait.saturating_mul(1000),
                gpu: None,
            });
            terminal::show(&data, &request, output.format()).into()
        }
        Verb::PutBack {
            path,
            point,
            replace,
            wait,
            output,
        } => {
            let request = Request::PutBack(PutBack {
                epoch: terminal::bound_epoch(&data),
                path,
                point,
                existing: if replace { Existing::Replace } else { Existing::Keep },
                wait_ms: wait.saturating_mul(1000),
            });
            terminal::show(&data, &request, output.format()).into()
        }
        Verb::Verify {
            host,
            path,
            which,
            output,
        } => {
            let (host, path) = (host.as_ref(), path.as_deref());
            terminal::verify(&data, &which.choice(), host, path, output.format()).into()
        }
        Verb::Checkpoint {
            name,
            paths,
            tree,
            wait,
        } => terminal::checkpoint(tree.as_deref(), &name, &paths, wait.map(Duration::from_secs)).into(),
        Verb::Watch { tree, detach: true } => done("watch", relay::detach(&absolute(tree))),
        Verb::Watch { tree, detach: false } => done("watch", watch::watch(&absolute(tree))),
        Verb::WatchRelay { tree } => done("watch", relay::relay(&tree)),
        Verb::PassWorker => worker(&data, sync::work),
        Verb::RescueWorker => worker(&data, rescue::work),
        Verb::PutBackWorker => worker(&data, put_back::work),
        Verb::RestoreWorker => worker(&data, restore::work),
        Verb::RestoreSurvey => done("list", survey::list(Path::new("."), io::stdout().lock())),
        Verb::RestoreUnpack => unpack_here(),
        Verb::PutIn => done("put it in its place", put_in_here()),
        Verb::Tied {
            parent,
            program,
            arguments,
        } => {
            let error = process::become_tied(parent, &program, &arguments);
            eprintln!("cannot start {}: {error}", program.display());
            let missing = error.kind() == io::ErrorKind::NotFound;
            ExitCode::from(if missing {
                process::NOT_INSTALLED
            } else {
                process::NOT_STARTED
            })
        }
        Verb::ServeDownload { what, until } => {
            let refusal = DataDir::open(&data).map(|dir| download::serve(&dir, &what, until));
            eprintln!("{}", refusal.unwrap_or_else(|error| error.message()));
            ExitCode::FAILURE
        }
    }
}

fn unpack_here() -> ExitCode {
    let from = io::BufReader::with_capacity(256 << 10, io::stdin().lock());
    match unpack::unpack(Path::new("."), from) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(number) => {
            eprintln!("something was in the way of {number} entries");
            ExitCode::from(unpack::IN_THE_WAY)
        }
        Err(error) => done("unpack", Err(error)),
    }
}

fn put_in_here() -> io::Result<()> {
    let order = serde_json::from_reader(io::stdin().lock())?;
    let placed = put_in::put_in(Path::new("."), &order)?;
    serde_json::to_writer(io::stdout().lock(), &placed)?;
    Ok(())
}

fn answer_call(data: &Path) -> ExitCode {
    let answer = call::answer_from(data, io::stdin().lock());
    let printed = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|bytes| {
        io::stdout()
            .lock()
            .write_all(&bytes)
            .and_then(|()| io::stdout().lock().write_all(b"\n"))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn worker(data: &Path, work: fn(&DataDir) -> Result<(), AgentError>) -> ExitCode {
    match DataDir::open(data).and_then(|dir| work(&dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.message());
            ExitCode::FAILURE
        }
    }
}

fn read_host(text: &str) -> Result<Host, String> {
    let wrong = || "write it as user@address:port".to_owned();
    let (user, rest) = text.split_once('@').ok_or_else(wrong)?;
    let (address, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    Ok(Host {
        address: address.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().map_err(|_| wrong())?,
        user: user.to_owned(),
    })
}

fn read_epoch(text: &str) -> Result<Epoch, serde_json::Error> {
    serde_json::from_str(text)
}

impl Output {
    fn format(&self) -> Format {
        if self.json { Format::Json } else { Format::Words }
    }
}

impl Which {
    fn choice(&self) -> PointChoice {
        self.point.clone().unwrap_or(PointChoice::Latest)
    }
}
