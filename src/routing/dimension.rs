//! The rules of one dimension, ready for look-ups, and the checks that they do not contradict.

use super::explain::Recorder;
use super::{BUCKETS, Rule, RuleError, RuleKind, RuleProblem, bucket};
use crate::model::{Map, Name, UnitId};

/// The rules of one dimension.
#[derive(Clone, Debug)]
pub(super) struct Dimension {
    pub(super) name: Name,
    /// Where its rules stand, for explanations.
    pub(super) origin: &'static str,
    owners: Vec<Owner>,
    keys: Map<Box<[u8]>, Slot>,
    prefixes: Vec<Prefix>,
    ranges: Vec<Range>,
    buckets: Vec<Option<Slot>>,
    default: Option<Slot>,
}

/// The rule that matched a key.
pub(super) struct Match<'a> {
    pub(super) unit: &'a UnitId,
    pub(super) rule: u32,
    pub(super) kind: RuleKind,
    /// The bucket, of a rule with `hash`.
    pub(super) bucket: Option<u16>,
}

/// Index into `owners`.
type Slot = u32;

#[derive(Clone, Debug)]
struct Owner {
    unit: UnitId,
    rule: u32,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<[u8]>,
    owner: Slot,
    /// Longest other prefix of the dimension that this one starts with.
    parent: Option<usize>,
}

#[derive(Clone, Debug)]
struct Range {
    first: u128,
    last: u128,
    owner: Slot,
}

impl Dimension {
    /// The rules of `name`. Mistakes are added to `errors`; then the dimension must not be used.
    pub(super) fn build(name: &Name, rules: &[Rule], errors: &mut Vec<RuleError>) -> Self {
        let mut builder = Builder {
            dimension: Self {
                name: name.clone(),
                origin: "routing.rules",
                owners: Vec::new(),
                keys: Map::default(),
                prefixes: Vec::new(),
                ranges: Vec::new(),
                buckets: Vec::new(),
                default: None,
            },
            errors,
        };
        for (index, rule) in rules.iter().enumerate().filter(|(_, rule)| rule.dimension == *name) {
            builder.add(index, rule);
        }
        builder.finish()
    }

    /// The rule for a key, most specific kind first.
    pub(super) fn find(&self, key: &[u8], record: &mut impl Recorder) -> Option<Match<'_>> {
        let found = self.keys.get(key).copied();
        if let Some(found) = self.matched(found, RuleKind::Keys, record) {
            return Some(found);
        }
        if let Some(found) = self.matched(self.longest_prefix(key), RuleKind::Prefix, record) {
            return Some(found);
        }
        if let Some(found) = self.matched(self.range_of(key), RuleKind::Range, record) {
            return Some(found);
        }
        let bucket = (!self.buckets.is_empty()).then(|| bucket(key));
        let found = bucket.and_then(|bucket| self.buckets.get(usize::from(bucket)).copied().flatten());
        if let Some(found) = self.matched(found, RuleKind::Hash, record) {
            return Some(Match { bucket, ..found });
        }
        self.matched(self.default, RuleKind::Default, record)
    }

    /// Who has a bucket by the rules with `hash`.
    pub(super) fn owner_of_bucket(&self, bucket: u16) -> Option<&UnitId> {
        let slot = self.buckets.get(usize::from(bucket)).copied().flatten()?;
        let owner = self.owners.get(usize::try_from(slot).ok()?)?;
        Some(&owner.unit)
    }

    fn matched(&self, found: Option<Slot>, kind: RuleKind, record: &mut impl Recorder) -> Option<Match<'_>> {
        let owner = found
            .and_then(|slot| usize::try_from(slot).ok())
            .and_then(|slot| self.owners.get(slot));
        record.step(kind.as_str(), owner.is_some(), || match owner {
            Some(owner) => format!("{}[{}] gives the key to unit {}", self.origin, owner.rule, owner.unit),
            None => format!("no rule of dimension {} with {} matches", self.name, kind.as_str()),
        });
        owner.map(|owner| Match {
            unit: &owner.unit,
            rule: owner.rule,
            kind,
            bucket: None,
        })
    }

    /// All prefixes of a key sort at or before it, and between the longest of them and the key there are
    /// only texts that start with that one. So the last entry that is not after the key either is a
    /// prefix of it or starts with the longest one.
    fn longest_prefix(&self, key: &[u8]) -> Option<Slot> {
        let mut candidate = self
            .prefixes
            .partition_point(|prefix| *prefix.text <= *key)
            .checked_sub(1);
        while let Some(prefix) = candidate.and_then(|index| self.prefixes.get(index)) {
            if key.starts_with(&prefix.text) {
                return Some(prefix.owner);
            }
            candidate = prefix.parent;
        }
        None
    }

    fn range_of(&self, key: &[u8]) -> Option<Slot> {
        if self.ranges.is_empty() {
            return None;
        }
        let number = parse_number(key)?;
        let index = self
            .ranges
            .partition_point(|range| range.first <= number)
            .checked_sub(1)?;
        let range = self.ranges.get(index)?;
        (number <= range.last).then_some(range.owner)
    }
}

