//! What is stored, as JSON. During a deploy two versions overlap: unknown fields are tolerated, a newer schema is not.

use serde::{Deserialize, Serialize};
use warmspare_domain::association::Association;

/// The version of [`Stored`].
pub const STORED_SCHEMA: u32 = 1;

/// An association as it lies in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// [`STORED_SCHEMA`] of the writer.
    pub schema: u32,
    /// Unique per write: a writer whose answer was lost recognises its own write by it.
    pub nonce: String,
    /// The association.
    pub association: Association,
}

/// Why stored bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableError {
    /// They are not what any version writes.
    #[error("it is not an association in JSON")]
    Garbled(#[source] serde_json::Error),
    /// A newer version wrote them.
    #[error("it was written by a newer version (schema {0}, we know {STORED_SCHEMA}); update this program")]
    Newer(u32),
}

impl Stored {
    /// A write of its own: no other has its nonce.
    #[must_use]
    pub fn new(association: &Association) -> Self {
        Self {
            schema: STORED_SCHEMA,
            nonce: uuid::Uuid::new_v4().simple().to_string(),
            association: association.clone(),
        }
    }

    /// As bytes.
    ///
    /// # Errors
    /// Never in practice: every field has a JSON form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When they are garbled or newer than we are.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnreadableError> {
        #[derive(Deserialize)]
        struct Peek {
            schema: u32,
        }
        let peek: Peek = serde_json::from_slice(bytes).map_err(UnreadableError::Garbled)?;
        if peek.schema > STORED_SCHEMA {
            return Err(UnreadableError::Newer(peek.schema));
        }
        serde_json::from_slice(bytes).map_err(UnreadableError::Garbled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::fixture;

    #[test]
    fn a_newer_schema_and_garbage_are_refused_and_unknown_fields_are_not() {
        let stored = Stored::new(&fixture(7));
        let mut json: serde_json::Value = serde_json::from_slice(&stored.to_bytes().unwrap()).unwrap();
        json["a_field_of_tomorrow"] = true.into();
        json["association"]["another"] = 1.into();
        assert_eq!(Stored::from_bytes(json.to_string().as_bytes()).unwrap(), stored);
        json["schema"] = 2.into();
        assert!(matches!(
            Stored::from_bytes(json.to_string().as_bytes()),
            Err(UnreadableError::Newer(2))
        ));
        assert!(matches!(
            Stored::from_bytes(b"{\"schema\":1,"),
            Err(UnreadableError::Garbled(_))
        ));
    }

    #[test]
    fn the_golden_file_of_schema_1_is_still_read() {
        let golden = include_bytes!("wire/stored-schema-1.json");
        let stored = Stored::from_bytes(golden).unwrap();
        assert_eq!(stored.association, fixture(48_927_380));
        let mut written: serde_json::Value = serde_json::from_slice(&stored.to_bytes().unwrap()).unwrap();
        // What came since has a default, so that the old is read, and an older version reads past it.
        for (place, name) in [
            ("/association/policy", "bandwidth_kib_per_s"),
            ("/association/policy", "max_disk_gb"),
            ("/association/standby", "disk"),
        ] {
            let place = written.pointer_mut(place).and_then(serde_json::Value::as_object_mut);
            place
                .and_then(|fields| fields.remove(name))
                .expect("a field that came since");
        }
        let known: serde_json::Value = serde_json::from_slice(golden).unwrap();
        assert_eq!(
            written, known,
            "what is written changed: raise the schema and keep reading the old one"
        );
    }
}
