//! The file: records, claims, and which operations were done last.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableHandle};

use crate::control::ledger::{DONE_MAX, Ledger, Written};
use crate::control::store::{ClaimKey, StoreError};
use crate::model::Name;
use crate::routing::record::{Change, Claim, Epoch, KeyBytes, OpId, RecordId, Rev, Snapshot};

/// Records by their id, both as JSON.
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");
/// Claims by dimension, a zero byte, and key; as JSON.
const CLAIMS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("claims");
/// Operations by the revision they made.
const DONE: TableDefinition<'_, u64, u128> = TableDefinition::new("done");
/// `epoch`, `seed` and `version`.
const META: TableDefinition<'_, &str, u128> = TableDefinition::new("meta");

/// The open file.
pub(super) struct RoutesFile(Database);

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is open elsewhere, damaged, or cannot be written.
    #[error(
        "cannot use {path}; if another relay runs with this data directory, stop it; if the file is damaged, put a \
             backup in its place"
    )]
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
        found: u128,
    },
    /// Something else made it.
    #[error("{path} is no file of routes; put it elsewhere, or name another data directory")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A record in it is no record.
    #[error("{path} holds a record that cannot be read; put a backup in its place")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// No thread.
    #[error("cannot start the thread of the route store")]
    Thread(#[source] std::io::Error),
}

