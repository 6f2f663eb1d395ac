//! `vast_webhook`: Vast's own signed notifications.

use warmspare_functions::{http, telemetry, warm::Warm};
use warmspare_platform::handlers::vast_webhook;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    telemetry::start();
    http::serve(Warm::new().await, vast_webhook::router).await
}
