//! A relay with the edges of messages on real sockets, in front of a queue in memory.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use strait::admission::{RetryBudgets, RetrySettings};
use strait::calls::{CallPolicies, CallPolicy, ShardPolicies};
use strait::crossing;
use strait::delivery::{self, Delivery, Services, SharedDirectory, framed, grpc, http1};
use strait::inbound::{self, Consumers, Push, PushParts};
use strait::ingress::{self, messages};
use strait::model::{
    Callee, Endpoint, MissingKey, Name, Place, Registry, RelayError, RoutePolicy, Source, Subscriptions, UnitId,
};
use strait::outbound::{self, Catalog, PublisherParts, Publishers, Ways};
use strait::queue::api::Output;
use strait::queue::{Handle, Outlets, Topics};
use strait::routing::metrics::LookUps;
use strait::routing::{self, RouteTable};
use strait::telemetry::calls::CallMetrics;
use strait::wire::io::BoxIo;
use strait::wire::messages::SERVICE;
use tokio::net::TcpListener;
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::queue::{self, Desk};

/// A relay on a thread of its own. Its unit is `a`; there are `b` and `c`.
pub struct Relay {
    /// `tcp://host:port`.
    pub framed: String,
    /// `host:port`.
    pub grpc: String,
    pub queue: Arc<Desk>,
    drain: CancellationToken,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What a relay is told.
#[derive(Clone)]
pub struct Setup {
    pub topics: Topics,
    pub services: Services,
    pub routing: routing::Settings,
    pub message_bytes_max: usize,
    /// Unit that callers are said to be of.
    pub caller: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        let topics = "
            [plain]
            rule = 'local'
            [everywhere]
            rule = 'all'
            [listed]
            rule = 'units'
            units = ['b', 'c']
            [owned]
            ['small.*']
            rule = 'local'
            message_bytes_max = '1KiB'
        ";
        let routing = "
            dimensions = ['uid']
            rules = [{ dimension = 'uid', prefix = 'b:', unit = 'b' }, { dimension = 'uid', prefix = 'a:', unit = 'a' }]
        ";
        Self {
            topics: toml::from_str(topics).unwrap(),
            services: Services::new(),
            routing: toml::from_str(routing).unwrap(),
            message_bytes_max: 1024 * 1024,
            caller: "a",
        }
    }
}

impl Relay {
    pub fn start() -> Self {
        Self::with(Setup::default())
    }

