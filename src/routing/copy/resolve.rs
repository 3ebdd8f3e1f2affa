//! From a key to the unit that owns it.

use super::book::Kind;
use super::described;
use super::packed::{self, Code};
use super::past;
use super::trail::{Asked, DEPTH_MAX, Hop, Trail};
use super::{KeyHash, Routes};
use crate::model::{Name, RouteHints, UnitId};
use crate::routing::dimension::Match;
use crate::routing::evidence::{Evidence, Found, Known, Provisional, Source, Verdict};
use crate::routing::explain::Recorder;
use crate::routing::key_hash::{Part, part_hash};
use crate::routing::record::{Epoch, Fallback, MoveId, Node, Placement, Rev, State, Target};
use crate::routing::takeover::rendezvous;
use crate::routing::{RouteError, RuleKind, Standing, precedence};

/// What a key resolves to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::routing) struct Resolved<'a> {
    /// The unit that owns it.
    pub unit: &'a UnitId,
    /// The newest of all records that decided.
    pub epoch: Epoch,
    /// Since when the unit owns it.
    pub since: Epoch,
    /// Whether writes are admitted.
    pub standing: Standing,
    /// What decided about the call's key itself.
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

/// A key on the way.
#[derive(Clone, Copy)]
struct At<'a, 'k> {
    kind: Kind<'a>,
    key: &'k [u8],
    hash: KeyHash,
}

/// What was seen on the way.
pub(super) struct Walk {
    rev: Rev,
    /// The last time that something on the way got another owner.
    since: Rev,
    /// The newest freeze.
    pub(super) frozen: Option<(Rev, MoveId)>,
    source: Option<Source>,
    rule: Option<(u32, RuleKind)>,
    trail: Trail,
}

