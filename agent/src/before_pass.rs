//! The user's command on the GPU before each pass, so that what is copied fits together: a database's dump, for example.

use std::time::Duration;

use crate::error::AgentError;
use crate::process::last_words;
use crate::ssh::Machine;
use crate::wish::Wish;

/// A pass waits so long for it, and a little longer for the machine to end it.
const LIMIT: Duration = Duration::from_secs(120);

// The command travels over standard input and is one word to the shell that starts it. It reads nothing: what follows is ours. It may
// print without end: of its complaints the last are heard. An exit code of 255 would be taken for ssh's own.
const RUN: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p || exit 91; cd \"$p\" || exit 92; c=$(cat); \
    t=; command -v timeout >/dev/null 2>&1 && t=\"timeout 110\"; exec 3>&1; \
    e=$( { { $t /bin/sh -c \"$c\" </dev/null 2>&1 >/dev/null 3>&- 4>&-; echo $? >&4; } | tail -c 1000 >&3; } 4>&1 ); \
    [ $e -eq 255 ] && e=254; exit $e'";

/// Runs the command in the directory that is copied. Answers why it failed, if it did: copying what is there is better than not.
///
/// # Errors
/// When the machine cannot be reached, or the pass is no longer wanted.
pub fn run(
    machine: &Machine,
    path: &str,
    command: &str,
    wish: &dyn Fn() -> Wish,
) -> Result<Option<String>, AgentError> {
    let answer = match machine.run_while(RUN, format!("{path}\n{command}\n").as_bytes(), LIMIT, wish) {
        Ok(answer) => answer,
        Err(AgentError::Interrupted(_)) if wish() == Wish::GoOn => {
            return Ok(Some(format!("it did not end within {} s", LIMIT.as_secs())));
        }
        Err(error) => return Err(error),
    };
    // 124 is timeout's own, 143 that of busybox. Source: timeout(1), GNU coreutils; busybox 1.36.
    Ok(match answer.code {
        Some(0) => None,
        Some(124 | 143) => Some("it was ended after 110 s".to_owned()),
        code => {
            let words = last_words(&String::from_utf8_lossy(&answer.stdout));
            let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
            Some(format!("{code}: {words}"))
        }
    })
}
