//! One shard: a thread with a runtime of its own on which calls live and die.
//!
//! # Invariants
//! - A1. Nothing of a call leaves its shard, except over a bridge (`crossing`).
//! - A2. A shard that cannot start ends the start of the relay, with the reason.

use std::cell::RefCell;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::contexts::{Contexts, Pair};
use super::messages::Messages;
use super::{AppError, ShardStatus, Shared};
use crate::calls::{CallPolicies, ShardPolicies};
use crate::control::keeper::GateId;
use crate::delivery::{self, Delivery};
use crate::inbound::{GateParts, GateTokens, OwnerGate};
use crate::peer::{self, Peers};
use crate::routing::gate::Drain;
use crate::settings::Settings;
use crate::telemetry::calls::CallMetrics;
use crate::wire::io::BoxIo;
use crate::{inbound, ingress, outbound};

/// A running shard.
pub(super) struct Shard {
    commands: mpsc::Sender<Command>,
    thread: JoinHandle<()>,
}

/// What the control thread asks of a shard.
pub(super) enum Command {
    /// Dial peers and take their connections.
    Link,
    /// Serve this connection.
    Serve(Protocol, Socket),
    /// Other settings are in force (C-L2).
    Reload(Arc<Reloaded>),
    /// Tell clients and peers that no new calls are taken (C-L1).
    Drain,
    /// End all lanes for messages, and say so.
    CloseLanes(oneshot::Sender<()>),
    /// Close everything and end.
    End,
}

/// What shards need of settings that were read again.
pub(super) struct Reloaded {
    pub(super) settings: Settings,
    pub(super) policies: CallPolicies,
}

/// What a local connection speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Framed,
    Grpc,
}

/// An accepted connection on its way to a shard.
pub(super) enum Socket {
    Tcp(std::net::TcpStream),
    /// With the user on the other side, as the system tells it.
    Unix(StdUnixStream, Option<u32>),
}

impl Protocol {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Framed => "ingress.framed",
            Self::Grpc => "ingress.grpc",
        }
    }
}

impl Shard {
    /// Starts a shard and waits until it is up.
    pub(super) async fn start(shared: Arc<Shared>, index: usize) -> Result<Self, AppError> {
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        let (up, is_up) = oneshot::channel();
        let failed = |source| AppError::Thread {
            what: "a shard",
            source,
        };
        let thread = std::thread::Builder::new()
            .name(format!("strait-shard-{index}"))
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                match runtime {
                    Ok(runtime) => LocalSet::new().block_on(&runtime, live(shared, index, queue, up)),
                    Err(source) => drop(up.send(Err(failed(source)))),
                }
            })
            .map_err(failed)?;
        match is_up.await {
            Ok(Ok(())) => Ok(Self { commands, thread }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(failed(std::io::Error::other("it ended while starting"))),
        }
    }

    /// Where to send commands.
    pub(super) fn commands(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }

    /// Waits for its end, after `Command::End`.
    pub(super) fn join(self) {
        // A shard that panicked has said so on standard error.
        let _ = self.thread.join();
    }
}

/// The parts of a shard.
struct Parts {
    peers: Rc<Peers>,
    /// Bound, but not read from before all shards have bound theirs.
    listener: RefCell<Option<peer::Listener>>,
    inbound: Rc<inbound::Rpc>,
    outbound: Rc<outbound::Rpc>,
    delivery: Rc<Delivery>,
    messages: Rc<Messages>,
    calls: CallMetrics,
    contexts: Contexts,
    policies: Rc<ShardPolicies>,
    /// Lets calls of owned keys in, if there is a route store.
    gate: Option<Rc<OwnerGate>>,
    /// Connections of local services, and how many this shard takes.
    connections: TaskTracker,
    connections_max: usize,
    connections_refused: IntCounter,
    /// Everything else.
    tasks: TaskTracker,
    drain: CancellationToken,
    end: CancellationToken,
}