    pub fn with(setup: Setup) -> Self {
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let desk = Arc::new(Desk::default());
        let (send, started) = mpsc::channel();
        let thread = {
            let (desk, drain, stop) = (desk.clone(), drain.clone(), stop.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                LocalSet::new().block_on(&runtime, run(setup, desk, (drain, stop), send));
            })
        };
        let (framed, grpc) = started.recv_timeout(Duration::from_secs(10)).unwrap();
        Self {
            framed: format!("tcp://{framed}"),
            grpc,
            queue: desk,
            drain,
            stop,
            thread: Some(thread),
        }
    }

    pub fn drain(&self) {
        self.drain.cancel();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // A relay that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// No other unit can be reached.
struct Nowhere;

impl Ways for Nowhere {
    fn to(&self, unit: &UnitId) -> Result<Rc<dyn Callee>, RelayError> {
        use strait::model::{Reason, Retry};
        Err(RelayError::new(
            Reason::UnitAway,
            Retry::Never,
            format!("unit {unit} is away"),
        ))
    }
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

async fn run(
    setup: Setup,
    desk: Arc<Desk>,
    (drain, stop): (CancellationToken, CancellationToken),
    started: mpsc::Sender<(String, String)>,
) {
    let place = Place {
        unit: name("a"),
        relay: name("a-1"),
    };
    let tasks = TaskTracker::new();
    let (handle, inlet) = Handle::new(64 * 1024 * 1024);
    let (to_shard, from_queue) = crossing::pipe();
    let (admin, _) = crossing::pipe();
    let outlets = Outlets {
        shards: vec![to_shard],
        admin,
        routes: None,
    };
    let thread = queue::start(inlet.clone(), outlets, desk);

    let others = [name("b"), name("c")];
    let table = RouteTable::build(&setup.routing, &place.unit, others.iter()).unwrap();
    let routing = routing::Handle::new(table);
    let delivery = delivery(&setup, &tasks);
    tasks.spawn_local(delivery.clone().run(stop.clone()));
    let publishers = Publishers::new(PublisherParts {
        place: place.clone(),
        shard: 0,
        routing: routing.clone(),
        queue: handle.clone(),
        catalog: Catalog::new(
            Arc::new(setup.topics.clone()),
            place.unit.clone(),
            others,
            setup.message_bytes_max,
        ),
        claims: None,
    });
    let consumers = Consumers::new(handle, 0);
    let push = Push::new(PushParts {
        place: place.clone(),
        consumers: consumers.clone(),
        delivery: delivery.clone(),
        shard: (0, 1),
        topics: Arc::new(setup.topics.clone()),
    });
    let api = messages::Messages::new(messages::Parts {
        place: place.clone(),
        publishers: publishers.clone(),
        consumers: consumers.clone(),
        timeout: Duration::from_secs(30),
        drain: drain.clone(),
    });
    let endpoint: Rc<dyn Endpoint> = api.clone();
    delivery.attach(&name(SERVICE), endpoint);
    let rpc = outbound(&place, routing, &delivery);
    let (story, pusher, service) = (publishers.clone(), push.clone(), api.clone());
    tasks.spawn_local(async move { tokio::join!(story.watch(), pusher.run(), service.run()) });
    let calls = rpc.clone();
    tasks.spawn_local(async move { calls.watch().await });
    let (pusher, draining) = (push.clone(), drain.clone());
    tasks.spawn_local(async move {
        draining.cancelled().await;
        pusher.drain();
    });
    tasks.spawn_local(async move {
        let mut batch = VecDeque::new();
        while from_queue.take(&mut batch).await {
            for output in batch.drain(..) {
                match output {
                    Output::Published { ticket, result } => publishers.on_published(ticket, result),
                    Output::Subscribed { ticket, result } => consumers.on_subscribed(ticket, result),
                    Output::Deliver(deliver) => consumers.on_deliver(deliver),
                    Output::Overdue { consumer, delivery, .. } => consumers.on_overdue(consumer, delivery),
                    other => panic!("not for the edges: {other:?}"),
                }
            }
        }
    });
    let sockets = Sockets::new(&setup, &place, rpc, &delivery, push);
    sockets.serve(&tasks, drain, stop, started).await;
    inlet.close();
    thread.join().unwrap();
}

fn delivery(setup: &Setup, tasks: &TaskTracker) -> Rc<Delivery> {
    let registry = prometheus::Registry::new();
    Delivery::new(delivery::Parts {
        settings: delivery::Settings::default(),
        services: setup.services.clone(),
        shard: 0,
        directory: SharedDirectory::new(1),
        metrics: delivery::Metrics::register(&registry).unwrap(),
        transports: delivery::Transports {
            grpc: grpc::Settings::default(),
            grpc_metrics: grpc::Metrics::register(&registry).unwrap(),
            framed: framed::Limits::default(),
            framed_metrics: framed::Metrics::register(&prometheus::Registry::new())
                .unwrap()
                .delivery(),
            http1: http1::Settings::default(),
        },
        tracker: tasks.clone(),
    })
}

fn outbound(place: &Place, routing: routing::Handle, delivery: &Rc<Delivery>) -> Rc<outbound::Rpc> {
    let policy = CallPolicy {
        route: RoutePolicy {
            missing_key: MissingKey::Local,
            ..RoutePolicy::default()
        },
        ..CallPolicy::default()
    };
    let policies = ShardPolicies::new(CallPolicies::new(std::collections::HashMap::new(), policy));
    let local = inbound::Rpc::new(inbound::Parts {
        place: place.clone(),
        routing: routing.clone(),
        delivery: delivery.clone(),
        policies: policies.clone(),
        metrics: CallMetrics::detached().unwrap(),
        hops_max: 4,
        gate: None,
        shadows: None,
    });
    outbound::Rpc::new(outbound::Parts {
        lookups: LookUps::detached().unwrap(),
        place: place.clone(),
        routing,
        peers: Rc::new(Nowhere),
        local,
        policies,
        parking: outbound::ParkingLimits {
            calls: 8,
            bytes: 1 << 20,
            calls_of_key: 8,
        },
        claims: None,
        tokens: None,
        kept: None,
        budgets: RetryBudgets::new([name("a"), name("b"), name("c")], 1, RetrySettings::default()).on_shard(0),
        metrics: CallMetrics::detached().unwrap(),
        first_request_id: 1,
    })
}

struct Sockets {
    grpc: Rc<ingress::grpc::Context>,
    framed: Rc<ingress::framed::Context>,
}

impl Sockets {
    fn new(setup: &Setup, place: &Place, rpc: Rc<outbound::Rpc>, delivery: &Rc<Delivery>, push: Rc<Push>) -> Self {
        let source = Some(Source {
            geo: name("g"),
            unit: name(setup.caller),
            service: None,
        });
        let registry: Rc<dyn Registry> = delivery.clone();
        let subscriptions: Rc<dyn Subscriptions> = push;
        Self {
            grpc: Rc::new(ingress::grpc::Context {
                settings: ingress::grpc::Settings::default(),
                metrics: ingress::grpc::Metrics::register(&prometheus::Registry::new()).unwrap(),
                callee: rpc.clone(),
                place: place.clone(),
                source: source.clone(),
                token: None,
            }),
            framed: Rc::new(ingress::framed::Context {
                messages: None,
                callee: rpc,
                registry: Some(registry),
                subscriptions: Some(subscriptions),
                source,
                limits: framed::Limits::default(),
                metrics: framed::Metrics::register(&prometheus::Registry::new())
                    .unwrap()
                    .ingress(),
            }),
        }
    }

    async fn serve(
        self,
        tasks: &TaskTracker,
        drain: CancellationToken,
        stop: CancellationToken,
        started: mpsc::Sender<(String, String)>,
    ) {
        let framed = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
        started.send((address(&framed), address(&grpc))).unwrap();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                accepted = framed.accept() => {
                    let io: BoxIo = Box::new(accepted.unwrap().0);
                    let (context, drain) = (self.framed.clone(), drain.clone());
                    tasks.spawn_local(async move { drop(ingress::framed::serve(io, context, drain).await) });
                }
                accepted = grpc.accept() => {
                    let io: BoxIo = Box::new(accepted.unwrap().0);
                    tasks.spawn_local(ingress::grpc::serve(io, self.grpc.clone(), drain.clone()));
                }
            }
        }
    }
}
