//! Links between two relays over real QUIC on loopback: small calls, large bodies, cancels, loss of the link.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::as_conversions,
    clippy::collapsible_match,
    clippy::float_cmp,
    clippy::panic,
    missing_docs,
    unreachable_pub,
    reason = "a test that cannot go on fails, and owns its tasks"
)]

mod messages;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use strait::mailbox::Mailbox;
use strait::model::{
    CallId, Callee, Caller, CallerRef, CancelReason, Code, Ending, Envelope, Facts, Geo, Metadata, MetadataBuilder,
    Name, Part, Place, Reason, Refused, ReplyBody, ReplyEvent, Request, RequestBody, RequestEvent, RouteHints,
    SMALL_BODY_BYTES, wants_credit,
};
use strait::peer::credentials::{Credentials, CredentialsHandle, LineRole, Own};
use strait::peer::dev_ca::{self, Ca};
use strait::peer::quic::Quic;
use strait::peer::refusals::Refusals;
use strait::peer::{self, Elsewhere, LaneHandler, Peers, RelaySettings, Settings, UnitSettings};
use tokio::task::LocalSet;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A callee that sends each body back once it is whole, and counts what becomes of its calls.
#[derive(Default)]
struct Echo {
    mail: Mailbox<(u64, Option<RequestEvent>)>,
    calls: RefCell<HashMap<u64, Call>>,
    next: Cell<u64>,
    cancelled: Cell<usize>,
    sources: RefCell<Vec<String>>,
    /// Do not answer, to keep calls open.
    holds: Cell<bool>,
    /// Do not return credit, as a service that reads nothing.
    stalls: Cell<bool>,
    received: Cell<usize>,
}

struct Call {
    caller: CallerRef,
    body: BytesMut,
}

impl Callee for Echo {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let id = self.next.get();
        self.next.set(id + 1);
        // C-E2: what a peer writes into fields does not become who it is; other fields pass.
        assert_eq!(request.metadata.text("strait-source-unit"), None);
        assert_eq!(request.metadata.text("x-kept"), Some("yes"));
        self.sources.borrow_mut().push(
            request
                .facts
                .source
                .map(|s| format!("{}/{}", s.geo, s.unit))
                .unwrap_or_default(),
        );
        self.calls.borrow_mut().insert(
            id,
            Call {
                caller,
                body: BytesMut::new(),
            },
        );
        self.mail.push((id, Some(RequestEvent::Body(request.body))));
        Ok(CallId(id))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        self.mail.push((id.0, Some(event)));
    }
}

impl Echo {
    async fn run(self: Rc<Self>) {
        loop {
            self.mail.some().await;
            while let Some((id, event)) = self.mail.pop() {
                match event {
                    Some(RequestEvent::Body(body)) => self.on_body(id, &body),
                    Some(RequestEvent::Cancel(_)) => {
                        if self.calls.borrow_mut().remove(&id).is_some() {
                            self.cancelled.set(self.cancelled.get() + 1);
                        }
                    }
                    _ => {}
                }
            }
        }
    }

    fn on_body(&self, id: u64, body: &RequestBody) {
        self.received.set(self.received.get() + body.chunk.len());
        let Some(caller) = self.calls.borrow_mut().get_mut(&id).map(|call| {
            call.body.extend_from_slice(&body.chunk);
            call.caller.clone()
        }) else {
            return;
        };
        if wants_credit(body.chunk.len(), body.end) && !self.stalls.get() {
            caller.send(ReplyEvent::Credit(body.chunk.len()));
        }
        if body.end && !self.holds.get() {
            let call = self.calls.borrow_mut().remove(&id).unwrap();
            let part = Part {
                head: Some((200, Metadata::default())),
                body: ReplyBody(call.body.freeze()),
                end: Some(Ending {
                    status: Code::Ok,
                    ..Ending::default()
                }),
            };
            caller.send(ReplyEvent::Part(part));
        }
    }
}

/// A caller that collects replies.
#[derive(Default)]
struct Client {
    replies: RefCell<HashMap<u64, Reply>>,
    mail: Mailbox<()>,
    me: RefCell<Weak<Self>>,
    credit: Cell<usize>,
}

#[derive(Debug, Default)]
struct Reply {
    body: BytesMut,
    end: Option<Result<Code, Reason>>,
}

