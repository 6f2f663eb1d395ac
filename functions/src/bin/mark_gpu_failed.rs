//! `mark_gpu_failed`: a hook of tools that manage GPUs.

use warmspare_functions::{http, telemetry, warm::Warm};
use warmspare_platform::handlers::hooks;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    telemetry::start();
    http::serve(Warm::new().await, hooks::router).await
}
