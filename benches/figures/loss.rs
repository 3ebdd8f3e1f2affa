//! Small calls on a path that takes 20 ms there and back: lanes of the product against a stream per call on a plain quinn
//! connection, each through its own impairer with the same luck.
//!
//! First with 1 % loss each way; calls come at random times, and their time counts from when they were due. Then the path
//! loses one datagram now and then and nothing else, and what counts are the calls that are due while it is being
//! repaired: with K lanes at most one in K may be late, as the other lanes do not wait for it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use strait::peer::quic::Purpose;
use strait::peer::settings::Congestion;
use strait::peer::{Peers, Settings};

use crate::background::Background;
use crate::impairer::{Direction, Impairer, Impairment};
use crate::link::{self, Identity, Side};
use crate::pace::{Answered, Load, Way};
use crate::plain::{self, Plain};
use crate::spread::Spread;
use crate::stage::Stage;
use crate::{Effort, Wanted, ratio};

const LOSS: f64 = 0.01;
const ONE_WAY: Duration = Duration::from_millis(10);
const SEED: u64 = 7;
/// What the last of [`NAMES`] is compared with; lanes of the others.
const LANES: [u8; 2] = [2, 4];
const NAMES: [&str; 3] = ["2 lanes", "4 lanes", "stream per call"];

pub fn measure(stage: &Stage, effort: Effort) {
    for unit in ["a", "b"] {
        stage.issue(unit);
    }
    // 1 % of the calls must be more than a handful.
    let time = Duration::from_secs(if effort.quick { 2 } else { 8 }).max(effort.time);
    let mut verdicts = Vec::new();
    println!("### Small calls, 1 % loss each way, 20 ms there and back, calls at random times");
    println!("| controller | load | path | p50 ms | p99 ms | p99.9 ms | unanswered |\n|---|---|---|---|---|---|---|");
    for (controller, tune) in [("cubic", cubic as Tune), ("bbr", bbr)] {
        for (bytes, rate) in [(128, 500), (128, 1000), (1024, 500)] {
            let load = Load { bytes, rate, time };
            verdicts.extend(lossy(stage, (controller, tune), &load, effort));
        }
    }
    let time = time / 2;
    let load = Load {
        bytes: 128,
        rate: 1000,
        time,
    };
    println!("\n### Calls that are late while one lost datagram is repaired");
    println!("| path | datagrams lost | share of the calls due meanwhile that are late |\n|---|---|---|");
    verdicts.extend(repairs(stage, &load, effort));
    for verdict in &verdicts {
        println!("{verdict}");
    }
}

type Tune = fn(&mut Settings);

fn cubic(settings: &mut Settings) {
    settings.congestion = Congestion::Cubic;
    settings.lane_streams_max = 4096;
}

fn bbr(settings: &mut Settings) {
    cubic(settings);
    settings.congestion = Congestion::Bbr;
}

fn lossy(stage: &Stage, (controller, tune): (&str, Tune), load: &Load, effort: Effort) -> Vec<String> {
    let paths = Paths::start(stage, tune);
    let rounds = block_on(async {
        let ways = paths.connect(tune).await;
        paths.spoil(LOSS);
        let mut rounds = [const { Vec::new() }; NAMES.len()];
        for round in 0..effort.rounds as u64 {
            for (way, rounds) in ways.ways.iter().zip(&mut rounds) {
                rounds.push(times(way.drive(load, round).await));
            }
        }
        rounds
    });
    let what = format!("{controller}, {} B, {}/s", load.bytes, load.rate);
    let of = |path: usize, value: usize| Spread::of(rounds[path].iter().map(|round| round[value]));
    for (path, name) in NAMES.iter().enumerate() {
        let [p50, p99, p999, missing] = std::array::from_fn(|value| of(path, value));
        println!("| {what} | {name} | {p50:.1} | {p99:.1} | {p999:.1} | {missing:.0} |");
    }
    let verdict = |path: usize| {
        let title = format!("{what}, p99, {} / stream per call", NAMES[path]);
        ratio(&title, of(path, 1).median / of(2, 1).median, Wanted::AtMost(1.1))
    };
    (0..LANES.len()).map(verdict).collect()
}

/// p50, p99 and p99.9 in milliseconds, and how many had no answer.
fn times(mut answered: Answered) -> [f64; 4] {
    answered.calls.sort_by_key(|(_, time)| *time);
    let last = (answered.calls.len() - 1) as f64;
    let at = |share: f64| answered.calls[(last * share) as usize].1.as_secs_f64() * 1e3;
    [at(0.5), at(0.99), at(0.999), answered.missing as f64]
}

