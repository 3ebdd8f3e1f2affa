//! Large bodies on a link, each on a stream of its own with credit and a call on a lane, against the same bodies on one
//! plain quinn connection.
//!
//! Fair: both sides are a thread each in one process, with the product's QUIC settings, certificates and buffers; both get
//! the whole body as one piece of memory and throw away what comes back. Local sockets are left out, because the plain
//! side has none; what they cost is in `floor` and in `benches/relay`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::{LocalSet, spawn_local};

use strait::mailbox::Mailbox;
use strait::model::{CallId, Callee, Caller, CallerRef, ReplyEvent, RequestBody, RequestEvent, wants_credit};
use strait::peer::quic::Purpose;

use crate::link::{self, Identity, Side};
use crate::plain::{self, Plain};
use crate::spread::Spread;
use crate::stage::Stage;
use crate::{Effort, Wanted, ratio};

/// Bodies in flight.
const IN_FLIGHT: usize = 4;
const WARM_UP: Duration = Duration::from_millis(200);

pub fn measure(stage: &Stage, effort: Effort) {
    println!("### Bodies on streams of their own, {IN_FLIGHT} in flight: a link against one plain quinn connection");
    for unit in ["a", "b"] {
        stage.issue(unit);
    }
    let identity = |unit| Identity::of(&stage.directory, unit);
    let (link_at, _link) = link::serve(identity("b"), |_| {});
    let (plain_at, _plain) = plain::serve(identity("b"), |_| {});
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        let side = Side::new(&identity("a"), ("b", Some(link_at)), |_| {});
        let peers = side.peers(link::nobody(), None);
        let linked = link::connected(&peers).await;
        let plain = Plain::dial(&side, plain_at, Purpose::Bodies).await;
        println!("| body | way | link MiB/s | plain MiB/s | link / plain |");
        println!("|---|---|---|---|---|");
        let mut ratios = Vec::new();
        for kib in [64, 256, 1024, 4096] {
            for echo in [false, true] {
                let body = Bytes::from(vec![b'x'; kib * 1024]);
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for _ in 0..effort.rounds {
                    ours.push(over_link(linked.clone(), &body, echo, effort.time).await);
                    theirs.push(over_plain(plain.clone(), &body, echo, effort.time).await);
                }
                let (ours, theirs) = (Spread::of(ours), Spread::of(theirs));
                let way = if echo { "there and back" } else { "there" };
                ratios.push(ours.median / theirs.median);
                println!(
                    "| {kib} KiB | {way} | {ours:.0} | {theirs:.0} | {:.2} |",
                    ours.median / theirs.median
                );
            }
        }
        let worst = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        println!("{}", ratio("worst, link / plain", worst, Wanted::AtLeast(0.9)));
    });
}

/// Bodies per time as MiB/s, in the window after the warm-up.
struct Window {
    begin: Instant,
    end: Instant,
    bytes: Cell<usize>,
}

impl Window {
    fn new(time: Duration) -> Rc<Self> {
        let begin = Instant::now() + WARM_UP;
        Rc::new(Self {
            begin,
            end: begin + time,
            bytes: Cell::new(0),
        })
    }

    /// A body is done. Says whether to send another.
    fn on_done(&self, bytes: usize) -> bool {
        let now = Instant::now();
        if now >= self.begin && now < self.end {
            self.bytes.set(self.bytes.get() + bytes);
        }
        now < self.end
    }

    fn mib_per_second(&self) -> f64 {
        self.bytes.get() as f64 / 1_048_576.0 / (self.end - self.begin).as_secs_f64()
    }
}

async fn over_plain(plain: Rc<Plain>, body: &Bytes, echo: bool, time: Duration) -> f64 {
    let window = Window::new(time);
    let senders: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let (plain, body, window) = (plain.clone(), body.clone(), window.clone());
            spawn_local(async move {
                loop {
                    assert!(plain.call(body.clone(), echo).await, "the plain connection broke");
                    if !window.on_done(body.len()) {
                        return;
                    }
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    window.mib_per_second()
}

async fn over_link(link: Rc<dyn Callee>, body: &Bytes, echo: bool, time: Duration) -> f64 {
    let window = Window::new(time);
    let sender = Rc::new_cyclic(|me| Sender {
        me: me.clone(),
        mail: Mailbox::new(),
    });
    let path = if echo { "/bench.Body/Echo" } else { "/bench.Body/Take" };
    let next = Cell::new(0);
    let calls = RefCell::new(HashMap::new());
    let begin = || {
        let id = next.get();
        next.set(id + 1);
        let caller = CallerRef {
            port: sender.me.upgrade().unwrap(),
            id: CallId(id),
        };
        let request = link::request(path, body.slice(..PIECE.min(body.len())), body.len() <= PIECE);
        let at_link = link.open(request, caller).unwrap();
        let sent = PIECE.min(body.len());
        let mut upload = Upload {
            callee: at_link,
            sent,
            received: 0,
        };
        // As many pieces ahead as an ingress takes from a client by default.
        (1..AHEAD).for_each(|_| upload.send(link.as_ref(), body));
        calls.borrow_mut().insert(id, upload);
    };
    (0..IN_FLIGHT).for_each(|_| begin());
    while !calls.borrow().is_empty() {
        sender.mail.some().await;
        while let Some((id, event)) = sender.mail.pop() {
            let mut open = calls.borrow_mut();
            let upload = open.get_mut(&id).unwrap();
            match event {
                ReplyEvent::Failed(error) => panic!("a body failed: {error}"),
                // A piece has left: the next one.
                ReplyEvent::Credit(_) => upload.send(link.as_ref(), body),
                ReplyEvent::Part(part) => {
                    let bytes = part.body.0.len();
                    upload.received += bytes;
                    if part.end.is_none() {
                        if wants_credit(bytes, false) {
                            link.on_request(upload.callee, RequestEvent::Credit(bytes));
                        }
                        continue;
                    }
                    assert_eq!(upload.received, if echo { body.len() } else { 0 });
                    open.remove(&id);
                    drop(open);
                    if window.on_done(body.len()) {
                        begin();
                    }
                }
            }
        }
    }
    window.mib_per_second()
}

/// How much of a body is given to the link at once: what an ingress would have read.
const PIECE: usize = 64 * 1024;
/// Pieces the link may hold.
const AHEAD: usize = 4;

struct Upload {
    callee: CallId,
    sent: usize,
    received: usize,
}

impl Upload {
    fn send(&mut self, link: &dyn Callee, body: &Bytes) {
        if self.sent < body.len() {
            let until = (self.sent + PIECE).min(body.len());
            let chunk = body.slice(self.sent..until);
            self.sent = until;
            let end = until == body.len();
            link.on_request(self.callee, RequestEvent::Body(RequestBody { chunk, end }));
        }
    }
}

/// Replies wait in its mailbox, so that nothing is called back from inside a call (V2).
struct Sender {
    me: Weak<Self>,
    mail: Mailbox<(u64, ReplyEvent)>,
}

impl Caller for Sender {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.mail.push((id.0, event));
    }
}