async fn live(
    shared: Arc<Shared>,
    index: usize,
    mut queue: mpsc::Receiver<Command>,
    up: oneshot::Sender<Result<(), AppError>>,
) {
    let parts = match build(&shared, index) {
        Ok(parts) => parts,
        Err(error) => return drop(up.send(Err(error))),
    };
    let status = shared.status.shard(index);
    if up.send(Ok(())).is_err() {
        return;
    }
    let mut tick = tokio::time::interval(TICK);
    let mut drains = shared.routes.as_ref().and_then(|routes| routes.drains(index));
    loop {
        tokio::select! {
            Some(drain) = next(&mut drains) => {
                parts.inbound.drain(&drain);
                continue;
            }
            command = queue.recv() => match command {
                Some(Command::Link) => parts.link(),
                Some(Command::Serve(protocol, socket)) => {
                    parts.serve(protocol, socket);
                    // Thousands may come at once; the next tick tells of them.
                    continue;
                }
                Some(Command::Reload(new)) => parts.reload(&new),
                Some(Command::Drain) => {
                    parts.drain.cancel();
                    parts.messages.drain();
                    parts.peers.drain();
                }
                Some(Command::CloseLanes(done)) => {
                    parts.messages.close_lanes().await;
                    let _ = done.send(());
                }
                Some(Command::End) | None => break,
            },
            _ = tick.tick() => {}
        }
        parts.report(status);
    }
    parts.end().await;
    parts.report(status);
}

fn build(shared: &Shared, index: usize) -> Result<Parts, AppError> {
    let settings = &shared.settings;
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    let bind = |source| AppError::Bind {
        what: "peer",
        address: settings.peer.listen.to_string(),
        source,
    };
    let listener = shared.quic.server_endpoint(settings.peer.listen).map_err(bind)?;
    let dialler = shared.quic.client_endpoint(settings.peer.listen.ip()).map_err(bind)?;
    let calls = shared.series.calls.on_shard();
    let policies = ShardPolicies::new((**shared.policies.load()).clone());
    let delivery = delivery(shared, index, &tasks);
    let gate = owner_gate(shared, index);
    let inbound = inbound::Rpc::new(inbound::Parts {
        place: shared.place.clone(),
        routing: shared.routing.clone(),
        delivery: delivery.clone(),
        policies: policies.clone(),
        metrics: calls.clone(),
        hops_max: settings.routing.hops_max,
        gate: gate.clone(),
        shadows: shadow_parts(shared),
    });
    let drain = CancellationToken::new();
    let messages = Messages::new(shared, index, &delivery, &drain);
    let peers = peers(shared, index, dialler, (&inbound, &messages));
    let outbound = outbound(shared, index, (&peers, &inbound, &messages), (&policies, &calls));
    let (story, stop) = (inbound.clone(), end.clone());
    tasks.spawn_local(async move { until(&stop, story.watch()).await });
    run_outbound(shared, (&outbound, &peers), &tasks, &end);
    tasks.spawn_local(delivery.clone().run(end.clone()));
    if let Some(outputs) = shared.queue.outputs(index) {
        let (story, stop) = (messages.clone(), end.clone());
        tasks.spawn_local(async move { until(&stop, story.run(outputs)).await });
    }
    let stop = end.clone();
    let api = ingress::api::attach(api_parts(shared, &delivery, &drain))?;
    tasks.spawn_local(async move { until(&stop, api).await });
    let contexts = Contexts::new(shared, &outbound, &delivery, &messages)?;
    Ok(Parts {
        peers,
        listener: RefCell::new(Some(listener)),
        inbound,
        outbound,
        delivery,
        messages,
        calls,
        contexts,
        policies,
        gate,
        connections: TaskTracker::new(),
        connections_max: settings.ingress.connections_max.div_ceil(shared.status.shards().max(1)),
        connections_refused: shared.series.connections_refused.clone(),
        tasks,
        drain,
        end,
    })
}

/// The links to other relays.
fn peers(
    shared: &Shared,
    index: usize,
    dialler: peer::Listener,
    (inbound, messages): (&Rc<inbound::Rpc>, &Rc<Messages>),
) -> Rc<Peers> {
    let settings = &shared.settings;
    Peers::new(peer::Parts {
        place: shared.place.clone(),
        geo: shared.geo.clone(),
        settings: settings.peer.clone(),
        units: settings.units.clone(),
        quic: shared.quic.clone(),
        handler: inbound.clone(),
        lane_handler: Some(messages.clone()),
        metrics: shared.series.peer.clone(),
        dialler,
        elsewhere: (index, shared.elsewhere.clone()),
        roster: shared.roster.clone(),
        observers: shared.observers.clone(),
        lines: shared.lines.clone(),
    })
}