impl Client {
    fn new() -> Rc<Self> {
        let client = Rc::new(Self::default());
        *client.me.borrow_mut() = Rc::downgrade(&client);
        client
    }

    fn call(&self, to: &Rc<dyn Callee>, id: u64, body: Bytes, end: bool) -> Result<CallId, Reason> {
        self.open(to, id, request(body, end))
    }

    fn open(&self, to: &Rc<dyn Callee>, id: u64, request: Request) -> Result<CallId, Reason> {
        let caller = CallerRef {
            port: self.me.borrow().upgrade().unwrap(),
            id: CallId(id),
        };
        self.replies.borrow_mut().insert(id, Reply::default());
        to.open(Box::new(request), caller)
            .map_err(|refused| refused.error.reason)
    }

    async fn until(&self, done: impl Fn(&HashMap<u64, Reply>) -> bool) {
        let wait = async {
            while !done(&self.replies.borrow()) {
                self.mail.some().await;
                while self.mail.pop().is_some() {}
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .expect("condition within 20 s");
    }
}

impl Caller for Client {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        let mut replies = self.replies.borrow_mut();
        let reply = replies.get_mut(&id.0).unwrap();
        match event {
            ReplyEvent::Part(part) => {
                assert!(reply.end.is_none(), "a part after the end");
                reply.body.extend_from_slice(&part.body.0);
                reply.end = part.end.map(|end| Ok(end.status));
            }
            ReplyEvent::Failed(error) => {
                assert!(reply.end.is_none(), "two endings");
                reply.end = Some(Err(error.reason));
            }
            ReplyEvent::Credit(bytes) => self.credit.set(self.credit.get() + bytes),
        }
        drop(replies);
        self.mail.push(());
    }
}

fn request(body: Bytes, end: bool) -> Request {
    let mut fields = MetadataBuilder::new();
    fields.push(b"strait-source-unit", b"forged").unwrap();
    fields.push(b"x-kept", b"yes").unwrap();
    Request {
        path: Bytes::from_static(b"/im.Echo/Say"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: fields.build(),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: tokio::time::Instant::now().into_std(),
        deadline: None,
        body: RequestBody { chunk: body, end },
    }
}

struct Relay {
    peers: Rc<Peers>,
    echo: Rc<Echo>,
    listener: quinn::Endpoint,
    registry: prometheus::Registry,
}

impl Relay {
    fn lane_writes(&self) -> f64 {
        self.counted("strait_peer_lane_writes_total", &[])
    }

    /// The sum of a series with these labels.
    fn counted(&self, series: &str, labels: &[(&str, &str)]) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == series).unwrap();
        let has = |metric: &prometheus::proto::Metric, (name, value): &(&str, &str)| {
            let mut of = metric.get_label().iter();
            of.any(|label| label.name() == *name && label.value() == *value)
        };
        let metrics = family.get_metric().iter();
        metrics
            .filter(|metric| labels.iter().all(|label| has(metric, label)))
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

/// Where a relay of a test belongs among shards, and who takes its lanes for messages.
#[derive(Clone)]
struct Shard {
    index: usize,
    elsewhere: Arc<Elsewhere>,
    lanes: Option<Rc<dyn LaneHandler>>,
}

fn credentials(dir: &Path, ca: &Ca, unit: &str) -> (PathBuf, PathBuf) {
    let request = dev_ca::Request {
        trust_domain: Settings::default().trust_domain,
        unit: name(unit),
        relay: name(&format!("{unit}-1")),
        now: time::OffsetDateTime::now_utc(),
        validity: Duration::from_secs(3600),
    };
    let pair = ca.relay(&request).unwrap();
    dev_ca::write_pair(dir, &format!("{unit}-1"), &pair, true).unwrap()
}

/// A relay of `unit` that listens, knows `other`, and dials it if an address is given.
fn relay(
    dir: &Path,
    cas: &BTreeMap<String, Ca>,
    unit: &str,
    other: (&str, Option<SocketAddr>),
    tune: impl Fn(&mut Settings),
    shard: Shard,
) -> Relay {
    let geo = |unit: &str| name(&format!("geo-{unit}"));
    let (certificate, key) = credentials(dir, &cas[geo(unit).as_str()], unit);
    let trust = cas.iter().map(|(geo, ca)| {
        let file = dir.join(format!("{geo}.pem"));
        std::fs::write(&file, ca.certificate()).unwrap();
        (name(geo), file)
    });
    let mut settings = Settings {
        certificate: Some(certificate),
        key: Some(key),
        trust: trust.collect(),
        ..Settings::default()
    };
    tune(&mut settings);
    let addresses = other.1.map(|at| at.to_string()).into_iter().collect();
    let relays = vec![RelaySettings {
        name: name(&format!("{}-1", other.0)),
        addresses,
    }];
    let units: BTreeMap<_, _> = [(
        name(other.0),
        UnitSettings {
            geo: geo(other.0),
            dial: other.1.is_some(),
            relays,
            access: vec![],
        },
    )]
    .into();
    let own = Own {
        geo: geo(unit),
        unit: name(unit),
        relay: name(&format!("{unit}-1")),
        lines: LineRole::None,
    };
    let registry = prometheus::Registry::new();
    let credentials = Credentials::load(&settings, &units, &own, rustls::pki_types::UnixTime::now()).unwrap();
    let credentials = CredentialsHandle::register(credentials, &registry).unwrap();
    let refusals = Arc::new(Refusals::register(&registry).unwrap());
    let quic = Quic::new(settings.clone(), credentials, refusals).unwrap();
    let echo = Rc::new(Echo::default());
    tokio::task::spawn_local(echo.clone().run());
    let listener = quic.server_endpoint("127.0.0.1:0".parse().unwrap()).unwrap();
    let peers = Peers::new(peer::Parts {
        place: Place {
            unit: own.unit,
            relay: own.relay,
        },
        geo: own.geo,
        settings,
        units,
        dialler: quic.client_endpoint("127.0.0.1".parse().unwrap()).unwrap(),
        quic,
        handler: echo.clone(),
        lane_handler: shard.lanes,
        metrics: peer::Metrics::register(&registry, &name(unit)).unwrap(),
        elsewhere: (shard.index, shard.elsewhere),
        roster: Arc::default(),
        observers: Arc::default(),
        lines: None,
    });
    peers.start(Some(listener.clone()));
    Relay {
        peers,
        echo,
        listener,
        registry,
    }
}

/// Two relays with a link; `a` has dialled `b`.
async fn pair(tune: impl Fn(&mut Settings)) -> (Relay, Relay, tempdir::Dir) {
    let dir = tempdir::Dir::new();
    let cas = authorities();
    let b = relay(&dir.0, &cas, "b", ("a", None), &tune, alone());
    let a = relay(
        &dir.0,
        &cas,
        "a",
        ("b", Some(b.listener.local_addr().unwrap())),
        &tune,
        alone(),
    );
    wait_for(|| a.peers.to(&name("b")).is_ok() && b.peers.to(&name("a")).is_ok()).await;
    (a, b, dir)
}

fn authorities() -> BTreeMap<String, Ca> {
    let now = time::OffsetDateTime::now_utc();
    ["geo-a", "geo-b"]
        .map(|geo| (geo.to_owned(), dev_ca::geo_ca(&name(geo) as &Geo, now).unwrap()))
        .into()
}

fn alone() -> Shard {
    shard(0, &Elsewhere::new(1, 16))
}

fn shard(index: usize, elsewhere: &Arc<Elsewhere>) -> Shard {
    Shard {
        index,
        elsewhere: elsewhere.clone(),
        lanes: None,
    }
}

async fn wait_for(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("condition within 20 s");
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(LocalSet::new().run_until(test));
}

// C-L5: a unit that only dials has links on one shard of ours; the other shards reach it over a bridge.
#[test]
fn a_shard_without_a_link_uses_that_of_another_shard() {
    run(async {
        let dir = tempdir::Dir::new();
        let cas = authorities();
        let elsewhere = Elsewhere::new(2, 64);
        let first = relay(&dir.0, &cas, "a", ("b", None), |_| {}, shard(0, &elsewhere));
        let second = relay(&dir.0, &cas, "a", ("b", None), |_| {}, shard(1, &elsewhere));
        assert!(second.peers.to(&name("b")).is_err(), "no link anywhere yet");
        let at = first.listener.local_addr().unwrap();
        let b = relay(&dir.0, &cas, "b", ("a", Some(at)), |_| {}, alone());
        wait_for(|| second.peers.to(&name("b")).is_ok()).await;
        let client = Client::new();
        let link = second.peers.to(&name("b")).unwrap();
        for id in 0..40 {
            let mut request = request(pattern(usize::try_from(id).unwrap() * 1000), true);
            request.facts.destination = Some(name("b"));
            client.open(&link, id, request).unwrap();
        }
        client
            .until(|replies| replies.values().all(|reply| reply.end == Some(Ok(Code::Ok))))
            .await;
        assert!(
            client
                .replies
                .borrow()
                .iter()
                .all(|(id, reply)| reply.body == pattern(usize::try_from(*id).unwrap() * 1000))
        );
        b.listener.close(0_u32.into(), b"");
        b.peers.close().await;
        wait_for(|| second.peers.to(&name("b")).is_err()).await;
    });
}

/// Reply bytes a relay hands on before it waits for credit.
const BUDGET_BYTES: usize = 256 * 1024;

fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|i| u8::try_from(i % 251).unwrap()).collect()
}

