//! Frames of lanes and of the framed protocol, and the block of metadata they carry.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput};
use strait::model::{
    Ending, Envelope, Facts, Key, Metadata, MetadataBuilder, Name, Part, ReplyBody, Request, RequestBody, RouteHints,
    Source,
};
use strait::wire::frame::{self, Decoder, Encoder};

/// Frames of one read of a busy lane.
const BATCH: u64 = 64;

pub fn bench(criterion: &mut Criterion) {
    metadata(criterion);
    for bytes in [128, 1024] {
        let mut group = criterion.benchmark_group(format!("frame/{bytes}B"));
        group.throughput(Throughput::Elements(BATCH));
        let (request, now) = (request(bytes), Instant::now());
        let reply = reply(bytes);
        let mut encoder = Encoder::new();
        let mut out = BytesMut::with_capacity(1 << 20);
        group.bench_function("encode 64 requests", |bencher| {
            bencher.iter(|| {
                out.clear();
                for id in 0..BATCH {
                    encoder.request(&mut out, id, black_box(&request), false, now);
                }
            });
        });
        group.bench_function("encode 64 replies", |bencher| {
            bencher.iter(|| {
                out.clear();
                for id in 0..BATCH {
                    frame::put_reply(&mut out, id, black_box(&reply), false, 0);
                }
            });
        });
        let requests = encoded(|out, encoder, id| encoder.request(out, id, &request, false, now));
        group.bench_function("decode 64 requests", |bencher| decode(bencher, &requests));
        let replies = encoded(|out, _, id| frame::put_reply(out, id, &reply, false, 0));
        group.bench_function("decode 64 replies", |bencher| decode(bencher, &replies));
        group.finish();
    }
}

fn metadata(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("metadata");
    let block = fields();
    group.bench_function("build 6 fields", |bencher| bencher.iter(fields));
    group.bench_function("check 6 fields", |bencher| {
        bencher.iter(|| Metadata::parse(black_box(block.as_bytes().clone())).unwrap());
    });
    group.bench_function("look up the last of 6", |bencher| {
        bencher.iter(|| black_box(&block).value("authorization").map(<[u8]>::len));
    });
    group.finish();
}

/// Two batches: the first defines names, the second is what is measured.
fn encoded(mut put: impl FnMut(&mut BytesMut, &mut Encoder, u64)) -> (Bytes, Bytes) {
    let mut encoder = Encoder::new();
    let mut batch = || {
        let mut out = BytesMut::new();
        for id in 0..BATCH {
            put(&mut out, &mut encoder, id);
        }
        out.freeze()
    };
    (batch(), batch())
}

fn decode(bencher: &mut criterion::Bencher<'_>, (first, next): &(Bytes, Bytes)) {
    let now = Instant::now();
    let mut decoder = Decoder::new(1 << 20);
    decoder.feed(first);
    while decoder.next(now).unwrap().is_some() {}
    let decoder = std::cell::RefCell::new(decoder);
    bencher.iter_batched(
        || decoder.borrow_mut().feed(next),
        |()| {
            let mut decoder = decoder.borrow_mut();
            while let Some(frame) = decoder.next(now).unwrap() {
                black_box(frame);
            }
        },
        BatchSize::PerIteration,
    );
}

/// What a gRPC call usually carries.
pub fn fields() -> Metadata {
    let mut fields = MetadataBuilder::new();
    for (name, value) in FIELDS {
        fields.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    fields.build()
}

pub const FIELDS: [(&str, &str); 6] = [
    ("content-type", "application/grpc"),
    ("user-agent", "grpc-go/1.76.0"),
    ("accept-encoding", "identity"),
    ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ("x-request-id", "7f3a8f0c-7a0b-4d57-9a4e-3d2c6f1f2b10"),
    (
        "authorization",
        "Bearer eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.c2lnbmF0dXJl",
    ),
];

/// A request as it stands on a lane.
fn request(bytes: usize) -> Request {
    let now = Instant::now();
    Request {
        path: Bytes::from_static(b"/im.Echo/Say"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints {
            keys: vec![Key {
                dimension: Bytes::from_static(b"im.conversation"),
                key: Bytes::from_static(b"cid:3001"),
            }],
            ..RouteHints::default()
        },
        facts: Facts {
            source: Some(Source {
                geo: Name::new("geo-a").unwrap(),
                unit: Name::new("a").unwrap(),
                service: None,
            }),
            visited: vec![Name::new("a").unwrap()],
            epoch: 1,
            request_id: 4711,
            ..Facts::default()
        },
        received: now,
        deadline: Some(now + Duration::from_secs(3600)),
        body: RequestBody {
            chunk: Bytes::from(vec![b'x'; bytes]),
            end: true,
        },
    }
}

fn reply(bytes: usize) -> Part {
    Part {
        head: Some((200, Metadata::default())),
        body: ReplyBody(Bytes::from(vec![b'x'; bytes])),
        end: Some(Ending::default()),
    }
}
