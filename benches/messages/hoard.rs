//! Many queued messages: what they cost in memory, and how long a restart takes.

use std::fmt::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::load::{End, Load, publish};
use crate::publish::load;
use crate::rows::{Effort, Figure, block_on, pattern, probed};
use crate::stage::{Side, Stage, until};
use crate::strait;
use crate::strait_speech::Wish;

/// Bytes of a body.
const BYTES: usize = 100;

pub fn hoard(stage: &Stage, effort: &Effort) -> Figure {
    let count = effort.hoard;
    probed(stage, effort, || {
        let mut figure = Figure::new(
            format!("{count} messages of {BYTES} bytes queued at A for B, which is away; 100,000 keys"),
            &[
                "idle MiB",
                "after taking MiB",
                "after restart MiB",
                "killed, takes again after s",
                "taken/s",
                "KiB on disk",
            ],
        );
        for number in 0..effort.rounds.min(2) {
            let row = round(stage, number, count);
            figure.row(format!("strait, round {}", number + 1), &[row]);
        }
        let row = &figure.rows[0].1;
        let above = row[1].median.max(row[2].median) - row[0].median;
        let mut note = format!("{above:.1} MiB above idle");
        let _ = write!(note, "; {:.1} bytes each", above * 1_048_576.0 / count as f64);
        figure.notes.push(note);
        figure
    })
}

fn round(stage: &Stage, number: usize, count: u64) -> Vec<f64> {
    let mut pair = strait::Pair::start(stage, &format!("hoard-{number}"), "");
    pair.stop_side(Side::B);
    let mib = |pair: &strait::Pair| pair.process(Side::A).unwrap().rss() as f64 / 1_048_576.0;
    // Idle means: it has done something, and that is over.
    let target = pair.target(Side::A, Wish::Accepted);
    let some = load(64, End::Count(1_000));
    block_on(publish(&target, &some, Instant::now()));
    let idle = mib(&pair);
    let all = Load {
        pattern: pattern(BYTES),
        keys: 100_000,
        ..load(1024, End::Count(count))
    };
    let begin = Instant::now();
    let published = block_on(publish(&target, &all, begin));
    assert_eq!(published.all, count);
    let taken = count as f64 / begin.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    let full = mib(&pair);
    pair.kill_side(Side::A);
    let begin = Instant::now();
    // A relay says that it is ready when it has links, or after three seconds without; B is away here.
    pair.start_side_until(Side::A, "/livez");
    until("the relay to take connections", || {
        TcpStream::connect(("127.0.0.1", pair.port(Side::A))).is_ok()
    });
    let one = block_on(publish(&target, &load(1, End::Count(1)), begin));
    assert_eq!(one.all, 1);
    let restart = begin.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    let again = mib(&pair);
    eprintln!("  hoard: {taken:.0}/s taken, {idle:.0} -> {full:.0} MiB, restart {restart:.2} s, then {again:.0} MiB");
    vec![
        idle,
        full,
        again,
        restart,
        taken,
        size(&pair.files(Side::A)) as f64 / 1024.0,
    ]
}

fn size(directory: &std::path::Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        })
        .sum()
}