// C-L5: the side that was dialled calls over the same link. I6: the source is the certificate's.
#[test]
fn both_sides_of_a_link_call_over_it_whoever_dialled() {
    run(async {
        let (a, b, _dir) = pair(|_| {}).await;
        for (from, to, echo, source) in [(&a, "b", &b.echo, "geo-a/a"), (&b, "a", &a.echo, "geo-b/b")] {
            let client = Client::new();
            let link = from.peers.to(&name(to)).unwrap();
            for id in 0..500 {
                client
                    .call(&link, id, pattern(usize::try_from(id).unwrap()), true)
                    .unwrap();
            }
            client
                .until(|replies| replies.values().all(|reply| reply.end.is_some()))
                .await;
            for (id, reply) in client.replies.borrow().iter() {
                assert_eq!(reply.end, Some(Ok(Code::Ok)));
                assert_eq!(reply.body, pattern(usize::try_from(*id).unwrap()));
            }
            assert!(echo.sources.borrow().iter().all(|seen| seen == source));
        }
    });
}

// C-F1: a lost datagram holds up every lane it carries something of, so calls that leave together share one.
#[test]
fn calls_that_start_together_are_one_write_on_one_lane() {
    run(async {
        let (a, _b, _dir) = pair(|settings| settings.lanes = 4).await;
        let client = Client::new();
        let link = a.peers.to(&name("b")).unwrap();
        let before = a.lane_writes();
        for id in 0..40 {
            client.call(&link, id, pattern(10), true).unwrap();
        }
        client
            .until(|replies| replies.values().all(|reply| reply.end == Some(Ok(Code::Ok))))
            .await;
        let writes = a.lane_writes() - before;
        assert!(writes < 1.5, "{writes} lane writes for 40 calls");
    });
}

