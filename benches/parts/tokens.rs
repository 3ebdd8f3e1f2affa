//! What a route token costs: at most two microseconds.

use std::hint::black_box;
use std::num::NonZeroU16;

use criterion::Criterion;
use strait::model::Name;
use strait::routing::record::{Epoch, Rev};
use strait::routing::token::{Flags, Lifetime, Ring, Secrets, Token, TokenTarget};

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
    group.finish();
}