struct Builder<'e> {
    dimension: Dimension,
    errors: &'e mut Vec<RuleError>,
}

impl Builder<'_> {
    fn add(&mut self, index: usize, rule: &Rule) {
        let kinds = kinds(rule);
        let [kind] = kinds.as_slice() else {
            let found = match kinds.as_slice() {
                [] => "none".to_owned(),
                several => several.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", "),
            };
            return self.error(index, "dimension", RuleProblem::Kinds { found });
        };
        let slot = Slot::try_from(self.dimension.owners.len()).unwrap_or(Slot::MAX);
        self.dimension.owners.push(Owner {
            unit: rule.unit.clone(),
            rule: u32::try_from(index).unwrap_or(u32::MAX),
        });
        match kind {
            RuleKind::Keys => self.add_keys(index, slot, &rule.keys),
            RuleKind::Prefix => self.add_prefix(index, slot, rule.prefix.as_deref().unwrap_or_default()),
            RuleKind::Range => self.add_range(index, slot, rule.range.as_ref()),
            RuleKind::Hash => self.add_share(index, slot, rule.hash),
            RuleKind::Default => match self.dimension.default {
                Some(other) => self.duplicate(index, "default", "the default of the dimension", other),
                None => self.dimension.default = Some(slot),
            },
        }
    }

    fn add_keys(&mut self, index: usize, slot: Slot, keys: &[String]) {
        for key in keys {
            if key.is_empty() {
                self.error(index, "keys", RuleProblem::EmptyKey);
            } else if let Some(other) = self.dimension.keys.insert(key.as_bytes().into(), slot) {
                self.duplicate(index, "keys", &format!("key {key:?}"), other);
            }
        }
    }

    fn add_prefix(&mut self, index: usize, slot: Slot, prefix: &str) {
        if prefix.is_empty() {
            return self.error(index, "prefix", RuleProblem::EmptyKey);
        }
        self.dimension.prefixes.push(Prefix {
            text: prefix.as_bytes().into(),
            owner: slot,
            parent: None,
        });
    }

    fn add_range(&mut self, index: usize, slot: Slot, range: Option<&[String; 2]>) {
        let bounds =
            range.and_then(|[first, last]| Some((parse_number(first.as_bytes())?, parse_number(last.as_bytes())?)));
        match bounds {
            Some((first, last)) if first <= last => self.dimension.ranges.push(Range {
                first,
                last,
                owner: slot,
            }),
            _ => self.error(index, "range", RuleProblem::Range),
        }
    }

    fn add_share(&mut self, index: usize, slot: Slot, share: Option<[f64; 2]>) {
        let Some((first, end)) = share.and_then(buckets_of) else {
            return self.error(index, "hash", RuleProblem::Share);
        };
        if self.dimension.buckets.is_empty() {
            self.dimension.buckets = vec![None; usize::from(BUCKETS)];
        }
        let mut other = None;
        for bucket in self.dimension.buckets.iter_mut().take(end).skip(first) {
            other = other.or(*bucket);
            *bucket = Some(slot);
        }
        if let Some(other) = other {
            let other = self.rule_of(other);
            self.error(
                index,
                "hash",
                RuleProblem::Overlap {
                    what: "the share".to_owned(),
                    other,
                },
            );
        }
    }

    fn finish(mut self) -> Dimension {
        self.sort_prefixes();
        self.sort_ranges();
        self.dimension
    }

    fn sort_prefixes(&mut self) {
        let mut prefixes = std::mem::take(&mut self.dimension.prefixes);
        prefixes.sort_by(|a, b| a.text.cmp(&b.text).then(a.owner.cmp(&b.owner)));
        // Prefixes of the entry at hand that were passed, shortest first.
        let mut open: Vec<(usize, Box<[u8]>, Slot)> = Vec::new();
        for (index, prefix) in prefixes.iter_mut().enumerate() {
            while open.last().is_some_and(|(_, text, _)| !prefix.text.starts_with(text)) {
                open.pop();
            }
            prefix.parent = open.last().map(|(index, ..)| *index);
            match open.last() {
                Some((_, text, other)) if *text == prefix.text => {
                    let what = format!("prefix {:?}", String::from_utf8_lossy(text));
                    self.duplicate(self.rule_of(prefix.owner), "prefix", &what, *other);
                }
                _ => open.push((index, prefix.text.clone(), prefix.owner)),
            }
        }
        self.dimension.prefixes = prefixes;
    }

    fn sort_ranges(&mut self) {
        let mut ranges = std::mem::take(&mut self.dimension.ranges);
        ranges.sort_by_key(|range| (range.first, range.last));
        let mut widest: Option<&Range> = None;
        for range in &ranges {
            match widest {
                Some(earlier) if range.first <= earlier.last => {
                    let what = format!("the range {} to {}", earlier.first, earlier.last);
                    let other = self.rule_of(earlier.owner);
                    self.error(self.rule_of(range.owner), "range", RuleProblem::Overlap { what, other });
                }
                _ => {}
            }
            if widest.is_none_or(|earlier| earlier.last < range.last) {
                widest = Some(range);
            }
        }
        self.dimension.ranges = ranges;
    }

    fn rule_of(&self, slot: Slot) -> usize {
        usize::try_from(slot)
            .ok()
            .and_then(|slot| self.dimension.owners.get(slot))
            .and_then(|owner| usize::try_from(owner.rule).ok())
            .unwrap_or_default()
    }

    fn duplicate(&mut self, index: usize, key: &'static str, what: &str, other: Slot) {
        let other = self.rule_of(other);
        let what = what.to_owned();
        self.error(index, key, RuleProblem::Duplicate { what, other });
    }

    fn error(&mut self, index: usize, key: &'static str, problem: RuleProblem) {
        self.errors.push(RuleError {
            rule: Some(index),
            key,
            problem,
        });
    }
}

