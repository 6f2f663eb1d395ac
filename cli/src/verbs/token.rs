//! `warmspare token`

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use warmspare_platform::config::token_hash;

/// Make an API token; only its hash goes into the settings.
#[derive(Debug, Args)]
pub(crate) struct Token {
    /// What it may do.
    #[arg(long, value_enum, default_value = "operate")]
    scope: TokenScope,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenScope {
    /// Look.
    Read,
    /// Look and act.
    Operate,
}

impl Token {
    #[allow(clippy::unnecessary_wraps, reason = "every verb answers alike")]
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let token = new_token();
        let scope = match self.scope {
            TokenScope::Read => "read",
            TokenScope::Operate => "operate",
        };
        eprintln!(
            "Give the token to the caller (WARMSPARE_TOKEN) and the line below it to the settings (api_tokens); the token is not kept."
        );
        println!("{token}\n{scope}:{}", token_hash(&token));
        Ok(ExitCode::SUCCESS)
    }
}

/// A token of 256 random bits.
pub(crate) fn new_token() -> String {
    format!("ws_{}", hex::encode(rand::random::<[u8; 32]>()))
}
