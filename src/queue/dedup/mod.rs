//! Duplicates of publishers, recognised by what the producer calls the event: `source` and `id` (M-B3).
//!
//! A message is remembered from the moment it is on disk, in generations of an eighth of the window each; a generation
//! that is older than the window goes as a whole. What is remembered survives the message: it is written to the log
//! again in chunks, as records of a line of its own.
//!
//! # Invariants
//! - U1. What is remembered is on disk: in the record of the message, in a chunk, or in a checkpoint. Entries are *fresh*
//!   until their chunk is on disk, and a checkpoint holds the fresh ones.
//! - U2. A message is remembered for the window at least, unless more than `messages_max` came in it; then the oldest
//!   eighth goes early, and is counted.
//! - U3. Two events are told apart by 96 bits of a hash: among four million remembered ones, a new one is taken for
//!   another once in 10^22.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use super::DedupSettings;
use crate::model::{Map, Message, Seq, UnixMillis};

/// What stands for the `source` and `id` of an event.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Print([u32; 3]);

/// A message that is remembered: which one it was in its life of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct First {
    /// Life of the log.
    pub epoch: u64,
    /// Number of the message in it.
    pub number: u64,
}

/// Entries as a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// Number in the line of chunks.
    pub number: Seq,
    /// Life of the log in which the messages came.
    pub epoch: u64,
    /// When the last one came.
    pub at: UnixMillis,
    /// Prints and numbers of messages, by number.
    pub entries: Vec<(Print, u64)>,
}

/// What is remembered.
#[derive(Debug)]
pub struct Dedup {
    window: Duration,
    generation_max: usize,
    /// The oldest first; the last one is filled.
    generations: VecDeque<Generation>,
    /// Not in a chunk yet, by number.
    fresh: VecDeque<Fresh>,
    /// Chunks on disk that are still of use, by number.
    chunks: VecDeque<(Seq, UnixMillis)>,
    chunk_last: Seq,
    /// Entries of the chunk that is on its way to the disk.
    in_flight: usize,
    evicted: u64,
}

/// What a checkpoint keeps.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct DedupSnapshot {
    fresh: Vec<Fresh>,
    chunks: Vec<(Seq, u64)>,
    chunk_last: Seq,
    evicted: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Fresh {
    print: Print,
    epoch: u64,
    number: u64,
    at: u64,
}

#[derive(Debug)]
struct Generation {
    epoch: u64,
    base: u64,
    first_at: UnixMillis,
    last_at: UnixMillis,
    /// Numbers less `base`.
    numbers: Map<Print, u32>,
}

impl Print {
    /// Of a message, if its producer named it.
    pub fn of(message: &Message) -> Option<Self> {
        let (source, id) = message.producer()?;
        let mut hash = Xxh3::new();
        hash.update(&source.len().to_be_bytes());
        hash.update(source);
        hash.update(id);
        let mut parts = [0; 3];
        for (part, bytes) in parts.iter_mut().zip(hash.digest128().to_be_bytes().as_chunks::<4>().0) {
            *part = u32::from_be_bytes(*bytes);
        }
        Some(Self(parts))
    }
}

impl Chunk {
    /// Entries as they stand in a record: `print 3 x u32 | number u64`, 20 bytes each.
    pub fn entries_as_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.entries.len() * ENTRY_BYTES);
        for (print, number) in &self.entries {
            for part in print.0 {
                bytes.extend_from_slice(&part.to_be_bytes());
            }
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Reads what [`entries_as_bytes`](Self::entries_as_bytes) wrote; `None` if it is broken.
    pub fn entries_from_bytes(bytes: &[u8]) -> Option<Vec<(Print, u64)>> {
        let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return None;
        }
        let read = |entry: &[u8; ENTRY_BYTES]| {
            let (print, number) = entry.split_first_chunk::<12>()?;
            let mut parts = [0; 3];
            for (part, bytes) in parts.iter_mut().zip(print.as_chunks::<4>().0) {
                *part = u32::from_be_bytes(*bytes);
            }
            Some((Print(parts), u64::from_be_bytes(number.try_into().ok()?)))
        };
        entries.iter().map(read).collect()
    }
}

