//! A book ready for look-ups.

use super::packed::{Code, UNITS_MAX};
use crate::model::{Map, Name, UnitId};
use crate::routing::dimension::Dimension;
use crate::routing::record::{Book, DimensionSpec, Node, Rev, State, Target};

/// A book, with its rules prepared.
#[derive(Debug, Default)]
pub(super) struct CompiledBook {
    pub(super) book: Book,
    pub(super) rev: Rev,
    /// In the order of the book's dimensions.
    rules: Vec<Dimension>,
    /// By number. The book's units, and those that it has dropped, which it should not: what was kept by number stays right.
    units: Vec<UnitId>,
    numbers: Map<UnitId, u16>,
}

/// A dimension of the book.
#[derive(Clone, Copy)]
pub(super) struct Kind<'a> {
    /// Its position in the book.
    pub(super) position: u16,
    pub(super) spec: &'a DimensionSpec,
    pub(super) rules: &'a Dimension,
}

impl CompiledBook {
    /// `before` is the book that this one follows.
    pub(super) fn new(book: Book, rev: Rev, before: &Self) -> Self {
        let rules: Vec<_> = book.rules.iter().map(|(_, rule)| rule.clone()).collect();
        // What a store holds was checked before it was published; a rule that is wrong all the same matches nothing.
        let mut errors = Vec::new();
        let dimensions = book.dimensions.iter();
        let dimensions = dimensions.map(|spec| {
            let mut rules = Dimension::build(&spec.name, &rules, &mut errors);
            rules.origin = "book.rules";
            rules
        });
        let mut compiled = Self {
            rules: dimensions.collect(),
            units: before.units.clone(),
            numbers: before.numbers.clone(),
            book,
            rev,
        };
        compiled.number_units();
        compiled
    }

    /// With the numbers that units had.
    pub(super) fn loaded(book: Book, rev: Rev, units: &[UnitId]) -> Self {
        let mut before = Self::default();
        before.book.units = units.to_vec();
        before.number_units();
        Self::new(book, rev, &before)
    }

    /// Units by number.
    pub(super) fn units(&self) -> &[UnitId] {
        &self.units
    }

    fn number_units(&mut self) {
        for unit in &self.book.units {
            let number = u16::try_from(self.units.len()).ok();
            if let (Some(number), false) = (
                number.filter(|number| *number < UNITS_MAX),
                self.numbers.contains_key(unit),
            ) {
                self.numbers.insert(unit.clone(), number);
                self.units.push(unit.clone());
            }
        }
    }

    /// A dimension by name.
    pub(super) fn kind(&self, name: &[u8]) -> Option<Kind<'_>> {
        self.kinds().find(|kind| kind.spec.name.as_str().as_bytes() == name)
    }

    /// All dimensions, in order of precedence.
    pub(super) fn kinds(&self) -> impl Iterator<Item = Kind<'_>> {
        let rules = self.book.dimensions.iter().zip(&self.rules);
        (0..)
            .zip(rules)
            .map(|(position, (spec, rules))| Kind { position, spec, rules })
    }

    /// The id of a rule at a position, which never means another rule.
    pub(super) fn rule_id(&self, position: u32) -> Option<u32> {
        let (id, _) = self.book.rules.get(usize::try_from(position).ok()?)?;
        Some(*id)
    }

    /// Since when keys of the rule at a position have their owner, if others said so before it.
    pub(super) fn since(&self, position: u32) -> Rev {
        let id = self.rule_id(position);
        id.and_then(|id| self.book.since.get(&id).copied()).unwrap_or_default()
    }

    /// Who has a bucket by the rules.
    pub(super) fn bucket_owner(&self, dimension: &Name, bucket: u16) -> Option<&UnitId> {
        self.kind(dimension.as_str().as_bytes())?.rules.owner_of_bucket(bucket)
    }

    pub(super) fn unit(&self, number: u16) -> Option<&UnitId> {
        self.units.get(usize::from(number))
    }

    /// The name of a unit as the book has it.
    pub(super) fn known(&self, unit: &Name) -> Option<&UnitId> {
        self.unit(self.number(unit)?)
    }

    pub(super) fn number(&self, unit: &Name) -> Option<u16> {
        self.numbers.get(unit).copied()
    }

    /// How a key's record is kept.
    pub(super) fn code(&self, node: &Node) -> Code {
        match (&node.state, &node.target, &node.previous) {
            (State::Tombstone, ..) => Code::Tombstone,
            (State::Active, Target::Unit(unit), None) => self.number(unit).map_or(Code::Details, Code::Unit),
            _ => Code::Details,
        }
    }
}
