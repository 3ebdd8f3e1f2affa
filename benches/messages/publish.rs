//! Publishing at A until the disk has it, 1 KiB, with 1, 64 and 1,024 in flight; and from a publisher at A to a consumer at B.

use std::time::{Duration, Instant};

use crate::ledger::{Consumer, Ledger};
use crate::load::{End, Load, publish};
use crate::peers::{Pair, Peer};
use crate::rows::{Effort, Figure, block_on, each, pattern, probed};
use crate::stage::{Side, Stage, until_within};

/// A peer with its pair and what it did so far.
struct Contender {
    peer: Peer,
    pair: Pair,
    published: u64,
    rounds: Vec<Vec<f64>>,
}

/// So many connections for so many messages in flight, as in `benches/relay`.
pub fn connections(in_flight: usize) -> usize {
    match in_flight {
        1 => 1,
        2..=64 => 8,
        _ => 16,
    }
}

/// A load of 1 KiB messages on one topic and 1,000 keys.
pub fn load(in_flight: usize, end: End) -> Load {
    Load {
        connections: connections(in_flight),
        in_flight,
        pattern: pattern(1024),
        end,
        rate: None,
        topics: 1,
        keys: 1_000,
        first_key: 0,
        first: 0,
    }
}

/// Messages a second that are acknowledged, with so many in flight.
pub fn accepted(stage: &Stage, effort: &Effort, in_flight: usize) -> Figure {
    probed(stage, effort, || {
        let name = format!("publish-{in_flight}");
        let mut contenders = contenders(stage, effort, &name);
        for _ in 0..effort.rounds {
            for contender in &mut contenders {
                round(contender, in_flight, effort);
            }
        }
        let mut figure = Figure::new(
            format!("publish, acknowledged by A, 1 KiB, {in_flight} in flight, relayed to B meanwhile"),
            &[
                "messages/s",
                "ack p50 us",
                "ack p99 us",
                "CPU A us",
                "CPU B us",
                "A+B us/message",
                "CPU load us",
            ],
        );
        for contender in &contenders {
            figure.row(contender.peer.name(), &contender.rounds);
            let (a, b) = (contender.pair.mib(Side::A), contender.pair.mib(Side::B));
            let (missing, again) = consume_all(&contender.pair, contender.published);
            figure.notes.push(format!(
                "{}: {} acknowledged, {missing} of them missing at the consumer, {again} came twice; resident A {a:.0}, B {b:.0} MiB",
                contender.peer.name(),
                contender.published,
            ));
        }
        ratios(&mut figure, 0);
        figure
    })
}

fn contenders(stage: &Stage, effort: &Effort, name: &str) -> Vec<Contender> {
    let start = |peer: &Peer| Contender {
        peer: *peer,
        pair: peer.start(stage, name),
        published: 0,
        rounds: Vec::new(),
    };
    effort.peers.iter().map(start).collect()
}

fn round(contender: &mut Contender, in_flight: usize, effort: &Effort) {
    let (pair, clock) = (&contender.pair, Instant::now());
    let load = Load {
        first: contender.published,
        ..load(in_flight, End::After(effort.time))
    };
    let before = Side::BOTH.map(|side| pair.cpu(side));
    let published = block_on(publish(&pair.publishers(Side::A), &load, clock));
    contender.published += published.all;
    // What B does with these messages is part of their price.
    until_within("B to have all messages", WAIT, || {
        std::thread::sleep(Duration::from_millis(50));
        pair.stored(Side::B) >= contender.published
    });
    let [a, b] = Side::BOTH.map(|side| each(pair.cpu(side).saturating_sub(before[side as usize]), published.all));
    eprintln!(
        "  {in_flight:>4} in flight: {:<12} {:>8.0}/s, p99 {:>8.0} us",
        contender.peer.name(),
        published.per_second,
        published.within[1]
    );
    let load = each(published.cpu, published.all);
    let [p50, p99] = published.within;
    contender
        .rounds
        .push(vec![published.per_second, p50, p99, a, b, a + b, load]);
}

/// Lets a consumer at B take everything; how many of the first `count` numbers are missing, how many came twice.
pub fn consume_all(pair: &Pair, count: u64) -> (u64, u64) {
    let target = pair.consumer(4096);
    block_on(async {
        let ledger = Ledger::new(Instant::now());
        let _consumer = Consumer::start(&target, 4096, &pattern(1024), &ledger);
        let mut last = (0, Instant::now());
        // Until all are there, or nothing came for a while.
        while ledger.borrow().distinct < count && last.1.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let distinct = ledger.borrow().distinct;
            if distinct > last.0 {
                last = (distinct, Instant::now());
            }
        }
        let ledger = ledger.borrow();
        (ledger.missing(0, count), ledger.again)
    })
}

/// From a publisher at A to a consumer at B, 500 messages a second.
pub fn travel(stage: &Stage, effort: &Effort) -> Figure {
    const RATE: f64 = 500.0;
    probed(stage, effort, || {
        let mut contenders = contenders(stage, effort, "travel");
        let targets: Vec<_> = contenders
            .iter()
            .map(|contender| contender.pair.consumer(4096))
            .collect();
        for _ in 0..effort.rounds {
            for (contender, target) in contenders.iter_mut().zip(&targets) {
                let (pair, clock) = (&contender.pair, Instant::now());
                let load = Load {
                    connections: 1,
                    rate: Some(RATE),
                    first: contender.published,
                    ..load(1024, End::After(effort.time.max(Duration::from_secs(2))))
                };
                let ledger = Ledger::new(clock);
                let sent = block_on(async {
                    let _consumer = Consumer::start(target, 4096, &load.pattern, &ledger);
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    ledger.borrow_mut().time_from(load.first);
                    let published = publish(&pair.publishers(Side::A), &load, clock).await;
                    let begin = Instant::now();
                    while ledger.borrow().missing(load.first, load.first + published.all) > 0 {
                        assert!(begin.elapsed() < WAIT, "messages did not reach the consumer");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    published.all
                });
                contender.published += sent;
                let ([p50, p99, longest], count) = ledger.borrow_mut().within();
                contender.rounds.push(vec![p50, p99, longest, count as f64]);
            }
        }
        let mut figure = Figure::new(
            "publisher at A to consumer at B, 1 KiB, 500 messages a second",
            &["p50 us", "p99 us", "longest us", "messages"],
        );
        for contender in &contenders {
            figure.row(contender.peer.name(), &contender.rounds);
        }
        ratios(&mut figure, 0);
        figure
    })
}

/// How Strait compares with each other peer.
fn ratios(figure: &mut Figure, column: usize) {
    for other in [Peer::NatsAlways, Peer::Nats] {
        figure.ratio(Peer::Strait.name(), other.name(), column);
    }
}

const WAIT: Duration = Duration::from_secs(120);
