//! Access to Google Cloud from an AWS role: no key that could leak.

use std::fmt;

use async_trait::async_trait;
use google_cloud_auth::credentials::{AccessTokenCredentials, external_account};
use secrecy::SecretString;
use serde_json::json;

use super::{SCOPES, TOKEN_LIMIT, TokenError, TokenSource};
use crate::report;

/// Exchanges the role that a function runs under for an access token of a service account (workload identity federation).
#[derive(Clone)]
pub struct Federated(AccessTokenCredentials);

impl fmt::Debug for Federated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Federated")
    }
}

impl Federated {
    /// The role's way to this service account. `audience` names the pool's provider:
    /// `//iam.googleapis.com/projects/<number>/locations/global/workloadIdentityPools/<pool>/providers/<provider>`.
    ///
    /// # Panics
    /// Outside a Tokio runtime: Google's crate starts a task that keeps the token fresh.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when the two cannot be meant; nobody is called.
    pub fn new(audience: &str, service_account: &str) -> Result<Self, TokenError> {
        if !audience.starts_with("//iam.googleapis.com/projects/") || !service_account.contains('@') {
            return Err(TokenError::Refused(format!(
                "`{audience}` and `{service_account}` are not a workload identity provider and a service account; infra/google-setup.sh prints both"
            )));
        }
        // The file that `gcloud iam workload-identity-pools create-cred-config --aws` writes, without the instance metadata server: a function has
        // its role in the environment. Source: Google's AIP-4117, read 2026-11.
        let config = json!({
            "type": "external_account",
            "audience": audience,
            "subject_token_type": "urn:ietf:params:aws:token-type:aws4_request",
            "token_url": "https://sts.googleapis.com/v1/token",
            "service_account_impersonation_url":
                format!("https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{service_account}:generateAccessToken"),
            "credential_source": {
                "environment_id": "aws1",
                "regional_cred_verification_url": "https://sts.{region}.amazonaws.com?Action=GetCallerIdentity&Version=2011-06-15",
            },
        });
        external_account::Builder::new(config)
            .with_scopes(SCOPES)
            .build_access_token_credentials()
            .map(Self)
            .map_err(|error| TokenError::Refused(report::chain(&error)))
    }
}

#[async_trait]
impl TokenSource for Federated {
    async fn token(&self) -> Result<SecretString, TokenError> {
        match tokio::time::timeout(TOKEN_LIMIT, self.0.access_token()).await {
            Ok(Ok(token)) => Ok(SecretString::from(token.token)),
            Ok(Err(error)) if error.is_transient() => Err(TokenError::Unreachable(report::chain(&error))),
            Ok(Err(error)) => Err(TokenError::Refused(report::chain(&error))),
            Err(_) => Err(TokenError::Unreachable(format!(
                "no token within {} s",
                TOKEN_LIMIT.as_secs()
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_cannot_be_a_provider_is_refused_before_anybody_is_called() {
        let audience = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/warmspare/providers/aws";
        assert!(Federated::new(audience, "warmspare@p.iam.gserviceaccount.com").is_ok());
        assert!(Federated::new("https://iam.googleapis.com/x", "a@b").is_err());
        assert!(Federated::new(audience, "warmspare").is_err());
    }
}
