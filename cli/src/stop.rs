//! Ctrl-C, a terminal that is closed, and requests to terminate, for verbs that leave something in order before they end.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Ctrl-C reaches us and every program we started; who acts on it first is chance.
pub(crate) const SAME_SIGNAL_WITHIN: Duration = Duration::from_millis(200);

/// Waits for Ctrl-C, the end of the terminal, or a request to terminate; from this call on none of them ends the process. Answers what
/// a shell makes of a process that such a signal ended.
pub(crate) fn asked_to_stop() -> anyhow::Result<impl Future<Output = u8>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let listened = !is_to_outlive_its_terminal();
    let hang_up = listened.then(|| listen(SignalKind::hangup())).transpose()?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
            Some(()) = async { hang_up?.recv().await } => 129,
        }
    })
}

/// Whether hang-ups are ignored, as they are from the start for what `nohup` starts.
fn is_to_outlive_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // One bit for each signal; hang-up is the first.
    mask.is_some_and(|mask| mask & 1 == 1)
}
