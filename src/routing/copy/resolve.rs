//! From a key to the unit that owns it.

use super::Routes;
use super::packed::{self, Code};
use crate::model::{Key, Name, RouteHints, UnitId};
use crate::routing::dimension::Match;
use crate::routing::evidence::{Evidence, Found, Known, Source, Verdict, judge};
use crate::routing::explain::Recorder;
use crate::routing::hash::bucket;
use crate::routing::record::{DimensionSpec, Epoch, MoveId, Node, NodeId, Placement, Rev, State, Target};
use crate::routing::takeover::rendezvous;
use crate::routing::{KeyHash, RouteError, RuleKind, Standing};

/// What a key resolves to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::routing) struct Resolved<'a> {
    /// The unit that owns it.
    pub unit: &'a UnitId,
    /// The newest of all records that decided.
    pub epoch: Epoch,
    /// Whether writes are admitted.
    pub standing: Standing,
    /// What decided.
    pub source: Source,
    /// The rule, if one decided.
    pub rule: Option<(u32, RuleKind)>,
    /// The dimension whose key decided.
    pub dimension: &'a Name,
}

/// What a call brings along.
struct Brought<'h, E> {
    hints: &'h RouteHints,
    evidence: &'h E,
}

/// What was seen on the way.
struct Walk<'w> {
    rev: Rev,
    /// A node that somebody asks for, and whether it was met.
    watched: Option<&'w NodeId>,
    met: bool,
    /// The newest freeze.
    frozen: Option<(MoveId, Rev)>,
    source: Source,
    rule: Option<(u32, RuleKind)>,
}

/// Where the way goes on.
enum Next<'a> {
    Unit(&'a UnitId),
    Key(Key),
}

