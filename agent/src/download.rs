//! Downloads: one key, one recovery point or what arrived of a first pass, read-only, until an instant; served by rsync or tar and nothing else.
//!
//! The other side is a plain `rsync` over `ssh` without `-s`; the path it names is ignored. What it may ask for:
//! `rsync -rlptgoDHXSnczWu --numeric-ids --partial --inplace --delete --info=progress2 --timeout=N --bwlimit=N` and the like.
//! Refused is whatever would follow symbolic links, write, or take names from standard input (`-L`, `-k`, `-K`, `-s`, …).

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use warmspare_domain::ids::RecoveryPointId;
use warmspare_domain::units::Timestamp;
use warmspare_wire::agent::{AuthorizeDownload, Outcome, Partial, PointChoice};

use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::incoming;
use crate::recovery_points::{self, tree_of};
use crate::state::{Hold, Holds, REQUEST_LOCK};
use crate::tree;

/// The hidden verb behind an authorised key.
pub const SERVE: &str = "serve-download";

const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

/// Lets one key read one recovery point, or what arrived of a first pass, until an instant. Asking again for the same key
/// replaces its permission.
///
/// # Errors
/// When the key is not one plain public key, the instant is over, nothing fits, or `authorized_keys` cannot be written.
pub fn authorize(dir: &DataDir, request: &AuthorizeDownload) -> Result<Outcome, AgentError> {
    let key = PublicKey::read(&request.public_key)?;
    let now = clock::now();
    if request.until <= now {
        return Err(AgentError::BadRequest("the permission would be over already".into()));
    }
    let command = forced_command(dir)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let until = request.until;
    let (what, outcome) = match &request.point {
        PointChoice::Partial => {
            let partial = count(&incoming::unfinished(dir)?)?;
            (
                PointChoice::Partial,
                Outcome::PartialDownloadAuthorized { partial, until },
            )
        }
        choice @ (PointChoice::Latest | PointChoice::Id(_) | PointChoice::Checkpoint(_)) => {
            let found = recovery_points::choose(dir, choice);
            let point = found.map_err(|error| or_partial(dir, error))?.point;
            // Held before it is promised: thinning looks at the holds.
            hold(dir, &point.id, until, now)?;
            let what = PointChoice::Id(point.id.clone());
            (what, Outcome::DownloadAuthorized { point, until })
        }
    };
    let line = format!(
        "command=\"{command} {what} {until}\",restrict {} {}",
        key.kind, key.base64
    );
    rewrite_keys(dir, |lines| {
        lines.retain(|line| !is_ours(line, &command) || (!is_over(line, now) && !line.ends_with(&key.base64)));
        lines.push(line);
    })?;
    Ok(outcome)
}

fn hold(dir: &DataDir, point: &RecoveryPointId, until: Timestamp, now: Timestamp) -> Result<(), AgentError> {
    let mut holds = dir.holds()?.unwrap_or_default();
    holds.holds.retain(|hold| hold.until > now);
    holds.holds.push(Hold {
        point: point.clone(),
        until,
    });
    dir.save_holds(&holds)
}

/// Says what else there is, where no recovery point is.
fn or_partial(dir: &DataDir, error: AgentError) -> AgentError {
    if let AgentError::NoRecoveryPoint { wanted } = &error
        && incoming::unfinished(dir).is_ok()
    {
        let wanted = format!("{wanted}; only a part of the first pass arrived, ask for `partial`");
        return AgentError::NoRecoveryPoint { wanted };
    }
    error
}

fn count(unfinished: &Path) -> Result<Partial, AgentError> {
    let census = tree::census(unfinished).map_err(|error| AgentError::io("count what arrived", error))?;
    Ok(Partial {
        files: census.files,
        bytes: census.bytes,
    })
}

/// Removes the permissions that are over.
///
/// # Errors
/// When `authorized_keys` cannot be rewritten.
pub fn remove_expired(dir: &DataDir) -> Result<(), AgentError> {
    let now = clock::now();
    let expired = |holds: &Holds| holds.holds.iter().any(|hold| hold.until <= now);
    if !dir.holds()?.is_some_and(|holds| expired(&holds)) {
        return Ok(());
    }
    let command = forced_command(dir)?;
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    // Read again: somebody may have been permitted something meanwhile.
    let mut holds = dir.holds()?.unwrap_or_default();
    rewrite_keys(dir, |lines| {
        lines.retain(|line| !is_ours(line, &command) || !is_over(line, now))
    })?;
    holds.holds.retain(|hold| hold.until > now);
    dir.save_holds(&holds)
}

