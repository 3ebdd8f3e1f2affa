//! What a route token costs: at most two microseconds.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::num::NonZeroU16;
use std::sync::Arc;

use criterion::Criterion;
use strait::model::{ANY_KEY, Key, Name, RouteHints};
use strait::routing::record::{Book, Change, DimensionSpec, Epoch, Placement, Record, RecordId, Rev, Snapshot};
use strait::routing::token::{Brought, Flags, Lifetime, Ring, Secrets, Token, TokenTarget, With, field};
use strait::routing::{RouteTable, Routes, Settings};

pub fn bench(criterion: &mut Criterion) {
    let now = 1_795_651_200;
    let dimension = Name::new("im.conversation").unwrap();
    let key = b"cid:1000000042:1000000043";
    let secrets = |lines: String| Secrets::parse(lines.into()).unwrap();
    let ring = Ring::new(secrets("5a".repeat(32)), 1, now);
    let token = Token {
        target: TokenTarget::Unit(NonZeroU16::MIN),
        epoch: Epoch::new(0, Rev(1000)),
        as_of: Rev(1004),
        issued_at: now,
        lifetime: Lifetime::Usual,
        flags: Flags::default(),
    };
    let text = ring.issue(&dimension, key, &token).unwrap();
    let rotating = format!("{} verify\n{} sign", "5a".repeat(32), "a5".repeat(32));
    let other = Ring::new(secrets("a5".repeat(32)), 1, now).issue(&dimension, key, &token);
    let (rotating, other) = (Ring::new(secrets(rotating), 1, now), other.unwrap());

    let mut group = criterion.benchmark_group("token");
    group.bench_function("issue", |bencher| {
        bencher.iter(|| ring.issue(&dimension, black_box(key), &token));
    });
    group.bench_function("open", |bencher| {
        bencher.iter(|| ring.open(black_box(text.as_bytes()), &dimension, key, now));
    });
    group.bench_function("open, the second of two masters", |bencher| {
        bencher.iter(|| rotating.open(black_box(other.as_bytes()), &dimension, key, now));
    });
    group.bench_function("open, signed by nobody", |bencher| {
        bencher.iter(|| ring.open(black_box(other.as_bytes()), &dimension, key, now));
    });
    let field = field(&dimension, &text);
    let (table, hints, local) = (table(&dimension), hints(&dimension, key), Name::new("a").unwrap());
    let routes = table.routes().unwrap();
    group.bench_function("routing a call by it", |bencher| {
        bencher.iter(|| {
            let with = With {
                ring: &ring,
                routes,
                field: black_box(field.as_bytes()),
                now,
                lost: Epoch::default(),
            };
            let brought = Brought::new(&(), Some(with));
            let decision = table.resolve(&hints, &ANY_KEY, &local, &brought);
            decision.map(|decision| decision.epoch).unwrap()
        });
    });
    group.finish();
}

/// Conversations are claimed, and nothing else was decided.
fn table(dimension: &Name) -> RouteTable {
    let book = Book {
        units: vec![Name::new("a").unwrap()],
        dimensions: vec![DimensionSpec {
            placement: Placement::Claim(Vec::new()),
            ..DimensionSpec::new(dimension.clone())
        }],
        rules: Vec::new(),
        since: BTreeMap::new(),
    };
    let book = Change {
        rev: Rev(1),
        id: RecordId::Book,
        record: Some(Record::Book(book)),
    };
    let routes = Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(1010)),
        seed: 7,
        changes: vec![book],
    });
    let table = RouteTable::build(&Settings::default(), &Name::new("a").unwrap(), []).unwrap();
    table.with_routes(Arc::new(routes))
}

fn hints(dimension: &Name, key: &'static [u8]) -> RouteHints {
    RouteHints {
        keys: vec![Key {
            dimension: dimension.as_str().as_bytes().to_vec().into(),
            key: key.into(),
        }],
        ..RouteHints::default()
    }
}
