//! `planner`: once a minute it queues the two slots of the next minute for every shard.

use lambda_runtime::{LambdaEvent, service_fn};
use serde_json::Value;
use warmspare_functions::{telemetry, ticks, warm::Warm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    telemetry::start();
    let warm = &Warm::new().await;
    lambda_runtime::run(service_fn(|_: LambdaEvent<Value>| async {
        let ready = warm.ready().await?;
        ticks::plan(&ready).await.map_err(lambda_runtime::Error::from)
    }))
    .await
}
