//! Calls the API of a running `warmspare serve` or of the deployed functions.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::settings::default_state_dir;

/// The one call that waits for Vast's whole listing: 25 rows a second, ten minutes for a fleet.
pub(crate) const REBUILD: &str = "/v1/rebuild";

const USUAL: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(610);

/// Where the API is.
#[derive(Debug, Clone, Args)]
pub(crate) struct Api {
    /// Address of the API; without it WARMSPARE_URL, or else http://127.0.0.1:8787.
    // Not clap's `env`: what comes from there would stand in every usage line.
    #[arg(long, global = true, value_parser = base_url, help_heading = HEADING)]
    url: Option<String>,
    /// Print JSON instead of words.
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
}

const HEADING: &str = "Options of every verb that asks the API";

/// Where `warmspare serve` listens unless it is told otherwise.
const LOCAL: &str = "http://127.0.0.1:8787";

impl Api {
    /// The API at this address.
    pub(crate) fn at(url: String) -> Self {
        Self {
            url: Some(url),
            json: false,
        }
    }

    fn url(&self) -> anyhow::Result<String> {
        let from_environment = || std::env::var("WARMSPARE_URL").ok().filter(|url| !url.is_empty());
        match (&self.url, from_environment()) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(url)) => base_url(&url).map_err(|fix| anyhow!("WARMSPARE_URL cannot be used: {fix}")),
            (None, None) => Ok(LOCAL.to_owned()),
        }
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(reqwest::Method::GET, path, None::<&()>).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.send(reqwest::Method::POST, path, Some(body)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.send(reqwest::Method::PATCH, path, Some(body)).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> anyhow::Result<T> {
        let (base, token) = (self.url()?, token()?);
        let url = format!("{}{path}", base.trim_end_matches('/'));
        let mut request = reqwest::Client::new()
            .request(method, &url)
            .bearer_auth(&token.text)
            .timeout(if path == REBUILD { LONG } else { USUAL });
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|error| {
            anyhow!(
                "cannot reach {}: {}. Is `warmspare serve` running there? Set WARMSPARE_URL for another address",
                base,
                root_cause(&error)
            )
        })?;
        let status = answer.status();
        let text = answer.text().await.context("the answer broke off")?;
        if !status.is_success() {
            let message = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|value| value["error"]["message"].as_str().map(ToOwned::to_owned));
            let message = message.unwrap_or_else(|| format!("{url} answered {status}; it is not the warmspare API"));
            if status == reqwest::StatusCode::SERVICE_UNAVAILABLE {
                return Err(NotNow(message).into());
            }
            if status == reqwest::StatusCode::UNAUTHORIZED {
                bail!("{message} (the one in {})", token.source);
            }
            bail!("{message}");
        }
        serde_json::from_str(&text).with_context(|| format!("{url} did not answer as the warmspare API does"))
    }
}

/// The address of an API as a person gives it.
pub(crate) fn base_url(text: &str) -> Result<String, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(text.to_owned()),
        Err(error) if text.contains("://") => Err(error.to_string()),
        Ok(_) | Err(_) => Err("it needs http:// or https:// in front, as in http://127.0.0.1:8787".to_owned()),
    }
}

/// The API says that it may work in a moment.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotNow(String);

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The token from the environment, or the one that `serve` left for the person who runs it.
fn token() -> anyhow::Result<Token> {
    if let Some(text) = std::env::var("WARMSPARE_TOKEN").ok().filter(|token| !token.is_empty()) {
        let source = "WARMSPARE_TOKEN".to_owned();
        return Ok(Token { text, source });
    }
    let path = default_state_dir().join("token");
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "no API token: set WARMSPARE_TOKEN (no token file at {}, where `warmspare serve` leaves one)",
            path.display()
        )
    })?;
    Ok(Token {
        text: text.trim().to_owned(),
        source: path.display().to_string(),
    })
}

/// A token, and where it was found.
struct Token {
    text: String,
    source: String,
}

/// Prints a value as JSON for programs.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::base_url;

    #[test]
    fn an_address_without_its_protocol_is_told_what_it_lacks() {
        for bad in [
            "127.0.0.1:8797",
            "localhost:8797",
            "example.com",
            "ftp://example.com",
            "",
        ] {
            let said = base_url(bad).unwrap_err();
            assert!(said.contains("http:// or https://"), "{bad}: {said}");
        }
        assert!(base_url("http://").unwrap_err().contains("host"));
        for good in ["http://127.0.0.1:8797", "https://x.lambda-url.us-east-1.on.aws/"] {
            assert_eq!(base_url(good).unwrap(), good);
        }
    }
}
