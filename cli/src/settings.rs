//! Where settings come from: the environment over a TOML file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use warmspare_platform::config::{Config, ConfigError, SETTINGS, environment_name};

/// What the verbs that call the API read from the environment; not settings of the process.
pub(crate) const CLIENT_VARIABLES: [&str; 2] = ["WARMSPARE_URL", "WARMSPARE_TOKEN"];

/// Reads the settings, all problems reported together.
pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Config> {
    let mut settings = match file {
        Some(path) => read_file(path)?,
        None => BTreeMap::new(),
    };
    for (name, value) in std::env::vars() {
        if let Some(setting) = name.strip_prefix("WARMSPARE_")
            && !CLIENT_VARIABLES.contains(&name.as_str())
        {
            settings.insert(setting.to_lowercase(), value);
        }
    }
    // Google's own clients look there, so people expect it.
    if let Ok(path) = std::env::var("GOOGLE_APPLICATION_CREDENTIALS") {
        settings.entry("gcp_credentials".to_owned()).or_insert(path);
    }
    settings
        .entry("state_dir".to_owned())
        .or_insert_with(|| default_state_dir().display().to_string());
    Config::from_settings(&settings).map_err(|error: ConfigError| anyhow::anyhow!("{error}"))
}

fn read_file(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read the settings file {}", path.display()))?;
    let table: toml::Table = text
        .parse()
        .with_context(|| format!("{} is not TOML", path.display()))?;
    let mut settings = BTreeMap::new();
    for (name, value) in table {
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            toml::Value::Float(number) => number.to_string(),
            toml::Value::Boolean(word) => word.to_string(),
            toml::Value::Array(items) => {
                let texts: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
                texts
                    .with_context(|| format!("{name} in {} must be a list of texts", path.display()))?
                    .join("\n")
            }
            toml::Value::Datetime(_) | toml::Value::Table(_) => {
                bail!(
                    "{name} in {} must be a text, a number, true or false, or a list of texts",
                    path.display()
                )
            }
        };
        settings.insert(name, text);
    }
    Ok(settings)
}

/// `$XDG_STATE_HOME/warmspare`, `~/.local/state/warmspare`, or a directory here when there is no home.
pub(crate) fn default_state_dir() -> PathBuf {
    let set = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let base = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")));
    base.map_or_else(|| PathBuf::from("warmspare-state"), |base| base.join("warmspare"))
}

/// Prints every setting.
pub(crate) fn print_list() -> anyhow::Result<ExitCode> {
    println!(
        "A setting comes from the environment, or from the TOML file that `serve --config FILE` names. Secrets may be given as NAME_file.\n"
    );
    for setting in SETTINGS {
        println!(
            "{:<28} default {:<26} {}",
            setting.name, setting.default, setting.meaning
        );
        println!("{:<28} {}", "", environment_name(setting.name));
    }
    Ok(ExitCode::SUCCESS)
}
