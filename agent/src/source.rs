//! Looking at the tree on the GPU before and after a pass, and writing our marker into it.

use std::time::Duration;

use crate::checkpoints::{MOST, Wanted};
use crate::error::AgentError;
use crate::marker::{Content, Marker, MarkerFound, Tree, read_marker};
use crate::process::last_words;
use crate::session::Session;
use crate::ssh::Machine;

/// What the other machine looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The synced path.
    pub tree: Tree,
    /// Whether rsync can be called there.
    pub rsync: RsyncThere,
    /// The checkpoints that are wanted.
    pub checkpoints: Vec<Wanted>,
}

/// Whether the other machine has rsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RsyncThere {
    /// It has.
    Present,
    /// It has not.
    Missing,
}

// Fixed text in one line, for any login shell; the path comes over standard input, as often as we look. The first word of an
// answer sets it apart from what a talkative shell start-up prints.
const LOOK: &str = "exec /bin/sh -c 'unset CDPATH; while IFS= read -r p; do ( echo; echo warmspare-look; \
    if command -v rsync >/dev/null 2>&1; then echo rsync; else echo no-rsync; fi; \
    if [ ! -e \"$p\" ]; then echo gone; exit 0; fi; if [ ! -d \"$p\" ]; then echo other; exit 0; fi; \
    cd \"$p\" 2>/dev/null || { echo closed; exit 0; }; echo directory; pwd -P; \
    c=empty; for e in * .[!.]* ..?*; do if [ \"$e\" != .warmspare ]; then if [ -e \"$e\" ] || [ -L \"$e\" ]; then c=some; break; fi; fi; done; echo $c; \
    if [ -f .warmspare/marker.json ]; then echo marker; head -c 4096 .warmspare/marker.json; else echo no-marker; fi; \
    n=0; for e in .warmspare/checkpoints/*.wanted; do if [ -f \"$e\" ] && [ $n -lt 16 ]; then \
    n=$((n+1)); echo; head -c 60000 \"$e\" | tr -d \"\\n\"; fi; done ); \
    echo; echo warmspare-end; done'";

/// The closing words of an answer.
const END: &[u8] = b"\nwarmspare-end\n";

/// A look at a directory takes a moment, unless the machine is in trouble.
const PATIENCE: Duration = Duration::from_secs(40);

const MARK: &str = "exec /bin/sh -c 'unset CDPATH; umask 022; IFS= read -r p || exit 91; IFS= read -r m || exit 91; \
    mkdir -p \"$p\" && cd \"$p\" && mkdir -p .warmspare && printf \"%s\\n\" \"$m\" > .warmspare/marker.json.new && \
    mv -f .warmspare/marker.json.new .warmspare/marker.json'";

const MAKE: &str =
    "exec /bin/sh -c 'IFS= read -r p || exit 91; command -v rsync >/dev/null 2>&1 || exit 92; mkdir -p \"$p\"'";

/// Checks that a path can be handed to the other machine: absolute or relative to the login's home.
///
/// # Errors
/// When it is empty, could be taken for an option or a pattern, or holds a character that cannot travel.
pub fn check_path(path: &str) -> Result<(), AgentError> {
    let wrong = |rule: &str| Err(AgentError::BadRequest(format!("the path {path:?} {rule}")));
    if path.is_empty() || path.len() > 4000 {
        return wrong("is empty or too long");
    }
    if path.starts_with('-') {
        return wrong("starts with -");
    }
    if path.contains(['\0', '\n', '\r']) {
        return wrong("holds a line break or a zero byte");
    }
    // rsync expands these on the other machine, also where it protects everything else.
    if path.contains(['*', '?', '[', '\\']) {
        return wrong("holds one of * ? [ \\, which rsync would take for a pattern");
    }
    if path.split('/').any(|part| part == "..") {
        return wrong("leaves its directory with ..");
    }
    Ok(())
}

/// Looks at the tree once.
///
/// # Errors
/// When the machine cannot be reached or answers something else.
pub fn look(machine: &Machine, path: &str) -> Result<Look, AgentError> {
    let once = || Watched::open(machine, path)?.before().cloned();
    match once() {
        // The kept connection may have died with the machine's last life: once more over a fresh one.
        Err(AgentError::Unreachable { .. }) => {
            machine.disconnect();
            machine.connect()?;
            once()
        }
        other => other,
    }
}

