//! An endpoint and a caller whose every move a test makes or sees.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use slotmap::{DefaultKey, Key, KeyData, SlotMap};

use crate::model::{
    CallId, Callee, Caller, CallerRef, Code, Ending, Endpoint, Envelope, Facts, Metadata, Part, Reason, Refused,
    RelayError, ReplyBody, ReplyEvent, Request, RequestBody, RequestEvent, Retry, RouteHints,
};

/// An endpoint that does what a test tells it.
pub(crate) struct Service {
    pub(crate) ready: Cell<bool>,
    /// Refuse the next opens with this.
    pub(crate) refuse: Cell<Option<(Reason, Retry)>>,
    pub(crate) events: RefCell<Vec<(CallId, RequestEvent)>>,
    pub(crate) opened: RefCell<Vec<(CallId, Request)>>,
    pub(crate) refused: Cell<usize>,
    calls: RefCell<SlotMap<DefaultKey, CallerRef>>,
}

impl Service {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            ready: Cell::new(true),
            refuse: Cell::new(None),
            events: RefCell::default(),
            opened: RefCell::default(),
            refused: Cell::new(0),
            calls: RefCell::new(SlotMap::new()),
        })
    }

    /// Sends an event of a call to its caller.
    pub(crate) fn reply(&self, id: CallId, event: ReplyEvent) {
        let key = DefaultKey::from(KeyData::from_ffi(id.0));
        let ends = match &event {
            ReplyEvent::Part(part) => part.end.is_some(),
            ReplyEvent::Failed(_) => true,
            ReplyEvent::Credit(_) => false,
        };
        let caller = self.calls.borrow().get(key).cloned();
        if ends {
            self.calls.borrow_mut().remove(key);
        }
        if let Some(caller) = caller {
            caller.send(event);
        }
    }

    /// Answers all open calls.
    pub(crate) fn answer_all(&self, status: Code) {
        let open: Vec<_> = self.calls.borrow().keys().collect();
        for key in open {
            self.reply(CallId(key.data().as_ffi()), answer(status));
        }
    }
}

/// A whole reply in one part.
pub(crate) fn answer(status: Code) -> ReplyEvent {
    ReplyEvent::Part(Part {
        head: Some((200, Metadata::default())),
        body: ReplyBody(Bytes::from_static(b"pong")),
        end: Some(Ending {
            status,
            ..Ending::default()
        }),
    })
}

/// A failure that a relay saw.
pub(crate) fn failure(reason: Reason) -> ReplyEvent {
    ReplyEvent::Failed(Box::new(RelayError::new(reason, Retry::Ambiguous, "test")))
}

/// A unary call.
pub(crate) fn request(path: &'static str) -> Request {
    Request {
        path: Bytes::from_static(path.as_bytes()),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints::default(),
        facts: Facts::default(),
        received: tokio::time::Instant::now().into_std(),
        deadline: None,
        body: RequestBody {
            chunk: Bytes::from_static(b"ping"),
            end: true,
        },
    }
}

impl Callee for Service {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        if let Some((reason, retry)) = self.refuse.get() {
            self.refused.set(self.refused.get() + 1);
            return Err(Refused {
                error: Box::new(RelayError::new(reason, retry, "test")),
                request,
            });
        }
        let id = CallId(self.calls.borrow_mut().insert(caller).data().as_ffi());
        self.opened.borrow_mut().push((id, *request));
        Ok(id)
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        if matches!(event, RequestEvent::Cancel(_)) {
            self.calls
                .borrow_mut()
                .remove(DefaultKey::from(KeyData::from_ffi(id.0)));
        }
        self.events.borrow_mut().push((id, event));
    }
}

impl Endpoint for Service {
    fn in_flight(&self) -> usize {
        self.calls.borrow().len()
    }

    fn is_ready(&self) -> bool {
        self.ready.get()
    }
}

/// A caller that writes down what it is told.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) events: RefCell<Vec<(CallId, ReplyEvent)>>,
}

impl Recorder {
    pub(crate) fn new() -> Rc<Self> {
        Rc::default()
    }

    /// A reference to it for call number `id`.
    pub(crate) fn call(self: &Rc<Self>, id: u64) -> CallerRef {
        CallerRef {
            port: self.clone(),
            id: CallId(id),
        }
    }

    /// Reason or status of each ending so far, in words.
    pub(crate) fn endings(&self) -> Vec<(u64, String)> {
        let events = self.events.borrow();
        let endings = events.iter().filter_map(|(id, event)| match event {
            ReplyEvent::Part(part) => part.end.as_ref().map(|end| (id.0, format!("{:?}", end.status))),
            ReplyEvent::Failed(error) => Some((id.0, error.reason.to_string())),
            ReplyEvent::Credit(_) => None,
        });
        endings.collect()
    }
}

impl Caller for Recorder {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        self.events.borrow_mut().push((id, event));
    }
}

/// Runs `future` on a runtime like that of a shard.
pub(crate) fn on_shard<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

/// Waits until `condition` holds; panics with `what` after ten seconds.
pub(crate) async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(tokio::time::Instant::now() < limit, "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
