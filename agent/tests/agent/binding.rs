//! Who may bind a standby, to what.

use std::fs;

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::{AssociationId, Epoch, GpuId};
use warmspare_wire::agent::{Accept, Bind, Binding, Outcome, RefusalKind, Request, Urgency};

use crate::support::{Machine, Standby, association, bound, refusal_of, status_of, write};

const FIRST: Epoch = Epoch::FIRST;

fn refused(standby: &Standby, bind: Bind) -> RefusalKind {
    let refusal = refusal_of(standby.call(Request::Bind(bind)));
    assert!(refusal.message.len() > 40, "says too little: {}", refusal.message);
    refusal.kind
}

#[test]
fn the_key_is_made_once_and_its_private_half_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let standby = Standby::new();
    let key = standby.key();
    assert!(key.starts_with("ssh-ed25519 "), "{key}");
    assert_eq!(standby.key(), key);
    let private = fs::metadata(standby.data.join("identity/id_ed25519")).unwrap();
    assert_eq!(private.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_standby_never_serves_two_associations() {
    let (gpu, standby) = bound();
    let mut foreign = standby.bind_request(&gpu, FIRST.next());
    foreign.association = AssociationId::of(GpuId::vast(8));
    foreign.accept = Accept::SourceAsItIs;
    assert_eq!(refused(&standby, foreign), RefusalKind::ForeignAssociation);
    let Binding::Bound { association: still, .. } = standby.status().binding else {
        panic!("unbound");
    };
    assert_eq!(still, association());
}

#[test]
fn an_older_epoch_neither_binds_nor_syncs() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    let second = FIRST.next();
    standby.bind(&gpu, second);
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::StaleEpoch
    );
    let stale = refusal_of(standby.try_sync(FIRST, Urgency::LastGasp, 5000));
    assert_eq!(stale.kind, RefusalKind::StaleEpoch);
    standby.pass(second);
    assert_eq!(standby.status().points.latest.unwrap().epoch, second);
}

#[test]
fn the_gpu_that_was_superseded_is_recognised_by_its_marker() {
    let (gpu, standby) = bound();
    let replacement = Machine::start(&[&standby.key()]);
    standby.bind(&replacement, FIRST.next());
    // The old GPU comes back and somebody binds it under the number that belongs to the new one.
    let mut wrong = standby.bind_request(&replacement, FIRST);
    wrong.epoch = FIRST.next().next();
    status_of(standby.call(Request::Bind(wrong)));
    fs::copy(
        replacement.tree().join(".warmspare/marker.json"),
        gpu.tree().join(".warmspare/marker.json"),
    )
    .unwrap();
    let late = Standby::new();
    gpu.authorize(&[&late.key()]);
    let refusal = refusal_of(late.call(Request::Bind(late.bind_request(&gpu, FIRST))));
    assert_eq!(refusal.kind, RefusalKind::Halted, "{}", refusal.message);
    assert_eq!(late.status().halt.unwrap().reason, HaltReason::MarkerForeign);
}

#[test]
fn a_tree_of_another_association_is_left_alone_until_accepted() {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    let theirs = r#"{"schema":1,"association":"vast-99","epoch":1}"#;
    write(&gpu.tree().join(".warmspare/marker.json"), theirs);
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::Halted
    );
    let marker = || fs::read_to_string(gpu.tree().join(".warmspare/marker.json")).unwrap();
    assert_eq!(marker(), theirs);
    let mut accept = standby.bind_request(&gpu, FIRST);
    accept.accept = Accept::SourceAsItIs;
    status_of(standby.call(Request::Bind(accept)));
    assert!(marker().contains("vast-7"));
    assert_eq!(standby.pass(FIRST).halt, None);
}

#[test]
fn binding_makes_the_directory_and_may_be_repeated_at_another_address() {
    let standby = Standby::new();
    let mut gpu = Machine::start(&[&standby.key()]);
    fs::remove_dir(gpu.tree()).unwrap();
    standby.bind(&gpu, FIRST);
    standby.bind(&gpu, FIRST);
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    gpu.halt();
    gpu.port = 0;
    gpu.boot();
    standby.bind(&gpu, FIRST);
    write(&gpu.tree().join("b"), "2");
    assert_eq!(standby.pass(FIRST).points.count, 2);
}

#[test]
fn what_cannot_be_reached_or_used_is_refused_by_kind_and_binds_nothing() {
    let standby = Standby::new();
    let key = standby.key();
    let mut gpu = Machine::start(&["# nobody"]);
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::KeyRefused
    );
    gpu.authorize(&[&key]);
    gpu.halt();
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::Unreachable
    );
    let programs = gpu.place.path().join("programs");
    fs::create_dir(&programs).unwrap();
    std::os::unix::fs::symlink("/bin/sh", programs.join("sh")).unwrap();
    gpu.boot_with(&format!("SetEnv SHLVL=5 PATH={}", programs.display()), &[]);
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::ProgramMissing
    );
    assert_eq!(standby.status().binding, Binding::Unbound);
    let sync = refusal_of(standby.try_sync(FIRST, Urgency::Due, 0));
    assert_eq!(sync.kind, RefusalKind::NotBound);
}