/// The tree, looked at when a pass begins and when it ends, over one and the same session.
#[derive(Debug)]
pub struct Watched {
    session: Session,
    shown: String,
    path: String,
    before: Option<Look>,
}

impl Watched {
    /// Begins to look; does not wait for the answer.
    ///
    /// # Errors
    /// When ssh cannot be started.
    pub fn open(machine: &Machine, path: &str) -> Result<Self, AgentError> {
        let mut watched = Self {
            session: machine.open(LOOK)?,
            shown: machine.shown(),
            path: path.to_owned(),
            before: None,
        };
        watched.ask();
        Ok(watched)
    }

    /// The first look, if its answer is there.
    ///
    /// # Errors
    /// When the connection broke or the answer is something else.
    pub fn glance(&mut self) -> Result<Option<&Look>, AgentError> {
        self.first(Duration::ZERO)
    }

    /// The first look.
    ///
    /// # Errors
    /// As [`Self::glance`]; also when no answer comes.
    pub fn before(&mut self) -> Result<&Look, AgentError> {
        let silent = self.silent();
        self.first(PATIENCE)?.ok_or(silent)
    }

    /// Looks again.
    ///
    /// # Errors
    /// As [`Self::before`].
    pub fn after(&mut self) -> Result<Look, AgentError> {
        self.before()?;
        self.ask();
        let silent = self.silent();
        self.read(PATIENCE)?.ok_or(silent)
    }

    fn ask(&mut self) {
        self.session.ask(format!("{}\n", self.path).as_bytes());
    }

    fn first(&mut self, patience: Duration) -> Result<Option<&Look>, AgentError> {
        if self.before.is_none() {
            self.before = self.read(patience)?;
        }
        Ok(self.before.as_ref())
    }

    fn read(&mut self, patience: Duration) -> Result<Option<Look>, AgentError> {
        let Some(answer) = self.session.answer(END, patience)? else {
            return Ok(None);
        };
        let look = read_look(&answer).ok_or_else(|| {
            let words = last_words(&String::from_utf8_lossy(&answer));
            AgentError::Unexpected(format!("{} gave an unexpected answer: {words}", self.shown))
        })?;
        Ok(Some(look))
    }

    fn silent(&self) -> AgentError {
        AgentError::Unreachable {
            host: self.shown.clone(),
            detail: "no answer in time".into(),
        }
    }
}

/// Writes our marker into the tree, making the directory where it is missing.
///
/// # Errors
/// When the machine cannot be reached or the directory not be written.
pub fn mark(machine: &Machine, path: &str, marker: Marker) -> Result<(), AgentError> {
    let json = serde_json::to_string(&marker).map_err(|error| AgentError::io("encode the marker", error.into()))?;
    let answer = machine.run(MARK, format!("{path}\n{json}\n").as_bytes())?;
    match answer.code {
        Some(0) => Ok(()),
        code => Err(AgentError::Unexpected(format!(
            "{} cannot write the marker into {path:?}, exit code {code:?}",
            machine.shown()
        ))),
    }
}

/// Makes the directory that a restore fills.
///
/// # Errors
/// When the machine cannot be reached, has no rsync, or the directory cannot be made.
pub fn make_target(machine: &Machine, path: &str) -> Result<(), AgentError> {
    match machine.run(MAKE, format!("{path}\n").as_bytes())?.code {
        Some(0) => Ok(()),
        Some(92) => Err(machine.no_rsync()),
        code => Err(AgentError::Unexpected(format!(
            "{} cannot make the directory {path:?}, exit code {code:?}",
            machine.shown()
        ))),
    }
}

const MAKE_ROOM: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && cd \"$p\" || exit 91; \
    command -v rsync >/dev/null 2>&1 || exit 92; [ ! -L .warmspare ] || exit 90; \
    rm -rf .warmspare/put-back && mkdir -p .warmspare/put-back'";

