//! A link of the product without the rest of a relay: its pool, handshake, lanes and body streams between two threads,
//! with an echo in place of the stories.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::LocalSet;

use strait::mailbox::Mailbox;
use strait::model::{
    CallId, Callee, CallerRef, Ending, Envelope, Facts, Metadata, Name, Part, Place, Refused, ReplyBody, ReplyEvent,
    Request, RequestBody, RequestEvent, RouteHints, wants_credit,
};
use strait::peer::credentials::{Credentials, CredentialsHandle, LineRole, Own};
use strait::peer::identity::TrustDomain;
use strait::peer::quic::{Purpose, Quic};
use strait::peer::refusals::Refusals;
use strait::peer::verify::Dialled;
use strait::peer::{self, Elsewhere, Peers, RelaySettings, Settings, UnitSettings, Units};

use crate::background::Background;
use crate::stage::{self, DOMAIN};

/// Files that say who a side is.
#[derive(Clone)]
pub struct Identity {
    unit: String,
    certificate: PathBuf,
    key: PathBuf,
    bundle: PathBuf,
}

impl Identity {
    /// Of a unit for which the stage has issued a certificate.
    pub fn of(directory: &Path, unit: &str) -> Self {
        Self {
            unit: unit.to_owned(),
            certificate: directory.join(format!("{unit}.pem")),
            key: directory.join(format!("{unit}.key")),
            bundle: directory.join("ca.pem"),
        }
    }
}

