//! Moments of a change at which a crash is tried.
//!
//! Store, protocol and data plane name the moments that they pass. In
//! `balancer` nobody listens: no option, key, variable or request leads here,
//! and a moment costs one load. A program that links this crate may listen;
//! the tests have one that kills itself at a moment of their choice, and is
//! `balancer` in everything else. So every release is tested as it is built,
//! without a feature that another build would leave out.

use std::sync::OnceLock;

/// A moment of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// A change was found good, and nothing of it is written.
    Accepted,
    /// A file of the state directory is on the disk under a passing name.
    FileWritten,
    /// It has its own name.
    FileNamed,
    /// A revision's configuration is stored, and the revision is not.
    ConfigStored,
    /// A revision is stored.
    RevisionStored,
    /// An old revision is half removed.
    HalfPruned,
    /// Who sits where is stored, and the tables are as before.
    SeatsStored,
    /// Members and slots are written, and nothing leads there.
    HalfWritten,
    /// A generation is written, and the other one is in force.
    GenerationWritten,
    /// The generation is in force.
    Flipped,
    /// Another copy of the program is loaded and on no interface.
    CopyLoaded,
    /// It is on every interface, and the old copy is still pinned.
    CopyAttached,
    /// New backends have seats, and prove themselves.
    Proving,
    /// A stage is in force.
    StageBegan,
    /// It was held without harm.
    StageHeld,
    /// The last stage was held, and nothing says so on the disk.
    BeforeCommit,
    /// The disk says that the change is good, and nobody else does.
    CommitStored,
    /// The change is over.
    Committed,
    /// A change is to be undone, and nothing of that is done.
    UndoBegan,
    /// The tables are those of before, and the disk does not say so.
    TablesBack,
    /// A change is undone.
    Undone,
}

impl Moment {
    /// All of them, in about the order in which a change passes them.
    pub const ALL: [Self; 21] = [
        Self::Accepted,
        Self::FileWritten,
        Self::FileNamed,
        Self::ConfigStored,
        Self::RevisionStored,
        Self::HalfPruned,
        Self::SeatsStored,
        Self::HalfWritten,
        Self::GenerationWritten,
        Self::Flipped,
        Self::CopyLoaded,
        Self::CopyAttached,
        Self::Proving,
        Self::StageBegan,
        Self::StageHeld,
        Self::BeforeCommit,
        Self::CommitStored,
        Self::Committed,
        Self::UndoBegan,
        Self::TablesBack,
        Self::Undone,
    ];
}

/// Who is told of each moment.
static LISTENER: OnceLock<fn(Moment)> = OnceLock::new();

/// Has every moment told to a function from now on; only the first one that
/// asks is heard.
pub fn listen(listener: fn(Moment)) {
    // A second listener would be a fault of the program that has two.
    let _ = LISTENER.set(listener);
}

/// Says that this moment is passed.
pub(crate) fn passed(moment: Moment) {
    if let Some(listener) = LISTENER.get() {
        listener(moment);
    }
}