fn repairs(stage: &Stage, load: &Load, effort: Effort) -> Vec<String> {
    let paths = Paths::start(stage, cubic);
    let rounds = block_on(async {
        let ways = paths.connect(cubic).await;
        paths.spoil(0.0);
        let mut rounds = [const { Vec::new() }; NAMES.len()];
        for round in 0..effort.rounds as u64 {
            for ((way, path), rounds) in ways.ways.iter().zip(&paths.impairers).zip(&mut rounds) {
                let over = Arc::new(AtomicBool::new(false));
                let losing = {
                    let (path, over) = (path.clone(), over.clone());
                    std::thread::spawn(move || lose_one_by_one(&path, &over))
                };
                let answered = way.drive(load, round).await;
                over.store(true, Ordering::Relaxed);
                rounds.push(late(&answered, &losing.join().unwrap()));
            }
        }
        rounds
    });
    let of = |path: usize, value: usize| Spread::of(rounds[path].iter().map(|round| round[value]));
    for (path, name) in NAMES.iter().enumerate() {
        println!("| {name} | {:.0} | {:.2} |", of(path, 0), of(path, 1));
    }
    let verdict = |(path, lanes): (usize, &u8)| {
        // A tenth more, as the window begins at no exact moment.
        let wanted = Wanted::AtMost(1.1 / f64::from(*lanes));
        ratio(&format!("late meanwhile, {}", NAMES[path]), of(path, 1).median, wanted)
    };
    LANES.iter().enumerate().map(verdict).collect()
}

/// Loses a datagram on its way forth every 150 ms, one each time; tells when.
fn lose_one_by_one(path: &Impairer, over: &AtomicBool) -> Vec<(Instant, u64)> {
    let lost = || path.counts(Direction::Forth).lost;
    let mut losses = Vec::new();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(150));
        let before = lost();
        path.partition(Direction::Forth, true);
        while lost() == before && !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(20));
        }
        path.partition(Direction::Forth, false);
        losses.push((Instant::now(), lost() - before));
    }
    losses
}

/// Datagrams lost each time, and the share of late calls among those due in the round trip after a loss.
fn late(answered: &Answered, losses: &[(Instant, u64)]) -> [f64; 2] {
    let round_trip = ONE_WAY * 2;
    let meanwhile = |due: &Instant| losses.iter().any(|(at, _)| *at <= *due && *due < *at + round_trip);
    let due: Vec<_> = answered.calls.iter().filter(|(due, _)| meanwhile(due)).collect();
    // Whoever waits for the repair waits a good part of a round trip longer than the others.
    let late = due.iter().filter(|(_, time)| *time > round_trip + ONE_WAY).count();
    let lost: u64 = losses.iter().map(|(_, datagrams)| datagrams).sum();
    [
        lost as f64 / losses.len().max(1) as f64,
        late as f64 / due.len().max(1) as f64,
    ]
}

/// Answering sides on threads of their own, each behind an impairer, in the order of [`NAMES`].
struct Paths {
    identity: Identity,
    impairers: [Arc<Impairer>; NAMES.len()],
    _threads: [Background; 2],
}

/// Calling sides.
struct Ways {
    ways: Vec<Way>,
    _links: Vec<(Rc<Peers>, Side)>,
}

impl Paths {
    fn start(stage: &Stage, tune: Tune) -> Self {
        let identity = |unit| Identity::of(&stage.directory, unit);
        let (link_at, link) = link::serve(identity("b"), tune);
        let (plain_at, plain) = plain::serve(identity("b"), tune);
        Self {
            identity: identity("a"),
            impairers: [link_at, link_at, plain_at].map(|at| Arc::new(Impairer::start(at, SEED))),
            _threads: [link, plain],
        }
    }

    /// Connects while the paths are perfect.
    async fn connect(&self, tune: Tune) -> Ways {
        let (mut ways, mut links) = (Vec::new(), Vec::new());
        for (path, lanes) in self.impairers.iter().zip(LANES) {
            let side = Side::new(&self.identity, ("b", Some(path.address())), |settings| {
                tune(settings);
                settings.lanes = lanes;
            });
            let peers = side.peers(link::nobody(), None);
            ways.push(Way::Link(link::connected(&peers).await));
            links.push((peers, side));
        }
        let [.., path] = &self.impairers;
        let side = Side::new(&self.identity, ("b", None), tune);
        ways.push(Way::Plain(Plain::dial(&side, path.address(), Purpose::Lanes).await));
        Ways { ways, _links: links }
    }

    fn spoil(&self, loss: f64) {
        for path in &self.impairers {
            path.set_both(Impairment {
                delay: ONE_WAY,
                loss,
                ..Impairment::default()
            });
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, future)
}