/// The story of calls that go out.
fn outbound(
    shared: &Shared,
    index: usize,
    (peers, local, messages): (&Rc<Peers>, &Rc<inbound::Rpc>, &Rc<Messages>),
    (policies, metrics): (&Rc<ShardPolicies>, &CallMetrics),
) -> Rc<outbound::Rpc> {
    let series = &shared.series;
    let outbound = outbound::Rpc::new(outbound::Parts {
        place: shared.place.clone(),
        routing: shared.routing.clone(),
        peers: peers.clone(),
        local: local.clone(),
        policies: policies.clone(),
        parking: parking(shared),
        claims: shared.routes.as_ref().map(|routes| routes.claims.clone()),
        tokens: shared.tokens.clone().map(|keys| outbound::TokenParts {
            keys,
            counts: series.tokens.on_shard(),
            copy: series.routes.clone(),
        }),
        kept: Some(outbound::KeptParts {
            publishers: messages.publishers(),
            series: series.kept.clone(),
            away: shared.queue.away.clone(),
            observers: shared.observers.clone(),
        }),
        lookups: series.lookups.on_shard(),
        budgets: shared.retries.on_shard(index),
        metrics: metrics.clone(),
        first_request_id: fastrand::u64(1..),
    });
    messages.replay_to(outbound.clone(), series.kept.clone());
    outbound
}

/// Lets the story of calls that go out run and, on one shard, the calls that the relay makes itself, and shadows.
fn run_outbound(
    shared: &Shared,
    (outbound, peers): (&Rc<outbound::Rpc>, &Rc<Peers>),
    tasks: &TaskTracker,
    end: &CancellationToken,
) {
    let (story, stop) = (outbound.clone(), end.clone());
    tasks.spawn_local(async move { until(&stop, story.watch()).await });
    let Some(ways) = &shared.routes else { return };
    if let Some(asked) = ways.own_asked() {
        let (place, geo) = (shared.place.clone(), shared.geo.clone());
        let story = outbound::ShadowStory::new(place, geo, peers.clone(), ways.shadows.clone());
        let stop = end.clone();
        tasks.spawn_local(async move { until(&stop, story.run()).await });
        let story = outbound::OwnStory::new(shared.place.clone(), shared.geo.clone(), outbound.clone());
        let stop = end.clone();
        tasks.spawn_local(async move { until(&stop, story.run(asked)).await });
    }
}

/// What is needed for shadows of other units, if there is a route store.
fn shadow_parts(shared: &Shared) -> Option<inbound::ShadowParts> {
    let routes = shared.routes.as_ref()?;
    Some(inbound::ShadowParts {
        geo: shared.geo.clone(),
        claims: routes.claims.clone(),
        shadows: routes.shadows.clone(),
    })
}

/// The gate of a shard, if there is a route store.
fn owner_gate(shared: &Shared, index: usize) -> Option<Rc<OwnerGate>> {
    let routes = shared.routes.as_ref()?;
    Some(OwnerGate::new(GateParts {
        id: GateId::Shard(index),
        place: shared.place.clone(),
        geo: shared.geo.clone(),
        routing: shared.routing.clone(),
        claims: routes.claims.clone(),
        drained: routes.drained.clone(),
        held: routes.held.clone(),
        in_flight_max: shared.settings.routes.in_flight_max,
        tokens: shared.tokens.clone().map(|keys| GateTokens {
            keys,
            counts: shared.series.tokens.on_shard(),
        }),
        shadows: routes.shadows.clone(),
    }))
}

/// This shard's part of the calls that may wait for their route.
fn parking(shared: &Shared) -> outbound::ParkingLimits {
    let shards = shared.status.shards().max(1);
    outbound::ParkingLimits {
        calls: shared.settings.routes.parked_max.div_ceil(shards),
        bytes: PARKED_BYTES_MAX.div_ceil(shards),
        calls_of_key: PARKED_OF_KEY_MAX,
    }
}

/// The local services.
fn delivery(shared: &Shared, index: usize, tasks: &TaskTracker) -> Rc<Delivery> {
    let settings = &shared.settings;
    Delivery::new(delivery::Parts {
        settings: settings.delivery.clone(),
        services: settings.services.clone(),
        shard: index,
        directory: shared.directory.clone(),
        metrics: shared.series.delivery.clone(),
        transports: shared.transports(),
        tracker: tasks.clone(),
    })
}

