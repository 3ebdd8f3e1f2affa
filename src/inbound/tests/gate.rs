//! What the owner's gate says of a call before any service sees it.

use std::num::NonZeroU16;
use std::path::PathBuf;

use super::*;
use crate::control;
use crate::control::claims::Wanted;
use crate::control::tokens::{TokenKeys, unix_now};
use crate::inbound::GateTokens;
use crate::model::{ANY_KEY, Reason, RelayError, Request, Retry, Source};
use crate::routing::token::{TokenSeries, TokenTarget, presented};

/// The gate of a relay of unit a, which owns what nothing else was decided about.
struct Door {
    gate: Rc<OwnerGate>,
    routing: routing::Handle,
    wanted: mpsc::Receiver<Wanted>,
    keys: TokenKeys,
    folder: PathBuf,
}

/// Until when a call of a key must have ended, and since when its service is told that the unit owns the key.
type Entered = (Option<Instant>, Option<u64>);

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Door {
    /// `of`: another one for each test.
    fn new(of: &str) -> Self {
        let rule = |dimension: &str| {
            let rule = serde_json::json!({ "dimension": dimension, "unit": "a", "default": true });
            serde_json::from_value(rule).unwrap()
        };
        let dimensions = [
            serde_json::json!({ "name": "cid", "owner_lease": "20s" }),
            serde_json::json!({ "name": "uid", "owner_lease": "infinite" }),
            serde_json::json!({ "name": "room", "placement": { "claim": [] } }),
        ];
        let book = Book {
            units: ["a", "b"].map(name).to_vec(),
            dimensions: dimensions.map(|spec| serde_json::from_value(spec).unwrap()).to_vec(),
            rules: vec![(1, rule("cid")), (2, rule("uid"))],
            ..Book::default()
        };
        let routing = routed_by(book);
        let folder = std::env::temp_dir().join(format!("strait-gate-{of}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut settings = control::Settings::default();
        settings.tokens.key_file = folder.join("keys");
        std::fs::write(&settings.tokens.key_file, "5a".repeat(32)).unwrap();
        let keys = TokenKeys::open(&settings).unwrap().unwrap();
        let registry = Registry::new().unwrap();
        let (claims, wanted) = Claims::new();
        let gate = OwnerGate::new(GateParts {
            id: GateId::Shard(0),
            place: Place {
                unit: name("a"),
                relay: name("a-1"),
            },
            geo: name("geo"),
            routing: routing.clone(),
            claims,
            drained: mpsc::channel(8).0,
            held: mpsc::channel(8).0,
            in_flight_max: IN_FLIGHT_MAX,
            tokens: Some(GateTokens {
                keys: keys.clone(),
                counts: TokenSeries::register(registry.series()).unwrap().on_shard(),
            }),
            shadows: Shadows::new(shadows::Metrics::register(registry.series()).unwrap()),
        });
        Self {
            gate,
            routing,
            wanted,
            keys,
            folder,
        }
    }

    /// Something is decided about a key; the revision.
    fn decide(&self, (dimension, key): (&str, &str), unit: &str, state: State, term: Term) -> Rev {
        let routes = Arc::clone(self.routing.table().routes().unwrap());
        let (prev, rev) = (routes.rev(), routes.rev().next());
        let id = NodeId::Key {
            dimension: name(dimension),
            key: key.into(),
        };
        let node = Node {
            id: id.clone(),
            target: Target::Unit(name(unit)),
            state,
            rev,
            term,
            previous: None,
            home: None,
            op: OpId(0),
            reason: String::new(),
        };
        let changes = vec![Change {
            rev,
            id: RecordId::Node(id),
            record: Some(Record::Node(node)),
        }];
        let next = routes.apply(&Batch { prev, rev, changes }).unwrap();
        self.routing.replace_routes(&Arc::new(next));
        rev
    }

    /// What becomes of a call; `None` if it is let through and is none of a key.
    fn enter(&self, mut request: Request) -> Result<Option<Entered>, RelayError> {
        let admission = self.gate.enter(&self.routing.table(), &mut request, &ANY_KEY)?;
        Ok(admission.map(|admission| (admission.until, request.facts.owner_epoch)))
    }

    fn refused(&self, request: Request) -> RelayError {
        self.enter(request).expect_err("it was let through")
    }
}

fn call(dimension: &'static str, key: &'static str) -> Request {
    let mut request = request("/im.Echo/Say");
    request.hints.keys.push(Key {
        dimension: Bytes::from_static(dimension.as_bytes()),
        key: Bytes::from_static(key.as_bytes()),
    });
    request
}

// step 3, R-I8: whoever is redirected can go by it without asking the store.
#[test]
fn a_unit_that_does_not_own_a_key_names_who_does_with_a_token_for_it() {
    let door = Door::new("redirect");
    let term = Term::default();
    let rev = door.decide(("room", "k"), "b", State::Active, term.clone());
    let error = door.refused(call("room", "k"));
    let epoch = Epoch::new(0, rev);
    assert_eq!((error.reason, error.retry), (Reason::WrongUnit, Retry::Safe));
    assert_eq!(error.owner, Some((name("b"), epoch.0)));
    let given = error.token.unwrap();
    let given = presented([&given[..]]).next().unwrap().unwrap();
    assert_eq!(given.dimension, "room");
    let token = door
        .keys
        .ring()
        .open(given.text, &name("room"), b"k", unix_now())
        .unwrap();
    assert_eq!(token.target, TokenTarget::Unit(NonZeroU16::new(2).unwrap()));
    assert_eq!((token.epoch, token.as_of), (epoch, rev));
    // Keys that rules place need none.
    let rev = door.decide(("cid", "k"), "b", State::Active, term);
    let error = door.refused(call("cid", "k"));
    assert_eq!(error.owner, Some((name("b"), Epoch::new(0, rev).0)));
    assert_eq!(error.token, None);
}

// step 2, R-I8: a relay that is behind its caller says so; epochs of another Geo are counted otherwise.
#[test]
fn a_later_epoch_of_the_caller_counts_if_it_is_of_this_geo() {
    let door = Door::new("epochs");
    let from = |geo: Option<&str>| {
        let mut request = call("cid", "k");
        request.facts.epoch = Epoch::new(0, Rev(2)).0;
        request.facts.source = geo.map(|geo| Source {
            geo: name(geo),
            unit: name("b"),
            service: None,
        });
        request
    };
    for geo in [None, Some("geo")] {
        let error = door.refused(from(geo));
        assert_eq!((error.reason, error.retry), (Reason::RoutesAway, Retry::Safe));
        assert_eq!(error.owner, None);
    }
    assert!(door.enter(from(Some("elsewhere"))).is_ok());
}

// step 6, R-D11: the steps of a move do not raise it, or storage that refuses lower ones would refuse valid writes.
#[test]
fn a_service_is_told_since_when_its_unit_owns_the_key() {
    let door = Door::new("since");
    let told = || door.enter(call("cid", "k")).unwrap().unwrap().1;
    let first = told();
    let since = door.decide(("cid", "k"), "a", State::Active, Term::default());
    assert_eq!(told(), Some(Epoch::new(0, since).0));
    assert!(told() > first);
    let (to, by) = (name("b"), MoveId(7));
    let state = State::Migrating { to, by };
    assert!(door.decide(("cid", "k"), "a", state, Term::since(since)) > since);
    assert_eq!(told(), Some(Epoch::new(0, since).0));
}

// a forced takeover waits for the lease and for the longest call. Where there is none, calls may take their time.
#[test]
fn calls_of_keys_that_can_be_taken_by_force_must_end() {
    let door = Door::new("until");
    let until = |request: Request| {
        let received = request.received;
        let until = door.enter(request).unwrap().unwrap().0;
        until.map(|until| until - received)
    };
    assert_eq!(until(call("cid", "k")), Some(IN_FLIGHT_MAX));
    assert_eq!(until(call("uid", "k")), None);
}

// what no key routes is not for the gate, but for this unit.
#[test]
fn a_call_that_names_its_unit_is_let_through_only_there() {
    let door = Door::new("named");
    let to = |unit: &str| {
        let mut request = request("/im.Echo/Say");
        request.hints.unit = Some(name(unit));
        request
    };
    assert_eq!(door.enter(to("a")).unwrap(), None);
    let error = door.refused(to("b"));
    assert_eq!(error.reason, Reason::WrongUnit);
    assert_eq!(error.owner.map(|(unit, _)| unit), Some(name("b")));
}

// the owner of a key may not have heard of its claim; its caller comes back when it has asked.
#[test]
fn a_gate_that_knows_no_owner_asks_for_one_and_lets_nothing_through() {
    let mut door = Door::new("unclaimed");
    let error = door.refused(call("room", "k"));
    assert_eq!((error.reason, error.retry), (Reason::RoutesAway, Retry::Safe));
    match door.wanted.try_recv() {
        Ok(Wanted::Owner(hints, _)) => assert_eq!(&hints.keys[0].key[..], b"k"),
        other => panic!("{other:?}"),
    }
}
