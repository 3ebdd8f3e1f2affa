//! Route tokens on calls: what is sent along, and what the caller is told.

use std::cell::RefCell;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::control::tokens::{TokenKeys, unix_now};
use crate::control::{self, worker};
use crate::model::{Caller, CallerRef, Key, RoutePush};
use crate::routing::Routes;
use crate::routing::record::{
    Batch, Book, Change, DimensionSpec, Epoch, Node, NodeId, OpId, Placement, Record, RecordId, Rev, Snapshot, State,
    Target, Term,
};
use crate::routing::token::{Flags, Lifetime, Token, TokenSeries, TokenTarget, field};

/// Where the copy of the relay is.
const APPLIED: u64 = 10;
/// Since when unit b owns the conversation `moved`.
const MOVED: u64 = 5;

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn keys(name: &str) -> (TokenKeys, Folder) {
    let folder = std::env::temp_dir().join(format!("strait-calls-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut settings = control::Settings::default();
    settings.tokens.key_file = folder.join("keys");
    std::fs::write(&settings.tokens.key_file, "5a".repeat(32)).unwrap();
    (TokenKeys::open(&settings).unwrap().unwrap(), Folder(folder))
}

fn routes() -> Routes {
    let cid = DimensionSpec {
        placement: Placement::Claim(Vec::new()),
        ..DimensionSpec::new(unit("cid"))
    };
    let book = Book {
        units: ["a", "b", "c"].map(unit).to_vec(),
        dimensions: vec![cid],
        rules: Vec::new(),
        ..Book::default()
    };
    let id = NodeId::Key {
        dimension: unit("cid"),
        key: "moved".into(),
    };
    let node = Node {
        id: id.clone(),
        target: Target::Unit(unit("b")),
        state: State::Active,
        rev: Rev(MOVED),
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(1),
        reason: String::new(),
    };
    let change = |rev, id, record| Change {
        rev: Rev(rev),
        id,
        record: Some(record),
    };
    Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(APPLIED)),
        seed: 7,
        changes: vec![
            change(1, RecordId::Book, Record::Book(book)),
            change(MOVED, RecordId::Node(id), Record::Node(node)),
        ],
    })
}

fn table() -> RouteTable {
    let (a, b, c) = (unit("a"), unit("b"), unit("c"));
    let table = RouteTable::build(&routing::Settings::default(), &a, [&b, &c]).unwrap();
    table.with_routes(Arc::new(routes()))
}

/// The value of a field: this unit has the key, as of this revision.
fn token(keys: &TokenKeys, key: &str, number: u16, as_of: u64) -> String {
    let token = Token {
        target: TokenTarget::Unit(NonZeroU16::new(number).unwrap()),
        epoch: Epoch::new(0, Rev(1)),
        as_of: Rev(as_of),
        issued_at: unix_now(),
        lifetime: Lifetime::Usual,
        flags: Flags::default(),
    };
    let text = keys.ring().issue(&unit("cid"), key.as_bytes(), &token).unwrap();
    field(&unit("cid"), &text)
}

fn call(key: &'static str, token: Option<&str>) -> Request {
    let mut call = request("/im.Echo/Say");
    call.hints.keys.push(Key {
        dimension: Bytes::from_static(b"cid"),
        key: Bytes::from_static(key.as_bytes()),
    });
    call.hints.token = token.map(|token| Bytes::copy_from_slice(token.as_bytes()));
    call
}

struct Calls {
    fixture: Fixture,
    keys: TokenKeys,
    _folder: Folder,
}

impl Calls {
    fn new(name: &str) -> Self {
        let (keys, folder) = keys(name);
        let series = Registry::new().unwrap();
        let tokens = TokenParts {
            keys: keys.clone(),
            counts: TokenSeries::register(series.series()).unwrap().on_shard(),
            copy: worker::Metrics::register(series.series()).unwrap(),
        };
        Self {
            fixture: fixture_with(table(), Some(tokens), series),
            keys,
            _folder: folder,
        }
    }

    fn open(&self, request: Request) {
        let caller = self.fixture.caller.call(1);
        self.fixture.rpc.open(Box::new(request), caller).unwrap();
    }

    /// What the relay sent along with an attempt.
    fn sent(&self, attempt: usize) -> Option<String> {
        let opened = self.fixture.b.service.opened.borrow();
        let token = opened[attempt].1.hints.token.as_ref()?;
        Some(String::from_utf8(token.to_vec()).unwrap())
    }

    /// What the caller was told with the last event.
    fn told(&self) -> Option<String> {
        let events = self.fixture.caller.events.borrow();
        let text = |block: &Metadata| block.text("strait-token").map(str::to_owned);
        match &events.last()?.1 {
            ReplyEvent::Part(part) => {
                let head = part.head.as_ref().and_then(|(_, head)| text(head));
                head.or_else(|| text(&part.end.as_ref()?.trailers))
            }
            ReplyEvent::Failed(error) => {
                let token = error.token.as_ref()?;
                Some(String::from_utf8(token.to_vec()).unwrap())
            }
            ReplyEvent::Credit(_) => None,
        }
    }

