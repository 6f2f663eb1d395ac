//! `api`: the HTTPS API for tools, and the status page.

use warmspare_functions::{http, telemetry, warm::Warm};
use warmspare_platform::handlers::{api, page};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    telemetry::start();
    let warm = Warm::new().await.with_heartbeats();
    http::serve(warm, |app| api::router(app.clone()).merge(page::router(app))).await
}
