//! Keeps the directory in order: checkpoints, segments that are done with, sparse ones, and space for what comes next.
//!
//! # Invariants
//! - L8. A segment is removed only if all its lines are done with it, and what its other records did is in both of the
//!   two checkpoints on disk, so that one of them may be lost.
//! - L9. Whatever takes the place of something is complete and synced under another name first, then renamed, then the
//!   directory is synced, and only then the old is removed. A crash leaves the old or the new.

use std::io;
use std::sync::Arc;

use super::checkpoint::{self, Checkpoint};
use super::disk::Freed;
use super::format::{HEADER, Identity, long};
use super::spares::Spares;
use super::storage::{Storage, write_full};
use super::table::{Prepared, Segment, Shared};
use super::{MERGE_TMP, PREPARED_TMP, Position, RELEASED, RESERVE, RESERVE_TMP, Space};
use crate::model::Seq;
use crate::queue::line::LineId;

/// The one who tidies up.
pub struct Keeper<S: Storage> {
    pub(super) shared: Arc<Shared<S>>,
    dice: fastrand::Rng,
    filling: Option<Filling<S::File>>,
    spares: Spares,
    /// The highest generation of a merge that was tried.
    tried: u32,
}

/// A file that is being filled with zeros.
struct Filling<F> {
    name: String,
    file: F,
    reserve: bool,
    done: u64,
}

impl<S: Storage> Keeper<S> {
    pub(super) fn new(shared: Arc<Shared<S>>, dice: fastrand::Rng) -> Self {
        Self {
            shared,
            dice,
            filling: None,
            spares: Spares::default(),
            tried: 0,
        }
    }

    /// Writes a checkpoint: the state that all records before `covers` led to. A restart gets it back and replays from there.
    ///
    /// # Errors
    /// Of the operating system; then the last one still holds.
    pub fn checkpoint(&mut self, state: &[u8], covers: Position) -> io::Result<()> {
        let (number, bytes) = {
            let table = self.shared.table();
            let number = table
                .checkpoints
                .last()
                .map_or(1, |(number, _)| number.saturating_add(1));
            let sealed = table.segments.values().filter(|segment| segment.sealed);
            let checkpoint = Checkpoint {
                number,
                covers,
                next: table.next,
                state: state.to_vec(),
                segments: sealed.cloned().collect(),
            };
            drop(table);
            (number, checkpoint.to_bytes())
        };
        self.replace(CHECKPOINT_TMP, &checkpoint::name(number), &bytes)?;
        let mut table = self.shared.table();
        if table.checkpoints.len() == 2 {
            table.checkpoints.remove(0);
        }
        table.checkpoints.push((number, covers));
        let good: Vec<u64> = table.checkpoints.iter().map(|(number, _)| *number).collect();
        drop(table);
        if let Err(error) = self.remove_checkpoints(&good) {
            tracing::warn!(%error, "an old checkpoint was not removed");
        }
        Ok(())
    }

    /// Removes segments that nobody needs any more (L8). `done` says whether all numbers of a line, from the first to the
    /// last one given, are done with.
    pub fn release(&mut self, mut done: impl FnMut(LineId, Seq, Seq) -> bool) -> Freed {
        let covered: Vec<Segment> = self.shared.table().covered().cloned().collect();
        let mut is_done = |segment: &Segment| segment.lines.iter().all(|(line, part)| done(*line, part.min, part.max));
        let gone: Vec<Segment> = covered.into_iter().filter(|segment| is_done(segment)).collect();
        self.drop_segments(&gone)
    }

    /// Neighbours that would be one segment of usual size, and are mostly done with; numbers for [`merge`](Self::merge).
    /// `wanted` says how many numbers of a line, from the first to the last one given, are not done with.
    pub fn sparse(&self, wanted: impl FnMut(LineId, Seq, Seq) -> u64) -> Option<Vec<u64>> {
        sparse(&self.shared, wanted)
    }

