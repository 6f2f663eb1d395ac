//! Every request that arrived and what became of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use serde_json::Value;

/// One request that the sim received. One line of a journal file is this as JSON, the form that
/// `tools/discovery_contract.py` reads.
#[derive(Debug, Clone, Serialize)]
pub struct Recorded {
    /// The HTTP method.
    pub method: String,
    /// The path as sent.
    pub path: String,
    /// The query, each name with all its values.
    pub query: BTreeMap<String, Vec<String>>,
    /// The JSON body; null when there was none or it was not JSON.
    pub body: Value,
    /// The status that was decided, even when the answer was then lost.
    pub status: u16,
    /// Whether the client got no answer on purpose.
    pub answer_lost: bool,
    /// Unix time of arrival in seconds.
    pub at: f64,
}

impl Recorded {
    /// Whether this went to the Compute Engine side.
    #[must_use]
    pub fn is_compute(&self) -> bool {
        self.path.starts_with("/compute/")
    }
}

#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<Vec<Recorded>>);

impl Journal {
    pub(crate) fn add(&self, entry: Recorded) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
    }

    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the chosen requests, one JSON object a line.
    pub(crate) fn write(&self, path: &Path, chosen: impl Fn(&Recorded) -> bool) -> io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for entry in self.all().into_iter().filter(chosen) {
            serde_json::to_writer(&mut file, &entry)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }
}
