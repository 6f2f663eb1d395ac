//! When what is desired is what is observed, nothing is done but passes, and nothing is written.

mod fixtures;

use fixtures::*;
use warmspare_domain::association::{Association, Copying, Link};
use warmspare_domain::decide::{decide, needs};
use warmspare_domain::effect::EffectKind;
use warmspare_domain::event::Event;
use warmspare_domain::observed::{Observed, Seen, StandbySeen};

/// Looks at what the association needs, in a world that is as it should be.
fn calm_look(a: &Association) -> Event {
    let needs = needs(a, t0());
    let present = |asked: bool| {
        if asked {
            Observed::Present(running())
        } else {
            Observed::Unknown
        }
    };
    looked(Seen {
        gpu: present(needs.gpu.is_some()),
        target: present(needs.target.is_some()),
        ..if needs.standby {
            sees_standby(StandbySeen::Running(endpoint()))
        } else {
            Seen::NOTHING
        }
    })
}

fn effects_when_calm(a: &Association) -> Vec<EffectKind> {
    let decision = decide(a, &calm_look(a), t0());
    assert_eq!(decision.next, *a, "a calm beat writes nothing");
    decision
        .effects
        .iter()
        .map(warmspare_domain::effect::Effect::kind)
        .collect()
}

#[test]
fn a_calm_beat_pulls_and_asks_no_provider() {
    for a in [seeding(), protected(), moved()] {
        assert_eq!(effects_when_calm(&a), [EffectKind::Sync]);
        let needs = needs(&a, t0());
        assert_eq!((needs.gpu, needs.target, needs.standby), (None, None, false));
    }
}

#[test]
fn what_waits_for_a_person_does_nothing() {
    let mut stopped = protected();
    stopped.copying = Copying::Off;
    let mut down = holding_for(warmspare_domain::association::LossCause::ReportedFailed);
    down.standby.link = Link::Lost(endpoint());
    for a in [stopped, halted(), down, released()] {
        assert_eq!(effects_when_calm(&a), []);
    }
}

#[test]
fn a_complete_pass_changes_nothing_that_is_stored() {
    assert_eq!(after(&protected(), &reported(pulling())), protected());
}

#[test]
fn a_stored_association_is_read_as_it_was_written() {
    let golden = include_str!("golden/association.json");
    let expected = golden_association();
    let written = serde_json::to_string_pretty(&expected).expect("an association is JSON") + "\n";
    if written != golden {
        let path = concat!(env!("CARGO_TARGET_TMPDIR"), "/association.json");
        std::fs::write(path, &written).unwrap();
        panic!("an association is written differently now; see {path}");
    }
    let stored: Association = serde_json::from_str(golden).expect("the golden file is an association");
    assert_eq!(stored, expected);
    let newer = golden.replacen('{', "{\n  \"from_a_newer_version\": true,", 1);
    let tolerated: Association = serde_json::from_str(&newer).expect("the store may hold fields of a newer version");
    assert_eq!(tolerated, expected);
}

/// One with something in every field.
fn golden_association() -> Association {
    let mut a = restoring();
    a.superseded.insert(warmspare_domain::ids::GpuId::vast(48_000_000));
    a.retry.failures = 2;
    "no capacity in us-south1-a".clone_into(&mut a.retry.problem);
    a
}
