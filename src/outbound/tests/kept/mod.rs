//! Calls whose unit is away, with a local service and a disk whose every move a test makes (J1 to J3).

mod away;

use bytes::Bytes;

use super::super::kept::KeptParts;
use super::super::message::{Catalog, PublisherParts, Publishers};
use super::*;
use crate::calls::CallPolicy;
use crate::model::{AckLevel, AwayBy, Key, MessageId, Mode, Name, OnFailure, RoutePolicy, Sighting, WhileAway};
use crate::peer::Observers;
use crate::queue::api::{Input, Progress, Publish};
use crate::queue::record::Pause;
use crate::queue::{self, AwayUnits, CALLS_TOPIC, Handle, Inlet};
use crate::routing::Routes;
use crate::routing::record::{
    Book, Change, DimensionSpec, Epoch, MoveId, Node, NodeId, OpId, Record, RecordId, Rev, Snapshot, State, Target,
    Term,
};
use crate::telemetry::kept::{KeptOutcome, KeptSeries};
use crate::wire::kept::KeptCall;

/// The story, with unit `b`, the local service and the disk.
struct Keeping {
    fixture: Fixture,
    local: Rc<Service>,
    publishers: Rc<Publishers>,
    inlet: std::sync::Arc<Inlet>,
    away: AwayUnits,
    observers: std::sync::Arc<Observers>,
    series: KeptSeries,
}

/// All keys of dimension `uid` are those of unit `b`.
fn rules() -> RouteTable {
    let rules = "dimensions = [\"uid\"]\n[[rules]]\ndimension = \"uid\"\nunit = \"b\"\ndefault = true\n";
    let rules: routing::Settings = toml::from_str(rules).unwrap();
    RouteTable::build(&rules, &unit("a"), [&unit("b")]).unwrap()
}

/// By a route store all keys of dimension `uid` are those of a unit in this state.
fn routes(owner: &str, state: State) -> RouteTable {
    let rule = serde_json::json!({ "dimension": "uid", "unit": owner, "default": true });
    let book = Book {
        units: ["a", "b", "c"].map(unit).to_vec(),
        dimensions: vec![DimensionSpec::new(unit("uid"))],
        rules: vec![(1, serde_json::from_value(rule).unwrap())],
        ..Book::default()
    };
    let id = NodeId::Unit(unit(owner));
    let node = Node {
        id: id.clone(),
        target: Target::Unit(unit(owner)),
        state,
        rev: Rev(2),
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
    let routes = Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(9)),
        seed: 7,
        changes: vec![
            change(1, RecordId::Book, Record::Book(book)),
            change(2, RecordId::Node(id), Record::Node(node)),
        ],
    });
    rules().with_routes(std::sync::Arc::new(routes))
}

/// A call with key and id.
fn keyed() -> Request {
    let mut call = request("/im.Room/Post");
    let mut fields = MetadataBuilder::new();
    fields.push(b"idempotency-key", b"7").unwrap();
    call.metadata = fields.build();
    call.hints.keys.push(Key {
        dimension: "uid".into(),
        key: "1".into(),
    });
    call
}

impl Keeping {
    fn new(away: WhileAway, table: RouteTable) -> Self {
        Self::telling(away, table, None)
    }

    /// Services of this unit are told of kept calls by this topic.
    fn telling(away: WhileAway, table: RouteTable, kept_to: Option<Name>) -> Self {
        let series = Registry::new().unwrap();
        let kept_series = KeptSeries::register(series.series()).unwrap();
        let observers = std::sync::Arc::new(Observers::default());
        let (queue, inlet) = Handle::new(1 << 20);
        let topics = queue::Topics::from([(CALLS_TOPIC.to_owned(), queue::calls_topic())]);
        let publishers = Publishers::new(PublisherParts {
            place: place(),
            shard: 0,
            routing: routing::Handle::new(table.clone()),
            queue,
            catalog: Catalog::new(std::sync::Arc::new(topics), unit("a"), [unit("b")], 1 << 20),
            claims: None,
        });
        let by_operator = AwayUnits::default();
        let kept = KeptParts {
            publishers: publishers.clone(),
            series: kept_series.clone(),
            away: by_operator.clone(),
            observers: observers.clone(),
        };
        let policy = CallPolicy {
            route: RoutePolicy {
                away,
                kept_to,
                ..RoutePolicy::default()
            },
            ..CallPolicy::default()
        };
        let named = [(unit("im.Room"), policy)].into();
        let local = Service::new();
        let fixture = fixture_of(series, |parts| {
            parts.routing = routing::Handle::new(table);
            parts.local = local.clone();
            parts.policies = ShardPolicies::new(CallPolicies::new(named, CallPolicy::default()));
            parts.kept = Some(kept);
        });
        Self {
            fixture,
            local,
            publishers,
            inlet,
            away: by_operator,
            observers,
            series: kept_series,
        }
    }

    fn test(on_failure: OnFailure, run: impl AsyncFnOnce(&Self)) {
        Self::test_with(on_failure, rules(), run);
    }

