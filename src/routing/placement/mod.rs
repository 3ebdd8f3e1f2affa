//! Where a new key goes: the first rule of its dimension that fits, else the unit that claims.
//!
//! # Invariants
//! - N1. A new key never goes to a unit that is being evacuated, nor to one that the [`Book`](super::record::Book) has not.
//! - N2. Raising the percentage of a rule only adds keys to it; raising a weight only moves keys to its unit; a unit that goes
//!   away moves only its own keys.
//! - N3. The result depends on the arguments only, and is the same on every machine: whole numbers, no clock, no dice.
//!
//! # Not here
//! Who was first with a key (`control::claims`): a placement is a wish, and the claim that won says what became of it.

mod rendezvous;
#[cfg(test)]
mod tests;

pub use rendezvous::{KeyDice, heaviest};

use super::record::{PlacementRule, Target};
use crate::model::{Name, UnitId};

/// A key that nobody has yet.
#[derive(Clone, Copy)]
pub struct NewKey<'a> {
    /// Kind of key.
    pub dimension: &'a Name,
    /// The key.
    pub key: &'a [u8],
    /// The class of the call that brought it.
    pub class: Option<&'a Name>,
}

/// What a placement has to know of the relay's copy and of the call.
pub trait Surroundings {
    /// Whether a unit takes new keys: it is in the book and active.
    fn is_active(&self, unit: &UnitId) -> bool;
    /// Whether the call has a key of this dimension, whose owner takes new keys.
    fn can_follow(&self, dimension: &Name) -> bool;
}

/// Where a new key goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// The owner to claim it for.
    pub target: Target,
    /// Position of the rule that said so; `None` if none fitted.
    pub rule: Option<usize>,
}

/// Where a new key goes. `None` if no rule fits and the unit that claims takes no new keys itself.
///
/// A rule whose units are all away, or whose key to follow the call does not have, does not fit.
pub fn place(
    rules: &[PlacementRule],
    new: NewKey<'_>,
    claiming: &UnitId,
    surroundings: &impl Surroundings,
) -> Option<Placed> {
    let dice = KeyDice::new(new.dimension, new.key);
    let fitting = rules.iter().enumerate().filter(|(_, rule)| fits(rule, new, dice));
    let mut targets = fitting.filter_map(|(at, rule)| Some((at, target(rule, dice, claiming, surroundings)?)));
    if let Some((at, target)) = targets.next() {
        return Some(Placed { target, rule: Some(at) });
    }
    let target = own(claiming, surroundings)?;
    Some(Placed { target, rule: None })
}

/// Where a new key goes while claims cannot be stored: where a rule names units or a key to follow as ever, else to the unit of
/// [`fallback`], because who claims is not the same everywhere. `None` if there is no unit.
pub fn without_store<'a>(
    rules: &[PlacementRule],
    new: NewKey<'_>,
    active: impl IntoIterator<Item = &'a UnitId>,
    surroundings: &impl Surroundings,
) -> Option<Target> {
    let everywhere = fallback(new.dimension, new.key, active)?;
    place(rules, new, everywhere, surroundings).map(|placed| placed.target)
}

/// The unit for a new key while claims cannot be stored: every relay whose copy is at the same revision, and so has the same
/// active units, comes to the same. `None` if there is no unit.
pub fn fallback<'a>(dimension: &Name, key: &[u8], active: impl IntoIterator<Item = &'a UnitId>) -> Option<&'a UnitId> {
    heaviest(KeyDice::new(dimension, key), active.into_iter().map(|unit| (unit, 1)))
}

fn fits(rule: &PlacementRule, new: NewKey<'_>, dice: KeyDice) -> bool {
    let class = rule.class.as_ref().is_none_or(|class| Some(class) == new.class);
    let prefix = rule.prefix.as_ref();
    class
        && prefix.is_none_or(|prefix| new.key.starts_with(prefix.as_bytes()))
        && rule.percent.is_none_or(|percent| dice.percent() < percent)
}

fn target(rule: &PlacementRule, dice: KeyDice, claiming: &UnitId, surroundings: &impl Surroundings) -> Option<Target> {
    if let (true, Some(dimension)) = (rule.to.is_empty(), &rule.follow) {
        return surroundings
            .can_follow(dimension)
            .then(|| Target::Follow(dimension.clone()));
    }
    if rule.to.is_empty() {
        return own(claiming, surroundings);
    }
    let active = rule.to.iter().filter(|share| surroundings.is_active(&share.unit));
    heaviest(dice, active.map(|share| (&share.unit, share.weight))).map(|unit| Target::Unit(unit.clone()))
}

fn own(claiming: &UnitId, surroundings: &impl Surroundings) -> Option<Target> {
    surroundings.is_active(claiming).then(|| Target::Unit(claiming.clone()))
}
