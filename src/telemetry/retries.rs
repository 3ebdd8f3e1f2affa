//! What becomes of retries: how many went out, and why others did not (C-T5).

use prometheus::{Error, IntCounterVec, Opts, Registry};

use crate::model::UnitId;

/// What happened to a retry of a call, or why there was none. Closed set, used as label.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RetryOutcome {
    /// The call had all its attempts.
    AttemptsSpent,
    /// No link to the unit is up.
    Away,
    /// The pause before the next attempt would have outlasted the call's time, or did.
    Deadline,
    /// This relay is shutting down.
    Draining,
    /// As many retries to the unit as the budget allows are under way.
    NoBudget,
    /// A service may have acted, and the call is not marked idempotent.
    NotIdempotent,
    /// The service asked not to be tried again.
    PushedBack,
    /// Some of the reply was with the caller.
    ReplyStarted,
    /// The request had not ended.
    RequestOpen,
    /// It went out.
    Sent,
    /// The settings say no.
    SwitchedOff,
    /// The request body is larger than what is kept.
    TooLarge,
    /// It had to wait for a place in the budget.
    Waited,
}

impl RetryOutcome {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsSpent => "attempts_spent",
            Self::Away => "away",
            Self::Deadline => "deadline",
            Self::Draining => "draining",
            Self::NoBudget => "no_budget",
            Self::NotIdempotent => "not_idempotent",
            Self::PushedBack => "pushed_back",
            Self::ReplyStarted => "reply_started",
            Self::RequestOpen => "request_open",
            Self::Sent => "sent",
            Self::SwitchedOff => "switched_off",
            Self::TooLarge => "too_large",
            Self::Waited => "waited",
        }
    }

    /// Whether it explains why a call that failed was not tried (again).
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Sent | Self::Waited)
    }
}

/// Counts what happens to retries. Clones share the series.
#[derive(Clone)]
pub struct RetrySeries(IntCounterVec);

impl RetrySeries {
    pub(super) fn new() -> Result<Self, Error> {
        let opts = Opts::new(
            "strait_call_retries_total",
            "Retries that went out, waited, or were not made, by what happened.",
        );
        IntCounterVec::new(opts, &["src_unit", "dst_unit", "outcome"]).map(Self)
    }

    pub(super) fn register(&self, registry: &Registry) -> Result<(), Error> {
        registry.register(Box::new(self.0.clone()))
    }

    /// Something happened to a retry of this call. Rare, so it is counted in the shared series at once.
    pub fn on_retry(&self, request_id: u64, src: &UnitId, dst: &UnitId, outcome: RetryOutcome) {
        let labels = [src.as_str(), dst.as_str(), outcome.as_str()];
        self.0.with_label_values(&labels).inc();
        tracing::debug!(
            request_id = %format_args!("{request_id:016x}"),
            src_unit = %src,
            dst_unit = %dst,
            outcome = outcome.as_str(),
            "retry of a call"
        );
    }
}
