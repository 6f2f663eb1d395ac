//! Shows the API's answers to a person.

use serde_json::Value;
use warmspare_domain::units::{Bytes, MicroUsd};

/// A text field, or `-`.
pub(super) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or("-")
}

/// A price as a person writes it.
pub(super) fn price(text: &str) -> Result<f64, String> {
    let dollars = text.trim_start_matches('$').parse().unwrap_or(f64::NAN);
    match MicroUsd::from_dollars(dollars) {
        Some(MicroUsd(1..)) => Ok(dollars),
        Some(MicroUsd(0)) | None => Err("it must be a price in dollars above 0, such as 0.40".to_owned()),
    }
}

/// What would be lost right now.
pub(super) fn lag(view: &Value) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
    view["lag_ms"]
        .as_u64()
        .map_or_else(|| "-".to_owned(), |ms| format!("{:.1} s", ms as f64 / 1000.0))
}

/// The newest recovery point in words.
pub(super) fn point(view: &Value) -> String {
    let point = &view["latest_recovery_point"];
    match (point["files"].as_u64(), point["bytes"].as_u64()) {
        (Some(files), Some(bytes)) => format!("{files} files, {}", Bytes(bytes)),
        _ => match (
            view["pass"]["bytes_done"].as_u64(),
            view["pass"]["bytes_total"].as_u64(),
        ) {
            (Some(done), Some(all)) if all > 0 => format!("none yet, {} % arrived", done.saturating_mul(100) / all),
            _ => "none yet".to_owned(),
        },
    }
}

/// What a hook-like request did.
pub(super) fn outcome(answer: &Value) -> String {
    let phase = answer["phase"]
        .as_str()
        .map(|phase| format!(" ({phase})"))
        .unwrap_or_default();
    let result = text(answer, "result").replace('_', " ");
    format!("{result}{phase}: {}", text(answer, "reason"))
}

/// A halted association makes the exit code 3.
pub(super) fn exit_code(view: &Value) -> std::process::ExitCode {
    if text(view, "phase") == "halted" {
        std::process::ExitCode::from(crate::HALTED)
    } else {
        std::process::ExitCode::SUCCESS
    }
}
