//! The guards: whether what the GPU shows may become the newest recovery point. Pure, so that every row can be tested.

use warmspare_domain::halt::HaltReason;

use crate::marker::{Content, Marker, MarkerFound, Tree};

/// Below this many deleted files the deletion guard stays silent: in a small tree any share is soon reached.
const FEW_FILES: u64 = 20;

/// A guard that tripped: which, and the numbers behind it.
pub type Tripped = (HaltReason, String);

/// Checks that the tree is there and ours, before and after a pass.
///
/// # Errors
/// The guard that tripped.
pub fn check_tree(tree: &Tree, ours: Marker, base_files: u64) -> Result<(), Tripped> {
    match tree {
        Tree::Gone => Err((
            HaltReason::SourceEmptied,
            format!("the directory is gone; the newest recovery point has {base_files} files"),
        )),
        Tree::NotADirectory => Err((HaltReason::RootChangedType, "it is no longer a directory".into())),
        Tree::Closed => Err((
            HaltReason::RootChangedType,
            "the login may no longer enter the directory".into(),
        )),
        Tree::Directory { content, marker, .. } => check_marker(*marker, *content, ours, base_files),
    }
}

fn check_marker(found: MarkerFound, content: Content, ours: Marker, base_files: u64) -> Result<(), Tripped> {
    match (found, content) {
        (MarkerFound::Is(marker), _) if (marker.association, marker.epoch) == (ours.association, ours.epoch) => Ok(()),
        (MarkerFound::Is(marker), _) => Err((
            HaltReason::MarkerForeign,
            format!(
                "the marker says {} epoch {}, ours is {} epoch {}",
                marker.association, marker.epoch, ours.association, ours.epoch
            ),
        )),
        (MarkerFound::Unreadable, _) => Err((
            HaltReason::MarkerForeign,
            "the marker is not one that this version understands".into(),
        )),
        (MarkerFound::Missing, Content::Empty) if base_files > 0 => Err((
            HaltReason::SourceEmptied,
            format!("the directory is empty; the newest recovery point has {base_files} files"),
        )),
        (MarkerFound::Missing, Content::Empty | Content::Some) => {
            Err((HaltReason::MarkerMissing, "there is no marker in the directory".into()))
        }
    }
}

/// What a pass would take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Regular files in the newest recovery point.
    pub base_files: u64,
    /// Regular files in what the pass fetched.
    pub new_files: u64,
    /// Files of the newest recovery point that are no longer there.
    pub deleted: u64,
}

/// Whether a person accepted the source as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletions {
    /// They did, for one pass.
    Accepted,
    /// They did not.
    Guarded {
        /// The share of the files, 1 to 100, that may go; 100 lets any share but all of them go.
        max_percent: u8,
    },
}

/// Checks that a pass does not take away the user's work.
///
/// # Errors
/// The guard that tripped.
pub fn check_loss(loss: Loss, deletions: Deletions) -> Result<(), Tripped> {
    let Deletions::Guarded { max_percent } = deletions else {
        return Ok(());
    };
    let Loss {
        base_files,
        new_files,
        deleted,
    } = loss;
    if base_files > 0 && new_files == 0 {
        return Err((
            HaltReason::SourceEmptied,
            format!("all {base_files} files of the newest recovery point are gone"),
        ));
    }
    let too_many = u128::from(deleted) * 100 > u128::from(base_files) * u128::from(max_percent);
    if max_percent < 100 && deleted >= FEW_FILES && too_many {
        return Err((
            HaltReason::MassDeletion,
            format!("{deleted} of {base_files} files are gone; {max_percent}% are allowed to go at once"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use warmspare_domain::ids::{AssociationId, Epoch, GpuId};

    fn marker(gpu: u64, epoch: Epoch) -> Marker {
        Marker {
            schema: 1,
            association: AssociationId::of(GpuId::vast(gpu)),
            epoch,
        }
    }

    #[test]
    fn only_our_own_tree_passes() {
        use HaltReason::{MarkerForeign, MarkerMissing, RootChangedType, SourceEmptied};
        let ours = marker(7, Epoch::FIRST.next());
        let tree = |content, marker| Tree::Directory {
            path: b"/w".to_vec(),
            content,
            marker,
        };
        let is = MarkerFound::Is;
        let rows = [
            ("ours", tree(Content::Some, is(ours)), 9, None),
            ("ours, nothing written yet", tree(Content::Empty, is(ours)), 0, None),
            (
                "emptied, marker kept: judged by the loss",
                tree(Content::Empty, is(ours)),
                9,
                None,
            ),
            (
                "older epoch",
                tree(Content::Some, is(marker(7, Epoch::FIRST))),
                9,
                Some(MarkerForeign),
            ),
            (
                "newer epoch",
                tree(Content::Some, is(marker(7, ours.epoch.next()))),
                9,
                Some(MarkerForeign),
            ),
            (
                "another's",
                tree(Content::Some, is(marker(8, ours.epoch))),
                9,
                Some(MarkerForeign),
            ),
            (
                "garbled marker",
                tree(Content::Some, MarkerFound::Unreadable),
                9,
                Some(MarkerForeign),
            ),
            (
                "no marker",
                tree(Content::Some, MarkerFound::Missing),
                9,
                Some(MarkerMissing),
            ),
            (
                "no marker, seeding",
                tree(Content::Empty, MarkerFound::Missing),
                0,
                Some(MarkerMissing),
            ),
            (
                "unmounted",
                tree(Content::Empty, MarkerFound::Missing),
                9,
                Some(SourceEmptied),
            ),
            ("gone", Tree::Gone, 9, Some(SourceEmptied)),
            ("gone, seeding", Tree::Gone, 0, Some(SourceEmptied)),
            ("a file now", Tree::NotADirectory, 9, Some(RootChangedType)),
            ("closed", Tree::Closed, 9, Some(RootChangedType)),
        ];
        for (name, tree, base_files, expected) in rows {
            let tripped = check_tree(&tree, ours, base_files).err().map(|(reason, _)| reason);
            assert_eq!(tripped, expected, "{name}");
        }
    }

    #[test]
    fn a_pass_that_takes_most_files_away_is_stopped() {
        use HaltReason::{MassDeletion, SourceEmptied};
        let guarded = |max_percent| Deletions::Guarded { max_percent };
        // (base, new, deleted, rule, expected)
        let rows = [
            (0, 0, 0, guarded(50), None),
            (0, 5, 0, guarded(50), None),
            (100, 100, 0, guarded(50), None),
            (100, 50, 50, guarded(50), None),
            (100, 49, 51, guarded(50), Some(MassDeletion)),
            (100, 1000, 51, guarded(50), Some(MassDeletion)),
            (100, 49, 51, guarded(100), None),
            (100, 49, 51, Deletions::Accepted, None),
            (20, 1, 19, guarded(1), None),
            (21, 1, 20, guarded(1), Some(MassDeletion)),
            (1, 0, 1, guarded(50), Some(SourceEmptied)),
            (1, 0, 1, guarded(100), Some(SourceEmptied)),
            (100, 0, 100, guarded(50), Some(SourceEmptied)),
            (100, 0, 100, Deletions::Accepted, None),
        ];
        for (base_files, new_files, deleted, rule, expected) in rows {
            let loss = Loss {
                base_files,
                new_files,
                deleted,
            };
            let tripped = check_loss(loss, rule).err().map(|(reason, _)| reason);
            assert_eq!(tripped, expected, "{loss:?} {rule:?}");
        }
    }
}