/// Becomes rsync, serving this to whoever logged in with an authorised key. Returns only when it refuses.
pub fn serve(dir: &DataDir, what: &PointChoice, until: Timestamp) -> String {
    if clock::now() >= until {
        return "this permission to download is over; ask for a new one".into();
    }
    let found = if *what == PointChoice::Partial {
        incoming::unfinished(dir)
    } else {
        recovery_points::choose(dir, what).map(|found| tree_of(dir, &found.point.id))
    };
    let tree = match found {
        Ok(tree) => tree,
        Err(AgentError::NoRecoveryPoint { wanted }) => return format!("{wanted} is gone; ask for a newer one"),
        Err(error) => return error.message(),
    };
    let asked = std::env::var("SSH_ORIGINAL_COMMAND").unwrap_or_default();
    if let Some(wanted) = tar_path(&asked) {
        return serve_tar(&tree, &wanted);
    }
    let Some(options) = sender_options(&asked) else {
        return "this key only serves downloads: rsync -aHX --numeric-ids USER@HOST:/ DIRECTORY, or ssh USER@HOST warmspare-tar > FILE".into();
    };
    let error = Command::new("rsync")
        .args(arguments(options, &tree))
        .current_dir("/")
        .exec();
    format!("cannot start rsync: {error}")
}

/// Becomes tar, writing the tree or what lies at one path in it. Returns only when it refuses.
fn serve_tar(tree: &Path, wanted: &Path) -> String {
    // Never through a symbolic link: a GPU chose where it leads.
    if !matches!(tree::look(tree, wanted), Ok(Some(_))) {
        return "there is nothing at this path in the recovery point".into();
    }
    let error = Command::new("tar")
        .args(["--create", "--format=posix", "--sparse", "--numeric-owner"])
        .args(["--xattrs", "--xattrs-include=user.*", "--file=-", "--directory"])
        .arg(tree)
        .arg("--")
        .arg(Path::new(".").join(wanted))
        .env_remove("TAR_OPTIONS")
        .exec();
    format!("cannot start tar: {error}")
}

/// The path of `warmspare-tar` or `warmspare-tar PATH`, where every byte of the path but letters, digits and `/._-` is written as
/// `%` and two hexadecimal digits. The whole tree is the empty path.
fn tar_path(command: &str) -> Option<PathBuf> {
    let rest = command.strip_prefix("warmspare-tar")?;
    let Some(encoded) = rest.strip_prefix(' ') else {
        return rest.is_empty().then(PathBuf::new);
    };
    let mut bytes = Vec::new();
    let mut left = encoded.as_bytes();
    while let Some((byte, after)) = left.split_first() {
        left = after;
        if *byte == b'%' {
            let (digits, after) = left.split_at_checked(2)?;
            let plain = digits.iter().all(u8::is_ascii_hexdigit);
            let digits = std::str::from_utf8(digits).ok().filter(|_| plain)?;
            bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
            left = after;
        } else if byte.is_ascii_alphanumeric() || b"/._-".contains(byte) {
            bytes.push(*byte);
        } else {
            return None;
        }
    }
    let path = PathBuf::from(OsString::from_vec(bytes));
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    (plain && !path.as_os_str().is_empty()).then_some(path)
}

fn arguments(options: Vec<String>, tree: &Path) -> Vec<OsString> {
    let mut tree = tree.as_os_str().to_owned();
    tree.push("/");
    let mut arguments: Vec<OsString> = options.into_iter().map(OsString::from).collect();
    arguments.extend([".".into(), tree]);
    arguments
}

/// The options of `rsync --server --sender OPTIONS . PATH`, when all of them only read the tree.
fn sender_options(command: &str) -> Option<Vec<String>> {
    // The path after the dot is ours to choose; whatever stands there is dropped, so it needs no parsing.
    let (before, _) = command.split_once(" . ")?;
    let mut words = before.split(' ').filter(|word| !word.is_empty());
    if (words.next()?, words.next()?, words.next()?) != ("rsync", "--server", "--sender") {
        return None;
    }
    let options: Vec<String> = words.map(str::to_owned).collect();
    let allowed = options.iter().all(|option| is_harmless(option));
    allowed.then(|| {
        ["--server".to_owned(), "--sender".to_owned()]
            .into_iter()
            .chain(options)
            .collect()
    })
}

