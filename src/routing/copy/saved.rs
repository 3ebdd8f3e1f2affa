//! A copy as bytes in a file, so that a relay can route after a restart while the store is away (R-3.12).
//!
//! ```text
//! "strait-routes\n"  version u32  length u64  crc32c u32  body
//! ```
//! The body is postcard; keys are there as hashes only. All numbers are little-endian.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::book::CompiledBook;
use super::{KeyHash, Overrides, Routes};
use crate::routing::record::{Book, Epoch, Move, Node, Rev};

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
    /// Records are JSON here too: they know fields that may be left out.
    book: String,
    nodes: Vec<String>,
    moves: Vec<String>,
    overrides: Vec<(u128, u64)>,
    digest: u64,
}

impl Routes {
    /// The copy as bytes.
    pub fn save(&self) -> Vec<u8> {
        let json = |node: &Node| serde_json::to_string(node).unwrap_or_default();
        let body = Body {
            epoch: self.epoch,
            seed: self.seed,
            book_rev: self.book.rev,
            book: serde_json::to_string(&self.book.book).unwrap_or_default(),
            nodes: self.keys.values().chain(self.parts.values()).map(json).collect(),
            moves: self
                .moves
                .values()
                .map(|work| serde_json::to_string(work).unwrap_or_default())
                .collect(),
            overrides: self.overrides.iter().map(|(hash, packed)| (hash.0, packed)).collect(),
            digest: self.digest,
        };
        let body = postcard::to_allocvec(&body).unwrap_or_default();
        let length = u64::try_from(body.len()).unwrap_or_default();
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`SavedError`].
    pub fn load(bytes: &[u8]) -> Result<Self, SavedError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SavedError::Foreign)?;
        let (version, rest) = rest.split_first_chunk().ok_or(SavedError::Damaged)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(SavedError::Foreign);
        }
        let (length, rest) = rest.split_first_chunk().ok_or(SavedError::Damaged)?;
        let (sum, body) = rest.split_first_chunk().ok_or(SavedError::Damaged)?;
        let is_whole = usize::try_from(u64::from_le_bytes(*length)) == Ok(body.len());
        if !is_whole || crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
            return Err(SavedError::Damaged);
        }
        let body: Body = postcard::from_bytes(body).map_err(|_| SavedError::Damaged)?;
        Self::of(body).ok_or(SavedError::Damaged)
    }

    fn of(body: Body) -> Option<Self> {
        let book: Book = serde_json::from_str(&body.book).ok()?;
        let mut overrides = Overrides::default();
        for (hash, packed) in body.overrides {
            overrides.insert(KeyHash(hash), packed);
        }
        let mut routes = Self {
            epoch: body.epoch,
            seed: body.seed,
            book: Arc::new(CompiledBook::new(book, body.book_rev)),
            overrides,
            keys: Arc::default(),
            parts: Arc::default(),
            moves: Arc::default(),
            digest: 0,
        };
        for text in body.nodes {
            routes.put_node(serde_json::from_str(&text).ok()?);
        }
        for text in body.moves {
            let work: Move = serde_json::from_str(&text).ok()?;
            Arc::make_mut(&mut routes.moves).insert(work.id, work);
        }
        routes.digest = body.digest;
        Some(routes)
    }
}

const MAGIC: &[u8] = b"strait-routes\n";
const VERSION: u32 = 1;
