//! Links to relays of other units.