impl Dedup {
    /// Nothing is remembered yet.
    pub fn new(settings: &DedupSettings) -> Self {
        let mut dedup = Self {
            window: Duration::ZERO,
            generation_max: 1,
            generations: VecDeque::new(),
            fresh: VecDeque::new(),
            chunks: VecDeque::new(),
            chunk_last: 0,
            in_flight: 0,
            evicted: 0,
        };
        dedup.configure(settings);
        dedup
    }

    /// Other settings are in force.
    pub fn configure(&mut self, settings: &DedupSettings) {
        self.window = settings.window;
        let generation = usize::try_from(settings.messages_max / GENERATIONS).unwrap_or(usize::MAX);
        self.generation_max = generation.max(1);
    }

    /// Whether duplicates are looked for at all.
    pub fn is_on(&self) -> bool {
        !self.window.is_zero()
    }

    /// The message that came with this print before.
    pub fn look_up(&self, print: &Print) -> Option<First> {
        self.generations.iter().rev().find_map(|generation| {
            let offset = generation.numbers.get(print)?;
            Some(First {
                epoch: generation.epoch,
                number: generation.base + u64::from(*offset),
            })
        })
    }

    /// A message of a publisher is on disk.
    pub fn on_stored(&mut self, print: Print, first: First, at: UnixMillis) {
        if !self.is_on() {
            return;
        }
        self.insert(print, first, at);
        self.fresh.push_back(Fresh {
            print,
            epoch: first.epoch,
            number: first.number,
            at: at.0,
        });
    }

