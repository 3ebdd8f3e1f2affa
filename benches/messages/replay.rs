//! A backlog at a set rate beside live traffic: how well the rate is kept, and what live messages feel of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::ledger::{Consumer, Ledger};
use crate::load::{End, Load, Published, publish};
use crate::peers::Pair;
use crate::publish::load;
use crate::rows::{Effort, Figure, block_on, pattern, probed};
use crate::stage::{Side, Stage};
use crate::strait;
use crate::strait_speech::Wish;

/// Backlog messages a second that are allowed.
const RATE: u64 = 2_000;
/// Keys of live messages begin here: none of them has anything in the backlog.
const LIVE_KEYS: u32 = 1_000_000;

pub fn replay(stage: &Stage, effort: &Effort) -> Figure {
    // The rate is looked at over any so many seconds.
    let window = Duration::from_secs(if effort.quick { 2 } else { 10 });
    let time = if effort.quick { window * 2 } else { window * 3 };
    probed(stage, effort, || {
        let limit = format!("[replay.units.b.limits]\nmessages_per_second = {RATE}\n");
        let mut figure = Figure::new(
            format!("backlog at {RATE}/s beside live messages at 70 % of what passes, 1 KiB"),
            &[
                "live/s",
                "live p50 us",
                "live p99 us",
                "backlog/s",
                "lowest/s in a window",
                "highest/s in a window",
            ],
        );
        let mut rounds = [Vec::new(), Vec::new()];
        for number in 0..effort.rounds {
            let pair = strait::Pair::start(stage, &format!("replay-{number}"), &limit);
            let [alone, beside] = round(pair, time, window);
            rounds[0].push(alone);
            rounds[1].push(beside);
        }
        figure.row("live alone", &rounds[0]);
        figure.row("live beside the backlog", &rounds[1]);
        let [alone, beside] = [0, 1].map(|row| figure.rows[row].1[2].median);
        let bound = 1.2 * alone + 5_000.0;
        figure.notes.push(format!(
            "live p99: {beside:.0} us beside, 1.2 x alone + 5 ms = {bound:.0} us"
        ));
        let farthest = [figure.rows[1].1[4].min, figure.rows[1].1[5].max];
        let error = farthest
            .map(|rate| 100.0 * (rate / RATE as f64 - 1.0).abs())
            .into_iter()
            .fold(0.0, f64::max);
        figure.notes.push(format!(
            "farthest from the set rate over any {} s: {error:.1} %",
            window.as_secs()
        ));
        figure
    })
}

/// Live traffic alone, then beside the backlog, with the same publishers and the same consumer.
fn round(mut pair: strait::Pair, time: Duration, window: Duration) -> [Vec<f64>; 2] {
    let clock = Instant::now();
    let target = pair.target(Side::A, Wish::Accepted);
    let probe = Load {
        first_key: LIVE_KEYS,
        ..load(64, End::After(Duration::from_secs(1)))
    };
    let most = block_on(publish(&target, &probe, clock));
    let rate = most.per_second * 0.7;
    let mut next = most.all;
    let consumer = {
        let wrapped = Pair::Strait(pair);
        let consumer = wrapped.consumer(4096);
        let Pair::Strait(inner) = wrapped else { unreachable!() };
        pair = inner;
        consumer
    };
    let ledger = Ledger::new(clock);
    ledger.borrow_mut().keep_arrivals();
    let live = |first: u64, end: End| Load {
        first,
        rate: Some(rate),
        connections: 4,
        first_key: LIVE_KEYS,
        ..load(4096, end)
    };
    let alone = block_on(async {
        let _consumer = Consumer::start(&consumer, 4096, &pattern(1024), &ledger);
        until_all(&ledger, 0, next).await;
        timed(&target, &live(next, End::After(time)), clock, &ledger).await
    });
    next += alone.0.all;
    let count = RATE * (time + window).as_secs();
    pair.stop_side(Side::B);
    let backlog = Load {
        first: next,
        ..load(1024, End::Count(count))
    };
    block_on(publish(&target, &backlog, clock));
    next += count;
    pair.start_side(Side::B);
    let beside = block_on(async {
        let _consumer = Consumer::start(&consumer, 4096, &pattern(1024), &ledger);
        while ledger.borrow().missing(backlog.first, next) == count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let beside = timed(&target, &live(next, End::After(time)), clock, &ledger).await;
        until_all(&ledger, 0, next + beside.0.all).await;
        beside
    });
    let arrivals = ledger.borrow().arrivals(backlog.first, next);
    let (mean, lowest, highest) = rates(&arrivals, window);
    let row = |(published, [p50, p99]): (Published, [f64; 2])| vec![published.per_second, p50, p99];
    let mut beside = row(beside);
    beside.extend([mean, lowest, highest]);
    [row(alone), beside]
}

/// Publishes and waits until all of it has come; with the times from publisher to consumer.
async fn timed(
    target: &crate::load::Target,
    load: &Load,
    clock: Instant,
    ledger: &Rc<RefCell<Ledger>>,
) -> (Published, [f64; 2]) {
    ledger.borrow_mut().time_from(load.first);
    let published = publish(target, load, clock).await;
    until_all(ledger, load.first, load.first + published.all).await;
    let ([p50, p99, _], _) = ledger.borrow_mut().within();
    ledger.borrow_mut().time_from(u64::MAX);
    (published, [p50, p99])
}

async fn until_all(ledger: &RefCell<Ledger>, from: u64, to: u64) {
    let begin = Instant::now();
    while ledger.borrow().missing(from, to) > 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(180),
            "messages did not reach the consumer"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Mean rate, and the lowest and highest over any window that lies within the arrivals.
fn rates(arrivals: &[Duration], window: Duration) -> (f64, f64, f64) {
    let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
        return (0.0, 0.0, 0.0);
    };
    let mean = arrivals.len() as f64 / last.saturating_sub(*first).as_secs_f64();
    let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
    let mut begin = *first;
    while begin + window <= *last {
        let from = arrivals.partition_point(|time| *time < begin);
        let to = arrivals.partition_point(|time| *time < begin + window);
        let rate = (to - from) as f64 / window.as_secs_f64();
        (lowest, highest) = (lowest.min(rate), highest.max(rate));
        begin += Duration::from_millis(100);
    }
    (mean, lowest, highest)
}
