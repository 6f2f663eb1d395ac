//! Holds recorded requests against the schemas that the providers publish.

use std::path::{Path, PathBuf};

/// A file of the shared directory beside the checkout (or in `WARMSPARE_SHARED`), which a clone of the repository alone does not have.
pub(crate) fn shared(file: &str) -> Option<PathBuf> {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let named = std::env::var_os("WARMSPARE_SHARED").map(PathBuf::from);
    let path = named.clone().unwrap_or_else(beside).join(file);
    if path.exists() {
        return Some(path);
    }
    assert!(named.is_none(), "WARMSPARE_SHARED does not lead to {}", path.display());
    eprintln!(
        "\n!!! NOT CHECKED against the provider's schema: {} is not there; set WARMSPARE_SHARED !!!\n",
        path.display()
    );
    None
}

/// Checks requests, one JSON object a line, against one of Google's discovery documents.
#[cfg(feature = "compute")]
pub(crate) fn check(document: &str, requests: &Path) {
    let (Some(tool), Some(document)) = (
        shared("tools/discovery_contract.py"),
        shared(&format!("reference/google/{document}")),
    ) else {
        return;
    };
    let count = std::fs::read_to_string(requests).expect("readable").lines().count();
    let output = std::process::Command::new("python3")
        .arg(tool)
        .arg(document)
        .arg(requests)
        .output()
        .expect("python3 runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        count > 0 && output.status.success() && text.contains(&format!("{count} requests, 0 bad")),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
