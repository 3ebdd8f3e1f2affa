//! What the log asks of a disk: files of one directory.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl, statvfs};
use tokio::time::Instant;

use super::pages::PAGE;

/// Files of one directory.
///
/// What was written is safe after `sync_data` of its file; that a file is there, has another name or is gone is safe after
/// `sync_dir`. Without, a crash may keep any part of it.
pub trait Storage: Sized + Send + Sync + 'static {
    /// An open file.
    type File: Send + Sync;

    /// Names and lengths of all files.
    ///
    /// # Errors
    /// Of the operating system; so with all of these.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Makes a file that is not there yet.
    ///
    /// # Errors
    /// Also if it is there.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens a file.
    ///
    /// # Errors
    /// Also if it is not there.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// Removes a file. Who has it open can still read it.
    ///
    /// # Errors
    /// Also if it is not there.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in place of the file that had it.
    ///
    /// # Errors
    /// Also if it is not there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Reads some bytes; zero at the end of the file.
    ///
    /// # Errors
    /// Of the operating system.
    fn read_at(&self, file: &Self::File, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes some of the bytes, and says how many.
    ///
    /// # Errors
    /// Of the operating system. Some may have been written nevertheless.
    fn write_at(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<usize>;

    /// Writes whole pages, from the begin of one on: `bytes` begins at a page of our memory, too. Where the operating system can, it
    /// does not keep them in its memory.
    ///
    /// # Errors
    /// Of the operating system. Some may have been written nevertheless.
    fn write_pages(&self, file: &Self::File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        write_full(self, file, offset, bytes)
    }

    /// Writes zeros and brings them to the disk; cheapest from the begin of a page on, and whole ones.
    ///
    /// # Errors
    /// Of the operating system. Some may have been written nevertheless.
    fn zero(&self, file: &Self::File, offset: u64, len: usize) -> io::Result<()> {
        write_zeros(self, file, offset, len)?;
        self.sync_data(file)?;
        Ok(())
    }

    /// Cuts a file.
    ///
    /// # Errors
    /// Of the operating system.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;

    /// Brings the bytes of a file to the disk, and says how long it took.
    ///
    /// # Errors
    /// Of the operating system. What was not synced before is lost then, whatever a second sync says (I16).
    fn sync_data(&self, file: &Self::File) -> io::Result<Duration>;

    /// Brings names to the disk.
    ///
    /// # Errors
    /// Of the operating system.
    fn sync_dir(&self) -> io::Result<()>;

    /// Brings the bytes of a file to the disk and forgets them: what is read afterwards is what the disk has. After a failed sync
    /// the operating system still shows bytes that the disk never got.
    ///
    /// # Errors
    /// Of the operating system.
    fn settle(&self, file: &Self::File) -> io::Result<()>;

    /// Bytes of the file system that are free for us, and all of them.
    ///
    /// # Errors
    /// Of the operating system.
    fn free_and_total(&self) -> io::Result<(u64, u64)>;
}

/// A directory that this process has for itself as long as this lives (I24). Only its user can read it.
#[derive(Debug)]
pub struct DirStorage {
    path: PathBuf,
    dir: File,
    _lock: File,
}

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Another process has it.
    #[error("{path} is in use by {owner}; each relay needs a directory of its own (queue directory)")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the lock file says about the process.
        owner: String,
    },
    /// It cannot be made or opened.
    #[error("cannot use the directory {path}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirStorage {
    /// Makes the directory if it is not there, and locks it.
    ///
    /// # Errors
    /// [`StorageError`]; a second process is refused.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = |source| StorageError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed)?;
        let lock = Self::lock(path)?;
        let dir = File::open(path).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            dir,
            _lock: lock,
        })
    }

    fn lock(path: &Path) -> Result<File, StorageError> {
        let failed = |source| StorageError::Io {
            path: path.to_owned(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock = options.open(path.join(LOCK)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only for the message: the lock itself says that somebody is there.
                let _ = lock.read_to_string(&mut owner);
                return Err(StorageError::InUse {
                    path: path.to_owned(),
                    owner: match owner.trim() {
                        "" => "another process".to_owned(),
                        owner => owner.to_owned(),
                    },
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        lock.set_len(0).map_err(failed)?;
        let owner = format!("process {}\n", std::process::id());
        lock.write_all(owner.as_bytes()).map_err(failed)?;
        Ok(lock)
    }
}

impl Storage for DirStorage {
    type File = File;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let about = match entry.metadata() {
                // The writer has given it another name meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                about => about?,
            };
            if let (true, Ok(name)) = (about.is_file(), entry.file_name().into_string()) {
                files.push((name, about.len()));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(self.path.join(name))
    }

    fn open(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn read_at(&self, file: &File, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        file.read_at(bytes, offset)
    }

    fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        file.write_at(bytes, offset)
    }

    fn write_pages(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        past_the_memory(file, || write_full(self, file, offset, bytes))
    }

    fn zero(&self, file: &File, offset: u64, len: usize) -> io::Result<()> {
        past_the_memory(file, || write_zeros(self, file, offset, len))?;
        self.sync_data(file)?;
        Ok(())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync_data(&self, file: &File) -> io::Result<Duration> {
        let start = Instant::now();
        file.sync_data()?;
        Ok(start.elapsed())
    }

    fn sync_dir(&self) -> io::Result<()> {
        self.dir.sync_all()
    }

    fn settle(&self, file: &File) -> io::Result<()> {
        file.sync_all()?;
        fadvise(file, 0, None, Advice::DontNeed)?;
        Ok(())
    }

    fn free_and_total(&self) -> io::Result<(u64, u64)> {
        let about = statvfs(&self.path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(about.f_frsize);
        // Blocks that only root may use are not free for us, and not ours to fill.
        let total = about
            .f_blocks
            .saturating_sub(about.f_bfree.saturating_sub(about.f_bavail));
        Ok((bytes(about.f_bavail), bytes(total)))
    }
}

/// Bytes of a file from an offset on, as many as wanted if it is long enough.
///
/// # Errors
/// Of the operating system.
pub(super) fn read_full<S: Storage>(storage: &S, file: &S::File, offset: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match storage.read_at(file, at, rest) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(done);
    Ok(())
}

/// Writes all of the bytes.
///
/// # Errors
/// Of the operating system. Some may have been written nevertheless.
pub(super) fn write_full<S: Storage>(storage: &S, file: &S::File, offset: u64, mut bytes: &[u8]) -> io::Result<()> {
    let mut at = offset;
    while !bytes.is_empty() {
        match storage.write_at(file, at, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(done) => {
                at = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
                bytes = bytes.get(done..).unwrap_or_default();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes past the memory of the operating system: it would take and keep a page for all that is written. Not all file systems can,
/// and none if the write does not begin and end where its blocks do; then it is written as all else is.
fn past_the_memory(file: &File, write: impl Fn() -> io::Result<()>) -> io::Result<()> {
    let flags = fcntl_getfl(file)?;
    if fcntl_setfl(file, flags | OFlags::DIRECT).is_err() {
        return write();
    }
    let written = write();
    fcntl_setfl(file, flags)?;
    match written {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => write(),
        written => written,
    }
}

fn write_zeros<S: Storage>(storage: &S, file: &S::File, mut offset: u64, mut len: usize) -> io::Result<()> {
    while len > 0 {
        let zeros = ZEROS.0.get(..len).unwrap_or(&ZEROS.0);
        write_full(storage, file, offset, zeros)?;
        offset = offset.saturating_add(u64::try_from(zeros.len()).unwrap_or(u64::MAX));
        len -= zeros.len();
    }
    Ok(())
}

/// Whether an error says that there is no space, or not for us.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::FileTooLarge | io::ErrorKind::QuotaExceeded
    )
}

const LOCK: &str = "lock";

#[repr(align(4096))]
struct Aligned([u8; 64 * PAGE]);

/// Never written to, so that it takes no memory.
static ZEROS: Aligned = Aligned([0; 64 * PAGE]);
