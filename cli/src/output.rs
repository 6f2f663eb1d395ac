//! Where data and words leave the program.
//!
//! The standard library's macros panic when they cannot write, and Rust starts a process with SIGPIPE ignored, which `serve` needs. These
//! macros go by the same names in this crate, so no verb has to think of it.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stderr, stdout};

/// What a shell makes of a process that SIGPIPE ended.
pub(crate) const READER_LEFT: u8 = 128 + 13;

macro_rules! print {
    ($($words:tt)*) => { $crate::output::data(format_args!($($words)*)) };
}

macro_rules! println {
    () => { $crate::output::data(format_args!("\n")) };
    ($($words:tt)*) => { $crate::output::data(format_args!("{}\n", format_args!($($words)*))) };
}

macro_rules! eprint {
    ($($words:tt)*) => { $crate::output::words(format_args!($($words)*)) };
}

macro_rules! eprintln {
    ($($words:tt)*) => { $crate::output::words(format_args!("{}\n", format_args!($($words)*))) };
}

/// Writes to standard output. When nobody reads it any more the process ends without a word; when it cannot be written, with one.
pub(crate) fn data(text: Arguments<'_>) {
    let mut out = stdout().lock();
    let Err(error) = out.write_fmt(text).and_then(|()| out.flush()) else {
        return;
    };
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(READER_LEFT.into());
    }
    words(format_args!("warmspare: cannot write to standard output: {error}\n"));
    std::process::exit(1);
}

/// Writes to standard error. Where that cannot be written nobody can be told; the exit code still says it.
pub(crate) fn words(text: Arguments<'_>) {
    let _ = stderr().lock().write_fmt(text);
}