    /// Makes one segment of neighbours, in their place, with the records of which `keep` says that a number is wanted (L9).
    ///
    /// # Errors
    /// Of the operating system; then all is as it was.
    pub fn merge(&mut self, segments: &[u64], keep: impl Fn(LineId, Seq) -> bool) -> io::Result<Freed> {
        let table = self.shared.table();
        let chosen = table
            .covered()
            .filter(|segment| segments.contains(&segment.identity.first));
        let chosen: Vec<Segment> = chosen.cloned().collect();
        let run = chosen.first().zip(chosen.last());
        let Some((first, last)) = run.map(|(first, last)| (first.identity.first, last.identity.last)) else {
            return Ok(Freed::default());
        };
        // Neighbours only, or records would change places.
        if table.segments.range(first..=last).count() != chosen.len() {
            return Ok(Freed::default());
        }
        drop(table);
        // Higher than that of a merge that failed, too: its file may be there all the same, and after a crash it must not be
        // taken for one that is as good as this (L9).
        let generations = chosen.iter().map(|segment| segment.identity.generation);
        self.tried = generations.fold(self.tried, u32::max).saturating_add(1);
        let identity = Identity {
            first,
            last,
            generation: self.tried,
            nonce: self.dice.u128(..),
        };
        self.mark_released()?;
        let merged = super::merge::copy(&self.shared, &chosen, identity, keep)?;
        let Some(merged) = merged else {
            return Ok(self.drop_segments(&chosen));
        };
        self.shared.storage.rename(MERGE_TMP, &identity.name())?;
        self.shared.storage.sync_dir()?;
        let bytes = merged.file_bytes;
        // Under its first number the new one takes the place of the first of the old ones.
        let old: Vec<Segment> = chosen
            .into_iter()
            .filter(|segment| segment.identity.first != first)
            .collect();
        let mut table = self.shared.table();
        let replaced = table.segments.insert(first, merged);
        drop(table);
        let mut freed = self.drop_segments(&old);
        if let Some(replaced) = replaced {
            let _ = self.shared.storage.remove(&replaced.identity.name());
            freed.bytes += replaced.file_bytes;
        }
        freed.bytes = freed.bytes.saturating_sub(bytes);
        Ok(freed)
    }

    /// How full the disk is.
    ///
    /// # Errors
    /// Of the operating system.
    pub fn space(&self) -> io::Result<Space> {
        let (free, total) = self.shared.storage.free_and_total()?;
        let table = self.shared.table();
        Ok(Space {
            used: table.bytes(),
            used_max: self.shared.options.bytes_max,
            free,
            total,
            segments: long(table.segments.len()),
        })
    }

    /// Whether the next step of [`upkeep`](Self::upkeep) is to come at once: the next segment is needed soon. Else a pause
    /// between steps keeps them from the way of those who write.
    pub fn is_late(&self) -> bool {
        let table = self.shared.table();
        let last = table.segments.last_key_value().map_or(0, |(_, segment)| segment.end);
        last.saturating_mul(4) > u64::from(self.shared.options.segment_bytes)
    }

    /// A step of making ready what comes next: zeros for the next segment, and the reserve for essential writes. Whether
    /// there is more to do. A step writes 256 KiB.
    ///
    /// # Errors
    /// Of the operating system, above all if the disk is full: then again later.
    pub fn upkeep(&mut self) -> io::Result<bool> {
        let bytes = u64::from(self.shared.options.segment_bytes);
        let Some(mut filling) = self.filling.take() else {
            let reserve = !self.shared.table().reserve;
            if !reserve && self.shared.prepared().is_some() {
                return Ok(false);
            }
            self.filling = if reserve {
                Some(self.fill_new(RESERVE_TMP, true)?)
            } else if let Some(name) = self.spares.take(&self.shared) {
                let file = self.shared.storage.open(&name)?;
                Some(Filling::new(name, file, false))
            } else if self.shared.has_room() {
                Some(self.fill_new(PREPARED_TMP, false)?)
            } else {
                None
            };
            return Ok(self.filling.is_some());
        };
        let step = ZEROS_BYTES.min(bytes.saturating_sub(filling.done));
        let len = usize::try_from(step).unwrap_or_default();
        let storage = &self.shared.storage;
        // Synced step by step: one sync of all of it would hold up those of the writer.
        if let Err(error) = storage.zero(&filling.file, filling.done, len) {
            let _ = storage.remove(&filling.name);
            return Err(error);
        }
        filling.done += step;
        if filling.done < bytes {
            self.filling = Some(filling);
        } else {
            self.finish(filling, bytes)?;
        }
        Ok(true)
    }

    fn finish(&mut self, filling: Filling<S::File>, bytes: u64) -> io::Result<()> {
        let storage = &self.shared.storage;
        if filling.reserve {
            storage.rename(RESERVE_TMP, RESERVE)?;
            storage.sync_dir()?;
            let mut table = self.shared.table();
            table.reserve = true;
            table.other_bytes += bytes;
            return Ok(());
        }
        let number = self.shared.table().take_number();
        let identity = Identity {
            first: number,
            last: number,
            generation: 0,
            nonce: self.dice.u128(..),
        };
        write_full(storage, &filling.file, 0, &identity.header())?;
        storage.sync_data(&filling.file)?;
        storage.rename(&filling.name, &identity.name())?;
        storage.sync_dir()?;
        self.shared.table().other_bytes += bytes;
        *self.shared.prepared() = Some(Prepared {
            identity,
            file: filling.file,
            bytes,
        });
        Ok(())
    }

