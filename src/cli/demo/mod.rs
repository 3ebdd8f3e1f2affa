//! `strait demo`: two Geos and three units on one machine, real relays and certificates, calls that cross, and a unit
//! that goes away and comes back. Succeeds only if all it tells was checked (O-N1).
//!
//! # Path
//! `world` starts relays, `services` stand behind them, `traffic` calls, `report` judges and tells; here is the order.
//!
//! # Not here
//! The relay itself: processes of this program run it as operators do.

mod machine;
mod report;
mod scrape;
mod services;
mod show;
mod traffic;
mod world;

use std::io::{self, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use self::report::{Counts, Crossing, Document, Outage, Return, Start};
use self::services::Services;
use self::show::Show;
use self::traffic::{Caller, PATIENCE, Steady, Tallies};
use self::world::{AWAY, Relay, UNITS, Unit, World};
use super::{CliError, Output};
use crate::client::{ConnectError, ServeError};
use crate::peer::dev_ca::DevCaError;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Leave it running until Ctrl-C, on the default ports for unit a if they are free
    #[arg(long)]
    keep: bool,
}

/// For `strait demo --help`.
pub(super) const HELP: &str = "\
Examples:
  strait demo
  strait demo --keep

Needs nothing installed and leaves nothing behind: files are in a temporary folder, ports are free ones.
Exit codes: 0 all that was shown was checked, 1 something did not hold or it was stopped";

