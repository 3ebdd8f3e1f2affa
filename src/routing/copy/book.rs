//! A book ready for look-ups.

use super::packed::{Code, UNITS_MAX};
use crate::model::{Map, Name, UnitId};
use crate::routing::dimension::Dimension;
use crate::routing::record::{Book, Node, Rev, State, Target};

/// A book, with its rules prepared.
#[derive(Debug, Default)]
pub(super) struct CompiledBook {
    pub(super) book: Book,
    pub(super) rev: Rev,
    /// In the order of the book's dimensions.
    rules: Vec<Dimension>,
    numbers: Map<UnitId, u16>,
}

impl CompiledBook {
    pub(super) fn new(book: Book, rev: Rev) -> Self {
        let rules: Vec<_> = book.rules.iter().map(|(_, rule)| rule.clone()).collect();
        // What a store holds was checked before it was published; a rule that is wrong all the same matches nothing.
        let mut errors = Vec::new();
        let dimensions = book.dimensions.iter();
        let dimensions = dimensions.map(|spec| Dimension::build(&spec.name, &rules, &mut errors));
        let numbers = (0..UNITS_MAX).zip(&book.units);
        Self {
            rules: dimensions.collect(),
            numbers: numbers.map(|(number, unit)| (unit.clone(), number)).collect(),
            book,
            rev,
        }
    }

    /// Position and rules of a dimension.
    pub(super) fn dimension(&self, name: &[u8]) -> Option<(usize, &Dimension)> {
        let position = self
            .book
            .dimensions
            .iter()
            .position(|spec| spec.name.as_str().as_bytes() == name)?;
        Some((position, self.rules.get(position)?))
    }

    /// The id of a rule at a position, which never means another rule.
    pub(super) fn rule_id(&self, position: u32) -> Option<u32> {
        let (id, _) = self.book.rules.get(usize::try_from(position).ok()?)?;
        Some(*id)
    }

    /// Who has a bucket by the rules.
    pub(super) fn bucket_owner(&self, dimension: &Name, bucket: u16) -> Option<&UnitId> {
        let (_, rules) = self.dimension(dimension.as_str().as_bytes())?;
        rules.owner_of_bucket(bucket)
    }

    pub(super) fn unit(&self, number: u16) -> Option<&UnitId> {
        self.book.units.get(usize::from(number))
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
        match (&node.state, &node.target) {
            (State::Tombstone, _) => Code::Tombstone,
            (State::Active, Target::Unit(unit)) => self.number(unit).map_or(Code::Details, Code::Unit),
            _ => Code::Details,
        }
    }
}
