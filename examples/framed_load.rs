//! Calls a service as fast as it answers, with so many calls in flight, and prints calls per second, CPU
//! time per call and latency.
//!
//! ```text
//! cargo run --release --example framed_load -- unix:data/strait.sock im.Echo/Say \
//!     --bytes 128 --in-flight 1024 --seconds 5 --warm-up 1 --key im.conversation=cid: --pid 4711
//! ```
//! With `--key d=k` the calls use the keys `k0` .. `k999` of dimension `d`. CPU time of each `--pid` is
//! measured over the same time. The last line is for programs: `name=value` pairs.
#![allow(clippy::print_stdout, reason = "the output of a program")]
#![allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use strait::client::{Call, Client};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

type Error = Box<dyn std::error::Error>;

/// What the command line says.
struct Plan {
    address: String,
    method: String,
    bytes: usize,
    in_flight: usize,
    time: Duration,
    warm_up: Duration,
    key: Option<(String, String)>,
    pids: Vec<u32>,
}

/// What was found.
#[derive(Default)]
struct Found {
    calls: u64,
    errors: u64,
    first_error: Option<String>,
    latencies_us: Vec<u32>,
}

fn main() -> Result<(), Error> {
    let plan = plan(std::env::args().skip(1))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, load(plan))
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Result<Plan, Error> {
    let usage = "usage: framed_load <address> <service/Method> [--bytes n] [--in-flight n] [--seconds s] [--warm-up s] \
                 [--key dimension=prefix] [--pid n]...";
    let mut plan = Plan {
        address: arguments.next().ok_or(usage)?,
        method: arguments.next().ok_or(usage)?,
        bytes: 128,
        in_flight: 64,
        time: Duration::from_secs(5),
        warm_up: Duration::from_secs(1),
        key: None,
        pids: Vec::new(),
    };
    while let Some(option) = arguments.next() {
        let value = arguments.next().ok_or(usage)?;
        match option.as_str() {
            "--bytes" => plan.bytes = value.parse()?,
            "--in-flight" => plan.in_flight = value.parse()?,
            "--seconds" => plan.time = Duration::from_secs_f64(value.parse()?),
            "--warm-up" => plan.warm_up = Duration::from_secs_f64(value.parse()?),
            "--pid" => plan.pids.push(value.parse()?),
            "--key" => {
                let (dimension, prefix) = value.split_once('=').ok_or(usage)?;
                plan.key = Some((dimension.to_owned(), prefix.to_owned()));
            }
            _ => return Err(usage.into()),
        }
    }
    Ok(plan)
}

async fn load(plan: Plan) -> Result<(), Error> {
    let client = Client::builder(&plan.address)
        .in_flight_max(plan.in_flight)
        .connect()
        .await?;
    let found = Rc::new(RefCell::new(Found::default()));
    let begin = Instant::now() + plan.warm_up;
    let end = begin + plan.time;
    let base = Call::new(&plan.method).body(Bytes::from(vec![b'x'; plan.bytes]));
    let keys = match &plan.key {
        Some((dimension, prefix)) => (0..1000)
            .map(|n| base.clone().key(dimension, format!("{prefix}{n}")))
            .collect(),
        None => vec![base],
    };
    let keys = Rc::new(keys);
    let tasks = TaskTracker::new();
    for worker in 0..plan.in_flight {
        tasks.spawn_local(calls(
            client.clone(),
            Rc::clone(&keys),
            worker,
            (begin, end),
            Rc::clone(&found),
        ));
    }
    tasks.close();
    tokio::time::sleep_until(begin).await;
    let own = std::process::id();
    let before: Vec<Duration> = plan.pids.iter().chain([&own]).map(|pid| cpu(*pid)).collect();
    tasks.wait().await;
    let after = plan.pids.iter().chain([&own]).map(|pid| cpu(*pid));
    let spent: Vec<Duration> = after
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before))
        .collect();
    report(&plan, &mut found.borrow_mut(), &spent);
    Ok(())
}

/// One call after the other.
async fn calls(
    client: Client,
    keys: Rc<Vec<Call>>,
    worker: usize,
    when: (Instant, Instant),
    found: Rc<RefCell<Found>>,
) {
    let (begin, end) = when;
    let mut turn = worker;
    let mut sent = Instant::now();
    while sent < end {
        let Some(call) = keys.get(turn % keys.len()) else {
            return;
        };
        turn += 1;
        let result = client.call(call.clone()).await;
        let now = Instant::now();
        if sent >= begin {
            let mut found = found.borrow_mut();
            match result {
                Ok(_) => {
                    found.calls += 1;
                    found.latencies_us.push((now - sent).as_micros() as u32);
                }
                Err(error) => {
                    found.errors += 1;
                    found.first_error.get_or_insert_with(|| error.to_string());
                }
            }
        }
        sent = now;
    }
}

fn report(plan: &Plan, found: &mut Found, spent: &[Duration]) {
    found.latencies_us.sort_unstable();
    let at = |share: f64| {
        let index = ((found.latencies_us.len() as f64) * share) as usize;
        found.latencies_us.get(index).copied().unwrap_or_default()
    };
    let per_second = found.calls as f64 / plan.time.as_secs_f64();
    let per_call = |cpu: &Duration| cpu.as_secs_f64() * 1e6 / (found.calls.max(1) as f64);
    let (own, others) = spent.split_last().map_or((0.0, Vec::new()), |(own, others)| {
        (per_call(own), others.iter().map(per_call).collect())
    });
    println!(
        "{} bytes, {} in flight: {per_second:.0} calls/s, {} errors",
        plan.bytes, plan.in_flight, found.errors
    );
    println!("latency p50 {} us, p99 {} us, p999 {} us", at(0.5), at(0.99), at(0.999));
    println!("CPU per call: this client {own:.2} us");
    for (pid, cpu) in plan.pids.iter().zip(&others) {
        println!("CPU per call: process {pid} {cpu:.2} us");
    }
    if let Some(error) = &found.first_error {
        println!("first error: {error}");
    }
    let others: Vec<String> = others.iter().map(|cpu| format!("{cpu:.3}")).collect();
    println!(
        "calls={} errors={} calls_per_second={per_second:.0} p50_us={} p99_us={} client_cpu_us={own:.3} pid_cpu_us={}",
        found.calls,
        found.errors,
        at(0.5),
        at(0.99),
        others.join(",")
    );
}

/// CPU time of all threads of a process so far; zero if it is gone or this is not Linux.
fn cpu(pid: u32) -> Duration {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let on_cpu = |thread: std::fs::DirEntry| {
        let text = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads.flatten().filter_map(on_cpu).sum())
}
