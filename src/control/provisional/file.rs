//! The file of choices, below the data directory.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::Choice;
use crate::control::store::ClaimKey;

/// Choices by dimension, a zero byte, and key; as JSON.
const CHOICES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("choices");
/// `version`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("provisional");

/// The open file. One process has it.
pub struct ProvisionalFile(Database);

/// A change of the file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Write {
    /// A choice is new, or in conflict.
    Put(Choice),
    /// There is none of this key any more.
    Remove(ClaimKey),
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvisionalError {
    /// It is open elsewhere, damaged, or cannot be read or written.
    #[error("cannot use {path}; if another relay runs with this data directory, stop it")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the library says.
        source: Box<redb::Error>,
    },
    /// A later version wrote it.
    #[error("{path} was written by a later version of strait ({found}); this one knows version {VERSION}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
    },
    /// What is in it is no choice.
    #[error("{path} holds a choice that cannot be read; put a backup in its place")]
    Choice {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It could not be written.
    #[error("the file of choices without the route store cannot be written")]
    Write(#[source] Box<redb::Error>),
}

impl ProvisionalFile {
    /// Opens or makes the file, and reads what it holds.
    ///
    /// # Errors
    /// [`ProvisionalError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<Choice>), ProvisionalError> {
        let failed = |source: redb::Error| ProvisionalError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let mut options = Database::builder();
        options.set_cache_size(CACHE_BYTES);
        let database = options.create(path).map_err(|error| failed(error.into()))?;
        let file = Self(database);
        let (version, texts) = file.read().map_err(failed)?;
        if version != VERSION {
            let path = path.to_owned();
            return Err(ProvisionalError::Version { path, found: version });
        }
        let choices: Result<_, _> = texts.iter().map(|text| serde_json::from_slice(text)).collect();
        let choices = choices.map_err(|source| ProvisionalError::Choice {
            path: path.to_owned(),
            source,
        })?;
        Ok((file, choices))
    }

    /// Writes durably, as a whole. Blocks.
    ///
    /// # Errors
    /// [`ProvisionalError::Write`].
    pub fn write(&self, writes: &[Write]) -> Result<(), ProvisionalError> {
        self.commit(writes)
            .map_err(|error| ProvisionalError::Write(Box::new(error)))
    }

    fn read(&self) -> Result<(u64, Vec<Vec<u8>>), redb::Error> {
        let write = self.0.begin_write()?;
        {
            write.open_table(CHOICES)?;
            let mut meta = write.open_table(META)?;
            if meta.get("version")?.is_none() {
                meta.insert("version", VERSION)?;
            }
        }
        write.commit()?;
        let read = self.0.begin_read()?;
        let version = read
            .open_table(META)?
            .get("version")?
            .map_or(0, |version| version.value());
        let mut texts = Vec::new();
        for entry in read.open_table(CHOICES)?.iter()? {
            texts.push(entry?.1.value().to_vec());
        }
        Ok((version, texts))
    }

    fn commit(&self, writes: &[Write]) -> Result<(), redb::Error> {
        let transaction = self.0.begin_write()?;
        {
            let mut choices = transaction.open_table(CHOICES)?;
            for write in writes {
                match write {
                    Write::Put(choice) => {
                        let text = serde_json::to_vec(choice).unwrap_or_default();
                        choices.insert(row(&choice.claim_key()).as_slice(), text.as_slice())?;
                    }
                    Write::Remove(key) => {
                        choices.remove(row(key).as_slice())?;
                    }
                }
            }
        }
        transaction.commit()?;
        Ok(())
    }
}

/// Names have no zero byte.
fn row((dimension, key): &ClaimKey) -> Vec<u8> {
    [dimension.as_str().as_bytes(), &[0], &key.0].concat()
}

const VERSION: u64 = 1;
/// What is read is in memory already.
const CACHE_BYTES: usize = 1 << 20;
