//! Access tokens for Google's APIs.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use gcp_auth::{CustomServiceAccount, TokenProvider};
use secrecy::SecretString;

use crate::adapters::http::words;
use crate::report;

/// Compute Engine, objects in buckets, and the price list; which of these an account may really do its roles say. Source: discovery revisions of
/// 2026-11, `auth.oauth2.scopes`.
pub(crate) const SCOPES: [&str; 4] = [
    "https://www.googleapis.com/auth/compute",
    "https://www.googleapis.com/auth/devstorage.read_write",
    "https://www.googleapis.com/auth/cloud-billing.readonly",
    // Resource Manager answers `doctor`'s question for permissions under this one at the least.
    "https://www.googleapis.com/auth/cloud-platform.read-only",
];
/// 10 s: a token takes one exchange of well below a second.
const TOKEN_LIMIT: Duration = Duration::from_secs(10);

/// Gives access tokens.
#[async_trait]
pub trait TokenSource: Send + Sync {
    /// A token that is valid for at least the next call. Implementations cache it until it nears its end.
    ///
    /// # Errors
    /// [`TokenError::Refused`] needs a person; [`TokenError::Unreachable`] passes.
    async fn token(&self) -> Result<SecretString, TokenError>;
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There are no usable credentials, or Google refused them.
    #[error("no Google credentials: {0}")]
    Refused(String),
    /// The token server did not answer.
    #[error("Google's token server did not answer: {0}")]
    Unreachable(String),
}

/// A token that somebody else made, for tests and `gcloud auth print-access-token`. It ends within the hour.
#[derive(Debug)]
pub struct StaticToken(SecretString);

impl StaticToken {
    /// Takes the token.
    #[must_use]
    pub fn new(token: SecretString) -> Self {
        Self(token)
    }
}

#[async_trait]
impl TokenSource for StaticToken {
    async fn token(&self) -> Result<SecretString, TokenError> {
        Ok(self.0.clone())
    }
}

/// Google credentials: a service account's key, a login on this workstation, or the VM's own account.
#[derive(Clone)]
pub struct GoogleCredentials(Arc<dyn TokenProvider>);

impl fmt::Debug for GoogleCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GoogleCredentials")
    }
}

impl GoogleCredentials {
    /// Reads a service account's key file.
    ///
    /// # Errors
    /// [`TokenError::Refused`] naming the file, never its content.
    pub fn from_key_file(path: &Path) -> Result<Self, TokenError> {
        let named = |why: &str| {
            TokenError::Refused(format!(
                "the key file {} {why}; make one with: gcloud iam service-accounts keys create",
                path.display()
            ))
        };
        let text = std::fs::read_to_string(path).map_err(|error| named(&format!("cannot be read ({error})")))?;
        // What the parser says may quote the key.
        let account = CustomServiceAccount::from_json(&text);
        let account = account.map_err(|_| named("is not a service account's key in JSON"))?;
        Ok(Self(Arc::new(account)))
    }

    /// Takes a service account's key.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when it is none; the key is not quoted.
    pub fn from_key(json: &SecretString) -> Result<Self, TokenError> {
        use secrecy::ExposeSecret;
        let account = CustomServiceAccount::from_json(json.expose_secret());
        let account =
            account.map_err(|_| TokenError::Refused("the key is not a service account's in JSON".to_owned()))?;
        Ok(Self(Arc::new(account)))
    }

    /// Finds credentials as Google's own tools do: `GOOGLE_APPLICATION_CREDENTIALS`, the login of `gcloud auth application-default`,
    /// the VM's own account, `gcloud`.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when there are none; [`TokenError::Unreachable`] when looking for them takes too long.
    pub async fn find() -> Result<Self, TokenError> {
        let found = tokio::time::timeout(TOKEN_LIMIT, gcp_auth::provider()).await;
        let found = found.map_err(|_| TokenError::Unreachable("looking for credentials took too long".to_owned()))?;
        found.map(Self).map_err(|_| {
            TokenError::Refused(
                "none found; name a key file, or log in with: gcloud auth application-default login".to_owned(),
            )
        })
    }
}

#[async_trait]
impl TokenSource for GoogleCredentials {
    async fn token(&self) -> Result<SecretString, TokenError> {
        match tokio::time::timeout(TOKEN_LIMIT, self.0.token(&SCOPES)).await {
            Ok(Ok(token)) => Ok(SecretString::from(token.as_str())),
            Ok(Err(error)) => Err(token_error(&error)),
            Err(_) => Err(TokenError::Unreachable(format!(
                "no token within {} s",
                TOKEN_LIMIT.as_secs()
            ))),
        }
    }
}

fn token_error(error: &gcp_auth::Error) -> TokenError {
    let line = words(&report::chain(error));
    match error {
        gcp_auth::Error::Http(..) | gcp_auth::Error::Io(..) | gcp_auth::Error::Other(..) => {
            TokenError::Unreachable(line)
        }
        gcp_auth::Error::NoAuthMethod(..) | gcp_auth::Error::Json(..) | gcp_auth::Error::Str(..) => {
            TokenError::Refused(line)
        }
    }
}

#[cfg(feature = "gcs")]
mod federated;
#[cfg(feature = "gcs")]
pub use federated::Federated;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_key_file_is_named_and_not_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.json");
        std::fs::write(&path, r#""-----BEGIN PRIVATE KEY----- hush""#).unwrap();
        let text = GoogleCredentials::from_key_file(&path).unwrap_err().to_string();
        assert!(text.contains("key.json") && !text.contains("hush"), "{text}");
        let text = GoogleCredentials::from_key_file(&directory.path().join("none"))
            .unwrap_err()
            .to_string();
        assert!(text.contains("none") && text.contains("No such file"), "{text}");
    }
}
