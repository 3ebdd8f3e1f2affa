//! A relay made of the framed ingress and one callee: calls for registered services go there, all
//! others are answered here, by method.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use strait::delivery::framed::{Ended, Limits, Metrics};
use strait::ingress::framed::{Context, serve};
use strait::mailbox::Mailbox;
use strait::model::{
    CallId, Callee, CallerRef, Code, Ending, Endpoint, Envelope, Metadata, Name, Part, Reason, Refused, RegisterError,
    Registration, Registry, RelayError, ReplyBody, ReplyEvent, Request, RequestEvent, Retry, ServiceName, wants_credit,
};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::LocalSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What the relay has seen, for tests to look at.
#[derive(Default)]
pub struct Seen {
    pub opened: AtomicUsize,
    pub cancelled: AtomicUsize,
    pub open: AtomicUsize,
    pub registered: AtomicUsize,
    pub ended: Mutex<Vec<String>>,
    pub requests: Mutex<Vec<String>>,
}

/// A relay on a thread of its own.
pub struct Relay {
    pub tcp: String,
    pub unix: String,
    pub seen: Arc<Seen>,
    path: PathBuf,
    drain: CancellationToken,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

static NUMBER: AtomicUsize = AtomicUsize::new(0);

impl Relay {
    pub fn start() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("strait-framed-{}-{number}.sock", std::process::id()));
        Self::at(path, limits)
    }

    /// At a given Unix path, to start again where an earlier one was.
    pub fn at(path: PathBuf, limits: Limits) -> Self {
        let _ = std::fs::remove_file(&path);
        let seen = Arc::new(Seen::default());
        let (drain, stop) = (CancellationToken::new(), CancellationToken::new());
        let (send, started) = mpsc::channel();
        let thread = {
            let (path, seen, drain, stop) = (path.clone(), Arc::clone(&seen), drain.clone(), stop.clone());
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                let work = run(path, limits, seen, drain, stop, send);
                LocalSet::new().block_on(&runtime, work);
            })
        };
        let tcp = started.recv_timeout(Duration::from_secs(10)).unwrap();
        Self {
            tcp,
            unix: format!("unix:{}", path.display()),
            seen,
            path,
            drain,
            stop,
            thread: Some(thread),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Breaks all connections and waits until the relay is gone.
    pub fn stop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Waits until a condition on what the relay has seen holds.
    pub async fn wait(&self, what: &str, condition: impl Fn(&Seen) -> bool) {
        let limit = Instant::now() + Duration::from_secs(10);
        while !condition(&self.seen) {
            assert!(Instant::now() < limit, "never saw: {what}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits until a connection has ended for this reason.
    pub async fn wait_ended(&self, reason: &str) {
        self.wait(reason, |seen| {
            seen.ended.lock().unwrap().iter().any(|text| text.starts_with(reason))
        })
        .await;
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.cancel();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn run(
    path: PathBuf,
    limits: Limits,
    seen: Arc<Seen>,
    drain: CancellationToken,
    stop: CancellationToken,
    started: mpsc::Sender<String>,
) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let services = Rc::new(Services {
        seen: Arc::clone(&seen),
        mailbox: Mailbox::new(),
        next: Cell::new(0),
        registered: Rc::default(),
        forwarded: RefCell::default(),
    });
    let context = Rc::new(Context {
        messages: None,
        callee: Rc::<Services>::clone(&services),
        registry: Some(Rc::<Services>::clone(&services)),
        subscriptions: None,
        source: None,
        limits,
        metrics: Metrics::register(&prometheus::Registry::new()).unwrap().ingress(),
    });
    started.send(format!("tcp://{}", tcp.local_addr().unwrap())).unwrap();
    let tasks = TaskTracker::new();
    tasks.spawn_local(Rc::clone(&services).work());
    loop {
        let io: strait::wire::io::BoxIo = tokio::select! {
            () = stop.cancelled() => return,
            accepted = tcp.accept() => Box::new(accepted.unwrap().0),
            accepted = unix.accept() => Box::new(accepted.unwrap().0),
        };
        let (context, drain, seen) = (Rc::clone(&context), drain.clone(), Arc::clone(&seen));
        tasks.spawn_local(async move {
            let ended = serve(io, context, drain).await;
            let text = match &ended {
                Ended::Failed(error) => format!("{}: {error}", ended.as_str()),
                _ => ended.as_str().to_owned(),
            };
            seen.ended.lock().unwrap().push(text);
        });
    }
}

/// The callee and registry.
pub struct Services {
    seen: Arc<Seen>,
    mailbox: Mailbox<(u64, Event)>,
    next: Cell<u64>,
    registered: Rc<RefCell<Registered>>,
    /// Calls that a registered service has: their number there.
    forwarded: RefCell<Forwarded>,
}

type Registered = HashMap<ServiceName, Vec<Rc<dyn Endpoint>>>;
type Forwarded = HashMap<u64, (Rc<dyn Endpoint>, CallId)>;

enum Event {
    Open(Box<Request>, CallerRef),
    Request(RequestEvent),
}

/// A call that is answered here.
struct Own {
    method: String,
    caller: CallerRef,
    body: Vec<u8>,
    /// Of the reply, not yet sent; and what is un-credited.
    reply: Option<(Bytes, usize)>,
    started: bool,
}

const WINDOW: usize = 256 * 1024;

impl Callee for Services {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        self.seen.opened.fetch_add(1, Ordering::Relaxed);
        self.seen.requests.lock().unwrap().push(format!(
            "{} {:?} facts={:?}",
            String::from_utf8_lossy(&request.path),
            request.metadata,
            request.facts
        ));
        let service = Name::new(request.service().unwrap()).unwrap();
        let id = self.next.get() + 1;
        self.next.set(id);
        let endpoint = self
            .registered
            .borrow()
            .get(&service)
            .and_then(|all| all.first().cloned());
        if let Some(endpoint) = endpoint {
            let theirs = endpoint.open(request, caller)?;
            self.forwarded.borrow_mut().insert(id, (endpoint, theirs));
            return Ok(CallId(id));
        }
        if request.method() == Some("Refuse") {
            let error = RelayError::new(Reason::NoRoute, Retry::Never, "no rule owns this key");
            return Err(Refused {
                error: Box::new(error),
                request: Box::new(*request),
            });
        }
        self.seen.open.fetch_add(1, Ordering::Relaxed);
        self.mailbox.push((id, Event::Open(Box::new(*request), caller)));
        Ok(CallId(id))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        if matches!(event, RequestEvent::Cancel(_)) {
            self.seen.cancelled.fetch_add(1, Ordering::Relaxed);
        }
        let forwarded = self.forwarded.borrow().get(&id.0).cloned();
        match forwarded {
            Some((endpoint, theirs)) => endpoint.on_request(theirs, event),
            None => self.mailbox.push((id.0, Event::Request(event))),
        }
    }
}

impl Registry for Services {
    fn register(&self, service: &ServiceName, endpoint: Rc<dyn Endpoint>) -> Result<Registration, RegisterError> {
        if service.as_str().starts_with("forbidden.") {
            return Err(RegisterError::Unknown(service.clone()));
        }
        self.seen.registered.fetch_add(1, Ordering::Relaxed);
        self.registered
            .borrow_mut()
            .entry(service.clone())
            .or_default()
            .push(Rc::clone(&endpoint));
        let (registered, service, seen) = (Rc::clone(&self.registered), service.clone(), Arc::clone(&self.seen));
        Ok(Registration::new(move || {
            seen.registered.fetch_sub(1, Ordering::Relaxed);
            if let Some(all) = registered.borrow_mut().get_mut(&service) {
                all.retain(|other| !Rc::ptr_eq(other, &endpoint));
            }
        }))
    }
}

impl Services {
    async fn work(self: Rc<Self>) {
        let mut calls: HashMap<u64, Own> = HashMap::new();
        loop {
            self.mailbox.some().await;
            while let Some((id, event)) = self.mailbox.pop() {
                if Self::handle(&mut calls, id, event) {
                    calls.remove(&id);
                    self.seen.open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// `true` if the call has ended.
    fn handle(calls: &mut HashMap<u64, Own>, id: u64, event: Event) -> bool {
        let (chunk, end) = match event {
            Event::Open(request, caller) => {
                let own = Own {
                    method: request.method().unwrap().to_owned(),
                    caller,
                    body: Vec::new(),
                    reply: None,
                    started: false,
                };
                calls.insert(id, own);
                assert_eq!(request.envelope, Envelope::Framed);
                (request.body.chunk, request.body.end)
            }
            Event::Request(RequestEvent::Body(body)) => (body.chunk, body.end),
            Event::Request(RequestEvent::Cancel(_)) => {
                // A reply that crosses the cancellation on its way.
                return calls
                    .get_mut(&id)
                    .map(|own| own.method == "Late" && own.answer())
                    .is_some();
            }
            Event::Request(RequestEvent::Credit(bytes)) => {
                let Some(own) = calls.get_mut(&id) else { return false };
                if let Some((_, used)) = &mut own.reply {
                    *used -= bytes;
                }
                return own.send();
            }
        };
        let Some(own) = calls.get_mut(&id) else { return false };
        own.body.extend_from_slice(&chunk);
        if ["Hold", "Late"].contains(&own.method.as_str()) {
            return false; // no answer, no credit
        }
        if wants_credit(chunk.len(), end) {
            own.caller.send(ReplyEvent::Credit(chunk.len()));
        }
        end && own.answer()
    }
}

impl Own {
    fn answer(&mut self) -> bool {
        let body = Bytes::from(std::mem::take(&mut self.body));
        match self.method.as_str() {
            "Status" => {
                let end = Ending {
                    status: Code::NotFound,
                    message: Bytes::from_static(b"no such room"),
                    ..Ending::default()
                };
                self.caller.send(ReplyEvent::Part(Part {
                    head: Some((200, Metadata::default())),
                    body: ReplyBody::default(),
                    end: Some(end),
                }));
                true
            }
            "Fail" => {
                let error = RelayError::new(Reason::UnitAway, Retry::Safe, "unit b cannot be reached");
                self.caller.send(ReplyEvent::Failed(Box::new(error)));
                true
            }
            _ => {
                self.reply = Some((body, 0));
                self.send()
            }
        }
    }

    /// Sends what the window allows in chunks of odd size.
    fn send(&mut self) -> bool {
        let Some((rest, used)) = &mut self.reply else {
            return false;
        };
        loop {
            let room = WINDOW.saturating_sub(*used).min(100_001);
            let chunk = rest.split_to(rest.len().min(room));
            let end = rest.is_empty();
            if chunk.is_empty() && !end {
                return false;
            }
            if wants_credit(chunk.len(), end) {
                *used += chunk.len();
            }
            let first = !std::mem::replace(&mut self.started, true);
            self.caller.send(ReplyEvent::Part(Part {
                head: first.then(|| (200, Metadata::default())),
                body: ReplyBody(chunk),
                end: end.then(Ending::default),
            }));
            if end {
                return true;
            }
        }
    }
}
