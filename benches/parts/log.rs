//! What the log of the queue costs: appends, each with its sync, and reading a line from its beginning.
//!
//! The directory is `target/tmp`. How long the syncs of the same minute took is printed behind each row: without, the figures
//! mean nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use strait::model::{Message, MessageId, Metadata, Name, UnixMillis};
use strait::queue::Sync;
use strait::queue::line::LineId;
use strait::queue::log::{DirStorage, Entry, Log, Options, Position, Scan};

const LINE: LineId = LineId(1);

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("log");
    group.sample_size(20);
    for messages in [1_u64, 64, 1024] {
        let mut disk = Disk::new();
        group.throughput(Throughput::Elements(messages));
        group.bench_function(format!("append {messages} of 1 KiB, synced"), |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| disk.append(messages)).sum());
        });
        disk.print_syncs();
    }
    let mut disk = Disk::new();
    for _ in 0..256 {
        disk.append(1024);
    }
    let mut from = 0;
    group.throughput(Throughput::Elements(1024));
    group.bench_function("scan 1024 of 1 KiB", |bencher| {
        bencher.iter(|| {
            let scan = Scan {
                line: LINE,
                from,
                messages_max: 1024,
                bytes_max: usize::MAX,
            };
            let scanned = disk.log.scan(scan).unwrap();
            from = scanned.next.unwrap_or(0);
            scanned.found.len()
        });
    });
    group.finish();
}

struct Disk {
    log: Log<DirStorage>,
    message: Message,
    seq: u64,
    last: Position,
    syncs: Vec<Duration>,
}

impl Disk {
    fn new() -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-log");
        let _ = fs::remove_dir_all(&path);
        let options = Options {
            segment_bytes: 64 << 20,
            bytes_max: 16 << 30,
            sync: Sync::Group,
            seed: fastrand::u64(..),
        };
        let storage = DirStorage::open(&path).unwrap();
        let mut log = Log::open(storage, options).unwrap().0;
        while log.upkeep().unwrap() {}
        Self {
            log,
            message: message(),
            seq: 0,
            last: Position::default(),
            syncs: Vec::new(),
        }
    }

    /// How long one append took.
    fn append(&mut self, messages: u64) -> Duration {
        let head = Bytes::from_static(&[0; 40]);
        let entries: Vec<Entry> = (1..=messages)
            .map(|more| Entry {
                kind: 1,
                lines: vec![(LINE, self.seq + more)],
                head: head.clone(),
                message: Some(self.message.clone()),
            })
            .collect();
        let start = Instant::now();
        let positions = self.log.append(&entries, false).unwrap();
        let took = start.elapsed();
        self.seq += messages;
        self.syncs.extend(self.log.synced());
        let last = *positions.last().unwrap();
        if last.segment > self.last.segment {
            // What the other thread does meanwhile.
            while self.log.upkeep().unwrap() {}
            if last.segment.is_multiple_of(8) {
                self.log.checkpoint(b"", last).unwrap();
                self.log.checkpoint(b"", last).unwrap();
                self.log.release(|_, _, _| true);
            }
        }
        self.last = last;
        took
    }

    fn print_syncs(&mut self) {
        if self.syncs.is_empty() {
            return;
        }
        self.syncs.sort_unstable();
        let last = self.syncs.len().saturating_sub(1);
        let at = |percent: usize| self.syncs.get(last * percent / 100).copied().unwrap_or_default();
        let (middle, most, nearly_all, all) = (at(50), at(90), at(99), at(100));
        println!("    {last} syncs: p50 {middle:?}, p90 {most:?}, p99 {nearly_all:?}, longest {all:?}");
    }
}

fn message() -> Message {
    let name = |text| Name::new(text).unwrap();
    Message {
        id: MessageId {
            unit: name("unit-a"),
            relay: name("relay-1"),
            epoch: 1,
            number: 1,
        },
        topic: name("im.messages"),
        key: None,
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: vec![name("unit-a")],
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from(vec![7; 1024]),
    }
}
