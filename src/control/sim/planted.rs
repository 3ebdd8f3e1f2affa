//! The mistakes of R-5, and five more, that a run can have, each in what stands between the real parts: to see that they are found.

/// A mistake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::control) enum Planted {
    /// The barrier does not wait for relays that have not been heard of for a second.
    SessionsNotWaitedFor,
    /// A relay takes a key that has been frozen for two seconds for its own again (R-D4).
    UnfreezesAlone,
    /// What ends a freeze is written whatever became of the node meanwhile (R-I10).
    RevisionNotCompared,
    /// A freeze is reported as drained when it was applied (R-I2).
    NotDrained,
    /// A new session admits before the copy has caught up (R-I14).
    NotCaughtUp,
    /// A report counts for whichever freeze the node is in when it comes (R-R6).
    ReportWithoutRevision,
    /// A silent relay counts as stopped when its lease is over, with calls that it let through before still running.
    ExpiryIgnoresCalls,
    /// A relay that starts again reports freezes as drained at once, with calls of its life before still running.
    ForgetsWhatRan,
    /// Who claims a key gets it, whoever has it.
    BlindClaim,
    /// A call is registered some time after its route was looked at.
    RegistersLate,
    /// What ends a freeze without a new owner gets lost for eight seconds (R-I12); not in the table of R-5.
    AbortsLate,
    /// Services are told the newest of all records that decided, in place of since when their unit has the key (R-3.8 step 6); not in
    /// the table of R-5.
    EpochOfAnyRecord,
    /// Few messages wait, says the queue of each node that is about to move (R-3.9 S2); not in the table of R-5.
    FewAlways,
    /// It never says so; not in the table of R-5.
    FewNever,
    /// A mover asks how relays stand only while something is frozen (R-3.9 S2); not in the table of R-5.
    AsksLate,
}

impl Planted {
    /// All of them.
    pub(super) const ALL: [Self; 15] = [
        Self::SessionsNotWaitedFor,
        Self::UnfreezesAlone,
        Self::RevisionNotCompared,
        Self::NotDrained,
        Self::NotCaughtUp,
        Self::ReportWithoutRevision,
        Self::ExpiryIgnoresCalls,
        Self::ForgetsWhatRan,
        Self::BlindClaim,
        Self::RegistersLate,
        Self::AbortsLate,
        Self::EpochOfAnyRecord,
        Self::FewAlways,
        Self::FewNever,
        Self::AsksLate,
    ];
}
