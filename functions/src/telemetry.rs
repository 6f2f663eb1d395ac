//! Logs as JSON lines, and the one metric that alarms watch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use warmspare_domain::ids::Deployment;

/// Starts logging to standard output, where Lambda collects it. `RUST_LOG` chooses what.
pub fn start() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,russh=warn,hyper=warn"));
    // A second subscriber is refused only in tests that start two; the first one serves.
    let _ = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_target(false)
        .try_init();
}

/// Reports the largest lag of a shard as an embedded metric: `LagSeconds` in namespace `warmspare`, by deployment only, because every further
/// dimension costs 0.30 dollars a month. Source: `reference/aws/aws.md`, cost model, 2026-11.
pub fn report_lag(deployment: &Deployment, largest: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = json!({
        "_aws": {
            "Timestamp": u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            "CloudWatchMetrics": [{
                "Namespace": "warmspare",
                "Dimensions": [["Deployment"]],
                "Metrics": [{"Name": "LagSeconds", "Unit": "Seconds"}],
            }],
        },
        "Deployment": deployment.to_string(),
        "LagSeconds": largest.as_secs_f64(),
    });
    println!("{line}");
}