// Bodies around the size at which they get a stream of their own, whole and in pieces, are the same at the other end.
#[test]
fn bodies_of_all_sizes_arrive_whole_in_both_directions() {
    run(async {
        let (a, _b, _dir) = pair(|_| {}).await;
        let client = Client::new();
        let link = a.peers.to(&name("b")).unwrap();
        let sizes = [
            0,
            1,
            SMALL_BODY_BYTES - 1,
            SMALL_BODY_BYTES,
            SMALL_BODY_BYTES + 1,
            100_000,
            3_000_000,
        ];
        let mut id = 0;
        let mut expected = HashMap::new();
        for size in sizes {
            for piece in [size.max(1), 7_000, 60_000] {
                let body = pattern(size);
                let mut rest = body.clone();
                let first = rest.split_to(piece.min(rest.len()));
                let call = client.call(&link, id, first, rest.is_empty()).unwrap();
                while !rest.is_empty() {
                    let chunk = rest.split_to(piece.min(rest.len()));
                    let end = rest.is_empty();
                    link.on_request(call, RequestEvent::Body(RequestBody { chunk, end }));
                }
                expected.insert(id, body);
                id += 1;
            }
        }
        // The client never returns credit: replies up to the receiver's budget arrive, larger ones stop there.
        let small = expected.values().filter(|body| body.len() <= BUDGET_BYTES).count();
        client
            .until(|replies| replies.values().filter(|reply| reply.end.is_some()).count() >= small)
            .await;
        for (call, body) in &expected {
            let replies = client.replies.borrow();
            let reply = &replies[call];
            if body.len() <= BUDGET_BYTES {
                assert_eq!(reply.end, Some(Ok(Code::Ok)), "{} bytes", body.len());
                assert!(reply.body == body, "{} bytes differ", body.len());
            } else {
                // C-F4: without credit the receiver stops near its budget.
                assert!(
                    reply.end.is_none() && reply.body.len() < BUDGET_BYTES + 150_000,
                    "{} of {}",
                    reply.body.len(),
                    body.len()
                );
            }
        }
    });
}