impl Routes {
    /// Resolves the key of the first dimension of the book that the hints have one of; `None` if they have none.
    ///
    /// # Errors
    /// [`RouteError`].
    pub(in crate::routing) fn resolve<'a>(
        &'a self,
        hints: &RouteHints,
        evidence: &impl Evidence,
        record: &mut impl Recorder,
    ) -> Option<Result<Resolved<'a>, RouteError>> {
        for spec in &self.book.book.dimensions {
            let name = spec.name.as_str();
            let Some(key) = hints.keys.iter().find(|key| key.dimension == name) else {
                record.step(name, false, || "the call has no key of it".to_owned());
                continue;
            };
            if key.key.len() > usize::from(spec.key_bytes_max) {
                return Some(Err(RouteError::KeyTooLong {
                    dimension: spec.name.clone(),
                    bytes_max: spec.key_bytes_max,
                }));
            }
            let brought = Brought { hints, evidence };
            return Some(self.resolve_key(&spec.name, key, &brought, &mut Walk::new(None), record));
        }
        None
    }

    /// Whether the key of these hints is resolved through a node; `None` if it has no owner as far as is known here.
    pub fn passes(&self, hints: &RouteHints, node: &NodeId, evidence: &impl Evidence) -> Option<bool> {
        let mut specs = self.book.book.dimensions.iter();
        let (spec, key) = specs.find_map(|spec| {
            let key = hints.keys.iter().find(|key| key.dimension == spec.name.as_str())?;
            Some((spec, key))
        })?;
        let mut walk = Walk::new(Some(node));
        let resolved = self.resolve_key(&spec.name, key, &Brought { hints, evidence }, &mut walk, &mut ());
        (walk.met || resolved.is_ok()).then_some(walk.met)
    }

    fn resolve_key<'a>(
        &'a self,
        dimension: &'a Name,
        key: &Key,
        brought: &Brought<'_, impl Evidence>,
        walk: &mut Walk<'_>,
        record: &mut impl Recorder,
    ) -> Result<Resolved<'a>, RouteError> {
        let mut followed;
        let mut at = key;
        for _ in 0..DEPTH_MAX {
            let hash = self.hash(&at.dimension, &at.key);
            match self.step((at, hash), brought, walk, record)? {
                Next::Unit(unit) => {
                    let unit = self.in_place_of(unit, hash, walk, record)?;
                    return Ok(walk.end(unit, self.epoch, dimension));
                }
                Next::Key(key) => {
                    followed = key;
                    at = &followed;
                }
            }
        }
        Err(RouteError::TooDeep {
            dimension: dimension.clone(),
        })
    }

    /// One key: what was decided about it, else its claim or rule.
    fn step<'a>(
        &'a self,
        (key, hash): (&Key, KeyHash),
        brought: &Brought<'_, impl Evidence>,
        walk: &mut Walk<'_>,
        record: &mut impl Recorder,
    ) -> Result<Next<'a>, RouteError> {
        let hints = brought.hints;
        let packed = self.overrides.get(hash);
        let newest = packed.map(packed::rev);
        walk.rev = walk.rev.max(newest.unwrap_or_default());
        match packed.map(packed::code) {
            Some(Code::Unit(number)) => {
                if let Some(unit) = self.book.unit(number) {
                    walk.source = Source::Override;
                    record.step("key", true, || {
                        format!("unit {unit} has had the key since revision {}", walk.rev)
                    });
                    return Ok(Next::Unit(unit));
                }
            }
            Some(Code::Details) => {
                if let Some(node) = self.keys.get(&hash) {
                    walk.source = Source::Override;
                    walk.see(node);
                    record.step("key", true, || described(node));
                    return self.follow(&node.target, hints);
                }
            }
            Some(Code::Tombstone) => record.step("key", false, || {
                format!("what was decided about the key was taken back at revision {}", walk.rev)
            }),
            None => record.step("key", false, || "nothing was decided about the key alone".to_owned()),
        }
        let dimension = String::from_utf8_lossy(&key.dimension);
        let unknown = || RouteError::UnknownDimension {
            found: dimension.clone().into_owned(),
        };
        let (position, rules) = self.book.dimension(&key.dimension).ok_or_else(unknown)?;
        let spec = self.book.book.dimensions.get(position).ok_or_else(unknown)?;
        if let Some(found) = rules.find(&key.key, record) {
            return self.by_rule(&found, key, hints, walk, record);
        }
        match &spec.placement {
            Placement::Claim(_) => {
                let found = brought.evidence.find(hash, key);
                let known = self.claimed(&spec.name, found, newest, record)?;
                walk.source = known.source;
                walk.rev = walk.rev.max(known.base.rev());
                self.follow_owned(known.target, hints)
            }
            Placement::Rules => Err(RouteError::NoRule {
                dimension: spec.name.clone(),
            }),
        }
    }

    fn by_rule<'a>(
        &'a self,
        found: &Match<'a>,
        key: &Key,
        hints: &RouteHints,
        walk: &mut Walk<'_>,
        record: &mut impl Recorder,
    ) -> Result<Next<'a>, RouteError> {
        walk.source = Source::Rule;
        walk.rule = Some((found.rule, found.kind));
        walk.rev = walk.rev.max(self.book.rev);
        let named = self.book.dimension(&key.dimension);
        let named = named.and_then(|(position, _)| self.book.book.dimensions.get(position));
        let (false, Some(DimensionSpec { name: dimension, .. })) = (self.parts.is_empty(), named) else {
            return Ok(Next::Unit(found.unit));
        };
        let id = if found.kind == RuleKind::Hash {
            NodeId::Bucket {
                dimension: dimension.clone(),
                bucket: bucket(&key.key),
            }
        } else {
            NodeId::Rule {
                dimension: dimension.clone(),
                rule: self.book.rule_id(found.rule).unwrap_or(u32::MAX),
            }
        };
        let Some(node) = self.parts.get(&id) else {
            return Ok(Next::Unit(found.unit));
        };
        walk.see(node);
        if node.state == State::Tombstone {
            return Ok(Next::Unit(found.unit));
        }
        record.step(part_name(&id), true, || described(node));
        self.follow(&node.target, hints)
    }

    /// What is known of a key's claim.
    fn claimed(
        &self,
        dimension: &Name,
        found: Found,
        newest: Option<Rev>,
        record: &mut impl Recorder,
    ) -> Result<Known, RouteError> {
        let unclaimed = |looked_up| RouteError::Unclaimed {
            dimension: dimension.clone(),
            looked_up,
        };
        let known = match found {
            Found::Known(known) => known,
            Found::Nothing => {
                record.step("claim", false, || "nobody has claimed the key".to_owned());
                return Err(unclaimed(true));
            }
            Found::Unasked => {
                record.step("claim", false, || {
                    "this relay has not asked the store for its claim yet".to_owned()
                });
                return Err(unclaimed(false));
            }
        };
        match judge(known.as_of, self.rev(), newest) {
            Verdict::Current => {
                record.step("claim", true, || {
                    format!(
                        "the key was claimed, by its {}, as of revision {}",
                        known.source.as_str(),
                        known.as_of
                    )
                });
                Ok(known)
            }
            // What was decided later was taken back since: only the store knows what holds.
            Verdict::Superseded => Err(unclaimed(false)),
            Verdict::Ahead(needs) => Err(RouteError::Behind { needs }),
        }
    }

    fn follow<'a>(&'a self, target: &'a Target, hints: &RouteHints) -> Result<Next<'a>, RouteError> {
        match target {
            Target::Unit(unit) => Ok(Next::Unit(unit)),
            other => self.follow_owned(other.clone(), hints),
        }
    }

    fn follow_owned(&self, target: Target, hints: &RouteHints) -> Result<Next<'_>, RouteError> {
        match target {
            Target::Unit(unit) => self
                .book
                .known(&unit)
                .map(Next::Unit)
                .ok_or(RouteError::UnknownUnit { unit }),
            Target::Follow(dimension) => {
                let key = hints.keys.iter().find(|key| key.dimension == dimension.as_str());
                key.cloned().map(Next::Key).ok_or(RouteError::NoParent { dimension })
            }
            Target::Group { dimension, key } => Ok(Next::Key(Key {
                dimension: bytes::Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                key: key.0,
            })),
        }
    }

    /// The unit itself, or who has its keys while it is evacuated.
    fn in_place_of<'a>(
        &'a self,
        unit: &'a UnitId,
        hash: KeyHash,
        walk: &mut Walk<'_>,
        record: &mut impl Recorder,
    ) -> Result<&'a UnitId, RouteError> {
        let mut unit = unit;
        for _ in 0..DEPTH_MAX {
            if self.parts.is_empty() {
                return Ok(unit);
            }
            let Some(node) = self.parts.get(&NodeId::Unit(unit.clone())) else {
                return Ok(unit);
            };
            walk.see(node);
            let State::Evacuated { takeover } = &node.state else {
                return Ok(unit);
            };
            let candidates = takeover
                .iter()
                .map(|(unit, weight)| (u64::from(self.book.number(unit).unwrap_or(u16::MAX)), *weight));
            let winner = rendezvous(hash, candidates).and_then(|index| takeover.get(index));
            let Some((next, _)) = winner else {
                return Err(RouteError::NobodyTookOver { unit: unit.clone() });
            };
            record.step("unit", true, || {
                format!(
                    "unit {unit} was evacuated at revision {}; unit {next} has the key in its place",
                    node.rev
                )
            });
            unit = next;
        }
        Err(RouteError::NobodyTookOver { unit: unit.clone() })
    }
}

