//! Rounds: every peer in turn, again and again, so that what disturbs the machine disturbs all.

use std::process::Command;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::load::{Load, Sample, serves};
use crate::peers::{Peer, Running, Stage};
use crate::process::Process;
use crate::spread::Spread;

/// One peer under one load, over all rounds.
#[derive(Serialize)]
pub struct Row {
    /// Name of the peer.
    pub peer: &'static str,
    /// Bytes of the message.
    pub size: usize,
    /// Calls in flight at most.
    pub in_flight: usize,
    /// Calls per second offered; `None` if the load follows the answers.
    pub offered: Option<f64>,
    /// Calls per second.
    pub per_second: Spread,
    /// Response times in microseconds.
    pub p50: Spread,
    /// The same.
    pub p99: Spread,
    /// The same.
    pub p999: Spread,
    /// Processor time per call in microseconds, relay A.
    pub cpu_a: Spread,
    /// Relay B.
    pub cpu_b: Spread,
    /// Both relays.
    pub cpu_relays: Spread,
    /// The echo service.
    pub cpu_echo: Spread,
    /// The load generator.
    pub cpu_load: Spread,
    /// Resident memory of A and of B after the last round, MiB.
    pub rss: [f64; 2],
    /// Calls that failed, over all rounds.
    pub failed: u64,
    /// Whether a new call on a new connection was answered after the last round.
    pub serves_on: bool,
}

/// One round.
struct Round {
    sample: Sample,
    cpu: Vec<Duration>,
    echo: Duration,
}

/// Measures one load on all peers.
pub fn measure(stage: &Stage, peers: &[Peer], load: &Load, rounds: usize) -> Vec<Row> {
    let mut echo = start_echo(stage);
    let mut running = Vec::new();
    for peer in peers {
        let mut pair = peer.start(stage);
        match until_serving(&mut pair, &mut echo, stage) {
            Ok(()) => running.push((*peer, pair, Vec::new())),
            Err(why) => eprintln!("{} does not serve: {why}", peer.name()),
        }
    }
    for round in 0..rounds {
        for (peer, pair, results) in &mut running {
            let warm = Load {
                duration: Duration::from_millis(500),
                rate: None,
                ..load.clone()
            };
            pair.load(&warm, stage);
            let result = one_round(stage, pair, &echo, load);
            eprintln!(
                "  {:>6} B {:>4} in flight, round {}: {:<9} {:>8.0}/s",
                load.size,
                load.in_flight(),
                round + 1,
                peer.name(),
                result.sample.per_second
            );
            results.push(result);
        }
    }
    running
        .iter()
        .map(|(peer, pair, results)| row(*peer, pair, load, results, stage))
        .collect()
}

fn one_round(stage: &Stage, pair: &Running, echo: &Process, load: &Load) -> Round {
    let before: Vec<Duration> = pair.relays.iter().map(Process::cpu).collect();
    let echo = pair.service.as_ref().unwrap_or(echo);
    let echo_before = echo.cpu();
    let sample = pair.load(load, stage);
    let cpu = pair
        .relays
        .iter()
        .zip(before)
        .map(|(relay, before)| relay.cpu().saturating_sub(before))
        .collect();
    Round {
        sample,
        cpu,
        echo: echo.cpu().saturating_sub(echo_before),
    }
}

fn row(peer: Peer, pair: &Running, load: &Load, rounds: &[Round], stage: &Stage) -> Row {
    let over = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let each = |cpu: Duration, round: &Round| cpu.as_secs_f64() * 1e6 / round.sample.done.max(1) as f64;
    let side = |side: usize, round: &Round| each(round.cpu.get(side).copied().unwrap_or_default(), round);
    let rss = |side: usize| {
        pair.relays
            .get(side)
            .map_or(0.0, |relay| relay.rss() as f64 / 1_048_576.0)
    };
    Row {
        peer: peer.name(),
        size: load.size,
        in_flight: load.in_flight(),
        offered: load.rate,
        per_second: over(&|round| round.sample.per_second),
        p50: over(&|round| round.sample.within[0]),
        p99: over(&|round| round.sample.within[1]),
        p999: over(&|round| round.sample.within[2]),
        cpu_a: over(&|round| side(0, round)),
        cpu_b: over(&|round| side(1, round)),
        cpu_relays: over(&|round| side(0, round) + side(1, round)),
        cpu_echo: over(&|round| each(round.echo, round)),
        cpu_load: over(&|round| each(round.sample.cpu, round)),
        rss: [rss(0), rss(1)],
        failed: rounds.iter().map(|round| round.sample.failed).sum(),
        serves_on: pair.serves(stage),
    }
}

fn start_echo(stage: &Stage) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("echo").arg(stage.echo.to_string());
    let mut echo = Process::start(&mut command, &stage.directory.join("echo.log"));
    let started = Instant::now();
    while !serves(stage.echo, &stage.directory) {
        echo.check().expect("the echo service must run");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "the echo service does not answer"
        );
    }
    echo
}

/// Waits until a call passes through the pair.
fn until_serving(pair: &mut Running, echo: &mut Process, stage: &Stage) -> Result<(), String> {
    let started = Instant::now();
    while !pair.serves(stage) {
        echo.check()?;
        for relay in &mut pair.relays {
            relay.check()?;
        }
        if started.elapsed() > Duration::from_secs(15) {
            return Err("no answer within 15 s; its log is in the directory of the benchmark".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