// C-D2: a cancel reaches the service, also for a call whose body is under way.
#[test]
fn cancels_reach_the_other_side_and_leave_nothing() {
    run(async {
        let (a, b, _dir) = pair(|_| {}).await;
        b.echo.holds.set(true);
        let client = Client::new();
        let link = a.peers.to(&name("b")).unwrap();
        let mut ids = Vec::new();
        for id in 0..200 {
            let size = if id % 4 == 0 { 100_000 } else { 10 };
            ids.push(client.call(&link, id, pattern(size), id % 2 == 0).unwrap());
        }
        wait_for(|| b.echo.calls.borrow().len() == 200).await;
        for id in ids {
            link.on_request(id, RequestEvent::Cancel(CancelReason::Caller));
        }
        wait_for(|| b.echo.calls.borrow().is_empty() && b.echo.cancelled.get() == 200).await;
        assert_eq!(a.peers.open_calls() + b.peers.open_calls(), 0);
        assert!(
            client.replies.borrow().values().all(|reply| reply.end.is_none()),
            "no reply after a cancel"
        );
    });
}

// C-F2, C-F3: beyond the credit calls wait, beyond the line they are refused with a pause to wait.
#[test]
fn calls_beyond_the_credit_wait_and_then_are_refused() {
    run(async {
        let (a, b, _dir) = pair(|settings| {
            settings.calls_max = 10;
            settings.pending_max = 20;
        })
        .await;
        b.echo.holds.set(true);
        let client = Client::new();
        let link = a.peers.to(&name("b")).unwrap();
        let ids: Vec<_> = (0..30)
            .map(|id| client.call(&link, id, pattern(10), true).unwrap())
            .collect();
        assert_eq!(client.call(&link, 30, pattern(10), true), Err(Reason::Limited));
        wait_for(|| b.echo.calls.borrow().len() == 10).await;
        // Ended calls make room for waiting ones, and a waiting call can be cancelled.
        link.on_request(ids[29], RequestEvent::Cancel(CancelReason::Caller));
        for id in &ids[..10] {
            link.on_request(*id, RequestEvent::Cancel(CancelReason::Caller));
        }
        wait_for(|| b.echo.next.get() == 20).await;
        for id in &ids[10..20] {
            link.on_request(*id, RequestEvent::Cancel(CancelReason::Caller));
        }
        wait_for(|| b.echo.next.get() == 29 && b.echo.calls.borrow().len() == 9).await;
    });
}

// L2: each call ends once when the link goes, towards caller and callee, and the link comes back (C-L4).
#[test]
fn a_lost_link_ends_its_calls_once_and_comes_back() {
    run(async {
        let (a, b, _dir) = pair(|_| {}).await;
        b.echo.holds.set(true);
        let client = Client::new();
        let link = a.peers.to(&name("b")).unwrap();
        for id in 0..50 {
            client
                .call(&link, id, pattern(if id % 5 == 0 { 50_000 } else { 10 }), true)
                .unwrap();
        }
        wait_for(|| b.echo.calls.borrow().len() == 50).await;
        b.listener.close(7_u32.into(), b"gone");
        client
            .until(|replies| replies.values().all(|reply| reply.end == Some(Err(Reason::LinkLost))))
            .await;
        wait_for(|| b.echo.cancelled.get() == 50).await;
        assert!(a.peers.to(&name("b")).is_err());
    });
}

mod tempdir {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    static NEXT: AtomicU32 = AtomicU32::new(0);

    /// A directory that goes with the test.
    pub struct Dir(pub PathBuf);

    impl Dir {
        pub fn new() -> Self {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("strait-links-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
