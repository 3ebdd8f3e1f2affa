//! Copies what is wanted of some segments into one.

use std::io;

use bytes::BytesMut;

use super::format::{self, HEADER, Identity, OWN, long};
use super::storage::{Storage, write_full};
use super::table::{Lines, Segment, Shared};
use super::walk::{Step, Walk};
use super::{Entry, Found, MERGE_TMP};
use crate::model::Seq;
use crate::queue::line::LineId;

/// The new segment, as a file with a name of its own that is synced; `None` if nothing is wanted.
///
/// Damaged records are not copied: they were told when they were found.
pub(super) fn copy<S: Storage>(
    shared: &Shared<S>,
    segments: &[Segment],
    identity: Identity,
    keep: impl Fn(LineId, Seq) -> bool,
) -> io::Result<Option<Segment>> {
    let storage = &shared.storage;
    if storage.list()?.iter().any(|(name, _)| name == MERGE_TMP) {
        storage.remove(MERGE_TMP)?;
    }
    let file = storage.create(MERGE_TMP)?;
    let copied = Copy {
        storage,
        file,
        out: BytesMut::new(),
        segment: Segment {
            identity,
            end: long(HEADER),
            file_bytes: 0,
            sealed: true,
            lines: Lines::default(),
        },
    }
    .run(shared, segments, keep);
    if !matches!(copied, Ok(Some(_))) {
        storage.remove(MERGE_TMP)?;
    }
    copied
}

struct Copy<'a, S: Storage> {
    storage: &'a S,
    file: S::File,
    /// Not written yet.
    out: BytesMut,
    segment: Segment,
}

impl<S: Storage> Copy<'_, S> {
    fn run(
        mut self,
        shared: &Shared<S>,
        segments: &[Segment],
        keep: impl Fn(LineId, Seq) -> bool,
    ) -> io::Result<Option<Segment>> {
        write_full(self.storage, &self.file, 0, &self.segment.identity.header())?;
        for segment in segments {
            let file = self.storage.open(&segment.identity.name())?;
            let mut walk = Walk::new(segment.identity, file, segment.end, AHEAD);
            if shared.table().is_unreadable(&segment.identity) {
                walk.confine();
            }
            loop {
                let step = walk.step(self.storage);
                let seen = match shared.noted(&segment.identity, step)? {
                    Step::End => break,
                    Step::Record(seen) if seen.head.kind != OWN => seen,
                    Step::Damaged(..) | Step::Record(_) => continue,
                };
                let lines = walk.lines(self.storage, &seen);
                let lines = shared.noted(&segment.identity, lines)?;
                if !lines.iter().any(|(line, seq)| keep(*line, *seq)) {
                    continue;
                }
                let found = walk.found(self.storage, &seen);
                if let Ok(found) = shared.noted(&segment.identity, found)? {
                    self.add(found)?;
                }
            }
        }
        self.flush()?;
        if self.segment.lines.len() == 0 {
            return Ok(None);
        }
        self.storage.sync_data(&self.file)?;
        self.segment.file_bytes = self.segment.end;
        self.segment.lines.seal();
        Ok(Some(self.segment))
    }

    fn add(&mut self, found: Found) -> io::Result<()> {
        let entry = Entry {
            kind: found.kind,
            lines: found.lines,
            head: found.content,
            message: None,
        };
        let before = self.out.len();
        let start = u32::try_from(self.segment.end).map_err(io::Error::other)?;
        format::put(&mut self.out, self.segment.identity.seeds(), start, &entry)
            .ok_or_else(|| io::Error::other("the segments are too long for one"))?;
        let bytes = long(self.out.len() - before);
        for (line, seq) in &entry.lines {
            self.segment.lines.add(*line, *seq, bytes);
        }
        if self.out.len() >= AHEAD {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        write_full(self.storage, &self.file, self.segment.end, &self.out)?;
        self.segment.end += long(self.out.len());
        self.out.clear();
        Ok(())
    }
}

/// Bytes read and written at a time.
const AHEAD: usize = 1024 * 1024;
