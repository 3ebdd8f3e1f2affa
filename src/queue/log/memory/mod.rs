//! Files in memory that can crash: what was synced and what was only written are kept apart.
//!
//! For tests and simulations. A crash keeps what was synced, and of everything else a part that the dice choose: sectors of
//! writes, lengths without bytes and bytes without lengths, names.

mod crash;
mod storage;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::format::long;

/// Files in memory. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage(Arc<Mutex<Files>>);

/// Something that was done to the files.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Operation {
    /// A file was made: its name and its number.
    Create(String, u64),
    /// A file was removed.
    Remove(String),
    /// A file got another name: the old one, the new one, its number.
    Rename(String, String, u64),
    /// Bytes were written: file, offset.
    Write(u64, u64, Vec<u8>),
    /// A file was cut.
    SetLen(u64, u64),
    /// A file was synced.
    Sync(u64),
    /// A sync of a file failed.
    SyncFailed(u64),
    /// The directory was synced.
    SyncDir,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Faults {
    /// Operations that change something still succeed so often, then one fails; `None`: none fails.
    pub fail_after: Option<u64>,
    /// All later ones fail as well.
    pub keep_failing: bool,
    /// Bytes that all files together may have.
    pub bytes_max: Option<u64>,
    /// A write takes so many bytes at most.
    pub write_max: Option<usize>,
    /// Reads fail.
    pub fail_reads: bool,
    /// Reads of these bytes fail, in each file that has them: the first, and the first behind them.
    pub unreadable: Option<(u64, u64)>,
}

#[derive(Clone, Debug, Default)]
struct Files {
    by_number: BTreeMap<u64, Bytes>,
    names: BTreeMap<String, u64>,
    synced_names: BTreeMap<String, u64>,
    /// Changes of names since the last sync of the directory.
    renamed: Vec<Operation>,
    next: u64,
    /// Who has a file open can read it after it is gone.
    open: BTreeMap<u64, Weak<u64>>,
    faults: Faults,
    recorded: Option<Vec<Operation>>,
}

/// A file: as the operating system shows it, as the disk has it, and what is between.
#[derive(Clone, Debug, Default)]
struct Bytes {
    shown: Vec<u8>,
    synced: Vec<u8>,
    written: Vec<Operation>,
}

