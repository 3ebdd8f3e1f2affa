//! Load from h2load, and what it tells.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::usage;

/// One kind of load.
#[derive(Clone, Debug)]
pub struct Load {
    /// Bytes of the message; five more travel before it.
    pub size: usize,
    /// Connections.
    pub connections: usize,
    /// Calls in flight on each.
    pub streams: usize,
    /// How long to measure.
    pub duration: Duration,
    /// Calls per second in all; `None` sends the next call when one is answered.
    pub rate: Option<f64>,
}

/// What h2load measured.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Calls answered with 200.
    pub done: u64,
    /// Calls answered otherwise or not at all, without those that were open at the end.
    pub failed: u64,
    /// Calls per second.
    pub per_second: f64,
    /// Half of the calls, 99 % and 99.9 % were answered within so many microseconds.
    pub within: [f64; 3],
    /// Processor time of h2load.
    pub cpu: Duration,
}

impl Load {
    /// Calls in flight at most.
    pub fn in_flight(&self) -> usize {
        self.connections * self.streams
    }

    /// Puts the load on a port.
    pub fn run(&self, port: u16, directory: &Path) -> Sample {
        let log = directory.join("h2load.log");
        let _ = fs::remove_file(&log);
        let before = usage::cpu_of_children(std::process::id());
        let seconds = format!("{}ms", self.duration.as_millis());
        let mut command = Command::new("timeout");
        command
            .arg((self.duration.as_secs() + 20).to_string())
            .args(["h2load", "-t", "1", "-D", &seconds])
            .args(["-c", &self.connections.to_string(), "-m", &self.streams.to_string()])
            .args(["-H", "content-type: application/grpc", "-H", "te: trailers"])
            .args(["-H", "strait-key: uid=b:1"])
            .arg("-d")
            .arg(self.body(directory))
            .arg(format!("--log-file={}", log.display()));
        if let Some(rate) = self.rate {
            // h2load takes a rate per connection, in whole calls.
            let each = (rate / self.connections as f64).round().max(1.0);
            command.arg(format!("--rps={each}"));
        }
        command.arg(format!("http://127.0.0.1:{port}/im.Echo/Unary"));
        let output = command.output().unwrap();
        let mut sample = parse(&String::from_utf8_lossy(&output.stdout));
        sample.cpu = usage::cpu_of_children(std::process::id()).saturating_sub(before);
        let times = read_times(&log);
        let last = times.len().saturating_sub(1) as f64;
        sample.within = [0.5, 0.99, 0.999]
            .map(|share| times.get((last * share) as usize).copied().unwrap_or(0))
            .map(f64::from);
        sample
    }

    /// The body as a file: one gRPC message.
    fn body(&self, directory: &Path) -> PathBuf {
        let path = directory.join(format!("body-{}.bin", self.size));
        if !path.exists() {
            let mut body = vec![0];
            body.extend_from_slice(&(self.size as u32).to_be_bytes());
            body.extend((0..self.size).map(|n| (n * 7 % 251) as u8));
            fs::write(&path, body).unwrap();
        }
        path
    }
}

/// Reads the summary that h2load prints.
fn parse(text: &str) -> Sample {
    let mut sample = Sample::default();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("finished in ") {
            let rate = rest.split(", ").nth(1).and_then(|part| part.split(' ').next());
            sample.per_second = rate.and_then(|text| text.parse().ok()).unwrap_or(0.0);
        } else if let Some(rest) = line.strip_prefix("requests: ") {
            sample.failed = count(rest, "failed") + count(rest, "errored") + count(rest, "timeout");
        } else if let Some(rest) = line.strip_prefix("status codes: ") {
            sample.done = count(rest, "2xx");
            sample.failed += count(rest, "3xx") + count(rest, "4xx") + count(rest, "5xx");
        }
    }
    sample
}

/// The number before a word in `12 total, 3 failed`.
fn count(text: &str, word: &str) -> u64 {
    text.split(", ")
        .find_map(|part| part.strip_suffix(word)?.trim().parse().ok())
        .unwrap_or(0)
}

/// Response times in microseconds, sorted. Lines are `start in us <tab> status <tab> response time in us`.
fn read_times(log: &Path) -> Vec<u32> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let mut times: Vec<u32> = text
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('\t').skip(1);
            (fields.next()? == "200").then_some(())?;
            fields.next()?.parse().ok()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Whether one call on a new connection is answered whole: the message comes back and the trailers say OK.
pub fn serves(port: u16, directory: &Path) -> bool {
    let body = [&[0, 0, 0, 0, 4][..], b"ping"].concat();
    fs::write(directory.join("ping.bin"), &body).unwrap();
    let output = Command::new("timeout")
        .args(["5", "nghttp", "-v", "-t", "4"])
        .args([
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            "-H",
            "strait-key: uid=b:1",
        ])
        .arg("-d")
        .arg(directory.join("ping.bin"))
        .arg(format!("http://127.0.0.1:{port}/im.Echo/Unary"))
        .stderr(File::create(directory.join("nghttp.err")).unwrap())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.contains(":status: 200") && text.contains("grpc-status: 0") && text.contains("ping")
}