    fn checked(&self, outcome: &str) -> u64 {
        self.fixture.rpc.flush();
        let line = format!("strait_routes_tokens_checked_total{{outcome=\"{outcome}\"}} ");
        let text = String::from_utf8(self.fixture.series.to_text().unwrap()).unwrap();
        text.lines()
            .find_map(|found| found.strip_prefix(&line)?.parse().ok())
            .unwrap_or(0)
    }

    fn run(name: &str, run: impl AsyncFnOnce(&Self)) {
        let calls = Self::new(name);
        on_shard(async {
            tokio::select! {
                () = calls.fixture.rpc.watch() => {}
                () = run(&calls) => {}
            }
        });
    }
}

// no claim desk is there, so nothing but the token can say where the call goes; the owner's relay gets it too.
#[test]
fn a_token_routes_a_call_that_nobody_here_has_heard_of() {
    Calls::run("routes", async |calls| {
        let token = token(&calls.keys, "new", 2, APPLIED);
        calls.open(call("new", Some(&token)));
        assert_eq!(calls.sent(0), Some(token));
        calls.fixture.reply(0, answer(Code::Ok));
        assert_eq!(calls.told(), None, "it holds, and is new");
        assert_eq!(calls.checked("current"), 1);
    });
}

// the table knows better; what the caller gets holds from now on, also if the call fails.
#[test]
fn a_superseded_token_is_replaced_in_the_answer_and_in_what_is_sent_along() {
    Calls::run("superseded", async |calls| {
        let old = token(&calls.keys, "moved", 1, MOVED - 1);
        calls.open(call("moved", Some(&old)));
        let sent = calls.sent(0).unwrap();
        let fresh = sent.split(',').next().unwrap().to_owned();
        assert_ne!(fresh, old);
        calls.fixture.reply(0, answer(Code::Ok));
        assert_eq!(calls.told().as_ref(), Some(&fresh));
        calls.open(call("moved", Some(&fresh)));
        calls.fixture.reply(1, answer(Code::Ok));
        assert_eq!(calls.told(), None);
        assert_eq!((calls.checked("superseded"), calls.checked("current")), (1, 1));
        calls.open(call("moved", Some(&old)));
        calls.fixture.fail(2..3, Reason::DeadlineExceeded, Retry::Ambiguous);
        assert_eq!(calls.told().as_ref().map(String::len), Some(fresh.len()));
    });
}

// T6, T7: whatever it is, the call goes its way, and the next relay is not bothered with it.
#[test]
fn what_is_no_token_is_not_passed_on_and_harms_nobody() {
    Calls::run("garbage", async |calls| {
        let of_another_key = token(&calls.keys, "new", 1, APPLIED);
        for (attempt, text) in ["", "x", "cid;", "cid;AAAA", &of_another_key].iter().enumerate() {
            calls.open(call("moved", Some(text)));
            let sent = calls.sent(attempt);
            assert!(sent.as_deref().is_none_or(str::is_empty), "{text:?}: {sent:?}");
            calls.fixture.reply(attempt, answer(Code::Ok));
            assert_eq!(calls.told(), None, "{text:?}");
        }
        assert_eq!(calls.checked("mac"), 1);
        // Too much of it is not even looked at.
        for _ in 0..200 {
            calls.open(call("moved", Some("cid;AAAA")));
        }
        let looked = calls.checked("version");
        assert!((90..=150).contains(&looked), "{looked}");
        assert!(calls.checked("unchecked") >= 50);
        assert_eq!(calls.fixture.b.service.opened.borrow().len(), 205);
    });
}

// step 3: the relay that does not own the key says who does, and what the caller should bring along.
#[test]
fn a_redirect_brings_a_token_to_the_next_relay_and_to_the_caller() {
    Calls::run("redirect", async |calls| {
        calls.open(call("moved", None));
        let given = token(&calls.keys, "moved", 3, APPLIED + 2);
        let redirect = |token: &str| {
            let mut error = RelayError::new(Reason::WrongUnit, Retry::Safe, "test");
            error.owner = Some((unit("c"), APPLIED + 1));
            error.token = Some(Box::new(Bytes::copy_from_slice(token.as_bytes())));
            ReplyEvent::Failed(Box::new(error))
        };
        calls.fixture.reply(0, redirect(&given));
        assert_eq!(calls.sent(1).as_ref(), Some(&given));
        calls.fixture.reply(1, answer(Code::Ok));
        assert_eq!(calls.told(), Some(given));
        // What no relay of this Geo has signed is not told.
        calls.open(call("moved", None));
        calls.fixture.reply(2, redirect("cid;garbage\n"));
        assert_eq!(calls.sent(3), None);
        calls.fixture.reply(3, answer(Code::Ok));
        assert_eq!(calls.told(), None);
    });
}