impl RoutesFile {
    /// Opens or makes the file and reads what it holds.
    pub(super) fn open(path: &Path, now: Duration, seed: u128) -> Result<(Self, Ledger), FileError> {
        let failed = |source: redb::Error| FileError::Open {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let file = Self(database);
        if file.is_foreign().map_err(failed)? {
            return Err(FileError::Foreign { path: path.to_owned() });
        }
        file.prepare(seed).map_err(failed)?;
        let (meta, records, done) = file.read().map_err(failed)?;
        if meta.version != VERSION {
            return Err(FileError::Version {
                path: path.to_owned(),
                found: meta.version,
            });
        }
        let changes: Result<Vec<Change>, _> = records.iter().map(|record| serde_json::from_slice(record)).collect();
        let snapshot = Snapshot {
            epoch: meta.epoch,
            seed: meta.seed,
            changes: changes.map_err(|source| FileError::Record {
                path: path.to_owned(),
                source,
            })?,
        };
        Ok((file, Ledger::new(snapshot, done, now)))
    }

    /// Whether it has tables, but not those of a route store.
    fn is_foreign(&self) -> Result<bool, redb::Error> {
        let read = self.0.begin_read()?;
        let names: Vec<_> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
        Ok(!names.is_empty() && !names.iter().any(|name| name == META.name()))
    }

    /// Makes what a new file lacks.
    fn prepare(&self, seed: u128) -> Result<(), redb::Error> {
        let write = self.0.begin_write()?;
        {
            write.open_table(RECORDS)?;
            write.open_table(CLAIMS)?;
            write.open_table(DONE)?;
            let mut meta = write.open_table(META)?;
            if meta.get("version")?.is_none() {
                meta.insert("version", VERSION)?;
                meta.insert("seed", seed)?;
                meta.insert("epoch", 0)?;
            }
        }
        write.commit()?;
        Ok(())
    }

    fn read(&self) -> Result<Held, redb::Error> {
        let read = self.0.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |name| Ok::<_, redb::Error>(meta.get(name)?.map_or(0, |value| value.value()));
        let meta = Meta {
            version: number("version")?,
            seed: number("seed")?,
            epoch: Epoch(u64::try_from(number("epoch")?).unwrap_or_default()),
        };
        let mut records = Vec::new();
        for record in read.open_table(RECORDS)?.iter()? {
            records.push(record?.1.value().to_vec());
        }
        let mut done = Vec::new();
        for entry in read.open_table(DONE)?.iter()? {
            let (rev, op) = entry?;
            done.push((OpId(op.value()), Rev(rev.value())));
        }
        Ok((meta, records, done))
    }

    /// Writes commits and claims, durably, as a whole. Answers who has each claimed key.
    pub(super) fn write(&self, epoch: Epoch, written: &[Written], claims: &[Claim]) -> Result<Vec<Owner>, redb::Error> {
        let write = self.0.begin_write()?;
        let mut owners = Vec::with_capacity(claims.len());
        {
            let mut records = write.open_table(RECORDS)?;
            let mut done = write.open_table(DONE)?;
            for Written { op, batch } in written {
                for change in &batch.changes {
                    put(&mut records, change)?;
                }
                done.insert(batch.rev.0, op.0)?;
                if let Some(old) = batch.rev.0.checked_sub(u64::try_from(DONE_MAX).unwrap_or(u64::MAX)) {
                    done.remove(old)?;
                }
            }
            let mut table = write.open_table(CLAIMS)?;
            for claim in claims {
                owners.push(claim_or_get(&mut table, claim)?);
            }
            write.open_table(META)?.insert("epoch", u128::from(epoch.0))?;
        }
        write.commit()?;
        Ok(owners)
    }

    /// Who has these keys.
    pub(super) fn claims(&self, keys: &[(Name, KeyBytes)]) -> Result<Vec<Option<Owner>>, redb::Error> {
        let read = self.0.begin_read()?;
        let table = read.open_table(CLAIMS)?;
        let mut found = Vec::with_capacity(keys.len());
        for (dimension, key) in keys {
            let claim = table.get(claim_key(dimension, key).as_slice())?;
            found.push(claim.map(|claim| read_claim(claim.value())));
        }
        Ok(found)
    }

    /// Claims in the order of their keys, those after one.
    pub(super) fn claims_after(&self, after: Option<&ClaimKey>, limit: usize) -> Result<Vec<Owner>, redb::Error> {
        let read = self.0.begin_read()?;
        let table = read.open_table(CLAIMS)?;
        let after = after.map(|(dimension, key)| claim_key(dimension, key));
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = Vec::new();
        for entry in table.range::<&[u8]>((from, Bound::Unbounded))?.take(limit) {
            found.push(read_claim(entry?.1.value()));
        }
        Ok(found)
    }
}

/// Who has a key, if that can be read.
type Owner = Result<Claim, StoreError>;
/// What the file holds, claims left aside: what there is once, records as JSON, and operations.
type Held = (Meta, Vec<Vec<u8>>, Vec<(OpId, Rev)>);

struct Meta {
    version: u128,
    seed: u128,
    epoch: Epoch,
}

fn put(records: &mut redb::Table<'_, &str, &[u8]>, change: &Change) -> Result<(), redb::Error> {
    let id = record_key(&change.id);
    if change.record.is_some() {
        let bytes = serde_json::to_vec(change).unwrap_or_default();
        records.insert(id.as_str(), bytes.as_slice())?;
    } else {
        records.remove(id.as_str())?;
    }
    Ok(())
}

/// The first to ask has the key; asked again, it is still who has it (R-I5).
fn claim_or_get(table: &mut redb::Table<'_, &[u8], &[u8]>, claim: &Claim) -> Result<Owner, redb::Error> {
    let key = claim_key(&claim.dimension, &claim.key);
    if let Some(found) = table.get(key.as_slice())? {
        return Ok(read_claim(found.value()));
    }
    let bytes = serde_json::to_vec(claim).unwrap_or_default();
    table.insert(key.as_slice(), bytes.as_slice())?;
    Ok(Ok(claim.clone()))
}

/// A claim that cannot be read is somebody's all the same: it is not overwritten.
fn read_claim(bytes: &[u8]) -> Owner {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Broken(format!("a claim cannot be read: {error}")))
}

fn record_key(id: &RecordId) -> String {
    serde_json::to_string(id).unwrap_or_default()
}

/// Names have no zero byte.
fn claim_key(dimension: &Name, key: &KeyBytes) -> Vec<u8> {
    [dimension.as_str().as_bytes(), &[0], &key.0].concat()
}

const VERSION: u128 = 1;