/// What one side needs to speak QUIC as the product does.
pub struct Side {
    /// Makes endpoints.
    pub quic: Quic,
    settings: Settings,
    units: Units,
    own: Own,
    registry: prometheus::Registry,
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Side {
    /// A side that knows `other`, and dials it if an address is given.
    pub fn new(identity: &Identity, other: (&str, Option<SocketAddr>), tune: impl Fn(&mut Settings)) -> Self {
        let geo = |unit: &str| name(&stage::geo(unit));
        let (unit, (other, at)) = (identity.unit.as_str(), other);
        let mut settings = Settings {
            certificate: Some(identity.certificate.clone()),
            key: Some(identity.key.clone()),
            trust_domain: TrustDomain::new(DOMAIN).unwrap(),
            trust: [unit, other].map(|unit| (geo(unit), identity.bundle.clone())).into(),
            ..Settings::default()
        };
        tune(&mut settings);
        let known = UnitSettings {
            geo: geo(other),
            dial: at.is_some(),
            relays: vec![RelaySettings {
                name: name(&format!("{other}-1")),
                addresses: at.map(|at| at.to_string()).into_iter().collect(),
            }],
            access: vec![],
        };
        let units = BTreeMap::from([(name(other), known)]);
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
        Self {
            quic: Quic::new(settings.clone(), credentials, refusals).unwrap(),
            settings,
            units,
            own,
            registry,
        }
    }

    /// How to dial the relay of a unit.
    pub fn client_config(&self, unit: &str, purpose: Purpose) -> quinn::ClientConfig {
        let dialled = Dialled {
            unit: name(unit),
            relay: Some(name(&format!("{unit}-1"))),
        };
        self.quic.client_config(dialled, purpose).unwrap()
    }

    /// Links of this side; they begin at once. Calls of the other side go to the handler.
    pub fn peers(&self, handler: Rc<dyn Callee>, listener: Option<quinn::Endpoint>) -> Rc<Peers> {
        let peers = Peers::new(peer::Parts {
            place: Place {
                unit: self.own.unit.clone(),
                relay: self.own.relay.clone(),
            },
            geo: self.own.geo.clone(),
            settings: self.settings.clone(),
            units: self.units.clone(),
            quic: self.quic.clone(),
            handler,
            lane_handler: None,
            metrics: peer::Metrics::register(&self.registry, &self.own.unit).unwrap(),
            dialler: self.quic.client_endpoint([127, 0, 0, 1].into()).unwrap(),
            elsewhere: (0, Elsewhere::new(1, 16)),
            roster: Arc::default(),
            observers: Arc::default(),
            lines: None,
        });
        peers.start(listener);
        peers
    }
}

/// The answering side of a link, on a thread of its own: sends every body back while it comes, or takes it.
pub fn serve(identity: Identity, tune: fn(&mut Settings)) -> (SocketAddr, Background) {
    on_thread(
        "link-b",
        move || Side::new(&identity, ("a", None), tune),
        |side, endpoint| {
            let echo = Rc::new(Echo::default());
            let peers = side.peers(echo.clone(), Some(endpoint));
            async move {
                echo.run().await;
                drop(peers);
            }
        },
    )
}

/// A thread with a runtime and a listening endpoint; ends when dropped.
pub fn on_thread<Fut: Future<Output = ()>>(
    thread: &str,
    side: impl FnOnce() -> Side + Send + 'static,
    run: impl FnOnce(Side, quinn::Endpoint) -> Fut + Send + 'static,
) -> (SocketAddr, Background) {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let background = Background::start(thread, move || async move {
        let tasks = async {
            let side = side();
            let endpoint = side
                .quic
                .server_endpoint(SocketAddr::from(([127, 0, 0, 1], 0)))
                .unwrap();
            tell.send(endpoint.local_addr().unwrap()).unwrap();
            run(side, endpoint).await;
        };
        LocalSet::new().run_until(tasks).await;
    });
    (told.recv_timeout(Duration::from_secs(20)).unwrap(), background)
}

/// The link that a dialling side has by now, if it is up.
pub async fn connected(peers: &Peers) -> Rc<dyn Callee> {
    let started = Instant::now();
    loop {
        if let Ok(link) = peers.to(&name("b")) {
            return link;
        }
        assert!(started.elapsed() < Duration::from_secs(20), "no link within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Nobody calls the dialling side.
pub fn nobody() -> Rc<dyn Callee> {
    Rc::new(Echo::default())
}

/// A request for [`Echo`]: `/bench.Body/Echo` or `/bench.Body/Take`.
pub fn request(path: &'static str, chunk: Bytes, end: bool) -> Request {
    Request {
        path: Bytes::from_static(path.as_bytes()),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: Instant::now(),
        deadline: None,
        body: RequestBody { chunk, end },
    }
}

/// Sends bodies back while they come; takes those of `Take` and sends nothing but the end.
#[derive(Default)]
struct Echo {
    mail: Mailbox<(u64, RequestEvent)>,
    calls: RefCell<HashMap<u64, Call>>,
    next: Cell<u64>,
}

struct Call {
    caller: CallerRef,
    takes: bool,
    answered: bool,
}

impl Callee for Echo {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        let id = self.next.get();
        self.next.set(id + 1);
        let takes = request.path.ends_with(b"/Take");
        let answered = false;
        self.calls.borrow_mut().insert(
            id,
            Call {
                caller,
                takes,
                answered,
            },
        );
        self.mail.push((id, RequestEvent::Body(request.body)));
        Ok(CallId(id))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        self.mail.push((id.0, event));
    }
}

impl Echo {
    async fn run(&self) {
        loop {
            self.mail.some().await;
            while let Some((id, event)) = self.mail.pop() {
                self.on_event(id, event);
            }
        }
    }

    fn on_event(&self, id: u64, event: RequestEvent) {
        let mut calls = self.calls.borrow_mut();
        let Some(call) = calls.get_mut(&id) else { return };
        match event {
            RequestEvent::Body(body) => {
                let end = body.end.then(Ending::default);
                let bytes = body.chunk.len();
                if call.takes && wants_credit(bytes, body.end) {
                    call.caller.send(ReplyEvent::Credit(bytes));
                }
                if !call.takes || end.is_some() {
                    let head = (!std::mem::replace(&mut call.answered, true)).then(|| (200, Metadata::default()));
                    let body = ReplyBody(if call.takes { Bytes::new() } else { body.chunk });
                    call.caller.send(ReplyEvent::Part(Part { head, body, end }));
                }
                if body.end {
                    calls.remove(&id);
                }
            }
            // What came back was the request's own chunk: whoever passed on one has passed on the other.
            RequestEvent::Credit(bytes) => call.caller.send(ReplyEvent::Credit(bytes)),
            RequestEvent::Cancel(_) => drop(calls.remove(&id)),
        }
    }
}
