//! The beat of the functions: absolute slots at :00 and :30, spread over shards.
//!
//! A schedule fires within a minute at best (EventBridge Scheduler, `reference/aws/aws.md` §1), so nobody beats when it fires. A planner queues the
//! slots of the *next* minute, each delayed to its instant. A slot that comes twice is a normal beat, one that comes late is dropped, one that never
//! comes costs 30 s.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use warmspare_domain::ids::AssociationId;
use warmspare_domain::units::Timestamp;

use crate::ports::Version;

/// The version of [`Message`].
pub const MESSAGE_SCHEMA: u32 = 1;

/// 30 s between two slots.
const SLOT_MS: i64 = 30_000;

/// A slot that is older has been overtaken by the next one.
const STALE_AFTER: Duration = Duration::from_secs(25);

/// What the tick queue carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// [`MESSAGE_SCHEMA`] of the sender.
    pub schema: u32,
    /// What to do.
    pub tick: Tick,
}

/// A beat that is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tick {
    /// An ordinary beat of one shard.
    Slot {
        /// Which shard; it names the heartbeat.
        shard: u32,
        /// When it is due.
        slot: Timestamp,
        /// What the planner listed: the associations that are not released, with their versions.
        associations: BTreeMap<AssociationId, String>,
    },
    /// Somebody wants this one looked at now.
    Look {
        /// Which.
        association: AssociationId,
    },
}

impl Tick {
    /// Whether it came so late that a newer slot does its work.
    #[must_use]
    pub fn is_stale(&self, now: Timestamp) -> bool {
        match self {
            Self::Slot { slot, .. } => now.since(*slot) > STALE_AFTER,
            Self::Look { .. } => false,
        }
    }
}

/// A message and how long the queue is to hold it back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delayed {
    /// The message.
    pub message: Message,
    /// 0 to 119 s.
    pub delay: Duration,
}

/// The messages for the two slots of the next minute. Shards are reckoned anew each time, so their number may change at any minute.
#[must_use]
pub fn next_minute(now: Timestamp, shards: u32, live: &BTreeMap<AssociationId, Version>) -> Vec<Delayed> {
    let mut members: BTreeMap<u32, BTreeMap<AssociationId, String>> = BTreeMap::new();
    for (id, version) in live {
        members
            .entry(shard_of(*id, shards))
            .or_default()
            .insert(*id, version.0.clone());
    }
    let minute = (now.as_millis().div_euclid(2 * SLOT_MS) + 1) * 2 * SLOT_MS;
    let slots = [minute, minute + SLOT_MS].map(Timestamp::from_millis);
    let mut messages = Vec::new();
    for slot in slots {
        for (shard, associations) in &members {
            let tick = Tick::Slot {
                shard: *shard,
                slot,
                associations: associations.clone(),
            };
            messages.push(Delayed {
                message: Message {
                    schema: MESSAGE_SCHEMA,
                    tick,
                },
                delay: slot.since(now),
            });
        }
    }
    messages
}

/// Which shard an association belongs to: the same in every process, and evenly spread.
fn shard_of(id: AssociationId, shards: u32) -> u32 {
    let digest = Sha256::digest(id.to_string().as_bytes());
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % shards.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmspare_domain::ids::GpuId;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn live(count: u64) -> BTreeMap<AssociationId, Version> {
        (1..=count)
            .map(|n| (AssociationId::of(GpuId::vast(n)), Version(n.to_string())))
            .collect()
    }

    #[test]
    fn whatever_second_the_planner_fires_at_it_queues_the_same_two_slots_of_the_next_minute() {
        for (fired, delays) in [
            ("2026-11-23T13:45:00Z", [60, 90]),
            ("2026-11-23T13:45:31Z", [29, 59]),
            ("2026-11-23T13:45:59Z", [1, 31]),
        ] {
            let messages = next_minute(at(fired), 1, &live(3));
            let slots: Vec<_> = messages
                .iter()
                .map(|one| match &one.message.tick {
                    Tick::Slot { slot, associations, .. } => {
                        assert_eq!(associations.len(), 3);
                        slot.to_string()
                    }
                    Tick::Look { .. } => unreachable!("planned a look"),
                })
                .collect();
            assert_eq!(slots, ["2026-11-23T13:46:00.000Z", "2026-11-23T13:46:30.000Z"]);
            assert_eq!(
                messages.iter().map(|one| one.delay.as_secs()).collect::<Vec<_>>(),
                delays
            );
        }
    }

    #[test]
    fn every_association_is_in_exactly_one_shard_and_shards_are_even() {
        let everything = live(10_000);
        let messages = next_minute(at("2026-11-23T13:45:10Z"), 100, &everything);
        assert_eq!(messages.len(), 200);
        let mut seen = BTreeMap::new();
        for one in &messages[..100] {
            let Tick::Slot { associations, .. } = &one.message.tick else {
                panic!("not a slot")
            };
            assert!((50..=150).contains(&associations.len()), "{}", associations.len());
            // One message is well below the queue's limit of 1 MiB.
            assert!(serde_json::to_vec(&one.message).unwrap().len() < 64 << 10);
            seen.extend(associations.clone());
        }
        assert_eq!(seen.len(), 10_000);
    }

    #[test]
    fn a_late_slot_is_dropped_and_a_look_never() {
        let slot = Tick::Slot {
            shard: 0,
            slot: at("2026-11-23T13:46:00Z"),
            associations: BTreeMap::new(),
        };
        assert!(!slot.is_stale(at("2026-11-23T13:45:59Z")) && !slot.is_stale(at("2026-11-23T13:46:25Z")));
        assert!(slot.is_stale(at("2026-11-23T13:46:26Z")));
        let association = AssociationId::of(GpuId::vast(7));
        assert!(!Tick::Look { association }.is_stale(at("2027-01-01T00:00:00Z")));
    }

    #[test]
    fn the_message_is_read_as_it_was_written_by_the_version_before() {
        let text = r#"{"schema":1,"tick":{"slot":{"shard":3,"slot":"2026-11-23T13:45:30.000Z","associations":{"vast-7":"12"}}}}"#;
        let message: Message = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&message).unwrap(), text);
    }
}
