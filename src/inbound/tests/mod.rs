//! What the inbound story holds of keys that move: calls whose caller has gone.

mod gate;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{GateParts, OwnerGate, Parts, Rpc};
use crate::calls::{CallPolicies, ShardPolicies};
use crate::control::claims::Claims;
use crate::control::clock::boot_time;
use crate::control::keeper::{GateId, Held};
use crate::control::shadows::{self, LineId, Shadows};
use crate::crossing::testing::{Recorder, Service, answer, on_shard, request, wait_for};
use crate::model::{
    CallId, Callee, CancelReason, Code, Key, Metadata, Name, Part, Place, ReplyBody, ReplyEvent, RequestEvent,
};
use crate::routing::gate::Drain;
use crate::routing::lease::LeaseState;
use crate::routing::record::{
    Batch, Book, Change, Epoch, MoveId, Node, NodeId, OpId, Record, RecordId, Rev, SessionId, State, Target, Term,
};
use crate::routing::{self, RouteTable, Routes};
use crate::telemetry::Registry;
use crate::telemetry::calls::CallSeries;

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A relay of unit a, which owns all keys, and its only shard.
struct Fixture {
    rpc: Rc<Rpc>,
    service: Rc<Service>,
    caller: Rc<Recorder>,
    routing: routing::Handle,
    drained: mpsc::Receiver<(GateId, Drain)>,
    held: mpsc::Receiver<Held>,
    gate: Rc<OwnerGate>,
    shadows: Shadows,
}

/// How long a service is thought to go on, unless a test says otherwise.
const IN_FLIGHT_MAX: Duration = Duration::from_millis(300);

/// Routes at a relay of unit a that has the lease.
fn routed_by(book: Book) -> routing::Handle {
    let routes = Routes::of_book(book);
    let table = RouteTable::build(&routing::Settings::default(), &name("a"), [&name("b")]).unwrap();
    let routing = routing::Handle::new(table.with_routes(Arc::new(routes)));
    let mut state = LeaseState::default();
    state.opened(SessionId(1), Rev(1), boot_time());
    routing.set_lease(state);
    routing
}

fn fixture(lease: &str, in_flight_max: Duration) -> Fixture {
    let rule = serde_json::json!({ "dimension": "cid", "unit": "a", "default": true });
    let book = Book {
        units: ["a", "b"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(serde_json::json!({ "name": "cid", "owner_lease": lease })).unwrap()],
        rules: vec![(1, serde_json::from_value(rule).unwrap())],
        ..Book::default()
    };
    let routing = routed_by(book);
    let place = Place {
        unit: name("a"),
        relay: name("a-1"),
    };
    let (reports, drained) = mpsc::channel(8);
    let (holders, held) = mpsc::channel(8);
    let registry = Registry::new().unwrap();
    let shadows = Shadows::new(shadows::Metrics::register(registry.series()).unwrap());
    let gate = OwnerGate::new(GateParts {
        id: GateId::Shard(0),
        place: place.clone(),
        geo: name("geo"),
        routing: routing.clone(),
        claims: Claims::new().0,
        drained: reports,
        held: holders,
        in_flight_max,
        tokens: None,
        shadows: shadows.clone(),
    });
    let service = Service::new();
    let rpc = Rpc::new(Parts {
        place,
        routing: routing.clone(),
        delivery: service.clone(),
        policies: ShardPolicies::new(CallPolicies::default()),
        metrics: CallSeries::register(registry.series()).unwrap().on_shard(),
        hops_max: 4,
        gate: Some(Rc::clone(&gate)),
        shadows: None,
    });
    Fixture {
        rpc,
        service,
        caller: Recorder::new(),
        routing,
        drained,
        held,
        gate,
        shadows,
    }
}

impl Fixture {
    /// A call of the key that moves, which the service has.
    fn call(&self, limit: Option<Duration>) -> CallId {
        self.call_of("1", limit)
    }

    fn call_of(&self, key: &'static str, limit: Option<Duration>) -> CallId {
        self.call_at("/im.Echo/Say", key, limit)
    }

    fn call_at(&self, path: &'static str, key: &'static str, limit: Option<Duration>) -> CallId {
        let mut request = request(path);
        request.hints.keys.push(Key {
            dimension: Bytes::from_static(b"cid"),
            key: Bytes::from_static(key.as_bytes()),
        });
        request.deadline = limit.map(|limit| request.received + limit);
        self.rpc.open(Box::new(request), self.caller.call(1)).unwrap()
    }

