//! An immutable version of the rules, ready for look-ups.

use std::collections::HashSet;
use std::sync::Arc;

use super::copy::{Resolved, Routes, Trail};
use super::dimension::{Dimension, Match};
use super::evidence::{Evidence, Source};
use super::explain::{Explanation, Recorder, Step};
use super::record::{MoveId, NodeId, Rev, Target};
use super::{RouteError, RuleError, RuleProblem, Settings, precedence};
use crate::model::{Key, MissingKey, Name, RouteHints, RoutePolicy, UnitId};

/// An immutable version of the rules; with a route store, of all that was decided.
#[derive(Clone, Debug)]
pub struct RouteTable {
    rules: Arc<Rules>,
    copy: Copied,
}

/// What there is of a route store.
#[derive(Clone, Debug)]
enum Copied {
    /// There is no store: the rules decide.
    NoStore,
    /// There is one, and nothing of it is here yet: nobody knows who owns a key.
    Nothing,
    /// This.
    Routes(Arc<Routes>),
}

#[derive(Debug)]
struct Rules {
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
    /// Version of the rules, or the newest of all records that say so (C-R1).
    pub epoch: u64,
    /// Since when the unit owns the key, on the same scale: what its services are told. It is the same at all relays of the unit, and
    /// higher for each later owner.
    pub since: u64,
    /// What decided.
    pub rule: RuleRef,
    /// The dimension whose key decided, if a key did.
    pub dimension: Option<&'a Name>,
    /// Whether writes are admitted.
    pub standing: Standing,
    /// What decided about the key that the call was routed by.
    pub source: Source,
}

