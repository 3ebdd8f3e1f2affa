//! What can be left out.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Rule {
    /// A commit compares the revision of the freeze whose barrier was seen.
    CompareAndSwap,
    /// A claim is written only if there is none.
    CreateIfAbsent,
    /// A new session admits writes only once it has caught up.
    CatchUp,
    /// The barrier waits for writes in flight.
    Drain,
    /// The store gives a session up only when none of its writes can be running.
    ExpiryWaitsForWrites,
    /// Only a newer record ends a freeze.
    NoLocalUnfreeze,
    /// A write is registered as in flight before the route is looked at.
    RegisterFirst,
    /// A report counts for the revision it names.
    ReportNamesRevision,
    /// The barrier waits for every session that is not over.
    WaitForSessions,
}

/// How long a relay may admit writes without the store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lease {
    /// For a time that the store waits out.
    Ends,
    /// For ever, and the store waits for ever.
    Endless,
    /// For ever, but the store gives sessions up all the same.
    EndlessButTaken,
}