    fn test_with(on_failure: OnFailure, table: RouteTable, run: impl AsyncFnOnce(&Self)) {
        let away = WhileAway {
            on_failure,
            ..WhileAway::default()
        };
        Self::test_of(&Self::new(away, table), run);
    }

    fn test_of(keeping: &Self, run: impl AsyncFnOnce(&Self)) {
        on_shard(async {
            tokio::select! {
                () = keeping.fixture.rpc.watch() => {}
                () = run(keeping) => {}
            }
        });
    }

    fn call(&self, number: u64, change: impl FnOnce(&mut Request)) -> CallId {
        let mut call = keyed();
        change(&mut call);
        let caller = self.fixture.caller.call(number);
        self.fixture.rpc.open(Box::new(call), caller).unwrap()
    }

    /// Makes a call that is refused at once.
    fn refused(&self, change: impl FnOnce(&mut Request)) -> RelayError {
        let mut call = keyed();
        change(&mut call);
        let caller = self.fixture.caller.call(0);
        *self.fixture.rpc.open(Box::new(call), caller).unwrap_err().error
    }

    /// Waits until the disk is asked to take something.
    async fn until_asked(&self) -> Publish {
        let mut asked = Vec::new();
        wait_for("the disk to be asked", || {
            asked.extend(self.asked());
            !asked.is_empty()
        })
        .await;
        asked.remove(0)
    }

    /// What the disk is asked to take.
    fn asked(&self) -> Vec<Publish> {
        let mut inputs = Vec::new();
        self.inlet.take(&mut inputs, Duration::ZERO);
        let publishes = inputs.into_iter().filter_map(|input| match input {
            Input::Publish(publish) => Some(*publish),
            _ => None,
        });
        publishes.collect()
    }

    /// The disk has it.
    fn store(&self, publish: &Publish) {
        let id = MessageId {
            unit: unit("a"),
            relay: unit("a-1"),
            epoch: 1,
            number: 9,
        };
        let progress = Progress {
            id,
            level: AckLevel::Accepted,
            duplicate: false,
            buffered: false,
            last: true,
        };
        self.publishers.on_published(publish.ticket, Ok(progress));
    }

    /// What the caller was told last.
    fn told(&self) -> String {
        match &self.fixture.caller.events.borrow().last().unwrap().1 {
            ReplyEvent::Failed(error) => error.to_string(),
            ReplyEvent::Part(part) => {
                let mark = part.head.as_ref().and_then(|(_, head)| head.text("strait-provisional"));
                format!("{:?} {mark:?}", part.end.as_ref().map(|end| end.status))
            }
            ReplyEvent::Credit(_) => String::new(),
        }
    }
}

// J1, C-P2
#[test]
fn a_call_is_executed_here_then_stored_and_only_then_answered() {
    Keeping::test(OnFailure::Local, async |keeping| {
        keeping.fixture.b.away.set(true);
        keeping.call(1, |_| {});
        let (id, local) = keeping.local.opened.borrow()[0].clone();
        assert_eq!(local.metadata.text("strait-local-mode"), Some("true"));
        assert_eq!((local.facts.mode, local.facts.owner_epoch), (Mode::Local, None));
        assert!(keeping.asked().is_empty(), "it is not executed yet");
        keeping.local.reply(id, answer(Code::Ok));
        let mut asked = Vec::new();
        wait_for("the disk to be asked", || {
            asked.extend(keeping.asked());
            !asked.is_empty()
        })
        .await;
        assert_eq!(
            (asked[0].topic.as_str(), &asked[0].units),
            (CALLS_TOPIC, &vec![unit("b")])
        );
        assert_eq!(asked[0].attributes.text("type"), Some("im.Room/Post"));
        assert!(
            keeping.fixture.caller.endings().is_empty(),
            "the disk has not said so yet"
        );
        keeping.store(&asked[0]);
        assert_eq!(keeping.fixture.caller.endings(), [(1, "Ok".to_owned())]);
        assert_eq!(keeping.told(), "Some(Ok) Some(\"true\")");
        keeping.fixture.is_as_new().await;
    });
}

