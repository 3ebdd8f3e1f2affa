//! An immutable version of the rules, ready for look-ups.

use std::collections::HashSet;

use super::dimension::{Dimension, Match};
use super::explain::{Explanation, Recorder, Step};
use super::{RouteError, RuleError, RuleProblem, Settings};
use crate::model::{MissingKey, Name, RouteHints, UnitId};

/// An immutable version of the rules.
#[derive(Clone, Debug)]
pub struct RouteTable {
    version: u64,
    hops_max: usize,
    dimensions: Vec<Dimension>,
    units: HashSet<UnitId>,
}

/// The unit a call goes to, and why.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Decision<'a> {
    /// The unit that owns the key.
    pub unit: &'a UnitId,
    /// Version of the table that says so (C-R1).
    pub epoch: u64,
    /// What decided.
    pub rule: RuleRef,
    /// The dimension whose key decided, if a key did.
    pub dimension: Option<&'a Name>,
}

/// What decided where a call goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleRef {
    /// The caller named the unit.
    ExplicitUnit,
    /// The service's policy for calls without key.
    MissingKey,
    /// A rule.
    Rule {
        /// Position in `routing.rules`, from 0.
        index: u32,
        /// How it matched.
        kind: RuleKind,
    },
}

/// The ways a rule names keys, in order of precedence.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RuleKind {
    /// Listed one by one.
    Keys,
    /// By the text they start with.
    Prefix,
    /// By number.
    Range,
    /// By share of buckets.
    Hash,
    /// All others.
    Default,
}

impl RuleKind {
    /// The key of the rule in the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Prefix => "prefix",
            Self::Range => "range",
            Self::Hash => "hash",
            Self::Default => "default",
        }
    }
}

