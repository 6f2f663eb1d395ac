//! Tells the story line by line, with one live line at the bottom when somebody watches.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The story so far.
pub(super) struct Timeline {
    began: Instant,
    live: ProgressBar,
    to_stderr: bool,
    colour: bool,
}

/// What kind of line it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// Something happened.
    Plain,
    /// Something went wrong in the clouds, as planned.
    Trouble,
    /// Something was saved.
    Good,
}

impl Timeline {
    pub(super) fn new(to_stderr: bool) -> Self {
        let live = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            live.set_style(style);
        }
        let watched = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Self {
            began: Instant::now(),
            live,
            to_stderr,
            colour: watched && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// One line of the story.
    pub(super) fn tell(&self, tone: Tone, words: &str) {
        let (on, off) = match (self.colour, tone) {
            (false, _) | (true, Tone::Plain) => ("", ""),
            (true, Tone::Trouble) => ("\x1b[33m", "\x1b[0m"),
            (true, Tone::Good) => ("\x1b[32m", "\x1b[0m"),
        };
        let line = format!("{:>6.1} s  {on}{words}{off}", self.began.elapsed().as_secs_f64());
        self.live.suspend(|| {
            if self.to_stderr {
                eprintln!("{line}");
            } else {
                // The story is played to its end even when nobody listens: only then its clouds are gone.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
        });
    }

    /// The live line.
    pub(super) fn now(&self, words: String) {
        self.live.set_message(words);
        self.live.tick();
    }

    /// Removes the live line.
    pub(super) fn clear(&self) {
        self.live.finish_and_clear();
    }
}
