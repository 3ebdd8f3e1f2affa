//! Files of segments that are done with, used again for those that come: zeros in place of what they have cost a tenth of what
//! they cost in a new file, where the file system has to find space and memory for them.
//!
//! # Invariants
//! - L13. A file that is used again has been renamed, and that is on the disk, before a byte of it is written; it is all zeros
//!   again before it is a segment. One that failed is not used again (L2).

use super::TMP;
use super::storage::Storage;
use super::table::{Segment, Shared};

/// Files that wait to be used again.
#[derive(Default)]
pub(super) struct Spares {
    waiting: Vec<Spare>,
    /// Names given so far.
    named: u64,
}

/// A file that was a segment.
pub(super) struct Spare {
    /// What its file is to be called.
    pub(super) name: String,
    bytes: u64,
}

impl Spares {
    /// A new name for the file of a segment if it is worth keeping, and may be beside so many others that are not yet here.
    pub(super) fn offer<S: Storage>(&mut self, shared: &Shared<S>, segment: &Segment, others: usize) -> Option<Spare> {
        let bytes = u64::from(shared.options.segment_bytes);
        let is_whole = segment.file_bytes <= bytes && segment.file_bytes.saturating_mul(2) > bytes;
        let failed = shared.table().failed.contains(&segment.identity.nonce);
        let is_roomy = || {
            let free = shared.storage.free_and_total();
            shared.has_room() && free.is_ok_and(|(free, _)| free > bytes.saturating_mul(ROOM))
        };
        if !is_whole || failed || self.waiting.len() + others >= SPARES_MAX || !is_roomy() {
            return None;
        }
        self.named += 1;
        Some(Spare {
            name: format!("spare-{}{TMP}", self.named),
            bytes: segment.file_bytes,
        })
    }

    /// Files that have been renamed: from now on they may be written to (L13).
    pub(super) fn keep<S: Storage>(&mut self, shared: &Shared<S>, spares: Vec<Spare>) {
        if spares.is_empty() {
            return;
        }
        if let Err(error) = shared.storage.sync_dir() {
            tracing::warn!(%error, "files of the queue cannot be used again");
            for spare in spares {
                let _ = shared.storage.remove(&spare.name);
            }
            return;
        }
        shared.table().other_bytes += spares.iter().map(|spare| spare.bytes).sum::<u64>();
        self.waiting.extend(spares);
    }

    /// The name of one, which is the caller's from now on.
    pub(super) fn take<S: Storage>(&mut self, shared: &Shared<S>) -> Option<String> {
        let spare = self.waiting.pop()?;
        let mut table = shared.table();
        table.other_bytes = table.other_bytes.saturating_sub(spare.bytes);
        Some(spare.name)
    }
}

/// With less space on the disk than for so many segments, files are removed instead.
const ROOM: u64 = 4;
/// Files that wait to be used again.
const SPARES_MAX: usize = 2;
