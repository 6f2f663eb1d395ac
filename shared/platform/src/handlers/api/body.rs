//! A JSON body, with errors in our own form.

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use serde::de::DeserializeOwned;

use crate::handlers::Failure;

/// A JSON body. An empty one is read as `{}`.
pub(in crate::handlers) struct Body<T>(pub(in crate::handlers) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(text)
            .map(Self)
            .map_err(|error| Failure::bad_request(format!("the body cannot be used: {error}")))
    }
}