    fn fill_new(&self, name: &str, reserve: bool) -> io::Result<Filling<S::File>> {
        Ok(Filling::new(name.to_owned(), self.create(name)?, reserve))
    }

    /// Puts a whole file in the place of another (L9).
    fn replace(&self, tmp: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let storage = &self.shared.storage;
        let file = self.create(tmp)?;
        let written = write_full(storage, &file, 0, bytes).and_then(|()| storage.sync_data(&file));
        if let Err(error) = written {
            let _ = storage.remove(tmp);
            return Err(error);
        }
        storage.rename(tmp, name)?;
        storage.sync_dir()
    }

    fn create(&self, tmp: &str) -> io::Result<S::File> {
        let storage = &self.shared.storage;
        match storage.create(tmp) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                storage.remove(tmp)?;
                storage.create(tmp)
            }
            result => result,
        }
    }

    fn remove_checkpoints(&self, good: &[u64]) -> io::Result<()> {
        for (name, _) in self.shared.storage.list()? {
            if checkpoint::number(&name).is_some_and(|number| !good.contains(&number)) {
                self.shared.storage.remove(&name)?;
            }
        }
        Ok(())
    }

    /// From now on the records alone do not tell all.
    fn mark_released(&self) -> io::Result<()> {
        if self.shared.table().released {
            return Ok(());
        }
        self.create(RELEASED)?;
        self.shared.storage.sync_dir()?;
        self.shared.table().released = true;
        Ok(())
    }

    fn drop_segments(&mut self, gone: &[Segment]) -> Freed {
        let mut freed = Freed::default();
        if gone.is_empty() {
            return freed;
        }
        if let Err(error) = self.mark_released() {
            tracing::warn!(%error, "no segment can be removed");
            return freed;
        }
        let mut spares = Vec::new();
        for segment in gone {
            let spare = self.spares.offer(&self.shared, segment, spares.len());
            self.shared.table().segments.remove(&segment.identity.first);
            let (name, storage) = (segment.identity.name(), &self.shared.storage);
            let result = match &spare {
                Some(spare) => storage.rename(&name, &spare.name),
                None => storage.remove(&name),
            };
            match result {
                Ok(()) => {
                    freed.segments += 1;
                    freed.bytes += if spare.is_some() { 0 } else { segment.file_bytes };
                    self.shared.table().failed.remove(&segment.identity.nonce);
                    spares.extend(spare);
                }
                // The next start finds it and releases it again.
                Err(error) => tracing::warn!(%error, segment = segment.identity.first, "a segment was not removed"),
            }
        }
        self.spares.keep(&self.shared, spares);
        freed
    }
}

impl<F> Filling<F> {
    fn new(name: String, file: F, reserve: bool) -> Self {
        Self {
            name,
            file,
            reserve,
            done: 0,
        }
    }
}

/// See [`Keeper::sparse`].
pub(super) fn sparse<S: Storage>(
    shared: &Shared<S>,
    mut wanted: impl FnMut(LineId, Seq, Seq) -> u64,
) -> Option<Vec<u64>> {
    let bytes_max = u64::from(shared.options.segment_bytes);
    let covered: Vec<Segment> = shared.table().covered().cloned().collect();
    let (mut run, mut run_bytes) = (Vec::new(), 0);
    for segment in covered {
        let mut live = 0;
        for (line, part) in segment.lines.iter() {
            let wanted = wanted(*line, part.min, part.max).min(part.records);
            live += part.bytes / part.records.max(1) * wanted;
        }
        let is_sparse = live.saturating_mul(4) <= segment.end.saturating_sub(long(HEADER));
        if !is_sparse || run_bytes + live > bytes_max {
            if run.len() > 1 {
                break;
            }
            run.clear();
            run_bytes = 0;
        }
        if is_sparse {
            run.push(segment.identity.first);
            run_bytes += live;
        }
    }
    (run.len() > 1).then_some(run)
}

/// Bytes of zeros that are written at a time.
const ZEROS_BYTES: u64 = 256 * 1024;
const CHECKPOINT_TMP: &str = "checkpoint.tmp";
