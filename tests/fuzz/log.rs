//! Directories of the log with anything in them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use strait::model::Seq;
use strait::queue::Sync;
use strait::queue::line::LineId;
use strait::queue::log::{Entry, Found, Log, MemoryStorage, Options, Position, Recovery, Scan};

const LINE: LineId = LineId(1);
const SEGMENT: &str = "0000000000000001-0000000000000001-00000000-00000000000000000000000000000001.segment";

/// A segment of any bytes.
pub fn log_segment(data: &[u8]) {
    let storage = MemoryStorage::with([(SEGMENT.to_owned(), data.to_vec())]);
    let Some((found, _)) = open(&storage) else { return };
    let bytes: usize = found.iter().map(|found| 24 + found.content.len()).sum();
    assert!(bytes <= data.len(), "records came from nothing");
    let again = open(&storage).expect("what was opened can be opened").0;
    assert_eq!(contents(&again), contents(&found), "opening changed something");
}

/// A checkpoint of any bytes with the right checksum.
pub fn log_checkpoint(data: &[u8]) {
    let mut bytes = data.to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(data).to_be_bytes());
    let storage = MemoryStorage::with([("checkpoint-0000000000000001".to_owned(), bytes)]);
    if let Some((found, recovery)) = open(&storage) {
        assert!(found.is_empty());
        assert!(recovery.state.is_none_or(|state| state.len() <= data.len()));
    }
}

/// A log of some records whose files are changed: five bytes for each change say where and how.
pub fn log_damage(data: &[u8]) {
    let (files, written) = &*WHOLE;
    let mut files = files.clone();
    for change in data.chunks_exact(5) {
        let [file, kind, high, low, value] = change.try_into().expect("five bytes");
        let count = files.len();
        let bytes = files.values_mut().nth(usize::from(file) % count).expect("one of them");
        let at = usize::from(u16::from_be_bytes([high, low])).min(bytes.len());
        let end = (at + usize::from(value)).min(bytes.len());
        match kind % 5 {
            0 if at < bytes.len() => bytes[at] ^= value,
            1 => bytes.truncate(at),
            2 => bytes[at..end].fill(0),
            3 => bytes.copy_within(at..end, at / 2),
            _ => drop(bytes.splice(at..at, [value; 8])),
        }
    }
    let Some((found, _)) = open(&MemoryStorage::with(files)) else {
        return;
    };
    for found in found {
        let seq = found.lines[0].1;
        assert_eq!(
            written.get(&seq),
            Some(&found.content),
            "record {seq} is not as it was written"
        );
    }
}

/// Files by name and records by number.
type Whole = (BTreeMap<String, Vec<u8>>, BTreeMap<Seq, Bytes>);

static WHOLE: LazyLock<Whole> = LazyLock::new(whole);

fn whole() -> Whole {
    let storage = MemoryStorage::default();
    let mut written = BTreeMap::new();
    let (mut log, _) = Log::open(storage.clone(), options(1)).expect("nothing is there");
    let mut last = Position::default();
    for seq in 1..16 {
        let content = Bytes::from(vec![u8::try_from(seq).expect("small"); 60]);
        written.insert(seq, content.clone());
        let entry = Entry {
            kind: 1,
            lines: vec![(LINE, seq)],
            head: content,
            message: None,
        };
        last = log.append(&[entry], false).expect("memory takes it")[0];
    }
    log.checkpoint(b"state", last).expect("memory takes it");
    (storage.contents(), written)
}

fn options(seed: u64) -> Options {
    Options {
        segment_bytes: 512,
        bytes_max: 1 << 20,
        sync: Sync::Group,
        seed,
    }
}

fn open(storage: &MemoryStorage) -> Option<(Vec<Found>, Recovery)> {
    let (mut log, recovery) = Log::open(storage.clone(), options(2)).ok()?;
    let mut all = Vec::new();
    log.replay(Position::default(), |found| all.push(found))
        .expect("memory can be read");
    let scan = Scan {
        line: LINE,
        from: 0,
        messages_max: 100,
        bytes_max: 1 << 20,
    };
    log.scan(scan).expect("memory can be read");
    Some((all, recovery))
}

fn contents(found: &[Found]) -> Vec<&Bytes> {
    found.iter().map(|found| &found.content).collect()
}
