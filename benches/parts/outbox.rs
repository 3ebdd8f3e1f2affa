//! What a message to another unit costs the thread of the queue: stored, batched, acknowledged.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput};
use strait::model::{Key, Message, MessageId, Metadata, Name, UnixMillis};
use strait::queue::api::Output;
use strait::queue::effects::{Effects, Now, ReadBack, Reader};
use strait::queue::lanes::{LaneId, LaneKind, ToReceiver, ToSender};
use strait::queue::outbox::Outbox;

/// Messages of one iteration.
const MESSAGES: u64 = 1000;
const LANE: LaneId = LaneId(1);

pub fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("outbox");
    group.throughput(Throughput::Elements(MESSAGES));
    for (what, body) in [
        ("1000 live messages of 100 B", 100),
        ("1000 live messages of 1 KiB", 1024),
    ] {
        let messages: Vec<Message> = (0..MESSAGES).map(|number| message(number, body)).collect();
        let mut outbox = opened(LaneKind::Live);
        let mut fx = Effects::default();
        let mut now = Now::default();
        let mut stored = 0;
        group.bench_function(what, |bencher| {
            bencher.iter(|| {
                for message in &messages {
                    stored = outbox.assign();
                    outbox.on_stored(now, stored, black_box(message), false, &mut fx);
                }
                acknowledge_all(&mut outbox, &mut now, &mut fx);
            });
        });
        // Nothing was stored if only others were asked for.
        if stored > 0 {
            assert!(outbox.is_done(stored - MESSAGES), "they were acknowledged");
        }
    }
    let messages: Vec<Message> = (0..MESSAGES).map(|number| message(number, 1024)).collect();
    group.bench_function("1000 messages of the backlog, 1 KiB", |bencher| {
        bencher.iter_batched(
            || behind(&messages),
            |mut outbox| {
                drain(&mut outbox, &messages);
                outbox
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

/// Sends, and acknowledges all that was sent, until nothing is left.
fn acknowledge_all(outbox: &mut Outbox, now: &mut Now, fx: &mut Effects) {
    now.mono += Duration::from_millis(1);
    loop {
        outbox.poll(*now, fx);
        let mut last = None;
        for output in fx.outputs.drain(..) {
            if let Output::ToReceiver {
                frame: ToReceiver::Messages { batch, messages },
                ..
            } = output
            {
                black_box(messages);
                last = Some(batch);
            }
        }
        let Some(batch) = last else { break };
        let refused = Vec::new();
        outbox.on_frame(*now, LANE, ToSender::Ack { batch, refused }, fx);
    }
    fx.writes.clear();
    fx.told.clear();
}

/// Reads a backlog back and sends it.
fn drain(outbox: &mut Outbox, messages: &[Message]) {
    let (mut fx, mut now) = (Effects::default(), Now::default());
    open(outbox, LaneKind::Backlog);
    loop {
        outbox.poll(now, &mut fx);
        let Some((Reader::Outbox { cursor, .. }, scan)) = fx.reads.pop() else {
            break;
        };
        let found = (scan.from..).zip(messages.iter().cloned());
        let read = ReadBack {
            from: scan.from,
            found: found.collect(),
            next: None,
            failed: false,
        };
        outbox.on_read(now, cursor, read, &mut fx);
    }
    acknowledge_all(outbox, &mut now, &mut fx);
    assert_eq!(outbox.status(now).backlog, 0);
}

fn opened(kind: LaneKind) -> Outbox {
    let mut outbox = Outbox::new(name("there"), 1);
    open(&mut outbox, kind);
    outbox
}

fn open(outbox: &mut Outbox, kind: LaneKind) {
    let (mut fx, now) = (Effects::default(), Now::default());
    outbox.on_lane_up(now, LANE, name("relay"), kind, &mut fx);
    let opened = ToSender::Opened {
        frontier: 0,
        above: Vec::new(),
        highest: 0,
    };
    outbox.on_frame(now, LANE, opened, &mut fx);
}

fn behind(messages: &[Message]) -> Outbox {
    let (mut fx, now) = (Effects::default(), Now::default());
    let mut outbox = Outbox::new(name("there"), 1);
    for message in messages {
        let seq = outbox.assign();
        outbox.on_stored(now, seq, message, false, &mut fx);
    }
    outbox
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn message(number: u64, body: usize) -> Message {
    Message {
        id: MessageId {
            unit: name("here"),
            relay: name("relay"),
            epoch: 1,
            number,
        },
        topic: name("orders"),
        key: Some(Key {
            dimension: Bytes::from_static(b"im.conversation"),
            key: Bytes::from(format!("conversation-{}", number % 100)),
        }),
        accepted_at: UnixMillis(1),
        deadline: None,
        visited: vec![name("here")],
        redrives: 0,
        routed: 0,
        attributes: Metadata::default(),
        body: Bytes::from(vec![0; body]),
    }
}
