//! What crosses a process boundary as JSON: the agent's calls and answers, and the hooks that tools send.
//!
//! Every message carries `schema`. During a deploy two versions overlap, so a reader tolerates unknown fields and refuses only
//! a schema that is newer than its own. `tests/golden/` holds one sample per message.

pub mod agent;
pub mod hooks;
