//! The standby's end of watching: puts our program on the GPU, has it watch, and asks what changed.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use warmspare_wire::agent::Urgency;

use crate::bell::Bell;
use crate::checkpoints::{MOST, Wanted};
use crate::data_dir::DataDir;
use crate::error::AgentError;
use crate::frame::{LONGEST, take_frame};
use crate::marker::MARKER_DIRECTORY;
use crate::process::last_words;
use crate::program::{self, NotPushed};
use crate::session::Session;
use crate::ssh::Machine;
use crate::watch::dirty::MOST_PATHS;
use crate::watch::protocol::{Changes, Question, REPLACED, Reply};
use crate::watch::relay::{GREETING, GREETING_END};

// Fixed text; path and name come over standard input. Without our program, or where it cannot run, the shell says so.
const ATTACH: &str = "exec /bin/sh -c 'unset CDPATH; IFS= read -r p || exit 91; IFS= read -r n || exit 91; \
    case $p in /*) ;; *) p=$PWD/$p;; esac; w=absent; \
    if cd \"$p/.warmspare\" 2>/dev/null && [ -f \"$n\" ]; then \"./$n\" watch-relay \"$p\"; w=failed; fi; \
    echo; echo \"warmspare-watch $w\"; echo warmspare-watch-end'";

/// A watcher answers at once, unless its machine is in trouble.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a GPU is about to stop, rsync begins after this long.
const LITTLE_PATIENCE: Duration = Duration::from_secs(5);

/// How long the GPU may take to answer.
#[must_use]
pub fn patience(urgency: Urgency) -> Duration {
    match urgency {
        Urgency::Due => PATIENCE,
        Urgency::LastGasp => LITTLE_PATIENCE,
    }
}

/// How a watcher on the GPU can fail us.
#[derive(Debug)]
pub enum Failed {
    /// There is none, and there will be none for a while: the words are for a person.
    Missing(String),
    /// The connection broke, or worse.
    Broken(AgentError),
}

impl From<AgentError> for Failed {
    fn from(error: AgentError) -> Self {
        Self::Broken(error)
    }
}

impl From<NotPushed> for Failed {
    fn from(error: NotPushed) -> Self {
        match error {
            NotPushed::Refused(words) => Self::Missing(words),
            NotPushed::Broken(error) => Self::Broken(error),
        }
    }
}

/// What a watcher said.
#[derive(Debug, Clone)]
pub struct Told {
    /// The tree, the cursor, and what the paths mean.
    pub reply: Reply,
    /// The changed paths, sorted, parents before what lies in them; the root is the empty path.
    pub paths: Vec<PathBuf>,
    /// Those among them at which a directory was taken away.
    pub replaced: Vec<PathBuf>,
    /// What was handed over of files, one behind the other; as long as [`Reply::content`] says.
    pub content: Vec<u8>,
}

impl Told {
    /// The changed paths, if they are all that changed.
    #[must_use]
    pub fn known(self) -> Option<Vec<PathBuf>> {
        matches!(self.reply.changes, Changes::Complete | Changes::HardLinks).then_some(self.paths)
    }
}

/// A session with the watcher of one tree.
#[derive(Debug)]
pub struct Observer {
    session: Session,
    asked: u64,
    wire_bytes: u64,
}

impl Observer {
    /// Finds the watcher of a tree, starts it, or, where there is time, brings it there first.
    ///
    /// # Errors
    /// Why there is none.
    pub fn attach(dir: &DataDir, machine: &Machine, path: &str, urgency: Urgency) -> Result<Self, Failed> {
        let name = program::name(dir)?;
        match Self::open(machine, path, &name, patience(urgency))? {
            Greeting::Here(observer) => return Ok(*observer),
            Greeting::Failed(words) => return Err(Failed::Missing(words)),
            Greeting::Absent if urgency == Urgency::LastGasp => {
                return Err(Failed::Missing("there is no time to bring it there".into()));
            }
            Greeting::Absent => {}
        }
        program::push(machine, path, &name)?;
        match Self::open(machine, path, &name, PATIENCE)? {
            Greeting::Here(observer) => Ok(*observer),
            Greeting::Failed(words) => Err(Failed::Missing(words)),
            Greeting::Absent => Err(Failed::Missing("our program does not stay on the GPU".into())),
        }
    }

    fn open(machine: &Machine, path: &str, name: &str, patience: Duration) -> Result<Greeting, Failed> {
        let mut session = machine.open(ATTACH)?;
        session.ask(format!("{path}\n{name}\n").as_bytes());
        let Some(answer) = session.answer(GREETING_END, patience)? else {
            return Err(Failed::Missing("the GPU does not answer in time".into()));
        };
        let at = answer.windows(GREETING.len()).rposition(|window| window == GREETING);
        let words = at.and_then(|at| answer.get(at + GREETING.len()..)).unwrap_or_default();
        Ok(match words {
            b"ok" => Greeting::Here(Box::new(Self {
                session,
                asked: 0,
                wire_bytes: 0,
            })),
            b"absent" => Greeting::Absent,
            _ => {
                let words = last_words(&String::from_utf8_lossy(words));
                Greeting::Failed(format!("our program cannot run on the GPU ({words})"))
            }
        })
    }

