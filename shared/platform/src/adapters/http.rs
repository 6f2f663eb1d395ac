//! What the providers' clients share: one HTTP client with limits, answers as text, and words that are safe to repeat.

use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};

use crate::ports::ProviderError;
use crate::report;

/// 5 s: a provider's front end that takes longer to accept a connection is not reachable in any useful sense.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The largest answer read. A page of 500 instances is well below 4 MiB.
const BODY_LIMIT: usize = 16 << 20;
/// How many characters of a provider's words a message repeats.
const WORDS_LIMIT: usize = 300;
/// A secret shorter than this is not searched for in answers: it would be found in ordinary words.
const SHORTEST_SECRET: usize = 8;

/// A client of one provider.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client,
    base: Url,
}

/// No complete answer came: what happened instead, without secrets.
#[derive(Debug, Clone)]
pub(crate) struct NoAnswer(pub(crate) String);

/// What came back, whatever its status.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// `Retry-After`, when it is a number of seconds.
    pub(crate) retry_after: Option<Duration>,
    /// The body, with the secret of the request blotted out.
    pub(crate) body: String,
}

impl Http {
    /// A client that follows no redirects, because they could carry the secret elsewhere.
    ///
    /// # Errors
    /// [`ProviderError::Invalid`] when `base` is not an `https` address; `http` is allowed to this machine only.
    pub(crate) fn new(provider: &'static str, base: &str, limit: Duration) -> Result<Self, ProviderError> {
        let base = base_url(provider, base)?;
        let mut builder = Client::builder()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_LIMIT)
            .timeout(limit)
            .user_agent(concat!("warmspare/", env!("CARGO_PKG_VERSION")));
        if is_loopback(&base) {
            // A proxy of the environment cannot reach this machine's loopback.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| ProviderError::Invalid {
            detail: format!("the HTTP client for {provider} cannot be set up: {}", chain(&error)),
        })?;
        Ok(Self { client, base })
    }

    /// Puts the requests below this path, unless the base address names a path itself.
    #[cfg(feature = "compute")]
    pub(crate) fn below(mut self, path: &str) -> Self {
        if self.base.path() == "/" {
            self.base.set_path(path);
        }
        self
    }

    /// Starts a request to the path below the base address. Every segment is percent-encoded.
    pub(crate) fn request(&self, method: Method, segments: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        self.client.request(method, url)
    }

    /// Sends it with the secret as bearer token.
    ///
    /// # Errors
    /// When no complete answer came; the request may have had its effect.
    pub(crate) async fn send(&self, request: RequestBuilder, secret: &SecretString) -> Result<Answer, NoAnswer> {
        let lost = |error: reqwest::Error| NoAnswer(chain(&error.without_url()));
        let response = request.bearer_auth(secret.expose_secret()).send().await.map_err(lost)?;
        let status = response.status().as_u16();
        let retry_after = retry_after(&response);
        let body = read(response).await?;
        Ok(Answer {
            status,
            retry_after,
            body: blot(body, secret),
        })
    }
}

impl Http {
    /// Reads a link that a provider handed out: it carries its own permission, so the secret is not sent.
    ///
    /// # Errors
    /// When no complete answer came, or the link is neither `https` nor on this machine.
    #[cfg(feature = "vast")]
    pub(crate) async fn fetch(&self, link: &str) -> Result<Answer, NoAnswer> {
        let url = base_url("the linked text", link).map_err(|error| NoAnswer(error.to_string()))?;
        let lost = |error: reqwest::Error| NoAnswer(chain(&error.without_url()));
        let response = self.client.get(url).send().await.map_err(lost)?;
        Ok(Answer {
            status: response.status().as_u16(),
            retry_after: retry_after(&response),
            body: read(response).await?,
        })
    }
}

async fn read(mut response: Response) -> Result<String, NoAnswer> {
    let mut bytes = Vec::new();
    loop {
        let chunk = response.chunk().await;
        match chunk.map_err(|error| NoAnswer(chain(&error.without_url())))? {
            Some(chunk) if bytes.len() + chunk.len() > BODY_LIMIT => {
                return Err(NoAnswer("the answer is longer than any real one".to_owned()));
            }
            Some(chunk) => bytes.extend_from_slice(&chunk),
            None => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
}

/// A provider's words, cut and without control characters, fit for a message or a log.
pub(crate) fn words(text: &str) -> String {
    let mut kept: String = text
        .trim()
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(WORDS_LIMIT)
        .collect();
    if text.trim().chars().count() > WORDS_LIMIT {
        kept.push('…');
    }
    kept
}

/// An error with its causes: what the HTTP client says by itself is only `error sending request`.
fn chain(error: &reqwest::Error) -> String {
    words(&report::chain(error))
}

fn base_url(provider: &str, text: &str) -> Result<Url, ProviderError> {
    let invalid = |why: &str| ProviderError::Invalid {
        detail: format!("the address of {provider} `{}` {why}", words(text)),
    };
    let url = Url::parse(text).map_err(|_| invalid("is not a URL; write it as https://host/"))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err(invalid(
            "would send the credentials unencrypted; use https:// (http:// is for this machine only)",
        )),
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

fn retry_after(response: &Response) -> Option<Duration> {
    let text = response.headers().get("retry-after")?.to_str().ok()?;
    seconds(text.trim().parse().ok()?)
}

/// A provider's number of seconds as a duration; `None` when it is no such thing.
pub(crate) fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

fn blot(body: String, secret: &SecretString) -> String {
    let secret = secret.expose_secret();
    if secret.len() >= SHORTEST_SECRET && body.contains(secret) {
        body.replace(secret, "[secret]")
    } else {
        body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(2);

    #[test]
    fn credentials_never_leave_this_machine_unencrypted() {
        for wrong in ["http://console.vast.ai", "console.vast.ai", "ftp://127.0.0.1/", ""] {
            assert!(Http::new("Vast", wrong, LIMIT).is_err(), "{wrong:?} was accepted");
        }
        for right in [
            "https://console.vast.ai",
            "http://127.0.0.1:1",
            "http://[::1]:1/x/",
            "http://localhost:9",
        ] {
            assert!(Http::new("Vast", right, LIMIT).is_ok(), "{right:?} was refused");
        }
    }

    #[test]
    fn a_secret_that_a_provider_echoes_is_blotted_out() {
        let secret = SecretString::from("sk-0123456789");
        assert_eq!(blot("bad key sk-0123456789!".into(), &secret), "bad key [secret]!");
        assert_eq!(blot("a b".into(), &SecretString::from("")), "a b");
    }

    #[test]
    fn long_and_dangerous_words_are_cut_and_tamed() {
        let tamed = words(&"\u{1b}[31mno\n".repeat(500));
        assert!(tamed.chars().count() == WORDS_LIMIT + 1 && !tamed.contains('\u{1b}') && !tamed.contains('\n'));
    }

    #[tokio::test]
    async fn a_refused_connection_says_why() {
        let http = Http::new("Vast", "http://127.0.0.1:1", LIMIT).unwrap();
        let request = http.request(Method::GET, &["api", "v0"]);
        let error = http
            .send(request, &SecretString::from("sk-0123456789"))
            .await
            .unwrap_err();
        let text = error.0;
        assert!(
            text.to_lowercase().contains("refused") && !text.contains("sk-"),
            "{text}"
        );
    }
}
