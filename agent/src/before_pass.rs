//! The user's command on the GPU before each pass, so that what is copied fits together: a database's dump, for example.

use std::time::Duration;

use crate::error::AgentError;
use crate::ssh::{Machine, last_words};

/// A pass waits so long for it, and a little longer for the machine to end it.
const LIMIT: Duration = Duration::from_secs(120);

// The command travels over standard input and is one word to the shell that starts it. It reads nothing: what follows is ours. An exit
// code of 255 would be taken for ssh's own.
const RUN: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p || exit 91; cd \"$p\" || exit 92; c=$(cat); \
    if command -v timeout >/dev/null 2>&1; then timeout 110 /bin/sh -c \"$c\" </dev/null; else /bin/sh -c \"$c\" </dev/null; fi; \
    e=$?; [ $e -eq 255 ] && e=254; exit $e'";

/// Runs the command in the directory that is copied. Answers why it failed, if it did: copying what is there is better than not.
///
/// # Errors
/// When the machine cannot be reached.
pub fn run(machine: &Machine, path: &str, command: &str) -> Result<Option<String>, AgentError> {
    let answer = match machine.run_within(RUN, format!("{path}\n{command}\n").as_bytes(), LIMIT) {
        Ok(answer) => answer,
        Err(AgentError::Interrupted(_)) => return Ok(Some(format!("it did not end within {} s", LIMIT.as_secs()))),
        Err(error) => return Err(error),
    };
    // 124 is timeout's own, 143 that of busybox. Source: timeout(1), GNU coreutils; busybox 1.36.
    Ok(match answer.code {
        Some(0) => None,
        Some(124 | 143) => Some("it was ended after 110 s".to_owned()),
        code => {
            let words = last_words(&answer.stderr);
            let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
            Some(format!("{code}: {words}"))
        }
    })
}