impl Routes {
    /// Resolves the key of the first of these dimensions, or else of the book, that the hints have one of; `None` if they have none.
    ///
    /// # Errors
    /// [`RouteError`].
    pub(in crate::routing) fn resolve<'a>(
        &'a self,
        hints: &RouteHints,
        dimensions: &[Name],
        evidence: &impl Evidence,
        record: &mut impl Recorder,
    ) -> Option<Result<Resolved<'a>, RouteError>> {
        let known = self.book.kinds().map(|kind| &kind.spec.name);
        let (name, key) = precedence::first(hints, dimensions, known, record)?;
        let Some(kind) = self.book.kind(name.as_str().as_bytes()) else {
            return Some(Err(RouteError::UnknownDimension {
                found: name.to_string(),
            }));
        };
        let mut walk = Walk::new(self.rev());
        let brought = Brought { hints, evidence };
        let unit = self.owner((kind, &key.key), &brought, &mut walk, record);
        Some(unit.map(|unit| {
            let epoch = Epoch::new(self.epoch.incarnation(), walk.rev);
            record.step("epoch", true, || described::end(&walk, epoch));
            record.went(&walk.trail);
            let since = Epoch::new(self.epoch.incarnation(), walk.since);
            walk.end(unit, (epoch, since), &kind.spec.name)
        }))
    }

    /// The owner of a key: by its own record, else by its claim or rule. Calls itself for the key that this one follows, at
    /// most [`DEPTH_MAX`] deep.
    fn owner<'a>(
        &'a self,
        (kind, key): (Kind<'a>, &[u8]),
        brought: &Brought<'_, impl Evidence>,
        walk: &mut Walk,
        record: &mut impl Recorder,
    ) -> Result<&'a UnitId, RouteError> {
        let at = self.enter(kind, key, walk)?;
        let packed = self.overrides.get(at.hash).copied();
        let newest = packed.map(packed::rev);
        walk.rev = walk.rev.max(newest.unwrap_or_default());
        match packed.map(packed::code) {
            Some(Code::Unit(number)) => {
                // Numbers that are kept are never without a name.
                if let Some(unit) = self.book.unit(number) {
                    walk.decided_by(Source::Override);
                    walk.owned_since(self.past(at.hash, newest.unwrap_or_default()).since);
                    record.step("key", true, || {
                        let rev = newest.unwrap_or_default();
                        format!("unit {unit} owns it, since revision {rev}")
                    });
                    return self.in_place_of(unit, at.hash, walk, record);
                }
            }
            Some(Code::Details) => {
                if let Some(node) = self.details.get(at.hash) {
                    walk.decided_by(Source::Override);
                    walk.see(node);
                    walk.owned_since(node.since());
                    record.step("key", true, || described::node(node));
                    return self.follow(&node.target, at, brought, walk, record);
                }
            }
            Some(Code::Tombstone) => {
                let rev = newest.unwrap_or_default();
                walk.owned_since(rev);
                record.step("key", false, || {
                    format!("what was decided about it was taken back at revision {rev}")
                });
            }
            None => record.step("key", false, || "nothing was decided about the key alone".to_owned()),
        }
        let found = kind.rules.find(key, record);
        walk.note_rules(self.asked(found.as_ref()));
        // Also if none matches: the next book may have one that does, or this one have lost it.
        walk.rev = walk.rev.max(self.book.rev);
        if let Some(found) = found {
            return self.by_rule(&found, at, brought, walk, record);
        }
        match &kind.spec.placement {
            Placement::Claim(_) => {
                let (known, source) = self.known(at, newest, brought, record)?;
                walk.decided_by(source);
                if source == Source::Provisional {
                    walk.source = Some(source);
                    // Whatever the store says of the key is newer, and an owner that is behind may take the call all the same.
                    walk.rev = EVER;
                }
                // A claim of before a restore is older than all revisions of now.
                if known.base.incarnation() == self.epoch.incarnation() {
                    walk.rev = walk.rev.max(known.base.rev());
                }
                self.follow(&known.target, at, brought, walk, record)
            }
            Placement::Rules => Err(RouteError::NoRule {
                dimension: kind.spec.name.clone(),
            }),
        }
    }

    /// The way reaches a key.
    fn enter<'a, 'k>(&'a self, kind: Kind<'a>, key: &'k [u8], walk: &mut Walk) -> Result<At<'a, 'k>, RouteError> {
        let dimension = &kind.spec.name;
        if key.len() > usize::from(kind.spec.key_bytes_max) {
            return Err(RouteError::KeyTooLong {
                dimension: dimension.clone(),
                bytes_max: kind.spec.key_bytes_max,
            });
        }
        let hash = self.hash(dimension.as_str().as_bytes(), key);
        if walk.trail.has(hash) {
            return Err(RouteError::Circle {
                dimension: dimension.clone(),
            });
        }
        let hop = Hop {
            hash,
            dimension: kind.position,
            rules: Asked::No,
        };
        if !walk.trail.push(hop) {
            return Err(RouteError::TooDeep {
                dimension: dimension.clone(),
            });
        }
        Ok(At { kind, key, hash })
    }

    fn asked(&self, found: Option<&Match<'_>>) -> Asked {
        let Some(found) = found else { return Asked::Unmatched };
        let rule = || self.book.rule_id(found.rule).map_or(Asked::Unmatched, Asked::Rule);
        found.bucket.map_or_else(rule, Asked::Bucket)
    }

    /// By a rule, or by what was decided about all of its keys or the bucket.
    fn by_rule<'a>(
        &'a self,
        found: &Match<'a>,
        at: At<'a, '_>,
        brought: &Brought<'_, impl Evidence>,
        walk: &mut Walk,
        record: &mut impl Recorder,
    ) -> Result<&'a UnitId, RouteError> {
        if walk.decided_by(Source::Rule) {
            walk.rule = Some((found.rule, found.kind));
        }
        walk.owned_since(self.book.since(found.rule));
        let name = at.kind.spec.name.as_str();
        let part = match walk.trail.last_mut().map(|hop| hop.rules) {
            Some(Asked::Bucket(bucket)) if self.counts.buckets > 0 => Some(Part::Bucket(name, bucket)),
            Some(Asked::Rule(rule)) if self.counts.rules > 0 => Some(Part::Rule(name, rule)),
            _ => None,
        };
        let node = part.and_then(|part| self.details.get(part_hash(self.seed, part)));
        let Some(node) = node else {
            return self.in_place_of(found.unit, at.hash, walk, record);
        };
        walk.see(node);
        walk.owned_since(node.since());
        let is_there = node.state != State::Tombstone;
        record.step(described::part_name(&node.id), is_there, || described::node(node));
        if is_there {
            self.follow(&node.target, at, brought, walk, record)
        } else {
            self.in_place_of(found.unit, at.hash, walk, record)
        }
    }

    /// What is known of a key's claim and holds at this copy; the first of all that do (R-I6).
    fn known(
        &self,
        at: At<'_, '_>,
        newest: Option<Rev>,
        brought: &Brought<'_, impl Evidence>,
        record: &mut impl Recorder,
    ) -> Result<(Known, Source), RouteError> {
        let dimension = &at.kind.spec.name;
        let mut needs: Option<Epoch> = None;
        let mut judged = |source, known: Known| {
            let verdict = known.judge(self.epoch, newest);
            record.step(source_name(source), verdict == Verdict::Current, || {
                described::evidence(source, &known, verdict)
            });
            match verdict {
                Verdict::Current => return Some((known, source)),
                Verdict::Ahead(epoch) => needs = Some(needs.map_or(epoch, |other| other.min(epoch))),
                Verdict::Superseded | Verdict::TooOld => {}
            }
            None
        };
        let token = brought.evidence.token(dimension, at.key);
        if let Some(current) = token.and_then(|known| judged(Source::Token, known)) {
            return Ok(current);
        }
        let claim = brought.evidence.claim(dimension, at.key, at.hash);
        let looked_up = claim == Found::Nothing;
        if let Found::Known(known) = claim {
            if let Some(current) = judged(Source::Claim, known) {
                return Ok(current);
            }
        } else {
            record.step("claim", false, || {
                let why = if looked_up {
                    "nobody has claimed the key"
                } else {
                    "this relay has not asked the store for its claim yet"
                };
                why.to_owned()
            });
        }
        if let Some(needs) = needs {
            return Err(RouteError::Behind { needs });
        }
        let known = self.provisional(at, newest, brought, record)?;
        known
            .map(|known| (known, Source::Provisional))
            .ok_or_else(|| RouteError::Unclaimed {
                dimension: dimension.clone(),
                looked_up,
            })
    }

    /// Where this relay has put a key of which nothing is known, while the store is away.
    fn provisional(
        &self,
        at: At<'_, '_>,
        newest: Option<Rev>,
        brought: &Brought<'_, impl Evidence>,
        record: &mut impl Recorder,
    ) -> Result<Option<Known>, RouteError> {
        if at.kind.spec.claim_fallback != Fallback::Deterministic {
            return Ok(None);
        }
        match brought.evidence.provisional(at.hash) {
            Provisional::Chosen(known) => {
                let counts = known.counts(self.epoch, newest);
                record.step("provisional", counts, || described::provisional(&known, counts));
                Ok(counts.then_some(known))
            }
            Provisional::Full => Err(RouteError::ProvisionalFull {
                dimension: at.kind.spec.name.clone(),
            }),
            Provisional::Nothing => Ok(None),
        }
    }

    fn follow<'a>(
        &'a self,
        target: &Target,
        at: At<'a, '_>,
        brought: &Brought<'_, impl Evidence>,
        walk: &mut Walk,
        record: &mut impl Recorder,
    ) -> Result<&'a UnitId, RouteError> {
        let (dimension, key) = match target {
            Target::Unit(unit) => {
                let known = self.book.known(unit);
                let known = known.ok_or_else(|| RouteError::UnknownUnit { unit: unit.clone() })?;
                return self.in_place_of(known, at.hash, walk, record);
            }
            Target::Follow(dimension) => {
                let key = brought
                    .hints
                    .keys
                    .iter()
                    .find(|key| key.dimension == dimension.as_str());
                let key = key.ok_or_else(|| RouteError::NoParent {
                    dimension: dimension.clone(),
                })?;
                (dimension, &key.key)
            }
            Target::Group { dimension, key } => (dimension, &key.0),
        };
        let kind = self.book.kind(dimension.as_str().as_bytes());
        let kind = kind.ok_or_else(|| RouteError::UnknownDimension {
            found: dimension.to_string(),
        })?;
        record.step("follow", true, || format!("the key of {dimension} decides"));
        self.owner((kind, key), brought, walk, record)
    }

    /// The unit itself, or who has its keys while it is evacuated.
    fn in_place_of<'a>(
        &'a self,
        unit: &'a UnitId,
        hash: KeyHash,
        walk: &mut Walk,
        record: &mut impl Recorder,
    ) -> Result<&'a UnitId, RouteError> {
        let owner = unit;
        let mut unit = unit;
        for _ in 0..DEPTH_MAX {
            let Some(node) = self.unit_node(unit) else {
                return Ok(unit);
            };
            walk.see(node);
            let Some(takeover) = node.state.takeover() else {
                walk.owned_since(node.since());
                record.step("unit", true, || described::node(node));
                return Ok(unit);
            };
            let candidates = takeover.iter().map(|(unit, weight)| (unit, *weight));
            let Some(next) = rendezvous(hash, candidates) else {
                return Err(self.nobody_took_over(owner, walk));
            };
            walk.owned_since(past::heir_since(node, hash, next));
            record.step("unit", true, || {
                let rev = node.rev;
                format!("unit {unit} was evacuated at revision {rev}; unit {next} has the key in its place")
            });
            unit = next;
        }
        Err(self.nobody_took_over(owner, walk))
    }

    fn nobody_took_over(&self, owner: &UnitId, walk: &Walk) -> RouteError {
        RouteError::NobodyTookOver {
            unit: owner.clone(),
            epoch: Epoch::new(self.epoch.incarnation(), walk.rev),
        }
    }
}

