//! `sync_tick`: drives the associations of a shard at their slot, or one association that somebody wants looked at.

use aws_lambda_events::event::sqs::SqsEvent;
use lambda_runtime::{LambdaEvent, service_fn};
use warmspare_functions::{telemetry, ticks, warm::Warm};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    telemetry::start();
    let warm = &Warm::new().await;
    lambda_runtime::run(service_fn(|event: LambdaEvent<SqsEvent>| async {
        let ready = warm.ready().await?;
        Ok::<_, lambda_runtime::Error>(ticks::work(&ready, event).await)
    }))
    .await
}