// what is ahead is waited for, but not for ever if the store is there and has not got it.
#[test]
fn a_token_of_a_lost_future_is_waited_for_once() {
    Calls::run("lost", async |calls| {
        let token = token(&calls.keys, "new", 2, APPLIED + 5);
        calls.open(call("new", Some(&token)));
        assert_eq!((calls.checked("ahead"), calls.checked("lost_future")), (1, 0));
        wait_for("the relay to give up what never comes", || {
            calls.checked("lost_future") == 1
        })
        .await;
        let begun = tokio::time::Instant::now();
        calls.open(call("new", Some(&token)));
        assert_eq!(calls.checked("lost_future"), 2, "at once");
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert!(
            calls.fixture.b.service.opened.borrow().is_empty(),
            "both wait for the claim"
        );
    });
}

// C-T5. Symptom: a call that waited for its route was heard of only at its time limit. Cause: more of its request came than is kept,
// so that nobody could send it any more, and nobody said so. Fix: it ends with what it waited for.
#[test]
fn a_call_that_waits_for_its_route_ends_when_more_of_its_request_comes_than_is_kept() {
    Calls::run("outgrown", async |calls| {
        let mut request = call("new", None);
        request.body.end = false;
        let caller = calls.fixture.caller.call(1);
        let id = calls.fixture.rpc.open(Box::new(request), caller).unwrap();
        let more = RequestBody {
            chunk: vec![0; 20_000].into(),
            end: false,
        };
        calls.fixture.rpc.on_request(id, RequestEvent::Body(more));
        assert_eq!(calls.fixture.until_endings(1).await, [(1, "routes_away".to_owned())]);
        assert_eq!(calls.fixture.rpc.open_calls(), 0);
    });
}

// S6, U1, U2: who used a key is told once, when it has another owner, and by a token that holds.
#[test]
fn clients_that_want_it_are_told_of_moved_keys() {
    Calls::run("push", async |calls| {
        // The shard begins to listen for changes.
        tokio::task::yield_now().await;
        let listener = Listener::new();
        let caller = CallerRef {
            port: listener.clone(),
            id: CallId(1),
        };
        let token = token(&calls.keys, "new", 2, APPLIED);
        calls
            .fixture
            .rpc
            .open(Box::new(call("new", Some(&token))), caller)
            .unwrap();
        let routing = &calls.fixture.rpc.parts.routing;
        let moved = |rev, target: &str, state| {
            let id = NodeId::Key {
                dimension: unit("cid"),
                key: "new".into(),
            };
            let node = Node {
                id: id.clone(),
                target: Target::Unit(unit(target)),
                state,
                rev: Rev(rev),
                term: Term::default(),
                previous: None,
                home: None,
                op: OpId(2),
                reason: String::new(),
            };
            let table = routing.table();
            let routes = table.routes().unwrap();
            let batch = Batch {
                prev: routes.rev(),
                rev: Rev(rev),
                changes: vec![Change {
                    rev: Rev(rev),
                    id: RecordId::Node(id),
                    record: Some(Record::Node(node)),
                }],
            };
            routing.replace_routes(&Arc::new(routes.apply(&batch).unwrap()));
        };
        moved(APPLIED + 1, "b", State::Active);
        moved(APPLIED + 2, "c", State::Active);
        wait_for("the client to be told", || !listener.told.borrow().is_empty()).await;
        moved(APPLIED + 3, "c", State::Active);
        calls.open(call("moved", None));
        calls.fixture.reply(1, answer(Code::Ok));
        wait_for("the shard to have looked", || calls.fixture.caller.endings().len() == 1).await;
        let told = listener.told.borrow();
        assert_eq!(told.len(), 1, "once, although the record changed again");
        let push = &told[0];
        assert_eq!((&push.key.dimension[..], &push.key.key[..]), (&b"cid"[..], &b"new"[..]));
        let opened = calls.keys.ring().open(&push.token, &unit("cid"), b"new", unix_now());
        let opened = opened.unwrap();
        assert_eq!(opened.target, TokenTarget::Unit(NonZeroU16::new(3).unwrap()));
        assert_eq!(opened.evidence_as_of(), Epoch::new(0, Rev(APPLIED + 2)));
    });
}

/// A caller that wants to hear of routes.
struct Listener {
    told: RefCell<Vec<RoutePush>>,
}

impl Listener {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            told: RefCell::default(),
        })
    }
}

impl Caller for Listener {
    fn on_reply(&self, _: CallId, _: ReplyEvent) {}

    fn takes_routes(&self) -> bool {
        true
    }

    fn on_route(&self, push: &RoutePush) {
        self.told.borrow_mut().push(push.clone());
    }
}
