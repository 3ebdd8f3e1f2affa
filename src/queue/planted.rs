//! Bugs that tests can plant, to see that the simulation finds them. Outside of tests none can be.

/// A bug.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[cfg_attr(not(test), allow(dead_code, reason = "planted by tests only"))]
pub(crate) enum Bug {
    /// A publisher is answered when its message is handed to the disk, not when it is there (M-A2).
    AckBeforeSync,
    /// A message goes to consumers and units before it is on disk (M-A3).
    SendBeforeSync,
    /// A number below the highest one of its stream is taken for a duplicate (M-B2).
    HighestSeen,
    /// What a peer will never send is not written down (M-G2).
    GapForgotten,
    /// The frontier that is told to a peer is the highest number that came (M-B2).
    FrontierIsHighest,
    /// A message is done with before its dead letter is on disk (M-E4).
    DoneBeforeDead,
    /// Numbers are not taken back when the disk failed.
    NoRollback,
    /// Attempts are not written down (M-E1).
    AttemptsForgotten,
    /// A deadline does not matter any more once a message is in the inbox (M-E2).
    DeliveredLate,
    /// Messages of a key that is in the backlog go live (M-C2).
    KeyLaneForgotten,
    /// A message is sent on to units it has visited (M-G3).
    LoopGuardOff,
    /// A checkpoint says that it covers records that came after it (R1).
    CheckpointAhead,
    /// Segments are removed for one that takes their place before its name is on the disk (L9).
    ReplacedBeforeSync,
    /// What a checkpoint says of the next segment is forgotten (M-A1).
    NextForgotten,
    /// Segments with live messages are released.
    ReleaseLive,
    /// What publishers sent is forgotten by a restart (M-B3).
    DedupForgotten,
    /// A redriven message stays among the dead letters (R3).
    RedriveKeepsLetter,
    /// What consumers acknowledged is not written down.
    SettledForgotten,
    /// What was purged or expired is entered twice in the books (M-G8).
    CountedTwice,
    /// New messages of a key do not wait behind those in the line of its owner before (M-C1).
    NewBeforeMoved,
    /// New publications of a key do not wait behind those that wait for its route (M-C1).
    NewBeforeParked,
    /// What came before is said to have moved, too (M-B2).
    MovedBeforeDedup,
    /// Messages come into the line of the next owner in the wrong order (M-C1).
    MovedOutOfOrder,
    /// A restart forgets that a key is on its way from line to line (M-C1).
    MovesForgotten,
    /// A message leaves the line of the owner before and comes into no other (M-B1).
    MovedForgotten,
    /// The owner of a key says that nothing waits as soon as it is asked.
    BarrierOpen,
    /// The owner of a key does not count what waits to be delivered another time.
    BarrierForgetsParked,
    /// What waits for a unit that was evacuated is looked for while the unit has lanes, and leaves while some of it is on its way.
    StrandedWithLanes,
    /// It is looked for from the last number on.
    StrandedFromTheLast,
    /// It leaves from where the search has met it on (M-C1).
    StrandedFromTheMiddle,
    /// It is looked for once, whatever changes later.
    StrandedOnce,
    /// It waits until the unit is back.
    StrandedStays,
    /// What is new does not wait behind it (M-C1).
    NewBeforeStranded,
    /// What expires in the inbox is dropped, whatever the topic says (I16).
    ExpiredForgotten,
    /// The next message of a key does not wait until an attempt at the one before succeeds (I16).
    OvertakenByNext,
    /// A restart gives numbers from one on (M-A1).
    NumbersFromOne,
}

/// Whether a bug is planted on this thread.
#[cfg(not(test))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
pub(crate) use planting::{plant, planted};

#[cfg(test)]
mod planting {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug on this thread, or none.
    pub(crate) fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    pub(crate) fn planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}
