//! Tells what a power cut left of a write from damage.
//!
//! # Invariants
//! - L15. A file is all zeros where nothing was written to it, and a write begins with a mark, which is not. So if in the last write
//!   records cannot be read, and a sector there has nothing but zeros from the beginning of the write on, the sector was never written: the
//!   power went out before the sync, and nobody was told of any record of the write (L1). Bits that changed leave no such sector.
//!
//! A write that the operating system took in pieces which are no sectors may leave half a sector: that looks like damage.

use super::Damage;
use super::storage::{Storage, read_full};

/// Whether one of these places, all in the write that begins at `write`, has a sector that was never written.
pub(super) fn any<'a, S: Storage>(
    storage: &S,
    file: &S::File,
    write: u64,
    places: impl Iterator<Item = &'a Damage>,
) -> bool {
    places.map(|damage| damage.bytes).any(|(from, to)| {
        let sectors = from / SECTOR..to.div_ceil(SECTOR);
        sectors
            .into_iter()
            .any(|sector| is_blank(storage, file, ((sector * SECTOR).max(write), (sector + 1) * SECTOR)))
    })
}

fn is_blank<S: Storage>(storage: &S, file: &S::File, (from, to): (u64, u64)) -> bool {
    let mut bytes = vec![0; usize::try_from(to - from).unwrap_or_default()];
    // What cannot be read may be anything.
    read_full(storage, file, from, &mut bytes).is_ok() && bytes.iter().all(|byte| *byte == 0)
}

/// The least that a disk writes at once; others are multiples of it.
const SECTOR: u64 = 512;