fn is_harmless(option: &str) -> bool {
    const WORDS: [&str; 12] = [
        "--numeric-ids",
        "--partial",
        "--inplace",
        "--delete",
        "--delete-during",
        "--delete-after",
        "--stats",
        "--ignore-errors",
        "--size-only",
        "--new-compress",
        "--old-compress",
        "--no-r",
    ];
    const VALUES: [&str; 9] = [
        "--timeout",
        "--bwlimit",
        "--modify-window",
        "--info",
        "--log-format",
        "--checksum-choice",
        "--compress-choice",
        "--compress-level",
        "--max-size",
    ];
    let plain = |value: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "%,.-_+".contains(c);
        value.chars().all(allowed)
    };
    if let Some((name, value)) = option.split_once('=') {
        return VALUES.contains(&name) && plain(value);
    }
    if option.starts_with("--") {
        return WORDS.contains(&option);
    }
    // Letters up to `e`, which starts the client's capabilities (`e.iLsfxCIvu`). Source: rsync 3.2.7, options.c, server_options().
    let Some(letters) = option.strip_prefix('-') else {
        return false;
    };
    let (letters, capabilities) = letters.split_once('e').unwrap_or((letters, ""));
    let known = letters
        .chars()
        .all(|letter| "vnlogDtprHXSWczuOJxIiqdm".contains(letter));
    known && plain(capabilities)
}

fn forced_command(dir: &DataDir) -> Result<String, AgentError> {
    let program = std::env::current_exe().map_err(|error| AgentError::io("find this program's own path", error))?;
    // What the kernel appends once a newer agent was put in this one's place.
    let program = program.to_string_lossy().trim_end_matches(" (deleted)").to_owned();
    let words = [Path::new(&program), dir.root()].map(|path| path.to_str().filter(|text| is_plain_path(text)));
    match words {
        [Some(program), Some(data)] => Ok(format!("{}{program} --data {data} {SERVE}", through_sudo())),
        _ => Err(AgentError::BadRequest(
            "the agent or its data directory lies at a path with other characters than letters, digits and / . _ -"
                .into(),
        )),
    }
}

/// The login may not read what root keeps: where the control plane came through sudo, a download does, too.
fn through_sudo() -> &'static str {
    match std::env::var_os("SUDO_UID") {
        Some(uid) if uid != "0" => "sudo -n --preserve-env=SSH_ORIGINAL_COMMAND ",
        Some(_) | None => "",
    }
}

// The line passes through sshd's quoting and the login's shell: characters that mean something to either stay out.
fn is_plain_path(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
}

fn is_ours(line: &str, command: &str) -> bool {
    line.strip_prefix("command=\"")
        .is_some_and(|rest| rest.starts_with(&format!("{command} ")))
}

fn is_over(line: &str, now: Timestamp) -> bool {
    let until = line.split('"').nth(1).and_then(|command| command.rsplit(' ').next());
    until
        .and_then(|text| text.parse::<Timestamp>().ok())
        .is_none_or(|until| until <= now)
}

fn rewrite_keys(dir: &DataDir, change: impl FnOnce(&mut Vec<String>)) -> Result<(), AgentError> {
    let path = authorized_keys()?;
    let io = |error| AgentError::io(format!("rewrite {}", path.display()), error);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(io(error)),
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    change(&mut lines);
    let after: String = lines.iter().map(|line| format!("{line}\n")).collect();
    if after == text {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        fs::create_dir_all(parent).map_err(io)?;
        fs::set_permissions(parent, fs::Permissions::from_mode(0o700)).map_err(io)?;
        give_to_owner_of_home(parent).map_err(io)?;
    }
    dir.replace(&path, after.as_bytes(), Durability::PowerLoss)
}

fn give_to_owner_of_home(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};
    let home = fs::metadata(directory.parent().unwrap_or(Path::new("/")))?;
    if fs::metadata(directory)?.uid() == home.uid() {
        return Ok(());
    }
    chown(directory, Some(home.uid()), Some(home.gid()))
}

fn authorized_keys() -> Result<PathBuf, AgentError> {
    let home = std::env::home_dir().filter(|home| home.is_absolute());
    let home = home.ok_or_else(|| AgentError::BadRequest("the standby's login has no home directory".into()))?;
    let path = home.join(".ssh/authorized_keys");
    // Written by rename: a link is followed first, so that it stays one.
    Ok(path.canonicalize().unwrap_or(path))
}

