//! Files in memory as the log sees them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{MemoryStorage, Operation, index};
use crate::queue::log::format::long;
use crate::queue::log::storage::Storage;

impl Storage for MemoryStorage {
    type File = Arc<u64>;

    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let files = self.files();
        let len = |number| files.file(number).map(|file| long(file.shown.len()));
        files
            .names
            .iter()
            .map(|(name, number)| Ok((name.clone(), len(*number)?)))
            .collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<u64>> {
        let mut files = self.files();
        files.fails()?;
        if files.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let number = files.next;
        files.apply(&Operation::Create(name.to_owned(), number));
        Ok(files.handle(number))
    }

    fn open(&self, name: &str) -> io::Result<Arc<u64>> {
        let mut files = self.files();
        let number = files.number(name)?;
        Ok(files.handle(number))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut files = self.files();
        files.fails()?;
        files.number(name)?;
        files.apply(&Operation::Remove(name.to_owned()));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut files = self.files();
        files.fails()?;
        let number = files.number(from)?;
        files.apply(&Operation::Rename(from.to_owned(), to.to_owned(), number));
        Ok(())
    }

    fn read_at(&self, file: &Arc<u64>, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let files = self.files();
        if files.faults.fail_reads {
            return Err(io::Error::other("a fault of the test"));
        }
        let shown = files.file(**file)?.shown.get(index(offset)..).unwrap_or_default();
        let mut len = shown.len().min(bytes.len());
        if let Some((from, to)) = files.faults.unreadable
            && offset < to
        {
            match index(from.saturating_sub(offset)) {
                0 if len > 0 => return Err(io::Error::other("a fault of the test")),
                readable => len = len.min(readable),
            }
        }
        if let (Some(to), Some(from)) = (bytes.get_mut(..len), shown.get(..len)) {
            to.copy_from_slice(from);
        }
        Ok(len)
    }

    fn write_at(&self, file: &Arc<u64>, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut files = self.files();
        let len = files.file(**file)?.shown.len();
        let mut fits = bytes.len().min(files.faults.write_max.unwrap_or(usize::MAX));
        if let Some(bytes_max) = files.faults.bytes_max {
            let free = index(bytes_max.saturating_sub(files.bytes()));
            fits = fits.min(free.saturating_add(len).saturating_sub(index(offset)));
        }
        let failed = files.fails();
        if failed.is_err() {
            fits /= 2;
        }
        let part = bytes.get(..fits).unwrap_or_default();
        if fits > 0 {
            files.apply(&Operation::Write(**file, offset, part.to_vec()));
        }
        failed?;
        match fits {
            0 if !bytes.is_empty() => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(fits),
        }
    }

    fn set_len(&self, file: &Arc<u64>, len: u64) -> io::Result<()> {
        let mut files = self.files();
        files.fails()?;
        files.file(**file)?;
        files.apply(&Operation::SetLen(**file, len));
        Ok(())
    }

    fn sync_data(&self, file: &Arc<u64>) -> io::Result<Duration> {
        let mut files = self.files();
        if let Err(error) = files.fails() {
            files.apply(&Operation::SyncFailed(**file));
            return Err(error);
        }
        files.apply(&Operation::Sync(**file));
        Ok(Duration::ZERO)
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut files = self.files();
        files.fails()?;
        files.apply(&Operation::SyncDir);
        Ok(())
    }

    fn settle(&self, file: &Arc<u64>) -> io::Result<()> {
        self.sync_data(file)?;
        if let Some(file) = self.files().by_number.get_mut(&**file) {
            file.shown.clone_from(&file.synced);
        }
        Ok(())
    }

    fn free_and_total(&self) -> io::Result<(u64, u64)> {
        let files = self.files();
        let total = files.faults.bytes_max.unwrap_or(u64::MAX);
        Ok((total.saturating_sub(files.bytes()), total))
    }
}