impl MemoryStorage {
    /// Sets what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.files().faults = faults;
    }

    /// Bytes of all files together.
    pub fn bytes(&self) -> u64 {
        self.contents()
            .values()
            .map(|file| u64::try_from(file.len()).unwrap_or(u64::MAX))
            .sum()
    }

    /// Records all operations from now on.
    pub fn record(&self) {
        self.files().recorded = Some(Vec::new());
    }

    /// How many were recorded.
    pub fn recorded_len(&self) -> usize {
        self.files().recorded.as_ref().map_or(0, Vec::len)
    }

    /// What was recorded; recording ends.
    pub fn take_recorded(&self) -> Vec<Operation> {
        self.files().recorded.take().unwrap_or_default()
    }

    /// Does a recorded operation.
    pub fn apply(&self, operation: &Operation) {
        self.files().apply(operation);
    }

    /// A copy that shares nothing.
    #[must_use]
    pub fn fork(&self) -> Self {
        let copy = self.files().clone();
        Self(Arc::new(Mutex::new(Files {
            recorded: None,
            faults: Faults::default(),
            ..copy
        })))
    }

    /// Names and bytes of all files.
    pub fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files();
        let shown = |number| files.by_number.get(number).map(|file| file.shown.clone());
        let contents = files
            .names
            .iter()
            .map(|(name, number)| (name.clone(), shown(number).unwrap_or_default()));
        contents.collect()
    }

    /// Files with these bytes, all on the disk.
    pub fn with(contents: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let storage = Self::default();
        let mut files = storage.files();
        for (name, bytes) in contents {
            let number = files.next;
            files.next += 1;
            let file = Bytes {
                shown: bytes.clone(),
                synced: bytes,
                written: Vec::new(),
            };
            files.by_number.insert(number, file);
            files.names.insert(name.clone(), number);
            files.synced_names.insert(name, number);
        }
        drop(files);
        storage
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    fn apply(&mut self, operation: &Operation) {
        if let Some(recorded) = &mut self.recorded {
            recorded.push(operation.clone());
        }
        match operation {
            Operation::Create(name, number) => {
                self.by_number.insert(*number, Bytes::default());
                self.names.insert(name.clone(), *number);
                self.next = self.next.max(number + 1);
                self.renamed.push(operation.clone());
            }
            Operation::Remove(name) => {
                self.names.remove(name);
                self.renamed.push(operation.clone());
            }
            Operation::Rename(from, to, number) => {
                self.names.remove(from);
                self.names.insert(to.clone(), *number);
                self.renamed.push(operation.clone());
            }
            Operation::Write(number, offset, bytes) => {
                if let Some(file) = self.by_number.get_mut(number) {
                    put(&mut file.shown, index(*offset), bytes);
                    file.written.push(operation.clone());
                }
            }
            Operation::SetLen(number, len) => {
                if let Some(file) = self.by_number.get_mut(number) {
                    file.shown.resize(index(*len), 0);
                    file.written.push(operation.clone());
                }
            }
            Operation::Sync(number) => {
                if let Some(file) = self.by_number.get_mut(number) {
                    file.sync();
                }
            }
            Operation::SyncFailed(number) => {
                if let Some(file) = self.by_number.get_mut(number) {
                    file.fail_sync();
                }
            }
            Operation::SyncDir => {
                self.synced_names = self.names.clone();
                self.renamed.clear();
                let named: Vec<u64> = self.names.values().copied().collect();
                let open = |number: &u64| self.open.get(number).is_some_and(|handle| handle.strong_count() > 0);
                self.by_number
                    .retain(|number, _| named.contains(number) || open(number));
                self.open.retain(|_, handle| handle.strong_count() > 0);
            }
        }
    }

    /// Whether the next operation fails.
    fn fails(&mut self) -> io::Result<()> {
        match &mut self.faults.fail_after {
            None => return Ok(()),
            Some(0) => {}
            Some(more) => {
                *more -= 1;
                return Ok(());
            }
        }
        if !self.faults.keep_failing {
            self.faults.fail_after = None;
        }
        Err(io::Error::other("a fault of the test"))
    }

    fn number(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&self, number: u64) -> io::Result<&Bytes> {
        self.by_number
            .get(&number)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn handle(&mut self, number: u64) -> Arc<u64> {
        let open = self.open.get(&number).and_then(Weak::upgrade);
        open.unwrap_or_else(|| {
            let handle = Arc::new(number);
            self.open.insert(number, Arc::downgrade(&handle));
            handle
        })
    }

    /// Bytes that all files have.
    fn bytes(&self) -> u64 {
        let named = self.names.values().filter_map(|number| self.by_number.get(number));
        named.map(|file| long(file.shown.len())).sum()
    }
}

impl Bytes {
    fn sync(&mut self) {
        for operation in self.written.drain(..) {
            match operation {
                Operation::Write(_, offset, bytes) => put(&mut self.synced, index(offset), &bytes),
                Operation::SetLen(_, len) => self.synced.resize(index(len), 0),
                _ => {}
            }
        }
    }

    /// A sync failed: some of the bytes are on the disk, the others never will be. They are shown nevertheless.
    fn fail_sync(&mut self) {
        for operation in self.written.drain(..) {
            if let Operation::Write(_, offset, bytes) = operation {
                for (at, sector) in (index(offset)..).step_by(SECTOR).zip(bytes.chunks(SECTOR)) {
                    if (at / SECTOR).is_multiple_of(3) {
                        put(&mut self.synced, at, sector);
                    }
                }
            }
        }
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at.saturating_add(bytes.len());
    if to.len() < end {
        to.resize(end, 0);
    }
    if let Some(place) = to.get_mut(at..end) {
        place.copy_from_slice(bytes);
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

const SECTOR: usize = 512;
