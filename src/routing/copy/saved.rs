//! A copy as bytes in a file, so that a relay can route after a restart while the store is away (R-3.12).
//!
//! ```text
//! "strait-routes\n"  version u32  overrides u64  pasts u64  body u64  crc32c u32  overrides  pasts  body
//! ```
//! All numbers are little-endian. The checksum is of all that follows it. An override is 24 bytes, its hash and what is kept
//! of it, sorted by hash: keys are there as hashes only. So is the past of a key. The body is postcard, with the records as JSON: that knows fields that
//! may be left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::book::CompiledBook;
use super::packed::{self, Code};
use super::past;
use super::{KeyHash, Overrides, Routes};
use crate::model::UnitId;
use crate::routing::record::{Book, Epoch, Move, MoveId, Node, Rev};

/// Why bytes are no copy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SavedError {
    /// It is something else, or of another version.
    #[error("the file is not a copy of routes of this version")]
    Foreign,
    /// It is cut off or was changed.
    #[error("the copy of routes is damaged")]
    Damaged,
}

#[derive(Deserialize, Serialize)]
struct Body {
    epoch: Epoch,
    seed: u128,
    book_rev: Rev,
    book: String,
    /// By the numbers that overrides have.
    units: Vec<UnitId>,
    nodes: Vec<String>,
    moves: Vec<String>,
    /// Numbers of those that have finished, and how many nodes they name.
    finished: Vec<(u64, u32)>,
    others: Vec<(String, Rev)>,
    digest: u64,
}

impl Routes {
    /// The copy as bytes.
    pub fn save(&self) -> Vec<u8> {
        let body = postcard::to_allocvec(&self.body()).unwrap_or_default();
        let mut out = Vec::with_capacity(HEAD + (self.overrides.len() + self.pasts.len()) * ENTRY + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        for length in [self.overrides.len(), self.pasts.len(), body.len()] {
            out.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes());
        }
        out.extend_from_slice(&[0; SUM]);
        for (hash, packed) in self.overrides.iter().chain(self.pasts.iter()) {
            out.extend_from_slice(&hash.0.to_le_bytes());
            out.extend_from_slice(&packed.to_le_bytes());
        }
        out.extend_from_slice(&body);
        if let Some((head, rest)) = out.split_at_mut_checked(HEAD)
            && let Some(sum) = head.last_chunk_mut::<SUM>()
        {
            *sum = crc32c::crc32c(rest).to_le_bytes();
        }
        out
    }

    fn body(&self) -> Body {
        fn json(value: &impl Serialize) -> String {
            serde_json::to_string(value).unwrap_or_default()
        }
        Body {
            epoch: self.epoch,
            seed: self.seed,
            book_rev: self.book.rev,
            book: json(&self.book.book),
            units: self.book.units().to_vec(),
            nodes: self.details.iter().map(|(_, node)| json(node.as_ref())).collect(),
            moves: self.moves.values().map(|work| json(work.as_ref())).collect(),
            finished: self.finished.iter().map(|(id, nodes)| (id.0, *nodes)).collect(),
            others: self.others.iter().map(|(id, rev)| (json(id), *rev)).collect(),
            digest: self.digest,
        }
    }