    /// Entries to be written as a chunk, if there are enough. One chunk at a time.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        if self.in_flight > 0 || self.fresh.len() < CHUNK_ENTRIES {
            return None;
        }
        let epoch = self.fresh.front()?.epoch;
        let of_life = self
            .fresh
            .iter()
            .take(CHUNK_ENTRIES)
            .take_while(|fresh| fresh.epoch == epoch);
        let (entries, at) = of_life.fold((Vec::new(), 0), |(mut entries, at), fresh| {
            entries.push((fresh.print, fresh.number));
            (entries, at.max(fresh.at))
        });
        self.in_flight = entries.len();
        Some(Chunk {
            number: self.chunk_last + 1,
            epoch,
            at: UnixMillis(at),
            entries,
        })
    }

    /// A chunk is on disk, now or before a restart.
    pub fn on_chunk(&mut self, chunk: &Chunk) {
        self.in_flight = 0;
        if chunk.number <= self.chunk_last {
            return;
        }
        self.chunk_last = chunk.number;
        self.chunks.push_back((chunk.number, chunk.at));
        if let Some((_, last)) = chunk.entries.last() {
            let is_in = |fresh: &Fresh| fresh.epoch == chunk.epoch && fresh.number <= *last;
            while self.fresh.front().is_some_and(is_in) {
                self.fresh.pop_front();
            }
        }
    }

    /// Entries of a chunk that was read after a restart.
    pub fn on_chunk_read(&mut self, chunk: &Chunk) {
        for (print, number) in &chunk.entries {
            let first = First {
                epoch: chunk.epoch,
                number: *number,
            };
            if self.look_up(print).is_none() {
                self.insert(*print, first, chunk.at);
            }
        }
    }

    /// The disk failed: the chunk on its way is none.
    pub fn rollback(&mut self) {
        self.in_flight = 0;
    }

    /// Forgets what is older than the window.
    pub fn expire(&mut self, now: UnixMillis) {
        let over = |at: UnixMillis| at.0.saturating_add(millis(self.window)) <= now.0;
        while self.generations.front().is_some_and(|oldest| over(oldest.last_at)) {
            self.generations.pop_front();
        }
        while self.chunks.front().is_some_and(|(_, at)| over(*at)) {
            self.chunks.pop_front();
        }
        while self.in_flight == 0 && self.fresh.front().is_some_and(|fresh| over(UnixMillis(fresh.at))) {
            self.fresh.pop_front();
        }
    }

    /// How many chunks from `from` to `to`, both included, are of no use any more.
    pub fn done_between(&self, from: Seq, to: Seq) -> u64 {
        (to.min(self.forgotten()) + 1).saturating_sub(from)
    }

    /// All chunks up to this one are of no use any more.
    pub fn forgotten(&self) -> Seq {
        self.first_chunk().map_or(self.chunk_last, |first| first - 1)
    }

    /// The first chunk that is of use, if any is.
    pub fn first_chunk(&self) -> Option<Seq> {
        self.chunks.front().map(|(number, _)| *number)
    }

    /// Messages that are remembered.
    pub fn len(&self) -> usize {
        self.generations.iter().map(|generation| generation.numbers.len()).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages that were forgotten before their time, because more than `messages_max` came.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// For a checkpoint.
    pub fn snapshot(&self) -> DedupSnapshot {
        DedupSnapshot {
            fresh: self.fresh.iter().copied().collect(),
            chunks: self.chunks.iter().map(|(number, at)| (*number, at.0)).collect(),
            chunk_last: self.chunk_last,
            evicted: self.evicted,
        }
    }

    /// From a checkpoint; then the chunks are read, and [`on_all_read`](Self::on_all_read) is called.
    pub fn restore(&mut self, snapshot: DedupSnapshot) {
        self.chunk_last = snapshot.chunk_last;
        self.evicted = snapshot.evicted;
        self.chunks = snapshot
            .chunks
            .into_iter()
            .map(|(number, at)| (number, UnixMillis(at)))
            .collect();
        self.fresh = snapshot.fresh.into();
    }

    /// All chunks were read: what is in none of them is newer, and is the last to be forgotten.
    pub fn on_all_read(&mut self) {
        for fresh in std::mem::take(&mut self.fresh) {
            let first = First {
                epoch: fresh.epoch,
                number: fresh.number,
            };
            self.on_stored(fresh.print, first, UnixMillis(fresh.at));
        }
    }

    fn insert(&mut self, print: Print, first: First, at: UnixMillis) {
        let slice = millis(self.window) / GENERATIONS;
        let fits = |generation: &Generation| {
            generation.epoch == first.epoch
                && generation.numbers.len() < self.generation_max
                && generation.first_at.0.saturating_add(slice) > at.0
                && first.number >= generation.base
                && u32::try_from(first.number - generation.base).is_ok()
        };
        if !self.generations.back().is_some_and(fits) {
            self.generations.push_back(Generation {
                epoch: first.epoch,
                base: first.number,
                first_at: at,
                last_at: at,
                numbers: Map::default(),
            });
            self.make_room();
        }
        if let Some(generation) = self.generations.back_mut() {
            generation.last_at = generation.last_at.max(at);
            let offset = u32::try_from(first.number - generation.base).unwrap_or(u32::MAX);
            generation.numbers.insert(print, offset);
        }
    }

    /// A new generation begins: what it will hold must fit.
    fn make_room(&mut self) {
        let max = self
            .generation_max
            .saturating_mul(usize::try_from(GENERATIONS).unwrap_or(1));
        while self.len().saturating_add(self.generation_max) > max && self.generations.len() > 1 {
            let gone = self.generations.pop_front();
            let gone = gone.map_or(0, |generation| generation.numbers.len());
            self.evicted = self.evicted.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX));
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

const GENERATIONS: u64 = 8;
const ENTRY_BYTES: usize = 20;
/// Entries of a chunk: a record of 80 KiB.
const CHUNK_ENTRIES: usize = 4096;