impl<'w> Walk<'w> {
    fn new(watched: Option<&'w NodeId>) -> Self {
        Self {
            rev: Rev::ZERO,
            watched,
            met: false,
            frozen: None,
            source: Source::Rule,
            rule: None,
        }
    }

    /// A record is on the way.
    fn see(&mut self, node: &Node) {
        self.rev = self.rev.max(node.rev);
        self.met |= self.watched == Some(&node.id);
        if let (true, Some(by)) = (node.state.is_frozen(), node.state.work()) {
            self.frozen = self.frozen.max(Some((by, node.rev)));
        }
    }

    fn end<'a>(&self, unit: &'a UnitId, at: Epoch, dimension: &'a Name) -> Resolved<'a> {
        Resolved {
            unit,
            epoch: Epoch::new(at.incarnation(), self.rev),
            standing: match self.frozen {
                Some((by, rev)) => Standing::Frozen { by, rev },
                None => Standing::Open,
            },
            source: self.source,
            rule: self.rule,
            dimension,
        }
    }
}

fn part_name(id: &NodeId) -> &'static str {
    match id {
        NodeId::Key { .. } => "key",
        NodeId::Bucket { .. } => "bucket",
        NodeId::Rule { .. } => "rule",
        NodeId::Unit(_) => "unit",
    }
}

fn described(node: &Node) -> String {
    let owner = match &node.target {
        Target::Unit(unit) => format!("unit {unit} owns it"),
        Target::Follow(dimension) => format!("it goes where the call's key of {dimension} goes"),
        Target::Group { dimension, .. } => format!("it belongs to a group of {dimension}"),
    };
    let state = match &node.state {
        State::Active | State::Tombstone | State::Evacuated { .. } => String::new(),
        State::Migrating { to, by } => format!("; move {by} copies it to unit {to}"),
        State::Frozen { to, by } => format!("; move {by} has frozen it on its way to unit {to}"),
        State::Fencing { by } => format!("; evacuation {by} waits for its relays to stop"),
    };
    format!("{owner}, since revision {}{state}", node.rev)
}

/// Keys that lead from one to the next, and units that stand in for each other.
const DEPTH_MAX: usize = 3;
