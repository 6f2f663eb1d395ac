//! The world of one association in small integers, so that millions of its states fit in memory.

/// What exists, what is under way, and what may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct World {
    /// The stored association, interned.
    pub(crate) association: u32,
    /// GPUs at Vast; the slot is the name.
    pub(crate) gpus: [Gpu; GPUS],
    /// Standbys by attempt, from 1.
    pub(crate) standbys: [Standby; STANDBYS],
    /// Two reconcilers at once.
    pub(crate) reconcilers: [Reconciler; 2],
    /// The sweep.
    pub(crate) sweep: Sweep,
    /// Disturbances that may still happen on this path.
    pub(crate) disturbances: u8,
    /// Jumps of time that may still happen on this path.
    pub(crate) jumps: u8,
    /// Whether Vast already left out a GPU that exists; a second time in a row is what two reads are worth.
    pub(crate) short_list_used: bool,
    /// Whether the user let this go, in words.
    pub(crate) user_asked: bool,
}

pub(crate) const GPUS: usize = 8;
pub(crate) const STANDBYS: usize = 4;
/// The first GPU of the association.
pub(crate) const FIRST: usize = 0;
/// A GPU of the user's own, onto which they may restore.
pub(crate) const CHOSEN: usize = 1;
/// The first slot for GPUs that we rent.
pub(crate) const RENTALS: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum GpuState {
    /// Never was, or its order has not landed.
    None,
    /// Ordered, the answer was lost, and it appears later.
    Pending,
    Starting,
    Running,
    Paused,
    Dark,
    /// Its row is gone.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Gpu {
    pub(crate) state: GpuState,
    /// The epoch in our label, 0 without one.
    pub(crate) label: u8,
    /// What its tree holds; 0 is empty.
    pub(crate) content: u8,
    /// Changes when it comes back.
    pub(crate) address: u8,
}

impl Gpu {
    pub(crate) const NONE: Self = Self {
        state: GpuState::None,
        label: 0,
        content: 0,
        address: 0,
    };

    pub(crate) fn exists(self) -> bool {
        !matches!(self.state, GpuState::None | GpuState::Pending | GpuState::Gone)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Machine {
    None,
    Booting,
    Up,
    Stopped,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Standby {
    pub(crate) machine: Machine,
    /// An order whose answer was lost and that lands later.
    pub(crate) pending: bool,
    /// The provider's number of the machine.
    pub(crate) instance: u8,
    pub(crate) disk: bool,
    /// Lives on the data disk.
    pub(crate) agent: Agent,
}

impl Standby {
    pub(crate) const NONE: Self = Self {
        machine: Machine::None,
        pending: false,
        instance: 0,
        disk: false,
        agent: Agent::FRESH,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Agent {
    /// 0: nothing.
    pub(crate) bound: u8,
    pub(crate) gpu: u8,
    pub(crate) address: u8,
    pub(crate) halted: bool,
    /// A person let the next pass through.
    pub(crate) accepted: bool,
    /// The newest recovery point's content; 0: none.
    pub(crate) point: u8,
    pub(crate) restore: Restore,
}

impl Agent {
    pub(crate) const FRESH: Self = Self {
        bound: 0,
        gpu: 0,
        address: 0,
        halted: false,
        accepted: false,
        point: 0,
        restore: Restore::Idle,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Restore {
    Idle,
    Running { epoch: u8, target: u8 },
    Verified { epoch: u8 },
    Failed { epoch: u8 },
}

impl Restore {
    pub(crate) fn epoch(self) -> u8 {
        match self {
            Self::Idle => 0,
            Self::Running { epoch, .. } | Self::Verified { epoch } | Self::Failed { epoch } => epoch,
        }
    }
}

/// A reconciler in the middle of a beat. Between load and commit it holds a decision; a lost race throws it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reconciler {
    Idle,
    /// Loaded, looked, decided; not committed.
    Deciding {
        seen: u32,
        next: u32,
        effects: u32,
    },
    /// Committed; these effects are still to be run, and these results to be fed back.
    Acting {
        effects: u32,
        results: u32,
    },
}

/// The sweep in the middle of its work, as bit masks over what can be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Sweep {
    Idle,
    Listed(u16),
    /// Only for the broken sweep that reads before it lists.
    Read(u32),
    Destroying(u16),
}

/// What adversity does to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, and told so.
    Done,
    /// Not done, outcome unknown to us.
    NotDone,
    /// Done, and the answer lost.
    DoneUnheard,
    /// Not done, and told so for good.
    Refused,
    /// Not done, but the disk was made first.
    RefusedWithDisk,
    /// The answer lost, and done later.
    LandsLate,
    /// The account has no credit.
    OutOfCredit,
    /// The agent's guards hold, or its pass is still under way.
    Guarded,
}

/// One step of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Look { reconciler: u8, as_seen: AsSeen },
    Commit { reconciler: u8 },
    Run { reconciler: u8, answer: Answer },
    FeedBack { reconciler: u8, twice: bool },
    Crash { reconciler: u8 },
    SweepLists,
    SweepReads,
    SweepDestroys,
    SweepCrashes,
    OrderLands { attempt: u8 },
    RentalLands { gpu: u8 },
    Boots { attempt: u8 },
    GpuStarts { gpu: u8 },
    RestoreEnds { attempt: u8, verified: bool },
    GpuPauses { gpu: u8 },
    GpuGoesDark { gpu: u8 },
    GpuRowGoes { gpu: u8 },
    GpuComesBack { gpu: u8 },
    GpuWrites { gpu: u8 },
    GpuEmptied { gpu: u8 },
    Preempted { attempt: u8 },
    MachineVanishes { attempt: u8 },
    StandbyVanishes { attempt: u8 },
    Asked { request: u8 },
    ShortTime,
    LongTime,
}

/// How the providers' answers reach a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AsSeen {
    AsItIs,
    GpusSilent,
    StandbysSilent,
    /// The list leaves out what exists.
    ShortList,
}