#[test]
fn unacceptable_fields_are_refused_before_anything_happens() {
    let standby = Standby::new();
    let gpu = Machine::start(&[&standby.key()]);
    let cases: [fn(&mut Bind); 8] = [
        |bind| bind.source_path = "-oProxyCommand=touch pwned".into(),
        |bind| bind.source_path = "a\nb".into(),
        |bind| bind.source_path = "../../etc".into(),
        |bind| bind.source.address = "-oProxyCommand=touch pwned".into(),
        |bind| bind.source.user = "a b".into(),
        |bind| bind.max_deleted_percent = 0,
        |bind| bind.max_deleted_percent = 101,
        |bind| bind.excludes = vec![String::new()],
    ];
    for change in cases {
        let mut bind = standby.bind_request(&gpu, FIRST);
        change(&mut bind);
        assert_eq!(refused(&standby, bind.clone()), RefusalKind::BadRequest, "{bind:?}");
    }
    assert_eq!(standby.status().binding, Binding::Unbound);
    assert!(!gpu.tree().join(".warmspare").exists());
}

#[test]
fn the_host_key_is_pinned_at_first_contact_and_a_change_halts() {
    let (mut gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    gpu.halt();
    gpu.new_host_key();
    gpu.boot();
    write(&gpu.tree().join("b"), "2");
    let status = standby.sync(FIRST);
    assert_eq!(status.halt.unwrap().reason, HaltReason::HostKeyChanged);
    assert_eq!(status.points.count, 1);
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST)),
        RefusalKind::Halted
    );
    let mut accept = standby.bind_request(&gpu, FIRST);
    accept.accept = Accept::SourceAsItIs;
    assert!(matches!(standby.call(Request::Bind(accept)), Outcome::Status(_)));
    assert_eq!(standby.pass(FIRST).points.count, 2);
}

#[test]
fn accepting_the_source_in_several_calls_at_once_halts_none_of_them() {
    let (gpu, standby) = bound();
    let accept = &|| {
        let mut accept = standby.bind_request(&gpu, FIRST.next());
        accept.accept = Accept::SourceAsItIs;
        standby.call(Request::Bind(accept))
    };
    std::thread::scope(|calls| {
        let late = |place: u64| std::thread::sleep(std::time::Duration::from_millis(40 * place));
        let calls: Vec<_> = (0..8)
            .map(|place| {
                calls.spawn(move || {
                    late(place);
                    accept()
                })
            })
            .collect();
        for call in calls {
            assert!(status_of(call.join().unwrap()).halt.is_none());
        }
    });
    standby.pass(FIRST.next());
}

#[test]
fn a_new_epoch_at_the_same_address_is_no_first_contact() {
    let (mut gpu, standby) = bound();
    gpu.halt();
    gpu.new_host_key();
    gpu.boot();
    // What a changed policy does: the same GPU under the next epoch. An impostor at its address must not profit from it.
    assert_eq!(
        refused(&standby, standby.bind_request(&gpu, FIRST.next())),
        RefusalKind::Halted
    );
}

#[test]
fn the_old_gpu_is_never_read_once_a_restore_was_accepted() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let target = Machine::start(&[&standby.key()]);
    standby.restore(&target, FIRST.next());
    write(&gpu.tree().join("b"), "2");
    let stale = refusal_of(standby.try_sync(FIRST, Urgency::LastGasp, 5000));
    assert_eq!(stale.kind, RefusalKind::StaleEpoch);
    assert!(!standby.newest_tree().join("b").exists());
}

#[test]
fn a_live_gpu_is_never_pushed_to() {
    let (gpu, standby) = bound();
    write(&gpu.tree().join("a"), "1");
    standby.pass(FIRST);
    let bound_epoch = standby.restore_request(&gpu, FIRST, 5000);
    assert_eq!(
        refusal_of(standby.call(Request::Restore(bound_epoch))).kind,
        RefusalKind::StaleEpoch
    );
    let target = Machine::start(&[&standby.key()]);
    standby.restore(&target, FIRST.next());
    // Verified, and training goes on there: asking again, even by another address, must not overwrite it.
    write(&target.tree().join("a"), "newer");
    let mut again = standby.restore_request(&target, FIRST.next(), 5000);
    again.target.address = "localhost".to_owned();
    let status = status_of(standby.call(Request::Restore(again)));
    assert!(matches!(
        status.restore,
        warmspare_wire::agent::RestoreActivity::Verified { .. }
    ));
    assert_eq!(fs::read_to_string(target.tree().join("a")).unwrap(), "newer");
}