    /// Reads what [`save`](Self::save) wrote. Takes memory in proportion to the bytes only.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn load(bytes: &[u8]) -> Result<Self, SavedError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SavedError::Foreign)?;
        let (version, rest) = rest.split_first_chunk().ok_or(SavedError::Damaged)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(SavedError::Foreign);
        }
        let (keys, body) = parts(rest).ok_or(SavedError::Damaged)?;
        let body: Body = postcard::from_bytes(body).map_err(|_| SavedError::Damaged)?;
        Self::of(&body, &keys).ok_or(SavedError::Damaged)
    }

    fn of(body: &Body, keys: &Keys<'_>) -> Option<Self> {
        let mut routes = Self::empty(body.epoch, body.seed);
        let book: Book = serde_json::from_str(&body.book).ok()?;
        routes.book = Arc::new(CompiledBook::loaded(book, body.book_rev, &body.units));
        for text in &body.nodes {
            let node: Node = serde_json::from_str(text).ok()?;
            let rev = node.rev;
            routes.put_node(&node, rev);
        }
        let moves = body.moves.iter().map(|text| serde_json::from_str::<Move>(text));
        let moves = moves.map(|work| work.map(|work| (work.id, Arc::new(work))));
        let moves: BTreeMap<_, Arc<Move>> = moves.collect::<Result<_, _>>().ok()?;
        for work in moves.values() {
            routes.note_mirror(work);
        }
        routes.moves = Arc::new(moves);
        let finished = body.finished.iter().map(|(id, nodes)| (MoveId(*id), *nodes));
        routes.finished = Arc::new(finished.collect());
        let others = body
            .others
            .iter()
            .map(|(text, rev)| Ok((serde_json::from_str(text)?, *rev)));
        routes.others = Arc::new(others.collect::<serde_json::Result<_>>().ok()?);
        let overrides = sorted(keys.overrides)?;
        let pasts = sorted(keys.pasts)?;
        let makes_sense = |(hash, packed): &(KeyHash, u64)| {
            packed::rev(*packed) <= body.epoch.rev()
                && match packed::code(*packed) {
                    Code::Unit(number) => routes.book.unit(number).is_some(),
                    Code::Details => routes.details.get(*hash).is_some(),
                    Code::Tombstone => true,
                }
        };
        let is_past = |(_, packed): &(KeyHash, u64)| past::makes_sense(&routes, *packed);
        if !overrides.iter().all(makes_sense) || !pasts.iter().all(is_past) {
            return None;
        }
        routes.overrides = Overrides::from_sorted(overrides.into_iter());
        routes.pasts = Overrides::from_sorted(pasts.into_iter());
        routes.digest = body.digest;
        Some(routes)
    }
}

/// What is kept of keys, as it lies in a file.
struct Keys<'a> {
    overrides: &'a [[u8; ENTRY]],
    pasts: &'a [[u8; ENTRY]],
}

/// Keys and body, if the sum is right.
fn parts(bytes: &[u8]) -> Option<(Keys<'_>, &[u8])> {
    let (overrides, rest) = bytes.split_first_chunk()?;
    let (pasts, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let length = |bytes: &[u8; 8]| usize::try_from(u64::from_le_bytes(*bytes)).ok();
    let (overrides, others) = rest.split_at_checked(length(overrides)?.checked_mul(ENTRY)?)?;
    let (pasts, body) = others
        .split_at_checked(length(pasts)?.checked_mul(ENTRY)?)
        .filter(|(_, rest)| length(body) == Some(rest.len()))?;
    let keys = Keys {
        overrides: overrides.as_chunks().0,
        pasts: pasts.as_chunks().0,
    };
    (crc32c::crc32c(rest) == u32::from_le_bytes(*sum)).then_some((keys, body))
}

fn sorted(entries: &[[u8; ENTRY]]) -> Option<Vec<(KeyHash, u64)>> {
    let entries: Vec<_> = entries.iter().map(read).collect();
    entries.is_sorted_by(|(a, _), (b, _)| a < b).then_some(entries)
}

fn read(bytes: &[u8; ENTRY]) -> (KeyHash, u64) {
    let (hash, rest) = bytes.split_first_chunk().unwrap_or((&[0; 16], &[]));
    let packed = rest.first_chunk().unwrap_or(&[0; 8]);
    (KeyHash(u128::from_le_bytes(*hash)), u64::from_le_bytes(*packed))
}

const MAGIC: &[u8] = b"strait-routes\n";
const VERSION: u32 = 3;
/// Hash and what is kept of it.
const ENTRY: usize = 24;
const SUM: usize = 4;
/// All before the overrides.
const HEAD: usize = MAGIC.len() + 4 + 8 + 8 + 8 + SUM;
