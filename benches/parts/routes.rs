//! Which unit owns a key by a copy of the route store with millions of keys that were moved, and what such a copy costs.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use strait::model::{ANY_KEY, Key, Name, RouteHints};
use strait::routing::record::{
    Batch, Book, Change, DimensionSpec, Epoch, Node, NodeId, OpId, Record, RecordId, Rev, Snapshot, State, Target, Term,
};
use strait::routing::{RouteTable, Routes, Rule, Settings};

/// Prints what look-ups among a million and ten million moved keys take, and what such copies cost; `quick`: among 100,000.
pub fn print(is_quick: bool) {
    let counts: &[u32] = if is_quick { &[100_000] } else { &[1_000_000, 10_000_000] };
    for count in counts {
        overrides(*count);
    }
}

fn overrides(count: u32) {
    println!("overrides: {count} keys; a look-up is to take 300 ns at most, at p99");
    let before = resident();
    let began = Instant::now();
    let routes = copy(count);
    let took = began.elapsed();
    let (keys, bytes) = (routes.overrides_len(), routes.bytes());
    println!(
        "  {} bytes each by count, {} by resident memory, {:.2} us to make and apply",
        bytes / keys,
        resident().saturating_sub(before) / keys,
        took.as_secs_f64() * 1e6 / f64::from(count),
    );
    let began = Instant::now();
    black_box((0..1000).fold(routes.clone(), |routes, number| moved(&routes, number..number + 1)));
    println!(
        "  {:.2} us for a batch of one change",
        began.elapsed().as_secs_f64() * 1e6 / 1000.0
    );
    let began = Instant::now();
    let saved = routes.save();
    let (wrote, length) = (began.elapsed(), saved.len());
    let began = Instant::now();
    let loaded = Routes::load(&saved).unwrap();
    println!(
        "  {} bytes each in a file, written in {wrote:.1?}, read in {:.1?}",
        length / keys,
        began.elapsed()
    );
    drop((saved, loaded));

    let local = Name::new("a").unwrap();
    let table = RouteTable::build(&Settings::default(), &local, []).unwrap();
    let table = table.with_routes(Arc::new(routes));
    for (what, first) in [("moved", 0), ("not moved", u32::MAX / 2)] {
        let hints = spread(first, count);
        percentiles(&format!("look-up, {what}"), &table, &local, &hints);
        mean(&table, &local, &hints);
        one_read(bytes);
    }
}

/// Times all look-ups together: what they cost where the processor may begin the next one before the last has ended.
fn mean(table: &RouteTable, local: &Name, hints: &[RouteHints]) {
    let began = Instant::now();
    for hints in hints {
        let decision = table.resolve(black_box(hints), &ANY_KEY, local, &());
        black_box(decision.map(|decision| decision.epoch).unwrap());
    }
    let took = began.elapsed();
    println!(
        "    mean of all, keys included: {:?}",
        took / u32::try_from(hints.len()).unwrap()
    );
}

/// Times single look-ups of keys that no cache of the processor has.
fn percentiles(what: &str, table: &RouteTable, local: &Name, hints: &[RouteHints]) {
    let clock = clock();
    let times = hints.iter().map(|hints| {
        // What the keys themselves cost is not what is measured.
        let text = |key: &Key| key.key.iter().map(|byte| u32::from(*byte)).sum::<u32>();
        black_box(hints.keys.iter().map(text).sum::<u32>());
        let began = Instant::now();
        let decision = table.resolve(black_box(hints), &ANY_KEY, local, &());
        let took = began.elapsed();
        black_box(decision.map(|decision| decision.epoch).unwrap());
        took.saturating_sub(clock)
    });
    tell(what, times.collect());
}

/// Times single reads of memory as large as the copy. No look-up can take less than one of them, and it needs two, one after the
/// other.
fn one_read(bytes: usize) {
    let memory: Vec<u64> = (0..).take(bytes / size_of::<u64>()).collect();
    let clock = clock();
    let mut dice = fastrand::Rng::with_seed(7);
    let times = (0..500_000).map(|_| {
        let at = dice.usize(..memory.len());
        let began = Instant::now();
        black_box(memory.get(black_box(at)).copied());
        began.elapsed().saturating_sub(clock)
    });
    tell("one read of as much memory", times.collect());
}

/// What looking at the clock costs.
fn clock() -> Duration {
    let looks = (0..1000).map(|_| {
        let began = Instant::now();
        began.elapsed()
    });
    looks.min().unwrap_or_default()
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or_default();
    println!("  {what}: p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
}

/// Keys from all over the copy, more than the caches of a processor hold.
fn spread(first: u32, count: u32) -> Vec<RouteHints> {
    let keys = (0..500_000_u32).map(|n| first + n.wrapping_mul(2_654_435_761) % count);
    let hints = keys.map(|number| RouteHints {
        keys: vec![Key {
            dimension: Bytes::from_static(DIMENSION.as_bytes()),
            key: text(number).into(),
        }],
        ..RouteHints::default()
    });
    hints.collect()
}

/// As many keys moved as a relay would hear of them, in batches.
fn copy(count: u32) -> Routes {
    let mut routes = Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(1, Rev(1)),
        seed: 0x5eed,
        changes: vec![Change {
            rev: Rev(1),
            id: RecordId::Book,
            record: Some(Record::Book(book())),
        }],
    });
    for first in (0..count).step_by(1000) {
        routes = moved(&routes, first..first + 1000);
        let made = first + 1000;
        if made.is_multiple_of(count / 10) {
            println!("  {made} of {count} are there");
        }
    }
    routes
}

/// The copy after a batch that moves these keys.
fn moved(routes: &Routes, numbers: Range<u32>) -> Routes {
    let rev = routes.rev().next();
    let changes = numbers.map(|number| Change {
        rev,
        id: RecordId::Node(node(number).id),
        record: Some(Record::Node(node(number))),
    });
    let batch = Batch {
        prev: routes.rev(),
        rev,
        changes: changes.collect(),
    };
    routes.apply(&batch).unwrap()
}

fn node(number: u32) -> Node {
    Node {
        id: NodeId::Key {
            dimension: Name::new(DIMENSION).unwrap(),
            key: text(number).as_str().into(),
        },
        target: Target::Unit(Name::new(if number.is_multiple_of(3) { "b" } else { "a" }).unwrap()),
        state: State::Active,
        rev: Rev(0),
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    }
}

fn text(number: u32) -> String {
    format!("cid:{number}")
}

fn book() -> Book {
    let unit = |name| Name::new(name).unwrap();
    let share = |id, name, share| {
        let rule = Rule {
            dimension: unit(DIMENSION),
            unit: unit(name),
            keys: Vec::new(),
            prefix: None,
            range: None,
            hash: Some(share),
            default: false,
        };
        (id, rule)
    };
    let spec: DimensionSpec = serde_json::from_value(serde_json::json!({ "name": DIMENSION })).unwrap();
    Book {
        units: vec![unit("a"), unit("b")],
        dimensions: vec![spec],
        rules: vec![share(1, "a", [0.0, 50.0]), share(2, "b", [50.0, 100.0])],
        since: BTreeMap::new(),
    }
}

/// Bytes of memory this process has.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or_default() * 1024
}

const DIMENSION: &str = "im.conversation";