impl RouteTable {
    /// Checks the rules and prepares them for look-ups. `local` is this relay's unit, `units` are the
    /// other ones.
    ///
    /// # Errors
    /// All mistakes at once, each with the rule and key where it is.
    pub fn build<'a>(
        settings: &Settings,
        local: &'a UnitId,
        units: impl IntoIterator<Item = &'a UnitId>,
    ) -> Result<Self, Vec<RuleError>> {
        let units: HashSet<_> = std::iter::once(local).chain(units).cloned().collect();
        let mut errors = check_dimensions(settings);
        for (index, rule) in settings.rules.iter().enumerate() {
            if !settings.dimensions.contains(&rule.dimension) {
                let problem = RuleProblem::UnknownDimension(rule.dimension.clone());
                errors.push(RuleError {
                    rule: Some(index),
                    key: "dimension",
                    problem,
                });
            }
            if !units.contains(&rule.unit) {
                let problem = RuleProblem::UnknownUnit(rule.unit.clone());
                errors.push(RuleError {
                    rule: Some(index),
                    key: "unit",
                    problem,
                });
            }
        }
        let dimensions = settings
            .dimensions
            .iter()
            .map(|name| Dimension::build(name, &settings.rules, &mut errors))
            .collect();
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.rule);
            return Err(errors);
        }
        Ok(Self {
            version: settings.version,
            hops_max: settings.hops_max,
            dimensions,
            units,
        })
    }

    /// Version of the rules; the epoch of calls routed with them.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Units a call may pass.
    pub fn hops_max(&self) -> usize {
        self.hops_max
    }

    /// Whether the unit is this relay's or configured.
    pub fn is_known(&self, unit: &UnitId) -> bool {
        self.units.contains(unit)
    }

    /// The unit a call goes to: the one the caller named, else the owner of its key in the first
    /// dimension it has a key of, else what `missing_key` says.
    ///
    /// A key that no rule matches is an error; a key of a later dimension does not stand in for it,
    /// because then adding a rule would move keys between dimensions.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn resolve<'a>(
        &'a self,
        hints: &RouteHints,
        missing_key: &'a MissingKey,
        local: &'a UnitId,
    ) -> Result<Decision<'a>, RouteError> {
        self.resolve_with(hints, missing_key, local, &mut ())
    }

    /// What [`resolve`](Self::resolve) does with this call, step by step (C-R4).
    pub fn explain(&self, hints: &RouteHints, missing_key: &MissingKey, local: &UnitId) -> Explanation {
        let mut steps: Vec<Step> = Vec::new();
        let result = self.resolve_with(hints, missing_key, local, &mut steps);
        Explanation::new(self.version, result, steps)
    }

    fn resolve_with<'a>(
        &'a self,
        hints: &RouteHints,
        missing_key: &'a MissingKey,
        local: &'a UnitId,
        record: &mut impl Recorder,
    ) -> Result<Decision<'a>, RouteError> {
        if let Some(unit) = &hints.unit {
            let decision = self.explicit(unit);
            record.step("strait-unit", decision.is_ok(), || {
                format!("the call names unit {unit}")
            });
            return decision;
        }
        record.step("strait-unit", false, || "the call names no unit".to_owned());

        for dimension in &self.dimensions {
            let key = hints.keys.iter().find(|key| key.dimension == dimension.name.as_str());
            let Some(key) = key else {
                record.step(dimension.name.as_str(), false, || {
                    "the call has no key of it".to_owned()
                });
                continue;
            };
            let Some(found) = dimension.find(&key.key, record) else {
                return Err(RouteError::NoRule {
                    dimension: dimension.name.clone(),
                });
            };
            return Ok(self.decision(&found, &dimension.name));
        }
        if let Some(key) = hints.keys.first() {
            let found = String::from_utf8_lossy(&key.dimension).into_owned();
            record.step("routing.dimensions", false, || {
                format!("dimension {found:?} is not in it")
            });
            return Err(RouteError::UnknownDimension { found });
        }
        let decision = self.without_key(missing_key, local);
        record.step("missing_key", decision.is_ok(), || {
            format!("the service says {missing_key}")
        });
        decision
    }

    fn explicit(&self, unit: &UnitId) -> Result<Decision<'_>, RouteError> {
        match self.units.get(unit) {
            Some(unit) => Ok(self.fixed(unit, RuleRef::ExplicitUnit)),
            None => Err(RouteError::UnknownUnit { unit: unit.clone() }),
        }
    }

    fn without_key<'a>(&'a self, missing_key: &'a MissingKey, local: &'a UnitId) -> Result<Decision<'a>, RouteError> {
        match missing_key {
            MissingKey::Reject => Err(RouteError::MissingKey),
            MissingKey::Local => Ok(self.fixed(local, RuleRef::MissingKey)),
            MissingKey::Unit(unit) if self.is_known(unit) => Ok(self.fixed(unit, RuleRef::MissingKey)),
            MissingKey::Unit(unit) => Err(RouteError::UnknownUnit { unit: unit.clone() }),
        }
    }

    fn fixed<'a>(&self, unit: &'a UnitId, rule: RuleRef) -> Decision<'a> {
        Decision {
            unit,
            epoch: self.version,
            rule,
            dimension: None,
        }
    }

    fn decision<'a>(&self, found: &Match<'a>, dimension: &'a Name) -> Decision<'a> {
        Decision {
            unit: found.unit,
            epoch: self.version,
            rule: RuleRef::Rule {
                index: found.rule,
                kind: found.kind,
            },
            dimension: Some(dimension),
        }
    }
}

fn check_dimensions(settings: &Settings) -> Vec<RuleError> {
    let mut errors = Vec::new();
    for (index, name) in settings.dimensions.iter().enumerate() {
        if settings.dimensions.iter().take(index).any(|earlier| earlier == name) {
            let problem = RuleProblem::DuplicateDimension(name.clone());
            errors.push(RuleError {
                rule: None,
                key: "dimensions",
                problem,
            });
        }
    }
    errors
}
