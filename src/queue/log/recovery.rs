//! Opens a log: what a crash left becomes a log again.
//!
//! # Invariants
//! - L10. What is accepted here is on the disk, not only in memory of the operating system: each file that is read is brought
//!   to the disk and forgotten first.
//! - L11. Opening what was opened gives the same; a crash on the way changes nothing that was acknowledged (I14).
//! - L16. Of a write that was not finished (L15) nothing behind the first record that is missing is kept: who sent these sends them all
//!   again, in their order (M-C1).

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::checkpoint::{self, Checkpoint, Unfit};
use super::format::{HEADER, Header, Identity, OWN, long, read_ends};
use super::storage::{Storage, read_full};
use super::table::{Lines, Segment, Shared, Table};
use super::walk::{Step, Walk, Zeros};
use super::{Damage, Keeper, Log, Options, Position, RELEASED, RESERVE, Reader, TMP, Writer, unwritten};
use crate::queue::planted::{Bug, planted};

/// What opening a log found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// State of the newest checkpoint that is good.
    pub state: Option<Vec<u8>>,
    /// Replay begins here.
    pub replay_from: Position,
    /// No checkpoint is good any more, and records are gone: what they did is not known. The log must begin a new life (M-A1).
    pub state_lost: bool,
    /// Checkpoints that were damaged, for a person.
    pub damaged_checkpoints: Vec<String>,
    /// What cannot be read any more, of what was read now.
    pub damage: Vec<Damage>,
    /// Where a write was cut off by a crash: removed; nobody was told that it was done.
    pub torn: Option<Damage>,
    /// Segments that had to be read.
    pub segments_read: u64,
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// A file is named like ours and is not.
    #[error("{0} is no file of this queue; move it away")]
    Foreign(String),
    /// The operating system refuses.
    #[error("cannot open the queue")]
    Io(#[from] io::Error),
    /// A later version of Strait wrote it.
    #[error("{file} has format {version}, which is newer than this version of Strait; start the newer one")]
    Newer {
        /// The file.
        file: String,
        /// Its format.
        version: u32,
    },
}

impl<S: Storage> Log<S> {
    /// Opens the log in a directory, and says what was found.
    ///
    /// # Errors
    /// [`OpenError`]. Damage is none.
    pub fn open(storage: S, options: Options) -> Result<(Self, Recovery), OpenError> {
        let mut opening = Opening {
            storage: &storage,
            files: Vec::new(),
            ends: BTreeMap::new(),
            table: Table::default(),
            recovery: Recovery::default(),
        };
        let checkpoint = opening.look()?;
        opening.take(checkpoint)?;
        let (mut table, ends, recovery) = (opening.table, opening.ends, opening.recovery);
        for damage in recovery.damage.iter().chain(&recovery.torn) {
            if let Some(identity) = table.segments.get(&damage.segment).map(|segment| segment.identity) {
                table.is_news(&identity, damage.bytes.0);
            }
        }
        storage.sync_dir()?;
        let mut dice = fastrand::Rng::with_seed(options.seed);
        let keeper_dice = dice.fork();
        let shared = Arc::new(Shared::new(storage, options, table));
        let mut writer = Writer::new(Arc::clone(&shared), ends.into_iter().collect(), dice);
        if let Err(error) = writer.begin() {
            // The first append tries again and says so.
            tracing::warn!(%error, "the queue cannot begin a new segment");
        }
        let log = Self {
            writer,
            reader: Reader::new(Arc::clone(&shared)),
            keeper: Keeper::new(shared, keeper_dice),
        };
        Ok((log, recovery))
    }
}

struct Opening<'a, S: Storage> {
    storage: &'a S,
    files: Vec<(Identity, u64)>,
    /// Where segments end, by nonce, as later ones say or as was found now.
    ends: BTreeMap<u128, u32>,
    table: Table,
    recovery: Recovery,
}

/// What a segment has.
struct Content {
    lines: Lines,
    /// Behind the last record that is right.
    end: u64,
    damage: Vec<Damage>,
    /// Where the last record's write begins.
    last_write: u64,
    /// What is behind `end`.
    tail: Zeros,
}