/// Whether the owner of a key admits writes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Standing {
    /// It does.
    #[default]
    Open,
    /// Nobody does: the key is on its way to another unit.
    Frozen {
        /// The move.
        by: MoveId,
        /// The revision that froze it.
        rev: Rev,
    },
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
        /// Position in `routing.rules`, from 0; with a route store, in the published book.
        index: u32,
        /// How it matched.
        kind: RuleKind,
    },
    /// What was decided about the key.
    Override,
    /// The key's claim.
    Claim,
    /// A choice of this relay, while the store is away.
    Provisional,
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
        let rules = Rules {
            version: settings.version,
            hops_max: settings.hops_max,
            dimensions,
            units,
        };
        Ok(Self {
            rules: Arc::new(rules),
            copy: Copied::NoStore,
        })
    }

    /// The table that resolves keys by a copy of the route store in place of the rules.
    #[must_use]
    pub fn with_routes(&self, routes: Arc<Routes>) -> Self {
        self.with_copy(Copied::Routes(routes))
    }

    /// The table of a relay that has a route store and nothing of it yet: whoever has a key waits.
    #[must_use]
    pub fn awaiting_routes(&self) -> Self {
        self.with_copy(Copied::Nothing)
    }

    /// These rules with what `other` has of the route store.
    pub(super) fn with_routes_of(&self, other: &Self) -> Self {
        self.with_copy(other.copy.clone())
    }

    fn with_copy(&self, copy: Copied) -> Self {
        Self {
            rules: Arc::clone(&self.rules),
            copy,
        }
    }

    /// The copy of the route store, if there is a store and something of it is here.
    pub fn routes(&self) -> Option<&Arc<Routes>> {
        match &self.copy {
            Copied::Routes(routes) => Some(routes),
            Copied::NoStore | Copied::Nothing => None,
        }
    }

    /// Whether owners can change while the relay runs: there is a route store.
    pub fn has_store(&self) -> bool {
        !matches!(self.copy, Copied::NoStore)
    }

    /// Version of the rules, or epoch of the copy; the epoch of calls that no key routes.
    pub fn version(&self) -> u64 {
        self.routes().map_or(self.rules.version, |routes| routes.epoch().0)
    }

    /// Units a call may pass.
    pub fn hops_max(&self) -> usize {
        self.rules.hops_max
    }

    /// Whether the unit is this relay's or configured.
    pub fn is_known(&self, unit: &UnitId) -> bool {
        self.rules.units.contains(unit)
    }

    /// The hash of the key that decides for these hints; 0 if none does.
    pub fn hash_of(&self, hints: &RouteHints, policy: &RoutePolicy) -> u128 {
        let Some(routes) = self.routes() else { return 0 };
        let known = routes.book().dimensions.iter().map(|spec| &spec.name);
        let first = precedence::first(hints, &policy.dimensions, known, &mut ());
        first.map_or(0, |(_, key)| routes.hash(&key.dimension, &key.key).0)
    }

    /// The dimension whose key decides for these hints, if one does, by a copy of the route store.
    pub fn dimension_of(&self, hints: &RouteHints, policy: &RoutePolicy) -> Option<Name> {
        let known = self.routes()?.book().dimensions.iter().map(|spec| &spec.name);
        let (name, _) = precedence::first(hints, &policy.dimensions, known, &mut ())?;
        Some(name.clone())
    }

    /// Whether reads of the key go on at its owner while it moves: its dimension says nothing else.
    pub fn lets_read(&self, decision: &Decision<'_>) -> bool {
        let spec = decision
            .dimension
            .zip(self.routes())
            .and_then(|(name, routes)| routes.dimension(name));
        spec.is_none_or(|spec| !spec.freeze_reads)
    }

    /// Who owns a node now, claims left aside; `None` if nobody is known to.
    pub fn owner_of(&self, id: &NodeId) -> Option<&UnitId> {
        let routes = self.routes()?;
        match id {
            NodeId::Unit(unit) => routes.book().units.iter().find(|known| *known == unit),
            NodeId::Key { dimension, key } => {
                let key = Key {
                    dimension: bytes::Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                    key: key.0.clone(),
                };
                let hints = RouteHints {
                    keys: vec![key],
                    ..RouteHints::default()
                };
                let resolved = routes.resolve(&hints, &[], &(), &mut ())?;
                resolved.ok().map(|resolved| resolved.unit)
            }
            NodeId::Bucket { .. } | NodeId::Rule { .. } => match routes.node(id) {
                Some(node) => match &node.target {
                    Target::Unit(unit) => Some(unit),
                    _ => None,
                },
                None => routes.rule_owner(id),
            },
        }
    }

    /// The unit a call goes to: the one the caller named, else the owner of its key in the first
    /// dimension it has a key of, else what the policy says.
    ///
    /// A key that no rule matches is an error; a key of a later dimension does not stand in for it,
    /// because then adding a rule would move keys between dimensions.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn resolve<'a>(
        &'a self,
        hints: &RouteHints,
        policy: &'a RoutePolicy,
        local: &'a UnitId,
        evidence: &impl Evidence,
    ) -> Result<Decision<'a>, RouteError> {
        self.resolve_with(hints, policy, local, evidence, &mut ())
    }

    /// [`resolve`](Self::resolve), and what it went through; empty if no key decided by a copy of the route store.
    ///
    /// # Errors
    /// [`RouteError`].
    pub fn resolve_with_trail<'a>(
        &'a self,
        hints: &RouteHints,
        policy: &'a RoutePolicy,
        local: &'a UnitId,
        evidence: &impl Evidence,
    ) -> Result<(Decision<'a>, Trail), RouteError> {
        let mut trail = Trail::default();
        let decision = self.resolve_with(hints, policy, local, evidence, &mut trail)?;
        Ok((decision, trail))
    }

    /// What [`resolve`](Self::resolve) does with this call, step by step (C-R4).
    pub fn explain(
        &self,
        hints: &RouteHints,
        policy: &RoutePolicy,
        local: &UnitId,
        evidence: &impl Evidence,
    ) -> Explanation {
        let mut steps: Vec<Step> = Vec::new();
        let result = self.resolve_with(hints, policy, local, evidence, &mut steps);
        let rules = if self.has_store() {
            "book.rules"
        } else {
            "routing.rules"
        };
        Explanation::new(self.version(), rules, policy, result, steps)
    }

    fn resolve_with<'a>(
        &'a self,
        hints: &RouteHints,
        policy: &'a RoutePolicy,
        local: &'a UnitId,
        evidence: &impl Evidence,
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
        if let Some(decision) = self.by_key(hints, policy, evidence, record) {
            return decision;
        }
        if let (Some(key), []) = (hints.keys.first(), policy.dimensions.as_slice()) {
            let found = String::from_utf8_lossy(&key.dimension).into_owned();
            record.step("routing.dimensions", false, || {
                format!("dimension {found:?} is not in it")
            });
            return Err(RouteError::UnknownDimension { found });
        }
        let decision = self.without_key(policy, local);
        record.step("missing_key", decision.is_ok(), || {
            format!("the service says {}", policy.missing_key)
        });
        decision
    }

    /// By the key of the first dimension there is one of.
    fn by_key<'a>(
        &'a self,
        hints: &RouteHints,
        policy: &RoutePolicy,
        evidence: &impl Evidence,
        record: &mut impl Recorder,
    ) -> Option<Result<Decision<'a>, RouteError>> {
        match &self.copy {
            Copied::NoStore => self.by_rules(hints, policy, record),
            Copied::Nothing => Self::awaited(hints, policy, record),
            Copied::Routes(routes) => {
                let resolved = routes.resolve(hints, &policy.dimensions, evidence, record)?;
                Some(resolved.map(Decision::from))
            }
        }
    }

    fn by_rules<'a>(
        &'a self,
        hints: &RouteHints,
        policy: &RoutePolicy,
        record: &mut impl Recorder,
    ) -> Option<Result<Decision<'a>, RouteError>> {
        let known = &self.rules.dimensions;
        let (name, key) = precedence::first(hints, &policy.dimensions, known.iter().map(|of| &of.name), record)?;
        let Some(dimension) = known.iter().find(|dimension| dimension.name == *name) else {
            return Some(Err(RouteError::UnknownDimension {
                found: name.to_string(),
            }));
        };
        let found = dimension.find(&key.key, record).ok_or_else(|| RouteError::NoRule {
            dimension: dimension.name.clone(),
        });
        Some(found.map(|found| self.decision(&found, &dimension.name)))
    }

    /// A call with a key while nothing of the route store is here.
    fn awaited<'a>(
        hints: &RouteHints,
        policy: &RoutePolicy,
        record: &mut impl Recorder,
    ) -> Option<Result<Decision<'a>, RouteError>> {
        hints
            .keys
            .iter()
            .find(|key| precedence::counts(key, &policy.dimensions))?;
        record.step("routes", false, || "nothing of the route store is here yet".to_owned());
        Some(Err(RouteError::NoCopy))
    }

    fn explicit(&self, unit: &UnitId) -> Result<Decision<'_>, RouteError> {
        match self.rules.units.get(unit) {
            Some(unit) => Ok(self.fixed(unit, RuleRef::ExplicitUnit, Source::Explicit)),
            None => Err(RouteError::UnknownUnit { unit: unit.clone() }),
        }
    }

    fn without_key<'a>(&'a self, policy: &'a RoutePolicy, local: &'a UnitId) -> Result<Decision<'a>, RouteError> {
        let fixed = |unit| Ok(self.fixed(unit, RuleRef::MissingKey, Source::MissingKey));
        match &policy.missing_key {
            MissingKey::Reject if policy.dimensions.is_empty() => Err(RouteError::MissingKey),
            MissingKey::Reject => Err(RouteError::OtherDimension {
                wanted: policy.dimensions.clone(),
            }),
            MissingKey::Local => fixed(local),
            MissingKey::Unit(unit) if self.is_known(unit) => fixed(unit),
            MissingKey::Unit(unit) => Err(RouteError::UnknownUnit { unit: unit.clone() }),
        }
    }

    fn fixed<'a>(&self, unit: &'a UnitId, rule: RuleRef, source: Source) -> Decision<'a> {
        Decision {
            unit,
            epoch: self.version(),
            since: self.version(),
            rule,
            dimension: None,
            standing: Standing::Open,
            source,
        }
    }

    fn decision<'a>(&self, found: &Match<'a>, dimension: &'a Name) -> Decision<'a> {
        Decision {
            unit: found.unit,
            epoch: self.rules.version,
            since: self.rules.version,
            rule: RuleRef::Rule {
                index: found.rule,
                kind: found.kind,
            },
            dimension: Some(dimension),
            standing: Standing::Open,
            source: Source::Rule,
        }
    }
}

impl<'a> From<Resolved<'a>> for Decision<'a> {
    fn from(resolved: Resolved<'a>) -> Self {
        let rule = match (resolved.source, resolved.rule) {
            (Source::Rule, Some((index, kind))) => RuleRef::Rule { index, kind },
            (Source::Token | Source::Claim, _) => RuleRef::Claim,
            (Source::Provisional, _) => RuleRef::Provisional,
            _ => RuleRef::Override,
        };
        Self {
            unit: resolved.unit,
            epoch: resolved.epoch.0,
            since: resolved.since.0,
            rule,
            dimension: Some(resolved.dimension),
            standing: resolved.standing,
            source: resolved.source,
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
