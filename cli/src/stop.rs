//! Ctrl-C and requests to terminate, for verbs that leave something in order before they end.

use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Ctrl-C reaches us and every program we started; who acts on it first is chance.
pub(crate) const SAME_SIGNAL_WITHIN: Duration = Duration::from_millis(200);

/// Waits for Ctrl-C or a request to terminate; from this call on neither ends the process. Answers what a shell makes of a process that
/// such a signal ended.
pub(crate) fn asked_to_stop() -> anyhow::Result<impl Future<Output = u8>> {
    let listen = |kind| signal(kind).context("cannot listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! { _ = interrupt.recv() => 130, _ = terminate.recv() => 143 }
    })
}