    /// Puts a question; [`Self::hear`] has the answer.
    pub fn ask(&mut self, question: &Question) {
        self.asked += 1;
        let question = Question {
            number: self.asked,
            ..question.clone()
        };
        if let Ok(json) = serde_json::to_vec(&question) {
            let line = [json, b"\n".to_vec()].concat();
            self.wire_bytes += line.len() as u64;
            self.session.ask(&line);
        }
    }

    /// The answer to the last question; `None` when it is not there within `patience`, or when the bell rings.
    ///
    /// # Errors
    /// When the watcher is gone, or says what no watcher says.
    pub fn hear(&mut self, patience: Duration, bell: Option<&Bell>) -> Result<Option<Told>, Failed> {
        let mut length: u64 = 0;
        let asked = self.asked;
        let taken = self.session.next(patience, bell, LONGEST + LONGEST / 2, |heard| {
            if heard.starts_with(b"\n") {
                return Ok(Some(None));
            }
            loop {
                let before = heard.len();
                let taken = take_frame::<Reply>(heard);
                length += (before - heard.len()) as u64;
                match taken {
                    Ok(Some((reply, _))) if reply.number != asked => {}
                    Ok(taken) => return Ok(taken.map(Some)),
                    Err(_) => return Ok(Some(None)),
                }
            }
        })?;
        self.wire_bytes += length;
        match taken {
            None => Ok(None),
            Some(None) => Err(Failed::Missing("the watcher ended".into())),
            Some(Some((reply, bytes))) => Ok(Some(understand(reply, bytes)?)),
        }
    }

    /// Asks and waits for the answer, so long beside the wait that the question asks for.
    ///
    /// # Errors
    /// As [`Self::hear`]; also when no answer comes.
    pub fn query(&mut self, patience: Duration, question: &Question) -> Result<Told, Failed> {
        self.ask(question);
        let patience = patience + Duration::from_millis(question.wait_ms.max(question.patience_ms));
        self.hear(patience, None)?
            .ok_or_else(|| Failed::Missing("the watcher does not answer in time".into()))
    }

    /// What questions and answers put on the wire since this was asked last.
    pub fn take_wire_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.wire_bytes)
    }
}

enum Greeting {
    Here(Box<Observer>),
    Absent,
    Failed(String),
}

/// A hostile machine may name anything, and as much as it likes: only plain paths below the root are taken, and no more of them than a
/// watcher remembers.
fn understand(mut reply: Reply, mut paths: Vec<u8>) -> Result<Told, Failed> {
    let wrong = || Failed::Missing("the watcher names paths outside the tree".into());
    let content = usize::try_from(reply.content())
        .ok()
        .and_then(|length| paths.len().checked_sub(length));
    let content = paths.split_off(content.ok_or_else(wrong)?);
    let (mut known, mut replaced) = (Vec::new(), Vec::new());
    if matches!(reply.changes, Changes::Complete | Changes::HardLinks) && !paths.is_empty() {
        let names = paths.strip_suffix(b"\0").ok_or_else(wrong)?;
        if names.iter().filter(|byte| **byte == 0).count() >= MOST_PATHS {
            return Err(wrong());
        }
        for name in names.split(|byte| *byte == 0) {
            let (change, name) = name.split_first().ok_or_else(wrong)?;
            let path = plain(name).ok_or_else(wrong)?;
            if *change == REPLACED {
                replaced.push(path.clone());
            }
            known.push(path);
        }
    }
    if let Changes::Blind(words) = &mut reply.changes {
        *words = last_words(words);
    }
    if reply.cursor.as_ref().is_some_and(|cursor| cursor.life.len() > 64) {
        return Err(wrong());
    }
    if reply.checkpoints.len() > MOST || !reply.checkpoints.iter().all(Wanted::is_sound) {
        return Err(wrong());
    }
    known.sort();
    known.dedup();
    Ok(Told {
        reply,
        paths: known,
        replaced,
        content,
    })
}

fn plain(name: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let normal = path.components().all(|part| matches!(part, Component::Normal(_)));
    // Spelled as we spell it: no double or closing slash, no dot on the way.
    let rebuilt: PathBuf = path.components().collect();
    let ours = path.starts_with(MARKER_DIRECTORY);
    (normal && rebuilt.as_os_str() == path.as_os_str() && !ours && name.len() < 4096).then_some(rebuilt)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(paths: &[u8]) -> Result<Told, Failed> {
        understand(Reply::bare(), paths.to_vec())
    }

    #[test]
    fn a_watcher_cannot_name_what_lies_outside_the_tree() {
        let good = told(b".\0.a/b\0/a\0.line\nbreak\0.\xff\0").unwrap();
        let names: Vec<_> = good
            .paths
            .iter()
            .map(|path| path.as_os_str().as_encoded_bytes())
            .collect();
        assert_eq!(names, [&b""[..], b"a", b"a/b", b"line\nbreak", b"\xff"]);
        assert_eq!(good.replaced, [Path::new("a")]);
        let bad: [&[u8]; 10] = [
            b"./etc/passwd\0",
            b"/../x\0",
            b".a/../../x\0",
            b".a//b\0",
            b".a/\0",
            b"../a\0",
            b".a/./b\0",
            b"..warmspare/marker.json\0",
            b"\0",
            b".not ended",
        ];
        for paths in bad {
            assert!(told(paths).is_err(), "{paths:?}");
        }
    }
}