impl<S: Storage> Opening<'_, S> {
    /// Lists the files, removes what was left half done, and reads the checkpoints.
    fn look(&mut self) -> Result<Option<Checkpoint>, OpenError> {
        let mut numbers = Vec::new();
        for (name, bytes) in self.storage.list()? {
            if name.ends_with(TMP) {
                self.storage.remove(&name)?;
            } else if name == RESERVE {
                self.table.reserve = true;
                self.table.other_bytes += bytes;
            } else if name == RELEASED {
                self.table.released = true;
            } else if let Some(number) = checkpoint::number(&name) {
                numbers.push((number, bytes));
            } else if let Some(identity) = Identity::parse(&name) {
                self.files.push((identity, bytes));
            } else if name.ends_with(".segment") {
                return Err(OpenError::Foreign(name));
            }
        }
        numbers.sort_unstable();
        let mut newest = None;
        for (number, bytes) in numbers {
            let name = checkpoint::name(number);
            match self.read_checkpoint(&name, bytes)? {
                Ok(checkpoint) => {
                    self.table.checkpoints.push((number, checkpoint.covers));
                    newest = Some(checkpoint);
                }
                Err(Unfit::Damaged) => self.recovery.damaged_checkpoints.push(name),
                Err(Unfit::Newer(version)) => return Err(OpenError::Newer { file: name, version }),
            }
        }
        let superfluous = self.table.checkpoints.len().saturating_sub(2);
        self.table.checkpoints.drain(..superfluous);
        self.drop_replaced()?;
        Ok(newest)
    }

    fn read_checkpoint(&self, name: &str, bytes: u64) -> io::Result<Result<Checkpoint, Unfit>> {
        let file = self.storage.open(name)?;
        let mut content = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        if let Err(error) = read_full(self.storage, &file, 0, &mut content) {
            tracing::warn!(%error, name, "a checkpoint cannot be read");
            return Ok(Err(Unfit::Damaged));
        }
        Ok(Checkpoint::from_bytes(&content))
    }

    /// Removes segments that were made into another one.
    fn drop_replaced(&mut self) -> io::Result<()> {
        let all = self.files.clone();
        // A name that is there may be one that only the operating system knows yet; what it replaces must outlive that.
        if !planted(Bug::ReplacedBeforeSync) {
            self.storage.sync_dir()?;
        }
        self.files
            .retain(|(file, _)| !all.iter().any(|(other, _)| other.replaces(file)));
        for (file, _) in all {
            if !self.files.iter().any(|(kept, _)| *kept == file) {
                self.storage.remove(&file.name())?;
            }
        }
        self.files.sort_unstable();
        Ok(())
    }

    /// Takes each segment as the checkpoint knows it, or reads it.
    fn take(&mut self, checkpoint: Option<Checkpoint>) -> Result<(), OpenError> {
        let highest = self.files.last().map_or(0, |(file, _)| file.last);
        let mut known = BTreeMap::new();
        self.table.next = highest.saturating_add(1);
        if let Some(checkpoint) = checkpoint {
            let next = if planted(Bug::NextForgotten) {
                0
            } else {
                checkpoint.next
            };
            self.table.next = self.table.next.max(next);
            self.recovery.replay_from = checkpoint.covers;
            self.recovery.state = Some(checkpoint.state);
            let segments = checkpoint.segments.into_iter();
            known.extend(segments.map(|segment| (segment.identity, segment)));
        } else {
            self.recovery.state_lost = self.table.released;
        }
        // From the last one back: each says where those before it end.
        let files = std::mem::take(&mut self.files);
        let mut is_last = true;
        // A checkpoint lists all that were sealed by then, and what it covers ends in one that was not, or behind them.
        let last_known = known.keys().map(|identity| identity.first).max();
        let gone_before = last_known.max(Some(self.recovery.replay_from.segment));
        for (identity, bytes) in files.into_iter().rev() {
            let known = known.remove(&identity);
            if known.is_none() && identity.generation == 0 && Some(identity.first) < gone_before {
                // It was gone when the checkpoint was written, or had failed: nothing in it was acknowledged, and who says so
                // is not read any more.
                self.storage.remove(&identity.name())?;
                continue;
            }
            if let Some(segment) = known.as_ref().filter(|segment| bytes < segment.end) {
                let end = u32::try_from(segment.end).unwrap_or(u32::MAX);
                self.ends.insert(identity.nonce, end);
            }
            match known.filter(|segment| bytes >= segment.end) {
                Some(mut segment) => {
                    segment.file_bytes = bytes;
                    self.table.segments.insert(identity.first, segment);
                    is_last = false;
                }
                None => is_last &= !self.read(identity, bytes, is_last)?,
            }
        }
        self.recovery.damage.reverse();
        Ok(())
    }

    /// Reads a segment; `false` if nothing is in it, and it is gone.
    fn read(&mut self, identity: Identity, bytes: u64, is_last: bool) -> Result<bool, OpenError> {
        let name = identity.name();
        let file = self.storage.open(&name)?;
        self.storage.settle(&file)?;
        let mut header = vec![0; HEADER];
        if let Err(error) = read_full(self.storage, &file, 0, &mut header) {
            tracing::warn!(%error, name, "the header of a segment cannot be read; its name says the same");
        }
        if let Header::Newer(version) = identity.check(&header) {
            return Err(OpenError::Newer { file: name, version });
        }
        let told = self.ends.get(&identity.nonce).copied().map(u64::from);
        let mut content = self.walk(identity, file, told.unwrap_or(bytes))?;
        self.recovery.segments_read += 1;
        if told.is_none() && is_last {
            self.recovery.torn = self.cut_last(identity, &mut content)?;
        } else {
            content.tail_is_damage(told);
        }
        if content.is_nothing() {
            self.storage.remove(&name)?;
            return Ok(false);
        }
        if identity.check(&header) == Header::Damaged {
            content.damage.insert(0, damage(&identity, 0, long(HEADER)));
        }
        if bytes > content.end && (told.is_some() || is_last) {
            let file = self.storage.open(&name)?;
            self.storage.set_len(&file, content.end)?;
            self.storage.sync_data(&file)?;
        }
        let end = u32::try_from(content.end).map_err(|_| OpenError::Foreign(name))?;
        self.ends.insert(identity.nonce, end);
        content.damage.reverse();
        content.lines.seal();
        self.recovery.damage.append(&mut content.damage);
        let segment = Segment {
            identity,
            end: content.end,
            file_bytes: content.end,
            sealed: true,
            lines: content.lines,
        };
        self.table.segments.insert(identity.first, segment);
        Ok(true)
    }

    /// The last segment ends behind its last record, or before its last write if that was not finished (L16).
    fn cut_last(&mut self, identity: Identity, content: &mut Content) -> io::Result<Option<Damage>> {
        let tail = content.cut_tail();
        let Some(hole) = content.holes().next().cloned() else {
            return Ok(tail);
        };
        let file = self.storage.open(&identity.name())?;
        if !unwritten::any(self.storage, &file, content.last_write, content.holes()) {
            return Ok(tail);
        }
        let before = self.walk(identity, file, hole.bytes.0)?;
        // That the write before was finished only this one says: what is missing there must not look torn next time (L11).
        if before.holes().next().is_some() {
            return Ok(tail);
        }
        let bytes = (hole.bytes.0, tail.map_or(content.end, |tail| tail.bytes.1));
        *content = before;
        Ok(Some(Damage { bytes, ..hole }))
    }

    fn walk(&mut self, identity: Identity, file: S::File, end: u64) -> io::Result<Content> {
        let mut content = Content {
            lines: Lines::default(),
            end: long(HEADER),
            damage: Vec::new(),
            last_write: 0,
            tail: Zeros(true),
        };
        let mut walk = Walk::new(identity, file, end, AHEAD);
        walk.confine();
        loop {
            let seen = match walk.step(self.storage)? {
                Step::End => break,
                Step::Damaged(damage, zeros) => {
                    content.tail.0 &= zeros.0;
                    content.damage.push(damage);
                    continue;
                }
                Step::Record(seen) => seen,
            };
            match walk.found(self.storage, &seen)? {
                Err(damage) => {
                    content.tail = Zeros(false);
                    content.damage.push(damage);
                }
                Ok(found) => {
                    content.tail = Zeros(true);
                    content.end = u64::from(seen.offset) + seen.head.bytes();
                    content.last_write = u64::from(seen.head.write);
                    if found.kind == OWN {
                        for (nonce, end) in read_ends(&found.content) {
                            self.ends.entry(nonce).or_insert(end);
                        }
                    }
                    for (line, seq) in found.lines {
                        content.lines.add(line, seq, seen.head.bytes());
                    }
                }
            }
        }
        Ok(content)
    }
}

