//! What a configuration adds to the book that is published. Pure.
//!
//! # Invariants
//! - U1. No key that has an owner gets another one: owners change by moves only.
//! - U2. Units keep their numbers, rules their ids, dimensions their precedence; nothing is taken out.
//! - U3. What is published already changes nothing.
//! - U4. Keys that a new rule takes from another one have their owner since no earlier than before (R-3.8 step 6).
//!
//! # Not here
//! Reading and writing the book (`operator`, `worker`).

mod changes;
mod dimensions;
mod rules;
#[cfg(test)]
mod tests;

pub use self::changes::changes;
use crate::model::UnitId;
use crate::routing::record::{Book, NodeId, Rev};
use crate::routing::{RouteTable, Settings};

/// What was decided about a rule or a bucket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Decided {
    /// Nothing, or nothing any more since then: it belongs to the unit of its rule.
    Nothing(Rev),
    /// It belongs to this unit, since then.
    Unit(UnitId, Rev),
    /// It is being moved, or follows other keys.
    Unclear,
}

/// The book to publish, or `None` if all is published: `configured` as it is if nothing is published, else what is published
/// with the units, dimensions and rules that are new. Ids of rules in `configured` count only if nothing is published.
///
/// # Errors
/// Why it cannot be published, and what to do: U1 or U2 would not hold, or the rules contradict each other.
pub fn merge_book(published: Option<&Book>, configured: &Book) -> Result<Option<Book>, String> {
    merge_book_with(published, configured, &mut |_| Decided::Nothing(Rev::ZERO))
}

/// [`merge_book`] with what was decided about rules and buckets since they were published: who has them now is who keeps them.
/// A book that this gives must be written only while those answers hold.
///
/// # Errors
/// As [`merge_book`].
pub fn merge_book_with(
    published: Option<&Book>,
    configured: &Book,
    decided: &mut dyn FnMut(&NodeId) -> Decided,
) -> Result<Option<Book>, String> {
    let Some(published) = published else {
        check(configured)?;
        return Ok(Some(configured.clone()));
    };
    let mut book = published.clone();
    for unit in &configured.units {
        if !book.units.contains(unit) {
            book.units.push(unit.clone());
        }
    }
    dimensions::merge(&mut book, configured)?;
    rules::merge(&mut book, published, configured, decided)?;
    check(&book)?;
    Ok((book != *published).then_some(book))
}

/// Whether look-ups can go by these rules.
fn check(book: &Book) -> Result<(), String> {
    let Some((first, others)) = book.units.split_first() else {
        return Err("there is no unit to publish".to_owned());
    };
    let settings = Settings {
        dimensions: book.dimensions.iter().map(|spec| spec.name.clone()).collect(),
        rules: book.rules.iter().map(|(_, rule)| rule.clone()).collect(),
        ..Settings::default()
    };
    let told = |errors: Vec<crate::routing::RuleError>| {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        texts.join("; ")
    };
    // Rules may name units of other Geos; that all units are configured is checked with the settings.
    let named = book.rules.iter().map(|(_, rule)| &rule.unit);
    RouteTable::build(&settings, first, others.iter().chain(named))
        .map(drop)
        .map_err(told)
}
