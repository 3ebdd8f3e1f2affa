//! A backlog: B is away while A takes messages, then comes back.

use std::time::{Duration, Instant};

use crate::load::{End, publish};
use crate::peers::Peer;
use crate::probe::sequential_read;
use crate::publish::{consume_all, load};
use crate::rows::{Effort, Figure, NOT_MEASURED, block_on, probed};
use crate::speed::link_speed;
use crate::stage::{Side, Stage, until_within};

/// Messages a second from A's disk to B's disk, without a limit.
pub fn drain(stage: &Stage, effort: &Effort) -> Figure {
    let count = if effort.quick { 50_000 } else { 500_000 };
    probed(stage, effort, || {
        let mut figure = Figure::new(
            format!("backlog of {count} messages of 1 KiB, drained from A to B without a limit"),
            &[
                "taken/s while B was away",
                "first at B after s",
                "drained/s",
                "MiB/s",
                "read of the files MiB/s",
            ],
        );
        for peer in &effort.peers {
            let mut rounds = Vec::new();
            for number in 0..effort.rounds.min(3) {
                rounds.push(round(stage, *peer, number, count));
            }
            figure.row(peer.name(), &rounds);
        }
        for other in [Peer::NatsAlways, Peer::Nats] {
            figure.ratio(Peer::Strait.name(), other.name(), 2);
        }
        let speed = link_speed(stage, effort.time);
        figure
            .notes
            .push(format!("one plain quinn connection moves {speed:.0} MiB/s one way"));
        if let Some((_, row)) = figure.rows.iter().find(|(name, _)| name == Peer::Strait.name()) {
            let (drained, read) = (row[3].median, row[4].median);
            let (bound, what) = if read.is_finite() {
                (speed.min(read), "the lower of link and disk".to_owned())
            } else {
                (speed, format!("link (disk: {NOT_MEASURED})"))
            };
            figure
                .notes
                .push(format!("MiB/s: strait / {what} = {:.2}", drained / bound));
        }
        figure
    })
}

fn round(stage: &Stage, peer: Peer, number: usize, count: u64) -> Vec<f64> {
    // A server that syncs each message by itself would take minutes.
    let count = if peer == Peer::NatsAlways { count / 10 } else { count };
    let mut pair = peer.start(stage, &format!("drain-{number}"));
    pair.stop_side(Side::B);
    let load = load(1024, End::Count(count));
    let begin = Instant::now();
    let published = block_on(publish(&pair.publishers(Side::A), &load, begin));
    assert_eq!(published.all, count);
    let taken = count as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    pair.start_side(Side::B);
    let mut first = None;
    until_within("B to have the backlog", Duration::from_secs(300), || {
        let stored = pair.stored(Side::B);
        if stored > 0 && first.is_none() {
            first = Some((begin.elapsed(), stored));
        }
        stored >= count
    });
    let (first, by_then) = first.unwrap_or((begin.elapsed(), 0));
    let time = begin.elapsed().saturating_sub(first).as_secs_f64().max(1e-9);
    let per_second = (count - by_then) as f64 / time;
    let (missing, again) = consume_all(&pair, count);
    assert_eq!(missing, 0, "{} lost messages of the backlog", peer.name());
    eprintln!("  drain: {:<12} {per_second:>8.0}/s, {again} came twice", peer.name());
    // What is no number is told as not measured: some file systems give nothing past the page cache.
    let read = sequential_read(&pair.files(Side::A)).unwrap_or(f64::NAN);
    vec![
        taken,
        first.as_secs_f64(),
        per_second,
        per_second * 1024.0 / 1_048_576.0,
        read,
    ]
}