impl Walk {
    fn new(at: Rev) -> Self {
        Self {
            rev: Rev::ZERO,
            since: EVER,
            frozen: None,
            source: None,
            rule: None,
            trail: Trail::new(at),
        }
    }

    /// Whether this is the first that decides: about the call's key itself.
    fn decided_by(&mut self, source: Source) -> bool {
        let is_first = self.source.is_none();
        self.source = self.source.or(Some(source));
        is_first
    }

    fn note_rules(&mut self, asked: Asked) {
        if let Some(hop) = self.trail.last_mut() {
            hop.rules = asked;
        }
    }

    /// A record is on the way.
    fn see(&mut self, node: &Node) {
        self.rev = self.rev.max(node.rev);
        if let (true, Some(by)) = (node.state.is_frozen(), node.state.work()) {
            self.frozen = self.frozen.max(Some((node.rev, by)));
        }
    }

    /// Something on the way has had its owner since then. What only says who owns it before anything has moved, a claim or the
    /// book, does not count: not all relays know the same of it, and nobody had the key before.
    fn owned_since(&mut self, rev: Rev) {
        self.since = self.since.max(rev);
    }

    fn end<'a>(&self, unit: &'a UnitId, (epoch, since): (Epoch, Epoch), dimension: &'a Name) -> Resolved<'a> {
        Resolved {
            unit,
            epoch,
            since,
            standing: match self.frozen {
                Some((rev, by)) => Standing::Frozen { by, rev },
                None => Standing::Open,
            },
            source: self.source.unwrap_or(Source::Rule),
            rule: self.rule,
            dimension,
        }
    }
}

/// Of a key that never had another owner; 0 would be none to services.
const EVER: Rev = Rev(1);

fn source_name(source: Source) -> &'static str {
    match source {
        Source::Token => "strait-token",
        _ => "claim",
    }
}