    /// A call of a key that turns out to be a stream.
    fn stream_of(&self, key: &'static str) -> CallId {
        let id = self.call_of(key, None);
        let of_service = self.service.opened.borrow().last().unwrap().0;
        let part = Part {
            head: Some((200, Metadata::default())),
            body: ReplyBody(Bytes::from_static(b"one of many")),
            end: None,
        };
        self.service.reply(of_service, ReplyEvent::Part(part));
        id
    }

    fn cancel(&self, id: CallId) {
        self.rpc.on_request(id, RequestEvent::Cancel(CancelReason::Caller));
    }

    /// Its key is frozen, and the shard told to say when nothing of it runs.
    fn freeze(&self) {
        let routes = Arc::clone(self.routing.table().routes().unwrap());
        let (prev, rev) = (routes.rev(), routes.rev().next());
        let (id, by) = (
            NodeId::Key {
                dimension: name("cid"),
                key: "1".into(),
            },
            MoveId(7),
        );
        let node = Node {
            id: id.clone(),
            target: Target::Unit(name("a")),
            state: State::Frozen { to: name("b"), by },
            rev,
            term: Term::default(),
            previous: None,
            home: None,
            op: OpId(0),
            reason: String::new(),
        };
        let changes = vec![Change {
            rev,
            id: RecordId::Node(id.clone()),
            record: Some(Record::Node(node)),
        }];
        let next = routes.apply(&Batch { prev, rev, changes }).unwrap();
        self.routing.replace_routes(&Arc::new(next));
        self.rpc.drain(&Drain { by, node: id, rev });
    }

    /// When the freeze is reported as drained.
    async fn reported(&mut self) -> Instant {
        let limit = Duration::from_secs(10);
        tokio::time::timeout(limit, self.drained.recv()).await.unwrap().unwrap();
        tokio::time::Instant::now().into_std()
    }
}

fn test(lease: &str, run: impl AsyncFnOnce(&mut Fixture)) {
    test_with(lease, IN_FLIGHT_MAX, run);
}

