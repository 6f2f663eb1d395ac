//! What changed between two recovery points.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use warmspare_domain::ids::Epoch;
use warmspare_domain::units::Bytes;
use warmspare_wire::agent::{ChangeKind, Compare, Comparison, Outcome, PointChoice, RefusalKind, Request};

use crate::support::{Standby, bound, refusal_of, run, write};

const FIRST: Epoch = Epoch::FIRST;

fn compare(standby: &Standby, request: Compare) -> Comparison {
    match standby.call(Request::Compare(request)) {
        Outcome::Compared(comparison) => *comparison,
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_points_are_compared_with_odd_names_and_a_bounded_list() {
    let (gpu, standby) = bound();
    for n in 0..30 {
        write(&gpu.tree().join(format!("same/{n}")), "same");
    }
    write(&gpu.tree().join("changed"), "1");
    write(&gpu.tree().join("deleted"), "12");
    let first = standby.pass(FIRST).points.latest.unwrap();
    write(&gpu.tree().join("changed"), "123");
    fs::remove_file(gpu.tree().join("deleted")).unwrap();
    write(
        &gpu.tree().join(std::ffi::OsStr::from_bytes(b"line\nbreak \xff")),
        "1234",
    );
    let second = standby.pass(FIRST).points.latest.unwrap();
    let request = Compare {
        from: first.id.clone(),
        to: PointChoice::Latest,
        at_most: 100,
    };
    let found = compare(&standby, request.clone());
    let told: Vec<_> = found
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.kind, c.bytes_before, c.bytes_after))
        .collect();
    let expected = [
        ("changed", ChangeKind::Changed, Some(Bytes(1)), Some(Bytes(3))),
        ("deleted", ChangeKind::Deleted, Some(Bytes(2)), None),
        ("line\\nbreak \\xff", ChangeKind::Added, None, Some(Bytes(4))),
    ];
    assert_eq!(told, expected);
    assert_eq!(found.to.id, second.id);
    let short = compare(
        &standby,
        Compare {
            at_most: 1,
            ..request.clone()
        },
    );
    assert_eq!(
        (short.changes.len(), short.added, short.changed, short.deleted),
        (1, 1, 1, 1)
    );
    let same = compare(
        &standby,
        Compare {
            from: second.id.clone(),
            ..request.clone()
        },
    );
    assert_eq!((same.added, same.changed, same.deleted), (0, 0, 0));
    let gone = Compare {
        from: "20200101T000000.000Z".parse().unwrap(),
        ..request
    };
    let refusal = refusal_of(standby.call(Request::Compare(gone)));
    assert_eq!(refusal.kind, RefusalKind::NoRecoveryPoint);
    let words = run(standby.command().args(["compare", first.id.as_str()]), b"");
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.contains("1 added, 1 changed, 1 deleted"), "{words}");
}
