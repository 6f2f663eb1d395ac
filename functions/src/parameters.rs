//! Secrets from Parameter Store: every parameter below our path is the setting of its name.

use std::collections::BTreeMap;

use anyhow::Context;
use aws_sdk_ssm::Client;

/// Reads all parameters below a path, decrypted, by the last part of their names.
///
/// # Errors
/// When Parameter Store does not answer or refuses; no value is part of the message.
pub async fn read(client: &Client, path: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    let mut pages = client
        .get_parameters_by_path()
        .path(path.trim_end_matches('/'))
        .with_decryption(true)
        .into_paginator()
        .send();
    while let Some(page) = pages.next().await {
        let page = page.with_context(|| {
            format!("Parameter Store did not give the parameters below {path}; may the function's role read and decrypt them?")
        })?;
        for parameter in page.parameters() {
            if let (Some(name), Some(value)) = (parameter.name(), parameter.value())
                && let Some(name) = name.strip_prefix(path)
            {
                found.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    Ok(found)
}
