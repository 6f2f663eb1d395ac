//! `sweep`: holds the providers' listings against the store: missed events, orphans, a beat that stands still.

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use warmspare_functions::{telemetry, ticks, warm::Warm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    telemetry::start();
    let warm = &Warm::new().await;
    lambda_runtime::run(service_fn(|_: LambdaEvent<Value>| async {
        let ready = warm.ready().await?;
        ticks::sweep(&ready).await.map_err(lambda_runtime::Error::from)
    }))
    .await
}
