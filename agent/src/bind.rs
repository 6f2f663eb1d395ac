//! Tying the standby to a GPU.

use warmspare_domain::halt::HaltReason;
use warmspare_domain::ids::Epoch;
use warmspare_wire::agent::{Accept, Bind, Halt};

use crate::clock;
use crate::data_dir::{DataDir, Durability};
use crate::error::AgentError;
use crate::identity;
use crate::marker::{self, Marker, MarkerFound, Tree};
use crate::source::{self, Look, RsyncThere};
use crate::ssh::Machine;
use crate::state::{self, BindingFile, REQUEST_LOCK};

/// Whether this bind may find the tree unmarked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contact {
    /// The first bind of this association's epoch.
    First,
    /// The tree was marked under this epoch before.
    Again,
}

/// Pins the GPU's host key, writes the marker into its tree, and remembers it as the source of the passes to come.
///
/// # Errors
/// When the standby serves another association or a later epoch, a guard objects, or the GPU cannot be reached or has no rsync.
/// The binding is then as it was.
pub fn bind(dir: &DataDir, bind: &Bind) -> Result<(), AgentError> {
    check(bind)?;
    // One at a time: an accepting bind forgets the pinned key, and another one would find none and call it a changed key.
    let _turn = dir.lock_briefly("bind.lock")?;
    let before = dir.binding()?;
    let contact = check_fencing(before.as_ref(), bind)?;
    identity::identity(dir)?;
    let machine = Machine::new(dir, &bind.source, bind.association, bind.epoch)?;
    carry_pin(dir, before.as_ref(), bind, &machine)?;
    match reach(&machine, bind, contact) {
        Err(error) => {
            note_halt(dir, &error)?;
            Err(error)
        }
        Ok(()) => remember(dir, bind),
    }
}

/// Whether the epoch is the one bound, and no restore under a later one was accepted: whether the GPU is still the one whose data
/// this standby holds.
///
/// # Errors
/// [`AgentError::StaleEpoch`] when it is not.
pub fn check_current(dir: &DataDir, binding: &BindingFile, asked: Epoch) -> Result<(), AgentError> {
    let restoring = dir.restore_file()?.map(|job| job.epoch);
    let current = restoring.map_or(binding.epoch(), |epoch| epoch.max(binding.epoch()));
    if asked == current {
        Ok(())
    } else {
        Err(AgentError::StaleEpoch { asked, current })
    }
}

/// A new epoch of the same machine at the same address is no first contact: its host key must be the one that is known.
fn carry_pin(dir: &DataDir, before: Option<&BindingFile>, bind: &Bind, machine: &Machine) -> Result<(), AgentError> {
    let Some(before) = before.filter(|before| before.epoch() < bind.epoch && before.bind.source == bind.source) else {
        return Ok(());
    };
    let earlier = Machine::new(dir, &before.bind.source, before.association(), before.epoch())?;
    machine.pin_like(&earlier)
}

fn check(bind: &Bind) -> Result<(), AgentError> {
    source::check_path(&bind.source_path)?;
    if !(1..=100).contains(&bind.max_deleted_percent) {
        return Err(AgentError::BadRequest("max_deleted_percent is not 1 to 100".into()));
    }
    let mut patterns = bind.excludes.iter().chain(&bind.includes);
    if patterns.any(|pattern| pattern.is_empty() || pattern.contains('\0')) {
        return Err(AgentError::BadRequest("a pattern is empty or holds a zero byte".into()));
    }
    if bind.before_pass.contains('\0') {
        return Err(AgentError::BadRequest("before_pass holds a zero byte".into()));
    }
    Ok(())
}