impl Content {
    /// The last segment: what is behind its last record is what a crash left of a write, or was never written.
    fn cut_tail(&mut self) -> Option<Damage> {
        let behind = self.damage.partition_point(|damage| damage.bytes.0 < self.end);
        let tail = self.damage.split_off(behind);
        // So may be what is missing before records of the same write.
        let write = self.last_write;
        for hole in self.damage.iter_mut().filter(|hole| hole.bytes.0 >= write) {
            hole.unfinished = true;
        }
        let (first, last) = (tail.first()?, tail.last()?);
        (!self.tail.0).then(|| Damage {
            bytes: (first.bytes.0, last.bytes.1),
            lines: tail.iter().flat_map(|damage| damage.lines.clone()).collect(),
            unfinished: true,
            ..*first
        })
    }

    /// What is missing of the last write, or behind it.
    fn holes(&self) -> impl Iterator<Item = &Damage> {
        self.damage.iter().filter(|hole| hole.bytes.0 >= self.last_write)
    }

    /// Another segment: it was synced up to where a later one says it ends. If none says so, zeros are its end.
    fn tail_is_damage(&mut self, told: Option<u64>) {
        if let Some(end) = told {
            self.end = end;
            return;
        }
        if self.tail.0 {
            self.damage.retain(|damage| damage.bytes.0 < self.end);
        } else {
            let last = self.damage.last().map_or(self.end, |damage| damage.bytes.1);
            self.end = self.end.max(last);
        }
    }

    /// Nothing was written to it, or nothing that anybody was told about.
    fn is_nothing(&self) -> bool {
        self.end <= long(HEADER) && self.damage.is_empty()
    }
}

fn damage(identity: &Identity, from: u64, to: u64) -> Damage {
    Damage {
        segment: identity.first,
        bytes: (from, to),
        lines: Vec::new(),
        unfinished: false,
    }
}

/// Bytes read at a time.
const AHEAD: usize = 1024 * 1024;
