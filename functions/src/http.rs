//! A router behind a function URL.

use axum::Router;
use axum::response::{IntoResponse, Response};
use lambda_http::{Error, Request, service_fn};
use tower::ServiceExt;
use tracing::error;
use warmspare_platform::handlers::{App, Failure};

use crate::warm::Warm;

/// Serves this part of the handlers until the execution environment ends.
///
/// # Errors
/// When Lambda's runtime API goes away.
pub async fn serve(warm: Warm, part: impl Fn(App) -> Router + Sync) -> Result<(), Error> {
    let (warm, part) = (&warm, &part);
    lambda_http::run(service_fn(|request: Request| async move {
        Ok::<_, Error>(answer(warm, part, request).await)
    }))
    .await
}

async fn answer(warm: &Warm, part: &(impl Fn(App) -> Router + Sync), request: Request) -> Response {
    match warm.ready().await {
        Ok(ready) => match part(ready.app.clone()).oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(failed) => {
            // The caller learns that it is our fault and may come again; what is wrong is for the operator's log.
            error!(error = format!("{failed:#}"), "this function is not set up");
            Failure::unavailable("this installation is not set up completely; its log says what is missing")
                .into_response()
        }
    }
}
