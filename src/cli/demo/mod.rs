//! `strait demo`: two Geos and three units on one machine, real relays and certificates, calls and messages that cross, a
//! conversation that moves under writes, the routes that are away, a unit that goes away and comes back, a message that nobody
//! can read. Succeeds only if all it tells was checked (O-N1).
//!
//! # Path
//! `world` starts relays (`configuration`), `services` stand behind them. `calls`, `messages` and `moving` are the acts: `traffic`
//! calls, `publishing` publishes and receives, `ledger` counts that, `room` what is written to a conversation. `report` judges and tells. Here is the order.
//!
//! # Not here
//! The relay itself: processes of this program run it as operators do.

mod calls;
mod configuration;
mod ledger;
mod machine;
mod messages;
mod moving;
mod publishing;
mod report;
mod room;
mod scrape;
mod services;
mod show;
mod traffic;
mod world;

use std::io::{self, Write};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use self::ledger::Ledger;
use self::publishing::Publisher;
use self::report::{Document, Seen, Start};
use self::room::Room;
use self::services::Services;
use self::show::Show;
use self::traffic::{Caller, Steady};
use self::world::{Unit, World};
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
    /// Of the unit that publishes all the time.
    publisher: Publisher,
    _services: Services,
    ledger: Ledger,
    room: Room,
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
    let crossing = calls::cross(&stage).await;
    show.tell(&crossing.problems(), || crossing.tell())?;

    show.title("Messages cross: stored first, then brought to the owner of the key")?;
    let publishes = publishing::Steady::start(&stage.publisher);
    let publishing = messages::cross(&stage).await;
    show.tell(&publishing.problems(), || publishing.tell())?;

    show.title("A conversation moves to another unit while both write to it")?;
    let moved = moving::move_room(&stage).await;
    show.tell(&moved.problems(), || moved.tell())?;

    show.title("The relay that keeps the routes is killed: calls go on")?;
    let without = moving::without_routes(&mut stage).await?;
    show.tell(&without.problems(), || without.tell())?;

    show.title("Unit c goes away: its relay is killed")?;
    let others: Vec<Unit> = report::stay().collect();
    let staying: Vec<Caller> = stage.callers_of(&others);
    let steady = Steady::start(&staying, &others);
    let outage = calls::lose(&mut stage, &staying).await;
    show.tell(&outage.problems(), || outage.tell())?;
    let waiting = messages::wait(&stage).await;
    show.tell(&waiting.problems(), || waiting.tell())?;

    show.title("Unit c comes back: its relay is started again")?;
    let watch = messages::Watch::new(&stage, &waiting);
    let (back, replay) = tokio::join!(calls::bring_back(&mut stage, &staying, steady), watch.replay());
    let back = back?;
    show.tell(&back.problems(), || back.tell())?;
    show.tell(&replay.problems(), || replay.tell())?;

    show.title("A message that its subscriber cannot read")?;
    let poison = messages::poison(&stage).await;
    show.tell(&poison.problems(), || poison.tell())?;

    show.title("The books: what became of every message")?;
    let books = messages::books(&stage, publishes).await;
    show.tell(&books.problems(), || books.tell())?;
    let seen = Seen {
        start,
        crossing,
        publishing,
        moved,
        without,
        outage,
        waiting,
        back,
        replay,
        poison,
        books,
    };
    show.done(&Document::new(seen), &stage.world)?;
    Ok(stage)
}

async fn set_up(args: &Args) -> Result<(Stage, Start), DemoError> {
    let started = Instant::now();
    let mut services = Services::start().await?;
    let world = World::start(&services, args.keep).await?;
    let ledger = Ledger::default();
    let room = Room::default();
    services.register(world.relays(), &ledger, &room).await?;
    let mut callers = Vec::new();
    for relay in world.relays() {
        callers.push(Caller::connect(relay).await?);
    }
    let took = started.elapsed();
    let links = calls::read(world.relays(), |metrics, relay, other| {
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
        publisher: Publisher::connect(world.publishing(), &ledger).await?,
        callers,
        _services: services,
        ledger,
        room,
        world,
    };
    Ok((stage, start))
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
