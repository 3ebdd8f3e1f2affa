//! What a relay says of another unit.

/// What a relay says of another unit, to relays of further units.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Sighting {
    /// It knows the unit, and has no link to it that takes calls.
    Away,
    /// It has such a link.
    Reached,
    /// It does not know the unit, or no longer.
    #[default]
    Unknown,
}
