//! The one place that asks the clock.

use std::time::SystemTime;

use warmspare_domain::units::Timestamp;

/// The current instant; the epoch's start when the clock is before 1970.
#[must_use]
pub fn now() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