impl Rule {
    /// How it names keys; `None` if in no way or in several, which no table takes.
    pub fn kind(&self) -> Option<RuleKind> {
        match kinds(self).as_slice() {
            [kind] => Some(*kind),
            _ => None,
        }
    }

    /// Its buckets, if it is one with `hash`.
    pub fn buckets(&self) -> Option<std::ops::Range<u16>> {
        let (first, end) = buckets_of(self.hash?)?;
        Some(u16::try_from(first).ok()?..u16::try_from(end).ok()?)
    }

    /// Whether it names this key, by `keys`, `prefix` or `range`; not whether another rule names it better.
    pub fn names(&self, key: &[u8]) -> bool {
        let is_in = |range: &[String; 2]| {
            let [first, last] = range.each_ref().map(|bound| parse_number(bound.as_bytes()));
            parse_number(key)
                .is_some_and(|key| first.is_some_and(|first| first <= key) && last.is_some_and(|last| key <= last))
        };
        self.keys.iter().any(|known| known.as_bytes() == key)
            || self
                .prefix
                .as_ref()
                .is_some_and(|prefix| key.starts_with(prefix.as_bytes()))
            || self.range.as_ref().is_some_and(is_in)
    }
}

fn kinds(rule: &Rule) -> Vec<RuleKind> {
    [
        (!rule.keys.is_empty(), RuleKind::Keys),
        (rule.prefix.is_some(), RuleKind::Prefix),
        (rule.range.is_some(), RuleKind::Range),
        (rule.hash.is_some(), RuleKind::Hash),
        (rule.default, RuleKind::Default),
    ]
    .into_iter()
    .filter_map(|(set, kind)| set.then_some(kind))
    .collect()
}

/// A key that is a decimal number of at most 38 digits. Leading zeros do not matter.
fn parse_number(key: &[u8]) -> Option<u128> {
    if key.is_empty() || key.len() > 38 {
        return None;
    }
    key.iter().try_fold(0_u128, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u128::from(digit - b'0'))
    })
}

/// First bucket of a share in percent and the first one after it.
#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rounded number from 0 to 4096"
)]
fn buckets_of([from, to]: [f64; 2]) -> Option<(usize, usize)> {
    // Written so that NaN fails too.
    if !(0.0 <= from && from < to && to <= 100.0) {
        return None;
    }
    let edge = |percent: f64| (percent / 100.0 * f64::from(BUCKETS)).round() as usize;
    let (first, end) = (edge(from), edge(to));
    (first < end).then_some((first, end))
}
