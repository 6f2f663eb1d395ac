//! The `warmspare` command.

use std::process::ExitCode;

use clap::Parser;

use warmspare::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    warmspare::run(Cli::parse()).await
}
