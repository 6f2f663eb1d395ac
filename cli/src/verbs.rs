//! The verbs that call the API, one file each.

pub(crate) mod configure;
pub(crate) mod doctor;
pub(crate) mod download;
pub(crate) mod estimate;
pub(crate) mod fail;
pub(crate) mod list;
pub(crate) mod machines;
pub(crate) mod plan;
pub(crate) mod points;
pub(crate) mod protect;
pub(crate) mod rebuild;
pub(crate) mod release;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod sync;
pub(crate) mod token;
pub(crate) mod webhook;

mod rules;
mod words;
