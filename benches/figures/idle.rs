//! What a relay costs that has nothing to do: memory, processor time with a link up, the scrape of its metrics, and the
//! size of its binary.

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use crate::lean::{self, Load};
use crate::process::Process;
use crate::spread::Spread;
use crate::stage::{Relays, Shape, Stage, get};
use crate::{Effort, Wanted, ratio};

/// Lines of metrics that a scrape should have.
const SERIES: usize = 10_000;

pub fn measure(stage: &Stage, effort: Effort) {
    println!("### Cost of being on");
    let relays = stage.start(&Shape {
        name: "idle".to_owned(),
        ..Shape::default()
    });
    let time = Duration::from_secs(if effort.quick { 5 } else { 20 });
    let mut verdicts = Vec::new();
    idle(&relays, time, "no call ever", &mut verdicts);
    // Memory that calls have left behind, and whether a relay falls asleep again.
    let mut command = lean::echo("strait", &relays.socket(1, "strait"), 1);
    let echo = Process::start(&mut command, &stage.directory.join("echo.log"));
    let load = Load {
        speech: "strait",
        connections: 4,
        bytes: 1024,
        in_flight: 256,
        time: effort.time,
    };
    load.until_serving(&relays.socket(0, "strait"));
    load.run(&relays.socket(0, "strait"));
    idle(&relays, time, "after load", &mut verdicts);
    drop((echo, relays));
    scrape(stage, &mut verdicts);
    let size = fs::metadata(env!("CARGO_BIN_EXE_strait")).unwrap().len() as f64 / 1_048_576.0;
    verdicts.push(ratio("binary, MiB", size, Wanted::AtMost(25.0)));
    for verdict in &verdicts {
        println!("{verdict}");
    }
}

/// Memory and processor time of both sides over some time in which nothing happens.
fn idle(relays: &Relays, time: Duration, when: &str, verdicts: &mut Vec<String>) {
    let cpu = || relays.processes.each_ref().map(Process::cpu_exact);
    let before = cpu();
    std::thread::sleep(time);
    let after = cpu();
    for (side, name) in [(0, "A, which dials"), (1, "B")] {
        let spent = after[side].saturating_sub(before[side]).as_secs_f64() / time.as_secs_f64();
        let title = format!("idle relay {name}, {when}");
        verdicts.push(ratio(&format!("{title}, MiB"), relays.mib(side), Wanted::AtMost(30.0)));
        verdicts.push(ratio(
            &format!("{title}, % of a CPU"),
            spent * 100.0,
            Wanted::AtMost(0.5),
        ));
    }
}

/// A relay that has had calls to so many units that its metrics have ten thousand lines.
fn scrape(stage: &Stage, verdicts: &mut Vec<String>) {
    let units = 160;
    let relays = stage.start(&Shape {
        name: "scrape".to_owned(),
        other_units: units,
        ..Shape::default()
    });
    lean::call_each(&relays.socket(0, "strait"), units);
    let mut times = Vec::new();
    let mut lines = 0;
    for _ in 0..20 {
        // Series of calls are handed on ten times a second.
        std::thread::sleep(Duration::from_millis(120));
        let before = Instant::now();
        let text = get(relays.admin[0], "/metrics").unwrap();
        times.push(before.elapsed().as_secs_f64() * 1e3);
        lines = text.lines().filter(|line| !line.starts_with('#')).count();
    }
    let mut title = format!("scrape of {lines} series, ms");
    if lines < SERIES {
        let _ = write!(title, " (fewer than {SERIES})");
    }
    let spread = Spread::of(times);
    verdicts.push(format!(
        "{} [{:.1}..{:.1}]",
        ratio(&title, spread.median, Wanted::AtMost(20.0)),
        spread.min,
        spread.max
    ));
}
