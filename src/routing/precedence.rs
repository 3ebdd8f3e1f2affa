//! Which of a call's keys decides: the first one in an order of dimensions (S1).

use super::explain::Recorder;
use crate::model::{Key, Name, RouteHints};

/// The first of `dimensions`, or of all that are `known` if there are none, that the call has a key of.
pub(super) fn first<'h, 'd>(
    hints: &'h RouteHints,
    dimensions: &'d [Name],
    known: impl Iterator<Item = &'d Name>,
    record: &mut impl Recorder,
) -> Option<(&'d Name, &'h Key)> {
    let mut find = |name: &'d Name| {
        let key = hints.keys.iter().find(|key| key.dimension == name.as_str());
        if key.is_none() {
            record.step(name.as_str(), false, || "the call has no key of it".to_owned());
        }
        key.map(|key| (name, key))
    };
    match dimensions {
        [] => known.into_iter().find_map(find),
        some => some.iter().find_map(&mut find),
    }
}

/// Whether a key may route a call that these dimensions route; all do if there are none.
pub(super) fn counts(key: &Key, dimensions: &[Name]) -> bool {
    dimensions.is_empty() || dimensions.iter().any(|name| key.dimension == name.as_str())
}
