//! `warmspare webhook`: Vast's notifications, from the account to our door.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use secrecy::{ExposeSecret, SecretString};
use warmspare_platform::adapters::vast::{VastGpus, VastSettings, Webhook as Registered};
use warmspare_platform::handlers::vast_webhook;

/// The name that Vast's console shows.
const NAME: &str = "warmspare";

/// Where the notifications go below our address.
const PATH: &str = "/webhooks/vast";

/// Make Vast's webhook, have it tested, or change its secret.
#[derive(Debug, Args)]
pub(crate) struct Webhook {
    #[command(subcommand)]
    verb: Verb,
    /// The Vast account's key.
    #[arg(long, env = "WARMSPARE_VAST_API_KEY_FILE", global = true, value_name = "FILE")]
    vast_api_key_file: Option<PathBuf>,
    /// Vast's address.
    #[arg(long, env = "WARMSPARE_VAST_URL", global = true, hide = true)]
    vast_url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the webhook and keep its secret, which Vast shows only once.
    Install(Target),
    /// Have Vast send its signed test, and say whether it was taken.
    Test(Address),
    /// Replace the secret; until the new one is in place, notifications are refused and sent again.
    Rotate(Target),
}

#[derive(Debug, Args)]
struct Address {
    /// Where `warmspare serve`, or the function `vast_webhook`, answers: https://…
    #[arg(long)]
    url: String,
}

#[derive(Debug, Args)]
struct Target {
    #[command(flatten)]
    address: Address,
    /// The file that the secret is written to, for the setting `webhook_secret_file`.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
}

impl Webhook {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        let key = match &self.vast_api_key_file {
            Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => std::env::var("WARMSPARE_VAST_API_KEY")
                .context("there is no key for Vast: give --vast-api-key-file, or set WARMSPARE_VAST_API_KEY")?,
        };
        let mut settings = VastSettings::new(SecretString::from(key.trim()));
        if let Some(url) = self.vast_url {
            settings.base_url = url;
        }
        let vast = VastGpus::new(settings)?;
        match self.verb {
            Verb::Install(target) => install(&vast, &target).await,
            Verb::Test(address) => test(&vast, &door(&address.url)?).await,
            Verb::Rotate(target) => rotate(&vast, &target).await,
        }
    }
}

async fn install(vast: &VastGpus, target: &Target) -> anyhow::Result<ExitCode> {
    let url = door(&target.address.url)?;
    if let Some(known) = registered(vast, &url).await? {
        bail!(
            "webhook {} posts to {url} already, and Vast does not show its secret again; nothing was changed. Replace the secret with: warmspare webhook rotate",
            known.id
        );
    }
    // First the place for it: a secret that cannot be kept is lost.
    let mut place = SecretFile::open(&target.secret_file)?;
    let made = vast.create_webhook(NAME, &url, vast_webhook::EVENTS).await?;
    place.keep(&made.secret)?;
    eprintln!(
        "webhook {} posts {} kinds of notification to {url}",
        made.webhook.id,
        made.webhook.event_types.len()
    );
    say_where(&target.secret_file);
    Ok(ExitCode::SUCCESS)
}

async fn test(vast: &VastGpus, url: &str) -> anyhow::Result<ExitCode> {
    let known = ours(vast, url).await?;
    vast.test_webhook(known.id).await.with_context(|| {
        format!("Vast's signed test did not arrive at {url}. Is it reachable from the internet, and does it have this webhook's secret?")
    })?;
    eprintln!("Vast's signed test arrived at {url} and was taken");
    Ok(ExitCode::SUCCESS)
}

async fn rotate(vast: &VastGpus, target: &Target) -> anyhow::Result<ExitCode> {
    let known = ours(vast, &door(&target.address.url)?).await?;
    let mut place = SecretFile::open(&target.secret_file)?;
    let changed = vast.rotate_webhook_secret(known.id).await?;
    place.keep(&changed.secret)?;
    eprintln!("webhook {} has a new secret", known.id);
    say_where(&target.secret_file);
    Ok(ExitCode::SUCCESS)
}

async fn ours(vast: &VastGpus, url: &str) -> anyhow::Result<Registered> {
    let known = registered(vast, url).await?;
    known.with_context(|| {
        format!("no webhook of this Vast account posts to {url}; make one with: warmspare webhook install")
    })
}

async fn registered(vast: &VastGpus, url: &str) -> anyhow::Result<Option<Registered>> {
    let webhooks = vast
        .webhooks()
        .await
        .context("Vast did not list the account's webhooks; nothing was changed")?;
    Ok(webhooks.into_iter().find(|one| one.url == url))
}

/// The address of the notifications. A base address is enough.
fn door(url: &str) -> anyhow::Result<String> {
    let base = url.trim_end_matches('/');
    if !base.starts_with("https://") && !base.starts_with("http://127.") {
        bail!("`{url}` is not an https:// address: Vast posts to nothing else");
    }
    Ok(if base.ends_with(PATH) {
        base.to_owned()
    } else {
        format!("{base}{PATH}")
    })
}

fn say_where(file: &Path) {
    eprintln!(
        "Its secret is in {file}. Put it where it is checked: setting webhook_secret_file = \"{file}\" for `warmspare serve`, or for the functions\n  aws ssm put-parameter --type SecureString --overwrite --name /warmspare/<deployment>/webhook_secret --value file://{file}",
        file = file.display()
    );
}

/// A file for a secret, made beside the one it replaces, so that there is always an old or a new one.
struct SecretFile {
    file: std::fs::File,
    fresh: PathBuf,
    path: PathBuf,
}

impl SecretFile {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .with_context(|| format!("cannot write {}; nothing was changed at Vast", fresh.display()))?;
        Ok(Self {
            file,
            fresh,
            path: path.to_owned(),
        })
    }

    fn keep(&mut self, secret: &SecretString) -> anyhow::Result<()> {
        let written = self
            .file
            .write_all(secret.expose_secret().as_bytes())
            .and_then(|()| self.file.sync_all())
            .and_then(|()| std::fs::rename(&self.fresh, &self.path));
        written.with_context(|| {
            format!(
                "the secret could not be kept in {}; make another one with: warmspare webhook rotate",
                self.path.display()
            )
        })
    }
}
