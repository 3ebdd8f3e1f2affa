//! What a call costs when there is more of everything: units, local connections, threads. Framed calls of 128 B with 64 in
//! flight through two relays; the figure is the CPU of both relays per call, which other work on the machine disturbs less
//! than calls per second.

use crate::crowd;
use crate::floor::{Round, timed};
use crate::lean::{self, Load};
use crate::process::Process;
use crate::spread::Spread;
use crate::stage::{Relays, Shape, Stage};
use crate::{Effort, Wanted, ratio};

/// A pair of relays with its service and whoever else is connected.
struct Pair {
    title: String,
    relays: Relays,
    others: Vec<Process>,
    rounds: Vec<Round>,
}

impl Pair {
    fn start(stage: &Stage, title: &str, shape: &Shape, connections: usize) -> Self {
        let relays = stage.start(shape);
        let mut command = lean::echo("strait", &relays.socket(1, "strait"), connections);
        let echo = Process::start(&mut command, &stage.directory.join(format!("{}-echo.log", shape.name)));
        Self {
            title: title.to_owned(),
            relays,
            others: vec![echo],
            rounds: Vec::new(),
        }
    }

    fn round(&mut self, load: &Load) {
        let socket = self.relays.socket(0, "strait");
        load.until_serving(&socket);
        self.rounds.push(timed(|| self.relays.cpu(), || load.run(&socket)));
    }

    fn print(&self) {
        println!(
            "| {} | {:.2} | {:.0} | {:.0} | {:.0}/{:.0} |",
            self.title,
            self.cpu(),
            Spread::of(self.rounds.iter().map(|round| round.sample.per_second)),
            Spread::of(self.rounds.iter().map(|round| round.sample.within[1])),
            self.relays.mib(0),
            self.relays.mib(1),
        );
    }

    fn cpu(&self) -> Spread {
        Spread::of(self.rounds.iter().map(|round| round.cpu))
    }
}

const HEAD: &str = "| | A+B CPU us/call | calls/s | p99 us | RSS A/B MiB |\n|---|---|---|---|---|";

fn load(effort: Effort, connections: usize) -> Load {
    Load {
        speech: "strait",
        connections,
        bytes: 128,
        in_flight: 64,
        time: effort.time,
    }
}

/// With 1, 100 and 1,000 other units: known and away, and with a link to each.
pub fn units(stage: &Stage, effort: Effort) {
    println!("### Cost of a call with more units, each with a rule of its own");
    let mut pairs = Vec::new();
    for (count, linked) in [(1, false), (100, false), (1000, false), (100, true), (1000, true)] {
        let shape = Shape {
            name: format!("units-{count}-{linked}"),
            shards: 1,
            other_units: count - 1,
        };
        let title = format!("{count} units{}", if linked { ", a link to each" } else { "" });
        let mut pair = Pair::start(stage, &title, &shape, 1);
        if linked {
            let log = stage.directory.join(format!("{}-crowd.log", shape.name));
            pair.others.push(crowd::units(stage, &pair.relays, count - 1, &log));
        }
        pairs.push(pair);
    }
    compare(&mut pairs, &load(effort, 1), effort);
}

/// With 10 and 10,000 local connections that are open and silent.
pub fn connections(stage: &Stage, effort: Effort) {
    println!("### Cost of a call with more local connections at the caller's relay, half framed, half gRPC");
    let mut pairs = Vec::new();
    for count in [10, 10_000] {
        let shape = Shape {
            name: format!("connections-{count}"),
            shards: 1,
            other_units: 0,
        };
        let mut pair = Pair::start(stage, &format!("{count} connections"), &shape, 1);
        let log = stage.directory.join(format!("{}-crowd.log", shape.name));
        pair.others.push(crowd::connections(&pair.relays, count, &log));
        pairs.push(pair);
    }
    compare(&mut pairs, &load(effort, 4), effort);
}

fn compare(pairs: &mut [Pair], load: &Load, effort: Effort) {
    for _ in 0..effort.rounds {
        for pair in pairs.iter_mut() {
            pair.round(load);
        }
    }
    println!("{HEAD}");
    for pair in pairs.iter() {
        pair.print();
    }
    let (first, others) = pairs.split_first().unwrap();
    for other in others {
        let what = format!("CPU per call, {} / {}", other.title, first.title);
        println!(
            "{}",
            ratio(&what, other.cpu().median / first.cpu().median, Wanted::AtMost(1.15))
        );
    }
}

/// With one and two threads. Pairs are started anew for each round: which thread of B a link of A meets is up to the
/// kernel.
pub fn shards(stage: &Stage, effort: Effort) {
    println!("### Calls/s with one and two threads of the data plane, 8 connections, 256 in flight");
    let load = Load {
        in_flight: 256,
        ..load(effort, 8)
    };
    let mut rounds = [Vec::new(), Vec::new()];
    println!("| threads | calls/s | A+B CPU us/call | threads' worth of CPU used by A+B |\n|---|---|---|---|");
    for round in 0..effort.rounds {
        for (shards, rounds) in (1..).zip(&mut rounds) {
            let shape = Shape {
                name: format!("shards-{shards}-{round}"),
                shards,
                other_units: 0,
            };
            let mut pair = Pair::start(stage, "", &shape, 4);
            pair.round(&load);
            rounds.append(&mut pair.rounds);
        }
    }
    let of = |rounds: &[Round], value: fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let rate = |round: &Round| round.sample.per_second;
    for (shards, rounds) in (1..).zip(&rounds) {
        println!(
            "| {shards} | {:.0} | {:.2} | {:.2} |",
            of(rounds, rate),
            of(rounds, |round| round.cpu),
            of(rounds, |round| round.cpu * round.sample.per_second / 1e6),
        );
    }
    let [one, two] = &rounds;
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "{}",
        ratio(
            "calls/s, two / one",
            of(two, rate).median / of(one, rate).median,
            Wanted::AtLeast(1.8)
        )
    );
    let cost = of(two, |round| round.cpu).median / of(one, |round| round.cpu).median;
    println!(
        "CPU per call, two / one: {cost:.2}; threads that share nothing would carry {:.2} times as much",
        2.0 / cost
    );
    if cpus < 6 {
        println!(
            "{cpus} CPUs carry load, two relays and the service: they are full with one thread each, so calls/s cannot \
             double here; what tells is the CPU per call"
        );
    }
}
