//! Places of calls that wait for their route: how many there are, and who has waited longest.
//!
//! # Invariants
//! - W1. Calls and bytes that wait are bounded, per key too (R-I17).
//! - W2. A place is free again when its owner is dropped, however its call ended.
//!
//! # Not here
//! Why a call waits and what it does then (`parked`).

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use crate::model::CallId;

/// The places of a shard.
pub(super) struct Parking(Rc<RefCell<Room>>);

/// How many may wait on a shard.
#[derive(Clone, Copy, Debug)]
pub struct ParkingLimits {
    /// Calls.
    pub calls: usize,
    /// Bytes of their requests.
    pub bytes: usize,
    /// Calls of one key.
    pub calls_of_key: usize,
}

struct Room {
    limits: ParkingLimits,
    bytes: usize,
    keys: HashMap<u128, usize>,
    line: BTreeMap<u64, CallId>,
    last: u64,
}

/// The place of one call.
pub(super) struct Seat {
    room: Rc<RefCell<Room>>,
    number: u64,
    key: u128,
    bytes: usize,
}

impl Parking {
    pub(super) fn new(limits: ParkingLimits) -> Self {
        Self(Rc::new(RefCell::new(Room {
            limits,
            bytes: 0,
            keys: HashMap::new(),
            line: BTreeMap::new(),
            last: 0,
        })))
    }

    /// A place behind all others for a call of `key` whose request has so many bytes; `None` if there is none (W1).
    pub(super) fn seat(&self, id: CallId, key: u128, bytes: usize) -> Option<Seat> {
        let number = self.0.borrow_mut().take(id, key, bytes)?;
        Some(Seat {
            room: Rc::clone(&self.0),
            number,
            key,
            bytes,
        })
    }

    /// The calls that have places, those that came first first.
    pub(super) fn calls(&self) -> Vec<CallId> {
        self.0.borrow().line.values().copied().collect()
    }
}

impl Room {
    fn take(&mut self, id: CallId, key: u128, bytes: usize) -> Option<u64> {
        let of_key = self.keys.get(&key).copied().unwrap_or_default();
        let limits = self.limits;
        if self.line.len() >= limits.calls || self.bytes + bytes > limits.bytes || of_key >= limits.calls_of_key {
            return None;
        }
        self.bytes += bytes;
        self.keys.insert(key, of_key + 1);
        self.last += 1;
        self.line.insert(self.last, id);
        Some(self.last)
    }

    fn give_back(&mut self, seat: &Seat) {
        self.line.remove(&seat.number);
        self.bytes = self.bytes.saturating_sub(seat.bytes);
        if let Some(of_key) = self.keys.get_mut(&seat.key) {
            *of_key = of_key.saturating_sub(1);
            if *of_key == 0 {
                self.keys.remove(&seat.key);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.borrow_mut().give_back(self);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // R-I17: whatever comes and goes, the limits hold, and all room comes back.
        #[test]
        fn what_waits_is_bounded_and_room_comes_back(
            steps in prop::collection::vec((any::<bool>(), 0_u128..4, 0_usize..40, any::<prop::sample::Index>()), 1..200),
        ) {
            let limits = ParkingLimits { calls: 8, bytes: 100, calls_of_key: 3 };
            let parking = Parking::new(limits);
            let mut seats: Vec<Seat> = Vec::new();
            for (comes, key, bytes, which) in steps {
                if !comes && !seats.is_empty() {
                    seats.swap_remove(which.index(seats.len()));
                } else {
                    let of_key = seats.iter().filter(|seat| seat.key == key).count();
                    let used: usize = seats.iter().map(|seat| seat.bytes).sum();
                    let fits = seats.len() < 8 && used + bytes <= 100 && of_key < 3;
                    let seat = parking.seat(CallId(0), key, bytes);
                    prop_assert_eq!(seat.is_some(), fits);
                    seats.extend(seat);
                }
            }
            drop(seats);
            let room = parking.0.borrow();
            prop_assert_eq!((room.line.len(), room.bytes, room.keys.len()), (0, 0, 0));
        }
    }
}