fn test_with(lease: &str, in_flight_max: Duration, run: impl AsyncFnOnce(&mut Fixture)) {
    on_shard(async {
        let mut fixture = fixture(lease, in_flight_max);
        let rpc = Rc::clone(&fixture.rpc);
        tokio::select! {
            () = rpc.watch() => {}
            () = run(&mut fixture) => {}
        }
    });
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

// step 6: a caller that goes away does not stop a service.
#[test]
fn a_call_whose_caller_has_gone_holds_a_freeze_until_its_deadline() {
    test("20s", async |fixture| {
        let began = now();
        let id = fixture.call(Some(Duration::from_millis(150)));
        fixture.cancel(id);
        let told: BTreeSet<_> = fixture.service.events.borrow().iter().map(|(id, _)| id.0).collect();
        assert_eq!(told.len(), 1, "the service is told at once");
        fixture.freeze();
        assert_eq!(fixture.rpc.open_calls(), 1, "a shutdown waits for it too");
        let reported = fixture.reported().await;
        assert!(reported >= began + Duration::from_millis(150), "{:?}", reported - began);
        assert_eq!(fixture.rpc.open_calls(), 0);
    });
}

// step 6: without a deadline it counts as over after in_flight_max, also where no lease ends.
#[test]
fn a_call_whose_caller_has_gone_holds_a_freeze_no_longer_than_in_flight_max() {
    test("infinite", async |fixture| {
        let id = fixture.call(None);
        let began = now();
        fixture.cancel(id);
        fixture.freeze();
        let reported = fixture.reported().await;
        let held = reported - began;
        assert!(held >= IN_FLIGHT_MAX && held < IN_FLIGHT_MAX * 10, "{held:?}");
    });
}

// step 6: an answer is the end of a call, and nothing is kept of it.
#[test]
fn a_call_that_was_answered_holds_nothing() {
    test("20s", async |fixture| {
        let began = now();
        let id = fixture.call(Some(Duration::from_secs(60)));
        fixture.freeze();
        let of_service = fixture.service.opened.borrow()[0].0;
        fixture.service.reply(of_service, answer(Code::Ok));
        fixture.cancel(id);
        let reported = fixture.reported().await;
        assert!(reported < began + IN_FLIGHT_MAX, "{:?}", reported - began);
        wait_for("nothing is open", || fixture.rpc.open_calls() == 0).await;
    });
}

// a stream makes way for a move whether its caller is there or not; one of another key goes on.
#[test]
fn a_stream_whose_caller_has_gone_makes_way() {
    let long = Duration::from_secs(60);
    test_with("infinite", long, async |fixture| {
        for key in ["1", "2"] {
            fixture.stream_of(key);
            let goes = fixture.stream_of(key);
            fixture.cancel(goes);
        }
        fixture.freeze();
        fixture.reported().await;
        assert_eq!(fixture.caller.endings(), [(1, "moving".to_owned())]);
        assert_eq!(fixture.rpc.open_calls(), 2, "those of the other key");
    });
}

// step 6, R-3.9: a call that is no stream comes to its end, whether its caller is there or not.
#[test]
fn a_call_that_is_no_stream_does_not_make_way() {
    // Streams would have made way by then.
    let limit = Duration::from_millis(900);
    test_with("infinite", Duration::from_secs(60), async |fixture| {
        let began = now();
        fixture.call(Some(limit));
        let goes = fixture.call(Some(limit));
        fixture.cancel(goes);
        fixture.freeze();
        let reported = fixture.reported().await;
        assert!(reported >= began + limit, "{:?}", reported - began);
        assert_eq!(fixture.caller.endings(), [(1, "deadline_exceeded".to_owned())]);
    });
}

// R-I2, R-3.9: nobody can say whether a call that answers nothing will write, so a freeze waits for it; after a second it is said which
// it is. Not one of another key, nor a stream, which makes way, nor what only reads.
#[test]
fn a_call_that_holds_a_freeze_up_is_named_after_a_second() {
    test_with("infinite", Duration::from_secs(60), async |fixture| {
        fixture.stream_of("1");
        fixture.call_of("2", None);
        let id = fixture.call_at("/im.Chat/Watch", "1", None);
        fixture.freeze();
        fixture.rpc.tell_held();
        assert!(fixture.held.try_recv().is_err(), "calls have their time");
        let told = std::cell::RefCell::new(Vec::new());
        let tell = |fixture: &mut Fixture| {
            fixture.rpc.tell_held();
            while let Ok(held) = fixture.held.try_recv() {
                told.borrow_mut().push((held.gate, held.drain.by, held.by));
            }
        };
        let frozen = now();
        wait_for("the call to be named", || {
            tell(fixture);
            !told.borrow().is_empty()
        })
        .await;
        assert!(now() - frozen >= Duration::from_secs(1), "{:?}", now() - frozen);
        tell(fixture);
        let say = |by: &str| (GateId::Shard(0), MoveId(7), by.to_owned());
        assert_eq!(*told.borrow(), [say("im.Chat/Watch")], "once");
        // Its caller goes; the service may still write.
        fixture.cancel(id);
        tell(fixture);
        assert_eq!(told.borrow()[1..], [say("calls whose callers have gone (1)")]);
    });
}

// H4, R-3.9 S4: with a mirror a freeze waits for the shadows of what was served, but not for ever; those of other keys and moves are
// not waited for.
#[test]
fn a_freeze_with_a_mirror_waits_a_moment_for_shadows() {
    test("20s", async |fixture| {
        let hash = |key: &[u8]| fixture.routing.table().routes().unwrap().hash(b"cid", key);
        let line = |by, key| LineId {
            by: MoveId(by),
            to: name("b"),
            key: hash(key),
        };
        let ticket = fixture.shadows.admit(line(7, b"1")).unwrap();
        let others = [line(7, b"2"), line(8, b"1")].map(|line| fixture.shadows.admit(line).unwrap());
        fixture.freeze();
        fixture.gate.flush();
        assert!(fixture.drained.try_recv().is_err(), "a shadow is to go before");
        drop(ticket);
        fixture.gate.flush();
        assert!(fixture.drained.try_recv().is_ok(), "it has gone");
        drop(others);

        let _slow = fixture.shadows.admit(line(7, b"1")).unwrap();
        let began = now();
        fixture.freeze();
        wait_for("the freeze to be reported", || {
            fixture.gate.flush();
            fixture.drained.try_recv().is_ok()
        })
        .await;
        assert!(now() - began >= Duration::from_millis(500), "{:?}", now() - began);
    });
}
