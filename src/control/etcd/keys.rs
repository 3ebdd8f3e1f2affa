//! What is kept under which key.
//!
//! ```text
//! <prefix>/meta                                         version, seed, incarnation
//! <prefix>/routes/head                                  the revision of the commit before; written by each commit
//! <prefix>/routes/id/<record id>                        a record
//! <prefix>/done/<operation>                             a commit that was done; goes after an hour
//! <prefix>/claims/<dimension>/<key>                     a claim
//! <prefix>/acks/<session>/<move>/<node>                 a report; goes with the session
//! ```
//! Values, and ids of records and nodes, are JSON.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::control::store::StoreError;
use crate::model::Name;
use crate::routing::record::{Book, Change, FreezeAck, KeyBytes, Node, OpId, Record, RecordId, Rev, SessionId};
use crate::wire::etcd::{
    Compare, Delete, KeyValue, MOD_REVISION, Operate, Operated, Operation, Outcome, Put, Range, Ranged,
};

/// Names of keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: String,
}

/// `meta`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct Meta {
    pub(super) version: u32,
    /// 32 hexadecimal digits.
    pub(super) seed: OpId,
    pub(super) incarnation: u16,
}

/// `routes/head`; its own revision is that of the last commit.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(super) struct Head {
    pub(super) prev: Rev,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/').to_owned();
        Self { prefix }
    }

    pub(super) fn meta(&self) -> Bytes {
        format!("{}/meta", self.prefix).into()
    }

    /// All that is told by feeds begins with it.
    pub(super) fn routes(&self) -> Bytes {
        format!("{}/routes/", self.prefix).into()
    }

    pub(super) fn head(&self) -> Bytes {
        format!("{}/routes/head", self.prefix).into()
    }

    /// All records begin with it.
    pub(super) fn records(&self) -> Bytes {
        format!("{}/routes/id/", self.prefix).into()
    }

    /// All relays begin with it.
    pub(super) fn relays(&self) -> Bytes {
        format!("{}/routes/id/{{\"relay\":", self.prefix).into()
    }

    pub(super) fn record(&self, id: &RecordId) -> Bytes {
        format!("{}/routes/id/{}", self.prefix, json_text(id)).into()
    }

    pub(super) fn id_of(&self, key: &[u8]) -> Option<RecordId> {
        let id = key.strip_prefix(&self.records()[..])?;
        serde_json::from_slice(id).ok()
    }

    pub(super) fn done(&self, op: OpId) -> Bytes {
        format!("{}/done/{}", self.prefix, String::from(op)).into()
    }

    /// All claims begin with it.
    pub(super) fn claims(&self) -> Bytes {
        format!("{}/claims/", self.prefix).into()
    }

    pub(super) fn claim(&self, dimension: &Name, key: &KeyBytes) -> Bytes {
        let start = format!("{}/claims/{dimension}/", self.prefix);
        [start.as_bytes(), &key.0].concat().into()
    }

    /// All reports of all relays begin with it.
    pub(super) fn acks(&self) -> Bytes {
        format!("{}/acks/", self.prefix).into()
    }

    /// All reports of a life begin with it.
    pub(super) fn acks_of(&self, session: SessionId) -> Bytes {
        format!("{}/acks/{:016x}/", self.prefix, session.0).into()
    }

    pub(super) fn ack(&self, ack: &FreezeAck) -> Bytes {
        let start = self.acks_of(ack.session);
        let rest = format!("{}/{}", ack.by, json_text(&ack.node));
        [&start[..], rest.as_bytes()].concat().into()
    }
}

/// A record with its revision, as etcd has it.
pub(super) fn change(kv: &KeyValue) -> Result<Change, StoreError> {
    let rev = rev(kv);
    let record = match read(&kv.value)? {
        Record::Node(node) => Record::Node(Node { rev, ..node }),
        record => record,
    };
    Ok(Change {
        rev,
        id: record.id(),
        record: Some(record),
    })
}

/// The record of a range that is one key.
pub(super) fn change_of(kvs: &[KeyValue]) -> Result<Option<Change>, StoreError> {
    kvs.first().map(change).transpose()
}

/// The book, of the range that is its key.
pub(super) fn book_of(kvs: &[KeyValue]) -> Result<Option<Book>, StoreError> {
    Ok(change_of(kvs)?.and_then(|change| match change.record {
        Some(Record::Book(book)) => Some(book),
        _ => None,
    }))
}

pub(super) fn rev(kv: &KeyValue) -> Rev {
    Rev(u64::try_from(kv.mod_revision).unwrap_or_default())
}

/// As etcd counts.
pub(super) fn revision(rev: Rev) -> i64 {
    i64::try_from(rev.0).unwrap_or(i64::MAX)
}

pub(super) fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(json).map_err(|error| StoreError::Broken(format!("what is in etcd cannot be read: {error}")))
}

pub(super) fn write<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

fn json_text<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// One key.
pub(super) fn one(key: Bytes) -> Range {
    Range {
        key,
        ..Range::default()
    }
}

/// All keys that begin with it.
pub(super) fn all(start: Bytes) -> Range {
    Range {
        range_end: end_of(&start),
        key: start,
        ..Range::default()
    }
}

/// The first key that does not begin with it.
pub(super) fn end_of(start: &[u8]) -> Bytes {
    let mut end = start.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end.into()
}

pub(super) fn operation(operate: Operate) -> Operation {
    Operation { operate: Some(operate) }
}

pub(super) fn get(range: Range) -> Operation {
    operation(Operate::Range(range))
}

pub(super) fn put(key: Bytes, value: Bytes, lease: i64) -> Operation {
    operation(Operate::Put(Put { key, value, lease }))
}

pub(super) fn delete(key: Bytes) -> Operation {
    operation(Operate::Delete(Delete {
        key,
        range_end: Bytes::new(),
    }))
}

/// Whether a key was written at this revision; zero: whether it is not there.
pub(super) fn is_at(key: Bytes, rev: Rev) -> Compare {
    Compare {
        subject: MOD_REVISION,
        key,
        mod_revision: Some(revision(rev)),
    }
}

/// What reading parts of a transaction found, in their order.
pub(super) fn ranged(responses: Vec<Operated>) -> impl Iterator<Item = Ranged> {
    responses.into_iter().filter_map(|operated| match operated.outcome {
        Some(Outcome::Ranged(ranged)) => Some(ranged),
        _ => None,
    })
}
