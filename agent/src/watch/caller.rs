//! Whoever is connected to a watcher.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use super::hand_over::hand_over;
use super::protocol::{Handed, Hello, Question};
use crate::frame::write_frame;
use crate::process::wait_for_any;

/// A reader that takes no answer for this long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest question names what is to be handed over.
const LONGEST_QUESTION: usize = 1 << 16;

/// A standby that is connected, by its relay.
pub(super) struct Caller {
    pub(super) stream: UnixStream,
    heard: Vec<u8>,
    pub(super) question: Option<(Question, Instant)>,
    /// When it spoke last.
    pub(super) spoke: Instant,
    pub(super) gone: bool,
}

impl Caller {
    pub(super) fn greet(stream: UnixStream, hello: &Hello) -> Option<Self> {
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        stream.set_write_timeout(Some(PATIENCE)).ok()?;
        write_frame(&stream, hello, b"").ok()?;
        Some(Self {
            stream,
            heard: Vec::new(),
            question: None,
            spoke: Instant::now(),
            gone: false,
        })
    }

    /// What its question asks to be handed over.
    pub(super) fn hand_over(&self, tree: &Path) -> Option<(Vec<Handed>, Vec<u8>)> {
        let (question, _) = self.question.as_ref()?;
        // A watcher that is only waited for must not open the tree at each event.
        (!question.hand.is_empty()).then(|| hand_over(tree, &question.hand))?
    }

    pub(super) fn hear(&mut self) {
        let mut here = [PollFd::new(&self.stream, PollFlags::IN)];
        if !wait_for_any(&mut here, Instant::now()) {
            return;
        }
        let mut chunk = [0; 4096];
        match (&self.stream).read(&mut chunk) {
            Ok(read) if read > 0 && self.heard.len() < LONGEST_QUESTION => {
                self.heard.extend(chunk.get(..read).unwrap_or_default());
            }
            Ok(_) | Err(_) => self.gone = true,
        }
        while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            match serde_json::from_slice::<Question>(&line) {
                Ok(question) => {
                    let until = Instant::now() + Duration::from_millis(question.wait_ms.max(question.patience_ms));
                    self.question = Some((question, until));
                    self.spoke = Instant::now();
                }
                Err(_) => self.gone = true,
            }
        }
    }
}
