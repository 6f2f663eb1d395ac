//! What a standby's container runs at each of its starts, and the host key that it tells us so.

use super::VastStandbySettings;
use crate::adapters::READY;
use crate::adapters::http::words;
use crate::ports::ProviderError;

/// Before the host key in the container's log.
pub(super) const HOST_KEY: &str = "warmspare-host-key";

/// The commands; Vast takes at most 4048 characters. They may run any number of times: they run at every start.
///
/// # Errors
/// [`ProviderError::Invalid`] when a setting could be more than a word of a command.
pub(super) fn script(settings: &VastStandbySettings) -> Result<String, ProviderError> {
    let data_dir = plain("the agent's data directory", &settings.data_dir)?;
    let key = settings.operator_public_key.trim();
    let mut parts = key.split(' ');
    let (kind, text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let kind = plain("the operator's public key", kind)?;
    let text = plain("the operator's public key", text)?;
    if !kind.starts_with("ssh-") {
        return Err(invalid("the operator's public key", key));
    }
    // The log that Vast shows is what the container's first process says; elsewhere it is our own output.
    Ok(format!(
        "cd \"$HOME\" || exit 1\n\
         umask 077\n\
         mkdir -p .ssh {data_dir}\n\
         touch .no_auto_tmux\n\
         grep -qsF '{text}' .ssh/authorized_keys || echo '{kind} {text} warmspare' >> .ssh/authorized_keys\n\
         [ -s /etc/ssh/ssh_host_ed25519_key.pub ] || ssh-keygen -A\n\
         if [ -n \"$CONTAINER_ID\" ] && [ -w /proc/1/fd/1 ]; then exec > /proc/1/fd/1; fi\n\
         echo \"{HOST_KEY} $(cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub)\"\n\
         command -v rsync > /dev/null || (apt-get update && apt-get install -y rsync) || exit 1\n\
         touch {data_dir}/{READY}\n"
    ))
}

/// The newest host key in a log.
pub(super) fn host_key(log: &str) -> Option<String> {
    let mut keys = log.lines().filter_map(|line| {
        let (_, rest) = line.split_once(HOST_KEY)?;
        let mut parts = rest.split_whitespace();
        let (kind, key) = (parts.next()?, parts.next()?);
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
        (kind == "ssh-ed25519" && key.starts_with("AAAA") && key.bytes().all(is_base64))
            .then(|| format!("{kind} {key}"))
    });
    keys.next_back()
}

fn plain<'t>(what: &str, text: &'t str) -> Result<&'t str, ProviderError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-' | b'+' | b'=');
    if text.is_empty() || text.starts_with('-') || !text.bytes().all(is_plain) {
        Err(invalid(what, text))
    } else {
        Ok(text)
    }
}

fn invalid(what: &str, text: &str) -> ProviderError {
    ProviderError::Invalid {
        detail: format!(
            "{what} `{}` cannot be part of a container's start-up commands",
            words(text)
        ),
    }
}
