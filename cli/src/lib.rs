//! The `warmspare` command: `serve` is the local process, `demo` plays the whole story, every other verb calls the API.
//!
//! Data goes to standard output, words to standard error. Exit codes: 0 done, 1 failed, 2 usage, 3 halted.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

// First, because its macros reach only what follows.
#[macro_use]
mod output;

mod client;
#[cfg(feature = "demo")]
pub mod demo;
mod serve;
mod settings;
mod stop;
mod verbs;

const AFTER_HELP: &str = "\
Verbs about GPUs ask a running `warmspare serve`, or the functions on AWS: at
WARMSPARE_URL (or http://127.0.0.1:8787), with the token in WARMSPARE_TOKEN
(or the one that `serve` left for you).

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 copying is halted and
wants a decision.";

/// Keeps a cheap CPU standby for every rented GPU, so that losing the GPU loses nothing.
#[derive(Debug, Parser)]
#[command(name = "warmspare", version, max_term_width = 100, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run everything in this process: hooks, webhooks, API, status page, and a beat every 30 s.
    Serve(serve::Serve),
    /// Play the whole story on this machine: rent, protect, lose, restore, destroy. No account is needed.
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    /// Write like training until killed; the demo runs it on its GPUs.
    #[cfg(feature = "demo")]
    #[command(hide = true)]
    Workload(demo::workload::Workload),
    /// List every setting with its default and its environment variable.
    Settings,
    /// Make an API token; only its hash goes into the settings.
    Token(verbs::token::Token),
    /// Check everything that a deployment needs, and say what to do about what is missing.
    Doctor(verbs::doctor::Doctor),
    /// Make Vast's webhook, have it tested, or change its secret.
    Webhook(verbs::webhook::Webhook),
    /// List what is protected.
    List(verbs::list::List),
    /// List GPUs and standbys as their providers see them, beside our records.
    Machines(verbs::machines::Machines),
    /// Show one GPU's association: phase, health, lag, history.
    Show(verbs::show::Show),
    /// Say what the next beat would do for one GPU, and do nothing.
    Plan(verbs::plan::Plan),
    /// Make a standby for a GPU.
    Protect(verbs::protect::Protect),
    /// Change the rules of one GPU.
    Configure(verbs::configure::Configure),
    /// Switch copying on or off, or accept the GPU as it is after a halt.
    Sync(verbs::sync::Sync),
    /// Report a GPU as lost; the standby keeps the data.
    Fail(verbs::fail::Fail),
    /// Restore the data onto another GPU, or put one path back onto the GPU that runs.
    Restore(verbs::restore::Restore),
    /// List what can be restored.
    Points(verbs::points::Points),
    /// Download a recovery point, straight from the standby.
    Download(verbs::download::Download),
    /// Let the standby go: its disk and every recovery point are deleted.
    Release(verbs::release::Release),
    /// Make lost records anew from the standbys. Deletes nothing.
    Rebuild(verbs::rebuild::Rebuild),
    /// Say what protecting a GPU costs.
    Estimate(verbs::estimate::Estimate),
}

/// Runs a verb; words about failures go to standard error.
pub async fn run(cli: Cli) -> ExitCode {
    let outcome = match cli.verb {
        Verb::Serve(serve) => serve.run().await,
        #[cfg(feature = "demo")]
        Verb::Demo(demo) => demo.run().await,
        #[cfg(feature = "demo")]
        Verb::Workload(workload) => workload.run(),
        Verb::Settings => settings::print_list(),
        Verb::Token(token) => token.run(),
        Verb::Doctor(doctor) => doctor.run().await,
        Verb::Webhook(webhook) => webhook.run().await,
        Verb::List(list) => list.run().await,
        Verb::Machines(machines) => machines.run().await,
        Verb::Show(show) => show.run().await,
        Verb::Plan(plan) => plan.run().await,
        Verb::Protect(protect) => protect.run().await,
        Verb::Configure(configure) => configure.run().await,
        Verb::Sync(sync) => sync.run().await,
        Verb::Fail(fail) => fail.run().await,
        Verb::Restore(restore) => restore.run().await,
        Verb::Points(points) => points.run().await,
        Verb::Download(download) => download.run().await,
        Verb::Release(release) => release.run().await,
        Verb::Rebuild(rebuild) => rebuild.run().await,
        Verb::Estimate(estimate) => estimate.run().await,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("warmspare: {error:#}");
            ExitCode::from(1)
        }
    }
}

/// The exit code of a verb that found copying halted.
const HALTED: u8 = 3;