/// What the relay's own API needs.
fn api_parts(shared: &Shared, delivery: &Rc<Delivery>, drain: &CancellationToken) -> ingress::api::Parts {
    let settings = &shared.settings;
    let health = shared.health.clone();
    ingress::api::Parts {
        delivery: delivery.clone(),
        own: ingress::api::services_for(&settings.services).collect(),
        ready: Arc::new(move || health.is_ready()),
        settings: settings.delivery.grpc.clone(),
        metrics: shared.series.delivery_grpc.clone(),
        unit: shared.place.unit.clone(),
        keys: shared.keys.clone(),
        access: shared.access.clone(),
        drain: drain.clone(),
    }
}

impl Parts {
    fn link(&self) {
        self.peers.start(self.listener.take());
    }

    fn reload(&self, new: &Reloaded) {
        self.policies.replace(new.policies.clone());
        self.delivery.reload(&new.settings.services);
        self.messages.reload(&new.settings);
        self.peers.reload(&new.settings.units);
    }

    fn serve(&self, protocol: Protocol, socket: Socket) {
        if self.connections.len() >= self.connections_max {
            // Dropping the socket closes it: the client sees that at once and can try another relay.
            self.connections_refused.inc();
            return tracing::debug!(
                protocol = protocol.as_str(),
                "too many local connections; one was closed"
            );
        }
        let Pair { grpc, framed } = self.contexts.of(&socket).clone();
        let io = match socket.into_io() {
            Ok(io) => io,
            Err(error) => return tracing::warn!(%error, "cannot serve a connection"),
        };
        let drain = self.drain.clone();
        match protocol {
            Protocol::Grpc => {
                self.connections.spawn_local(ingress::grpc::serve(io, grpc, drain));
            }
            Protocol::Framed => {
                self.connections.spawn_local(async move {
                    let ended = ingress::framed::serve(io, framed, drain).await;
                    tracing::debug!(reason = ended.as_str(), "framed connection ended");
                });
            }
        }
    }

    fn report(&self, status: Option<&ShardStatus>) {
        self.calls.flush();
        self.outbound.flush();
        if let Some(gate) = &self.gate {
            gate.flush();
        }
        self.inbound.tell_held();
        self.peers.show_observers();
        let Some(status) = status else { return };
        status
            .calls_outbound
            .store(self.outbound.open_calls(), Ordering::Relaxed);
        let calls_inbound = self.inbound.open_calls() + self.messages.open_pushes();
        status.calls_inbound.store(calls_inbound, Ordering::Relaxed);
        status.connections.store(self.connections.len(), Ordering::Relaxed);
        status.set_links(self.peers.ready_links());
    }

    /// Closes what is left, each with its own goodbye.
    async fn end(&self) {
        self.drain.cancel();
        self.delivery.drain();
        self.outbound.end_retries();
        self.peers.close().await;
        self.end.cancel();
        self.connections.close();
        self.tasks.close();
        let ended = async {
            self.connections.wait().await;
            self.tasks.wait().await;
        };
        // What does not end by itself is dropped with the runtime.
        if tokio::time::timeout(END_WAIT, ended).await.is_err() {
            tracing::warn!(
                connections = self.connections.len(),
                tasks = self.tasks.len(),
                "shard ended with tasks left"
            );
        }
    }
}

impl Socket {
    fn into_io(self) -> std::io::Result<BoxIo> {
        Ok(match self {
            Self::Tcp(stream) => Box::new(TcpStream::from_std(stream)?),
            Self::Unix(stream, _) => Box::new(UnixStream::from_std(stream)?),
        })
    }
}

/// What the shard is asked to wait for next; never, without a route store.
async fn next(drains: &mut Option<mpsc::Receiver<Drain>>) -> Option<Drain> {
    match drains {
        Some(drains) => drains.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(end: &CancellationToken, task: impl Future<Output = ()>) {
    tokio::select! {
        () = task => {}
        () = end.cancelled() => {}
    }
}

/// How often a shard tells its state and hands its counts to the registry.
const TICK: Duration = Duration::from_millis(100);
const COMMANDS_MAX: usize = 1024;
const END_WAIT: Duration = Duration::from_secs(2);
/// Requests of calls that wait for their route, in all.
const PARKED_BYTES_MAX: usize = 64 << 20;
/// Calls of one key that wait for their route, per shard.
const PARKED_OF_KEY_MAX: usize = 256;
