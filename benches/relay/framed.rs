//! The framed protocol on both ends: the crate's own examples as service and load, over Unix sockets.

use std::path::PathBuf;
use std::process::Command;

use crate::load::{Load, Sample};
use crate::peers::Stage;
use crate::process::Process;
use crate::usage;

/// Whether the examples are built in the profile of this benchmark.
pub fn installed() -> bool {
    example("framed_load").exists() && example("framed_echo").exists()
}

/// Starts the service, which registers itself at relay B as soon as that listens.
pub fn service(stage: &Stage) -> Process {
    // The example connects once, so wait for the socket first.
    let socket = socket(stage, "b");
    let script = format!(
        "for i in $(seq 200); do [ -S {0} ] && break; sleep 0.05; done; exec {1} unix:{0} im.Framed",
        socket.display(),
        example("framed_echo").display()
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(script);
    Process::start(&mut command, &stage.directory.join("framed-echo.log"))
}

/// Puts the load on relay A.
pub fn run(load: &Load, stage: &Stage) -> Sample {
    measure(stage, load.size, load.in_flight(), load.duration.as_secs_f64())
}

/// Whether a call on a new connection passes.
pub fn serves(stage: &Stage) -> bool {
    let sample = measure(stage, 4, 1, 0.02);
    sample.done > 0 && sample.failed == 0
}

fn measure(stage: &Stage, size: usize, in_flight: usize, seconds: f64) -> Sample {
    let before = usage::cpu_of_children(std::process::id());
    let output = Command::new("timeout")
        .arg((seconds + 20.0).to_string())
        .arg(example("framed_load"))
        .arg(format!("unix:{}", socket(stage, "a").display()))
        .arg("im.Framed/Say")
        .args(["--bytes", &size.to_string(), "--in-flight", &in_flight.to_string()])
        .args(["--seconds", &seconds.to_string(), "--warm-up", "0", "--key", "uid=b:"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let tail = text
        .lines()
        .find_map(|line| line.split("p999 ").nth(1)?.split(' ').next()?.parse().ok());
    Sample {
        done: value(last, "calls") as u64,
        failed: value(last, "errors") as u64,
        per_second: value(last, "calls_per_second"),
        within: [value(last, "p50_us"), value(last, "p99_us"), tail.unwrap_or(0.0)],
        cpu: usage::cpu_of_children(std::process::id()).saturating_sub(before),
    }
}

/// The number of a `name=number` pair.
fn value(line: &str, name: &str) -> f64 {
    line.split(' ')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or(0.0)
}

fn socket(stage: &Stage, unit: &str) -> PathBuf {
    stage.directory.join(format!("strait-framed-{unit}/strait.sock"))
}

/// Examples are built beside the benchmark, in the folder above its own.
fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples").join(name)
}