const CLEAR_ROOM: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p && cd \"$p\" || exit 91; \
    [ ! -L .warmspare ] || exit 90; rm -rf .warmspare/put-back'";

/// Makes [`crate::put_in::ROOM`], without what an earlier attempt left there.
///
/// # Errors
/// When the machine cannot be reached, has no rsync, or the directory cannot be made.
pub fn make_room(machine: &Machine, path: &str) -> Result<(), AgentError> {
    match machine.run(MAKE_ROOM, format!("{path}\n").as_bytes())?.code {
        Some(0) => Ok(()),
        Some(90) => Err(AgentError::Unexpected(format!(
            "on {} .warmspare in {path:?} is a link: remove it there",
            machine.shown()
        ))),
        Some(92) => Err(machine.no_rsync()),
        code => Err(AgentError::Unexpected(format!(
            "{} cannot make room in {path:?}, exit code {code:?}",
            machine.shown()
        ))),
    }
}

/// Removes it, so that nothing on its way takes space there.
pub fn clear_room(machine: &Machine, path: &str) {
    // Where it cannot be, the next attempt does it.
    let _ = machine.run(CLEAR_ROOM, format!("{path}\n").as_bytes());
}

fn read_look(output: &[u8]) -> Option<Look> {
    let start = b"\nwarmspare-look\n";
    let at = output.windows(start.len()).position(|window| window == start)?;
    let mut lines = output.get(at + start.len()..)?.splitn(6, |byte| *byte == b'\n');
    let rsync = match lines.next()? {
        b"rsync" => RsyncThere::Present,
        b"no-rsync" => RsyncThere::Missing,
        _ => return None,
    };
    let mut checkpoints = Vec::new();
    let tree = match lines.next()? {
        b"gone" => Tree::Gone,
        b"other" => Tree::NotADirectory,
        b"closed" => Tree::Closed,
        b"directory" => Tree::Directory {
            path: lines.next()?.to_vec(),
            content: match lines.next()? {
                b"empty" => Content::Empty,
                b"some" => Content::Some,
                _ => return None,
            },
            marker: {
                let word = lines.next()?;
                let mut rest = lines.next().unwrap_or_default().split(|byte| *byte == b'\n');
                let marker = match word {
                    b"no-marker" => MarkerFound::Missing,
                    b"marker" => read_marker(rest.next().filter(|marker| !marker.is_empty())?),
                    _ => return None,
                };
                checkpoints.extend(rest.filter_map(Wanted::read).take(MOST));
                marker
            },
        },
        _ => return None,
    };
    Some(Look {
        tree,
        rsync,
        checkpoints,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_talkative_shell_does_not_hide_the_answer() {
        let output = b"Welcome!\nto vast\n\nwarmspare-look\nrsync\ndirectory\n/root/x\nsome\nmarker\n{\"schema\":1,\"association\":\"vast-7\",\"epoch\":2}\n";
        let look = read_look(output).unwrap();
        assert_eq!(look.rsync, RsyncThere::Present);
        let Tree::Directory { path, content, marker } = look.tree else {
            panic!("{look:?}");
        };
        assert_eq!((path.as_slice(), content), (b"/root/x".as_slice(), Content::Some));
        let MarkerFound::Is(marker) = marker else {
            panic!("{marker:?}");
        };
        assert_eq!(
            (marker.association.to_string(), marker.epoch.number()),
            ("vast-7".into(), 2)
        );
    }

    #[test]
    fn an_answer_that_breaks_off_is_no_answer() {
        for output in [
            "",
            "\nwarmspare-look\n",
            "\nwarmspare-look\nrsync\ndirectory\n/x\n",
            "rsync\ngone\n",
        ] {
            assert_eq!(read_look(output.as_bytes()), None, "{output:?}");
        }
    }

    #[test]
    fn paths_that_could_be_taken_for_something_else_are_refused() {
        for good in ["/workspace", "work space/x", "~x", "data:1", "a'b\"c$d`e"] {
            assert!(check_path(good).is_ok(), "{good:?} was refused");
        }
        for bad in ["", "-rf", "a\nb", "a\0b", "/data/*", "../etc", "/a/../b"] {
            assert!(check_path(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
