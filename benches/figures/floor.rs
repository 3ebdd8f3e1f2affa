//! Framed calls through two relays against the bare lane prototype, with the same lean load and lean echo: what the
//! product's logic costs on top of sockets, QUIC and TLS.

use std::time::Duration;

use crate::bare::Bare;
use crate::lean::{self, Load, Sample};
use crate::process::Process;
use crate::spread::Spread;
use crate::stage::{Shape, Stage};
use crate::{Effort, Wanted, ratio};

pub fn measure(stage: &Stage, effort: Effort) {
    println!("### Framed calls through two relays, against bare forwarders");
    let relays = stage.start(&Shape {
        name: "floor".to_owned(),
        shards: 1,
        ..Shape::default()
    });
    let mut command = lean::echo("strait", &relays.socket(1, "strait"), 1);
    let _echo = Process::start(&mut command, &stage.directory.join("echo.log"));
    let bare = Bare::start(stage);
    println!("| load | path | calls/s | p50 us | p99 us | both forwarders, CPU us/call |");
    println!("|---|---|---|---|---|---|");
    let mut verdicts = Vec::new();
    for (bytes, in_flight) in [(128, 1), (128, 64), (128, 1024), (1024, 64)] {
        let load = |speech| Load {
            speech,
            connections: 1,
            bytes,
            in_flight,
            time: effort.time,
        };
        load("strait").until_serving(&relays.socket(0, "strait"));
        load("bare").until_serving(&bare.socket);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            ours.push(timed(
                || relays.cpu(),
                || load("strait").run(&relays.socket(0, "strait")),
            ));
            theirs.push(timed(|| bare.cpu(), || load("bare").run(&bare.socket)));
        }
        let what = format!("{bytes} B, {in_flight} in flight");
        print_row(&what, "strait", &ours);
        print_row(&what, "bare", &theirs);
        let of = |rounds: &[Round], value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value)).median;
        if in_flight == 1 {
            let p50 = |round: &Round| round.sample.within[0];
            let value = of(&ours, p50) / of(&theirs, p50);
            verdicts.push(ratio("p50 idle, strait / bare", value, Wanted::AtMost(1.3)));
        }
        if in_flight == 1024 {
            let rate = |round: &Round| round.sample.per_second;
            let value = of(&ours, rate) / of(&theirs, rate);
            verdicts.push(ratio(
                "calls/s at 1,024 in flight, strait / bare",
                value,
                Wanted::AtLeast(0.7),
            ));
        }
    }
    for verdict in &verdicts {
        println!("{verdict}");
    }
}

/// One round of one path.
pub struct Round {
    pub sample: Sample,
    /// CPU of both forwarders per call, in microseconds. The warm-up is in the CPU and not in the calls; it is the
    /// same for both paths.
    pub cpu: f64,
}

/// Runs a load and looks at the processor time before and after.
pub fn timed(cpu: impl Fn() -> Duration, run: impl FnOnce() -> Sample) -> Round {
    let before = cpu();
    let sample = run();
    let spent = cpu().saturating_sub(before).as_secs_f64() * 1e6;
    Round {
        sample,
        cpu: spent / sample.all.max(1.0),
    }
}

fn print_row(what: &str, path: &str, rounds: &[Round]) {
    let of = |value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    println!(
        "| {what} | {path} | {:.0} | {:.1} | {:.1} | {:.2} |",
        of(|round| round.sample.per_second),
        of(|round| round.sample.within[0]),
        of(|round| round.sample.within[1]),
        of(|round| round.cpu),
    );
}