// N1, N3: services of this unit are told when the call is on disk, and not before, nor if it is not. The call does not wait for that.
#[test]
fn services_of_this_unit_are_told_of_calls_on_disk_and_the_call_does_not_wait_for_it() {
    for (on_failure, end) in [(OnFailure::Park, "parked"), (OnFailure::Local, "Some(Ok)")] {
        let away = WhileAway {
            on_failure,
            ..WhileAway::default()
        };
        let keeping = Keeping::telling(away, rules(), Some(unit("im.kept")));
        Keeping::test_of(&keeping, async |keeping| {
            keeping.fixture.b.away.set(true);
            for (number, is_stored) in [(1, true), (2, false), (3, true)] {
                keeping.call(number, |_| {});
                if on_failure == OnFailure::Local {
                    let id = keeping.local.opened.borrow().last().unwrap().0;
                    keeping.local.reply(id, answer(Code::Ok));
                }
                let call = keeping.until_asked().await;
                assert_eq!(call.topic.as_str(), CALLS_TOPIC);
                assert!(keeping.asked().is_empty(), "it is not on disk yet");
                if !is_stored {
                    let error = RelayError::new(Reason::Internal, Retry::Ambiguous, "the disk is broken");
                    keeping.publishers.on_published(call.ticket, Err(Box::new(error)));
                    assert!(keeping.asked().is_empty(), "it is on no disk");
                    continue;
                }
                keeping.store(&call);
                assert!(keeping.told().starts_with(end), "{}", keeping.told());
                let told = keeping.asked();
                assert_eq!(told.len(), 1);
                assert_eq!((told[0].topic.as_str(), &told[0].units), ("im.kept", &vec![unit("a")]));
                assert_eq!(told[0].attributes.text("owner"), Some("b"));
                if number == 1 {
                    keeping.store(&told[0]);
                } else {
                    let error = RelayError::new(Reason::Limited, Retry::Safe, "the topic is full");
                    keeping.publishers.on_published(told[0].ticket, Err(Box::new(error)));
                }
            }
            assert_eq!(keeping.fixture.caller.endings().len(), 3);
            assert_eq!(keeping.series.told(), (1, 1));
            keeping.fixture.is_as_new().await;
        });
    }
}

// J3
#[test]
fn of_a_call_that_the_local_service_refuses_nothing_is_stored() {
    Keeping::test(OnFailure::Local, async |keeping| {
        keeping.fixture.b.away.set(true);
        keeping.call(1, |_| {});
        let id = keeping.local.opened.borrow()[0].0;
        keeping.local.reply(id, answer(Code::FailedPrecondition));
        keeping.fixture.until_endings(1).await;
        assert_eq!(keeping.told(), "Some(FailedPrecondition) None");
        keeping
            .local
            .refuse
            .set(Some((Reason::ServiceUnavailable, Retry::Safe)));
        let mut call = request("/im.Room/Post");
        call.hints.keys.push(Key {
            dimension: "uid".into(),
            key: "1".into(),
        });
        let refused = keeping.fixture.rpc.open(Box::new(call), keeping.fixture.caller.call(2));
        let error = refused.unwrap_err().error;
        assert!(error.detail.contains("no idempotency-key"), "{error}");
        assert!(keeping.asked().is_empty());
        keeping.fixture.is_as_new().await;
    });
}

// J2, P4: an attempt before may have reached a service; that the unit is away now says nothing about it.
#[test]
fn a_call_that_its_unit_may_have_seen_is_not_kept() {
    for on_failure in [OnFailure::Local, OnFailure::Park] {
        Keeping::test(on_failure, async |keeping| {
            keeping.call(1, |call| call.hints.idempotent = true);
            keeping.fixture.lose(0..1);
            keeping.fixture.b.away.set(true);
            keeping.fixture.until_endings(1).await;
            let told = keeping.told();
            assert!(
                told.starts_with("unit_away") && told.contains("may have executed it"),
                "{told}"
            );
            assert!(keeping.local.opened.borrow().is_empty() && keeping.asked().is_empty());
            // What certainly did not reach it is kept, whatever it was tried before.
            keeping.fixture.b.away.set(false);
            keeping.call(2, |_| {});
            keeping.fixture.b.away.set(true);
            keeping.fixture.fail(1..2, Reason::LinkLost, Retry::Safe);
            wait_for("the call to be kept", || {
                !keeping.local.opened.borrow().is_empty() || !keeping.asked().is_empty()
            })
            .await;
        });
    }
}

// P5: the end of a request may come later than the rest of it; what does not end is a stream.
#[test]
fn a_request_is_waited_for_a_moment_and_a_stream_is_not() {
    Keeping::test(OnFailure::Park, async |keeping| {
        keeping.fixture.b.away.set(true);
        let id = keeping.call(1, |call| call.body.end = false);
        assert!(keeping.asked().is_empty());
        let rest = RequestBody {
            chunk: Bytes::from_static(b"!"),
            end: true,
        };
        keeping.fixture.rpc.on_request(id, RequestEvent::Body(rest));
        let mut asked = Vec::new();
        wait_for("the disk to be asked", || {
            asked.extend(keeping.asked());
            !asked.is_empty()
        })
        .await;
        keeping.store(&asked[0]);
        assert!(keeping.told().starts_with("parked"), "{}", keeping.told());
        keeping.call(2, |call| call.body.end = false);
        keeping.fixture.until_endings(2).await;
        assert!(keeping.told().contains("has not ended"), "{}", keeping.told());
        let gone = keeping.call(3, |_| {});
        let cancel = RequestEvent::Cancel(CancelReason::Caller);
        keeping.fixture.rpc.on_request(gone, cancel);
        let asked = keeping.asked();
        keeping.store(&asked[0]);
        assert_eq!(keeping.fixture.caller.endings().len(), 2, "its caller has gone");
        keeping.fixture.is_as_new().await;
    });
}

fn place() -> Place {
    Place {
        unit: unit("a"),
        relay: unit("a-1"),
    }
}