/// An OpenSSH public key: its type and its base64, nothing else.
#[derive(Debug)]
struct PublicKey {
    kind: String,
    base64: String,
}

impl PublicKey {
    fn read(text: &str) -> Result<Self, AgentError> {
        let wrong = || AgentError::BadRequest("the public key is not one OpenSSH line of type and base64".into());
        let (kind, base64) = text.trim_end_matches('\n').split_once(' ').ok_or_else(wrong)?;
        let digits = base64.trim_end_matches('=');
        let base64_only = digits
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'));
        let length =
            (40..=4096).contains(&base64.len()) && base64.len().is_multiple_of(4) && base64.len() - digits.len() <= 2;
        // Every key's base64 starts with the length and the name of its type.
        if !KEY_TYPES.contains(&kind) || !base64_only || !length || !base64.starts_with("AAAA") {
            return Err(wrong());
        }
        Ok(Self {
            kind: kind.to_owned(),
            base64: base64.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHb4M1h0NPK0tFsqC8Qb1v4YhG0uWq9e1yE2rB0m3n4o";

    #[test]
    fn a_key_is_a_type_and_base64_or_nothing() {
        assert!(PublicKey::read(KEY).is_ok());
        assert!(PublicKey::read(&format!("{KEY}\n")).is_ok());
        let bad = [
            String::new(),
            "ssh-ed25519".into(),
            format!("{KEY} comment"),
            format!("command=\"sh\" {KEY}"),
            format!("{KEY}\nssh-rsa AAAA"),
            KEY.replace("ssh-ed25519", "ssh-dss"),
            KEY.replace("AAAAC3", "AAAA\"3"),
            "ssh-ed25519 AAAA".into(),
        ];
        for text in bad {
            assert!(PublicKey::read(&text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn only_reading_one_tree_is_served() {
        let good = [
            "rsync --server --sender -vlogDtprHXe.iLsfxCIvu --numeric-ids . any/path",
            "rsync --server --sender -logDtprze.iLsfxCIvu --timeout=60 --log-format=%i . /etc",
            "rsync --server --sender -nlogDtprce.LsfxCIvu . /",
        ];
        for command in good {
            assert!(sender_options(command).is_some(), "{command} was refused");
        }
        let bad = [
            "",
            "sh",
            "rsync --server -vlogDtpre.iLsfxCIvu . /root",
            "rsync --server --sender -vlogDtprLe.iLsfxCIvu . /",
            "rsync --server --sender -se.LsfxCIvu . /",
            "rsync --server --sender -vlogDtpre.iLsfxCIvu --copy-unsafe-links . /",
            "rsync --server --sender -vlogDtpre.iLsfxCIvu --files-from=/etc/shadow . /",
            "rsync --server --sender -e sh . /",
            "rsync --server --sender --remove-source-files -re.i . /",
            "rsync --daemon --config=/x . /",
            "rsync --server --sender /etc/passwd -re.i . /",
            "/tmp/rsync --server --sender -re.i . /",
        ];
        for command in bad {
            assert!(sender_options(command).is_none(), "{command} was served");
        }
    }

    #[test]
    fn a_tar_is_asked_for_by_one_word_and_an_encoded_path() {
        let path = |text: &str| tar_path(text).map(|path| path.to_string_lossy().into_owned());
        assert_eq!(path("warmspare-tar"), Some(String::new()));
        assert_eq!(path("warmspare-tar runs/a%20b%0a"), Some("runs/a b\n".into()));
        let bad = [
            "tar",
            "warmspare-tar ",
            "warmspare-tarball",
            "warmspare-tar /etc",
            "warmspare-tar ..",
            "warmspare-tar a/../../b",
            "warmspare-tar %2e%2e/x",
            "warmspare-tar a b",
            "warmspare-tar a;id",
            "warmspare-tar $(id)",
            "warmspare-tar a%0",
            "warmspare-tar a%00b",
            "warmspare-tar a%+1",
            "warmspare-tar a\nb",
        ];
        for command in bad {
            assert_eq!(path(command), None, "{command:?} was served");
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_counts_as_over() {
        let now = Timestamp::from_millis(1_795_441_530_250);
        let line = |until: &str| format!("command=\"/a --data /d serve-download X {until}\",restrict {KEY}");
        assert!(!is_over(&line("2026-11-23T13:45:31.000Z"), now));
        assert!(is_over(&line("2026-11-23T13:45:30.250Z"), now));
        assert!(is_over(&line("tomorrow"), now));
    }
}
