//! Why a call goes where it goes (C-R4).

use serde::{Deserialize, Serialize};

use crate::model::{OnFailure, RoutePolicy};

use super::{Decision, RouteError, RuleRef, Standing, Trail};

/// The answer of `strait explain` and `GET /explain`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Explanation {
    /// Version of the table that was asked.
    pub table_version: u64,
    /// The unit that owns the key; `None` if the call would be refused.
    pub owner: Option<String>,
    /// Since when, as the epoch that calls carry.
    pub epoch: Option<u64>,
    /// The move that has frozen the key; `None` if writes are admitted.
    pub frozen: Option<String>,
    /// What decided, as its path in the settings or the name of the header.
    pub rule: Option<String>,
    /// Why the call would be refused.
    pub error: Option<String>,
    /// The dimensions whose keys route calls of the method, if it has its own (`[calls.route]`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routed_by: Vec<String>,
    /// The method is said to change nothing (`reads`).
    #[serde(default)]
    pub only_reads: bool,
    /// What becomes of calls of the method while their unit is away.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Until when, and why, the owner counts as away for calls that are kept, if an operator says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts_as_away: Option<String>,
    /// Which part of the units that say something about the owner say that it is away, if this relay, too, has no link to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observers: Option<Observed>,
    /// How the route token stands that was asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What was looked at, in order; the last one decided.
    pub steps: Vec<Step>,
}

/// How many units say that another one is away.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Observed {
    /// Units that say so, the one that was asked among them.
    pub away: usize,
    /// Units that say something.
    pub of: usize,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Step {
    /// A header, a dimension, a kind of rule, or a setting.
    pub looked_at: String,
    /// Whether it decided.
    pub matched: bool,
    /// Why it did or did not.
    pub why: String,
}

impl Explanation {
    /// `rules` is where rules stand.
    pub(super) fn new(
        table_version: u64,
        rules: &str,
        policy: &RoutePolicy,
        result: Result<Decision<'_>, RouteError>,
        steps: Vec<Step>,
    ) -> Self {
        let mut explanation = Self {
            table_version,
            owner: None,
            epoch: None,
            frozen: None,
            rule: None,
            error: None,
            routed_by: policy.dimensions.iter().map(ToString::to_string).collect(),
            only_reads: policy.reads,
            on_failure: policy.away.on_failure,
            counts_as_away: None,
            observers: None,
            token: None,
            steps,
        };
        match result {
            Ok(decision) => {
                explanation.owner = Some(decision.unit.to_string());
                explanation.epoch = Some(decision.epoch);
                explanation.frozen = match decision.standing {
                    Standing::Open => None,
                    Standing::Frozen { by, .. } => Some(by.to_string()),
                };
                explanation.rule = Some(match decision.rule {
                    RuleRef::ExplicitUnit => "strait-unit".to_owned(),
                    RuleRef::MissingKey => "missing_key".to_owned(),
                    RuleRef::Override => "what was decided about the key".to_owned(),
                    RuleRef::Claim => "the key's claim".to_owned(),
                    RuleRef::Provisional => "provisional: chosen while the route store is away".to_owned(),
                    RuleRef::Rule { index, kind } => format!("{rules}[{index}].{}", kind.as_str()),
                });
            }
            Err(error) => explanation.error = Some(error.to_string()),
        }
        explanation
    }
}

/// Hears what a look-up does; nobody listens on the data path.
pub(super) trait Recorder {
    /// Something was looked at. `why` runs only if somebody listens.
    fn step(&mut self, looked_at: &str, matched: bool, why: impl FnOnce() -> String);

    /// What a look-up that found a unit in a copy of the route store went through.
    fn went(&mut self, _: &Trail) {}
}

impl Recorder for () {
    fn step(&mut self, _: &str, _: bool, _: impl FnOnce() -> String) {}
}

impl Recorder for Vec<Step> {
    fn step(&mut self, looked_at: &str, matched: bool, why: impl FnOnce() -> String) {
        self.push(Step {
            looked_at: looked_at.to_owned(),
            matched,
            why: why(),
        });
    }
}

/// Keeps what the look-up went through.
impl Recorder for Trail {
    fn step(&mut self, _: &str, _: bool, _: impl FnOnce() -> String) {}

    fn went(&mut self, trail: &Trail) {
        *self = *trail;
    }
}