fn check_fencing(before: Option<&BindingFile>, bind: &Bind) -> Result<Contact, AgentError> {
    let Some(before) = before else {
        return Ok(Contact::First);
    };
    if before.association() != bind.association {
        return Err(AgentError::ForeignAssociation {
            bound: before.association(),
            asked: bind.association,
        });
    }
    if bind.epoch < before.epoch() {
        return Err(AgentError::StaleEpoch {
            asked: bind.epoch,
            current: before.epoch(),
        });
    }
    let same_tree = bind.epoch == before.epoch() && bind.source_path == before.bind.source_path;
    Ok(if same_tree { Contact::Again } else { Contact::First })
}

fn reach(machine: &Machine, bind: &Bind, contact: Contact) -> Result<(), AgentError> {
    if bind.accept == Accept::SourceAsItIs {
        machine.disconnect();
        machine.unpin()?;
    }
    machine.pin()?;
    machine.connect()?;
    let look = source::look(machine, &bind.source_path)?;
    if look.rsync == RsyncThere::Missing {
        return Err(machine.no_rsync());
    }
    let ours = Marker {
        schema: marker::SCHEMA,
        association: bind.association,
        epoch: bind.epoch,
    };
    if needs_marker(&look, ours, bind.accept, contact)? {
        source::mark(machine, &bind.source_path, ours)?;
    }
    Ok(())
}

fn needs_marker(look: &Look, ours: Marker, accept: Accept, contact: Contact) -> Result<bool, AgentError> {
    let halted = |reason, detail: &str| {
        Err(AgentError::Halted {
            reason,
            detail: detail.to_owned(),
        })
    };
    let marker = match &look.tree {
        Tree::Directory { marker, .. } => *marker,
        Tree::Gone => MarkerFound::Missing,
        Tree::NotADirectory => return halted(HaltReason::RootChangedType, "the path is not a directory"),
        Tree::Closed => return halted(HaltReason::RootChangedType, "the login may not enter the directory"),
    };
    match (marker, accept, contact) {
        (MarkerFound::Is(found), _, _) if found == ours => Ok(false),
        (_, Accept::SourceAsItIs, _) | (MarkerFound::Missing, Accept::Nothing, Contact::First) => Ok(true),
        (MarkerFound::Is(found), Accept::Nothing, _)
            if found.association == ours.association && found.epoch < ours.epoch =>
        {
            Ok(true)
        }
        (MarkerFound::Missing, Accept::Nothing, Contact::Again) => halted(
            HaltReason::MarkerMissing,
            "this epoch marked the directory before, and the marker is gone",
        ),
        (MarkerFound::Is(_) | MarkerFound::Unreadable, Accept::Nothing, _) => halted(
            HaltReason::MarkerForeign,
            "the directory carries the marker of another association or of a later epoch",
        ),
    }
}

fn note_halt(dir: &DataDir, error: &AgentError) -> Result<(), AgentError> {
    let AgentError::Halted { reason, detail } = error else {
        return Ok(());
    };
    dir.update_state(Durability::PowerLoss, |state| {
        state.halt = Some(Halt {
            at: clock::now(),
            reason: *reason,
            detail: detail.clone(),
        });
    })
}

fn remember(dir: &DataDir, bind: &Bind) -> Result<(), AgentError> {
    let _decision = dir.lock_briefly(REQUEST_LOCK)?;
    let before = dir.binding()?;
    // Another bind may have come in meanwhile; the later epoch stays.
    check_fencing(before.as_ref(), bind)?;
    let another_gpu = before.as_ref().is_none_or(|before| before.epoch() != bind.epoch);
    let accepted = bind.accept == Accept::SourceAsItIs;
    let unchanged = before.as_ref().is_some_and(|before| before.bind == *bind);
    if !unchanged || accepted {
        dir.save_binding(&BindingFile {
            schema: state::SCHEMA,
            bind: bind.clone(),
            revision: before.map_or(0, |before| before.revision) + 1,
        })?;
    }
    if another_gpu || accepted {
        dir.update_state(Durability::PowerLoss, |state| {
            state.halt = None;
            state.deletions_accepted = accepted;
        })?;
    }
    Ok(())
}
