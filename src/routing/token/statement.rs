//! What a token says, in the words of a copy: names of units and dimensions for numbers and flags.

use std::num::NonZeroU16;

use super::{Token, TokenTarget};
use crate::model::Name;
use crate::routing::record::{DimensionSpec, Placement, RecordId, Target};
use crate::routing::{Known, Routes};

impl Token {
    /// What it says about a key of `dimension`, as evidence. `None` if this copy does not know its unit, or cannot tell
    /// which dimension was followed when it was issued.
    pub fn known(&self, routes: &Routes, dimension: &Name) -> Option<Known> {
        let target = match self.target {
            TokenTarget::Unit(number) => Target::Unit(routes.book().units.get(usize::from(number.get()) - 1)?.clone()),
            TokenTarget::Follow => {
                // The flag does not say which dimension; a later book may have another one.
                let is_same_book = routes.rev_of(&RecordId::Book) <= self.as_of;
                Target::Follow(parent(routes.dimension(dimension).filter(|_| is_same_book)?)?.clone())
            }
        };
        Some(Known {
            target,
            base: self.epoch,
            as_of: self.evidence_as_of(),
        })
    }
}

impl TokenTarget {
    /// A target as tokens have it. `None` of what no token can say: a group, a dimension that is not the only one that keys of
    /// this dimension follow, or a unit without a number.
    pub fn of(target: &Target, routes: &Routes, dimension: &Name) -> Option<Self> {
        match target {
            Target::Unit(unit) => {
                let position = routes.book().units.iter().position(|known| known == unit)?;
                let number = u16::try_from(position).ok()?.checked_add(1)?;
                NonZeroU16::new(number).map(Self::Unit)
            }
            Target::Follow(followed) => {
                let parent = parent(routes.dimension(dimension)?)?;
                (parent == followed).then_some(Self::Follow)
            }
            Target::Group { .. } => None,
        }
    }
}

/// The only dimension that keys of this one follow since their claim.
fn parent(spec: &DimensionSpec) -> Option<&Name> {
    let Placement::Claim(rules) = &spec.placement else {
        return None;
    };
    let mut followed = rules.iter().filter_map(|rule| rule.follow.as_ref());
    let first = followed.next()?;
    followed.all(|other| other == first).then_some(first)
}