/// Why the demo did not show what it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DemoError {
    /// A certificate could not be made.
    #[error("cannot make certificates")]
    Certificates(#[from] DevCaError),
    /// A service cannot reach its relay.
    #[error("a service cannot connect to its relay")]
    Connect(#[from] ConnectError),
    /// Files cannot be written.
    #[error("cannot write to the temporary folder; set TMPDIR to one that this user may write to")]
    Files(#[source] io::Error),
    /// A gRPC connection cannot be made.
    #[error("a service cannot connect to its relay over gRPC")]
    Grpc(#[from] tonic::transport::Error),
    /// It was stopped before it was done.
    #[error("stopped by {0} before it was done; processes and files are removed")]
    Interrupted(&'static str),
    /// What happened is not what the demo claims.
    #[error("the demo did not show what it should:\n  {}", .0.join("\n  "))]
    NotHeld(Vec<String>),
    /// No port is free.
    #[error("cannot find free ports on the loopback interface")]
    Ports(#[source] io::Error),
    /// A process cannot be started.
    #[error("cannot start a relay process")]
    Process(#[source] io::Error),
    /// Signals or the runtime cannot be set up.
    #[error("cannot set up the runtime")]
    Runtime(#[source] io::Error),
    /// A service is not accepted by its relay.
    #[error("a service cannot register itself")]
    Serve(#[from] ServeError),
    /// Something hangs.
    #[error("the demo did not come to its end within {}", humantime::format_duration(*.0))]
    TooLong(Duration),
    /// A relay does not start.
    #[error("relay {relay} did not start; its last words:\n{log}")]
    Start {
        /// Its name.
        relay: &'static str,
        /// The end of its log.
        log: String,
    },
}

/// All that runs. Field order is drop order: callers and services first, then relays and their files.
struct Stage {
    callers: Vec<Caller>,
    _services: Services,
    world: World,
}

/// Runs the demo.
pub(super) fn run(args: &Args, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(DemoError::Runtime)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(DemoError::Runtime)?;
        let mut show = Show::new(out, output);
        // Whatever ends this, dropping the stage ends processes and removes files.
        let stage = tokio::select! {
            stage = play(args, &mut show) => stage?,
            name = signals.next() => return Err(DemoError::Interrupted(name).into()),
            () = tokio::time::sleep(LONGEST) => return Err(DemoError::TooLong(LONGEST).into()),
        };
        if args.keep {
            show.keeps_running(&stage.world)?;
            signals.next().await;
        }
        Ok(())
    })
}

/// The acts in their order. Each is checked before it is told.
async fn play(args: &Args, show: &mut Show<'_, impl Write>) -> Result<Stage, CliError> {
    show.title("Strait demo: two Geos, three units, a relay process each")?;
    let (mut stage, start) = set_up(args).await?;
    show.units(&stage.world)?;
    show.tell(&start.problems(), || start.tell())?;

    show.title("Calls cross: each service names a key, its relay finds the owner")?;
    let crossing = cross(&stage).await;
    show.tell(&crossing.problems(), || crossing.tell())?;

    show.title("Unit c goes away: its relay is killed")?;
    let others: Vec<Unit> = report::stay().collect();
    let staying: Vec<Caller> = stage.callers_of(&others);
    let steady = Steady::start(&staying, &others);
    let outage = lose(&mut stage, &staying).await;
    show.tell(&outage.problems(), || outage.tell())?;

    show.title("Unit c comes back: its relay is started again")?;
    let back = bring_back(&mut stage, &staying, steady).await?;
    show.tell(&back.problems(), || back.tell())?;
    show.done(&Document::new(&start, &crossing, &outage, &back), &stage.world)?;
    Ok(stage)
}

async fn set_up(args: &Args) -> Result<(Stage, Start), DemoError> {
    let started = Instant::now();
    let mut services = Services::start().await?;
    let world = World::start(&services, args.keep).await?;
    services.register(world.relays()).await?;
    let mut callers = Vec::new();
    for relay in world.relays() {
        callers.push(Caller::connect(relay).await?);
    }
    let took = started.elapsed();
    let links = read(world.relays(), |metrics, relay, other| {
        scrape::sum(
            metrics,
            "strait_peer_links_up",
            &[("src_unit", relay.name), ("dst_unit", other.name)],
        )
    });
    let start = Start {
        took,
        links: links.await,
    };
    let stage = Stage {
        callers,
        _services: services,
        world,
    };
    Ok((stage, start))
}

async fn cross(stage: &Stage) -> Crossing {
    let mut crossing = Crossing {
        calls: traffic::calls(&stage.callers, &UNITS, 10, PATIENCE).await,
        ..Crossing::default()
    };
    // The relays add up their counts ten times a second.
    let begun = Instant::now();
    while !crossing.problems().is_empty() && begun.elapsed() < COUNTED_WITHIN {
        tokio::time::sleep(POLL).await;
        let relays = stage.world.relays();
        crossing.outbound = read(relays, |metrics, relay, owner| {
            ended_well(metrics, "outbound", relay, owner)
        })
        .await;
        let inbound = read(relays, |metrics, relay, from| {
            ended_well(metrics, "inbound", from, relay)
        })
        .await;
        crossing.inbound = inbound
            .into_iter()
            .map(|((relay, from), count)| ((from, relay), count))
            .collect();
    }
    crossing
}

async fn lose(stage: &mut Stage, staying: &[Caller]) -> Outage {
    let gone: Vec<Unit> = UNITS.into_iter().filter(|unit| unit.name == AWAY).collect();
    if let Some(relay) = stage.world.away() {
        relay.kill();
    }
    let begun = Instant::now();
    let mut outage = Outage::default();
    while begun.elapsed() < NOTICED_WITHIN {
        let round = traffic::calls(staying, &gone, 1, PROBE).await;
        let known = round
            .0
            .values()
            .all(|tally| tally.errors.keys().all(|said| said.starts_with("unit_away;")));
        outage.before.merge(round);
        outage.known_after = begun.elapsed();
        if known {
            break;
        }
    }
    let begun = Instant::now();
    outage.refused = traffic::calls(staying, &gone, 10, PATIENCE).await;
    outage.refused_took = begun.elapsed();
    let begun = Instant::now();
    while !outage.problems().is_empty() && begun.elapsed() < COUNTED_WITHIN {
        tokio::time::sleep(POLL).await;
        outage.counted = read(stage.world.relays(), |metrics, relay, owner| {
            let labels = [
                ("direction", "outbound"),
                ("src_unit", relay.name),
                ("dst_unit", owner.name),
                ("reason", "unit_away"),
            ];
            scrape::sum(metrics, "strait_call_errors_total", &labels)
        })
        .await;
    }
    outage
}

async fn bring_back(stage: &mut Stage, staying: &[Caller], steady: Steady) -> Result<Return, DemoError> {
    let gone: Vec<Unit> = UNITS.into_iter().filter(|unit| unit.name == AWAY).collect();
    let begun = Instant::now();
    if let Some(relay) = stage.world.away() {
        relay.spawn()?;
        relay.until_ready().await?;
    }
    let mut back = Return::default();
    while begun.elapsed() < NOTICED_WITHIN {
        let round: Tallies = traffic::calls(staying, &gone, 1, PROBE).await;
        back.after = begun.elapsed();
        let total = round.total();
        if total.answered == total.calls {
            break;
        }
    }
    back.calls = traffic::calls(&stage.callers, &UNITS, 5, PATIENCE).await;
    back.others = steady.stop().await;
    Ok(back)
}

/// Reads one figure of each relay about each unit.
async fn read(relays: &[Relay], figure: impl Fn(&str, Unit, Unit) -> u64) -> Counts {
    let mut counts = Counts::new();
    for relay in relays {
        let metrics = relay.metrics().await;
        for other in UNITS {
            counts.insert((relay.unit, other), figure(&metrics, relay.unit, other));
        }
    }
    counts
}

fn ended_well(metrics: &str, direction: &str, from: Unit, owner: Unit) -> u64 {
    let labels = [
        ("direction", direction),
        ("src_unit", from.name),
        ("dst_unit", owner.name),
        ("outcome", "ok"),
    ];
    scrape::sum(metrics, "strait_calls_total", &labels)
}

impl Stage {
    fn callers_of(&self, units: &[Unit]) -> Vec<Caller> {
        self.callers
            .iter()
            .filter(|caller| units.contains(&caller.unit()))
            .cloned()
            .collect()
    }
}

/// Signals that ask the demo to end.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The next one. Cancel safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.hangup.recv() => "SIGHUP",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

/// The demo takes some seconds; this is for relays that die under it.
const LONGEST: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// How long a call waits while it is not known whether the unit is there.
const PROBE: Duration = Duration::from_millis(300);
/// When it is too late for the counters of the relays to agree.
const COUNTED_WITHIN: Duration = Duration::from_secs(5);
/// When it is too late for an outage or a return to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);
