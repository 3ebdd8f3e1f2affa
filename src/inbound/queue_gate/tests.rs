//! The gate of the queue while keys move.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::*;
use crate::model::Name;
use crate::queue::Inlet;
use crate::routing::lease::LeaseState;
use crate::routing::record::{
    Batch, Book, Change, MoveId, Node, NodeId, OpId, Record, RecordId, Rev, SessionId, State, Target, Term,
};
use crate::routing::{Handle, Routes, Rule, Settings};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn key(text: &str) -> Key {
    Key {
        dimension: Bytes::from_static(b"cid"),
        key: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn rule(unit: &str) -> Rule {
    Rule {
        dimension: name("cid"),
        unit: name(unit),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: true,
    }
}

/// By settings: unit `a` owns everything of dimension `cid`.
fn settings() -> RouteTable {
    let settings = Settings {
        dimensions: vec![name("cid")],
        rules: vec![rule("a")],
        ..Settings::default()
    };
    RouteTable::build(&settings, &name("a"), [&name("b")]).unwrap()
}

/// By a route store: unit `a` does.
fn table() -> RouteTable {
    let book = Book {
        units: ["a", "b"].map(name).to_vec(),
        dimensions: vec![serde_json::from_value(serde_json::json!({ "name": "cid" })).unwrap()],
        rules: vec![(1, rule("a"))],
        ..Book::default()
    };
    let routes = Routes::of_book(book);
    settings().with_routes(Arc::new(routes))
}

fn id(text: &str) -> NodeId {
    NodeId::Key {
        dimension: name("cid"),
        key: text.into(),
    }
}

/// The table after something was decided about a key.
fn decide(table: &RouteTable, key: &str, unit: &str, state: State) -> RouteTable {
    decide_about(table, id(key), unit, state)
}

fn decide_about(table: &RouteTable, id: NodeId, unit: &str, state: State) -> RouteTable {
    let routes = table.routes().unwrap();
    let (prev, rev) = (routes.rev(), routes.rev().next());
    let node = Node {
        id: id.clone(),
        target: Target::Unit(name(unit)),
        state,
        rev,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    };
    let change = Change {
        rev,
        id: RecordId::Node(id),
        record: Some(Record::Node(node)),
    };
    let changes = vec![change];
    table.with_routes(Arc::new(routes.apply(&Batch { prev, rev, changes }).unwrap()))
}

fn routes_of(table: &RouteTable) -> Arc<Routes> {
    Arc::clone(table.routes().unwrap())
}

fn frozen(by: u64) -> State {
    State::Frozen {
        to: name("b"),
        by: MoveId(by),
    }
}

fn drain(key: &str, by: u64, rev: u64) -> Drain {
    Drain {
        by: MoveId(by),
        node: id(key),
        rev: Rev(rev),
    }
}

struct World {
    routing: Handle,
    inlet: Arc<Inlet>,
    answers: crossing::Sender<Output>,
    drains: mpsc::Sender<Drain>,
    drained: mpsc::Receiver<(GateId, Drain)>,
    task: JoinHandle<()>,
}

impl World {
    fn new(table: RouteTable) -> Self {
        let routing = Handle::new(table);
        let (queue, inlet) = queue::Handle::new(1);
        let (answers, from_queue) = crossing::pipe();
        let (drains, asked) = mpsc::channel(8);
        let (told, drained) = mpsc::channel(8);
        let gate = QueueGate::new(QueueGateParts {
            unit: name("a"),
            routing: routing.clone(),
            claims: None,
            queue,
            answers: from_queue,
            drains: asked,
            drained: told,
        });
        let local = tokio::runtime::Handle::current();
        let task = local.spawn(gate.run(CancellationToken::new()));
        Self {
            routing,
            inlet,
            answers,
            drains,
            drained,
            task,
        }
    }

    /// What the queue got, once the gate has nothing to do.
    async fn inputs(&self) -> Vec<Input> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut inputs = Vec::new();
        self.inlet.wake();
        self.inlet.take(&mut inputs, Duration::ZERO);
        inputs
    }

    fn answer(&self, number: u64, messages: u64) {
        let ticket = ticket(number);
        self.answers.push(Output::Undelivered { ticket, messages });
    }
}

#[tokio::test]
async fn a_freeze_is_reported_when_the_queue_says_that_nothing_waits() {
    // G6, R-3.9 S4
    let table = decide(&table(), "x", "a", frozen(7));
    let mut world = World::new(table.clone());
    // One that is over, or not in force here, is not asked about.
    for over in [drain("x", 7, 1), drain("x", 8, 2), drain("y", 7, 2)] {
        world.drains.send(over).await.unwrap();
    }
    assert!(world.inputs().await.is_empty());
    world.drains.send(drain("x", 7, 2)).await.unwrap();
    let inputs = world.inputs().await;
    let [Input::Ask(question)] = &inputs[..] else {
        panic!("{inputs:?}")
    };
    assert!(question.at_most == 0 && question.keys.contains(&key("x")) && !question.keys.contains(&key("y")));
    assert!(world.drained.try_recv().is_err());
    world.answer(question.ticket.number + 1, 0);
    world.answer(question.ticket.number, 0);
    world.inputs().await;
    assert_eq!(world.drained.try_recv().unwrap(), (GateId::Queue, drain("x", 7, 2)));
    assert!(world.drained.try_recv().is_err());
}

// S4. Symptom: a key stayed for the messages of another one. Cause: what the same move had frozen before, and anything that was frozen
// later, counted for each. Fix: a key counts if its look-up goes through the node. One of which it cannot be told counts still.
#[tokio::test]
async fn messages_of_other_frozen_keys_hold_up_no_freeze() {
    let table = decide(&decide(&table(), "x", "a", frozen(7)), "y", "a", frozen(7));
    let table = decide(&table, "z", "a", frozen(8));
    let world = World::new(table.clone());
    let keys = async |drain: Drain| {
        world.drains.send(drain).await.unwrap();
        let mut inputs = world.inputs().await;
        let Some(Input::Ask(question)) = inputs.pop() else {
            panic!("{inputs:?}")
        };
        ["x", "y", "z"].map(|text| question.keys.contains(&key(text)))
    };
    assert_eq!(keys(drain("x", 7, 2)).await, [true, false, false]);
    assert_eq!(keys(drain("y", 7, 3)).await, [false, true, false]);
    assert_eq!(keys(drain("z", 8, 4)).await, [false, false, true]);
    // A rule has the keys that nothing else was decided about.
    let all = NodeId::Rule {
        dimension: name("cid"),
        rule: 1,
    };
    let wide = decide_about(&table, all.clone(), "a", frozen(9));
    world.routing.replace_routes(&routes_of(&wide));
    let (by, rev) = (MoveId(9), Rev(5));
    world.drains.send(Drain { by, node: all, rev }).await.unwrap();
    let inputs = world.inputs().await;
    let asked = inputs.iter().find_map(|input| match input {
        Input::Ask(question) => Some(question),
        _ => None,
    });
    let question = asked.unwrap();
    assert_eq!(["x", "w"].map(|text| question.keys.contains(&key(text))), [false, true]);
}

#[tokio::test]
async fn a_question_is_taken_back_when_its_freeze_is_over() {
    // G7
    let before = decide(&table(), "x", "a", frozen(7));
    let mut world = World::new(before.clone());
    world.drains.send(drain("x", 7, 2)).await.unwrap();
    let inputs = world.inputs().await;
    let [Input::Ask(question)] = &inputs[..] else {
        panic!("{inputs:?}")
    };
    // Something that waits for routes is to look again, publications among it: the question stays.
    world.routing.wake();
    assert!(matches!(world.inputs().await[..], [Input::Routes]));
    // Another key: the question stays, and the queue looks again at what waits for routes.
    let other = decide(&before, "y", "b", State::Active);
    world.routing.replace_routes(&routes_of(&other));
    assert!(matches!(world.inputs().await[..], [Input::Routes]));
    world
        .routing
        .replace_routes(&routes_of(&decide(&other, "x", "a", State::Active)));
    let inputs = world.inputs().await;
    assert!(matches!(&inputs[..], [Input::Routes, Input::Withdraw(ticket)] if *ticket == question.ticket));
    world.answer(question.ticket.number, 0);
    world.inputs().await;
    assert!(world.drained.try_recv().is_err());
}

#[tokio::test]
async fn a_later_freeze_takes_the_place_of_the_one_before() {
    // G7
    let first = decide(&table(), "x", "a", frozen(7));
    let mut world = World::new(first.clone());
    world.drains.send(drain("x", 7, 2)).await.unwrap();
    world.inputs().await;
    world
        .routing
        .replace_routes(&routes_of(&decide(&first, "x", "a", frozen(7))));
    world.inputs().await;
    world.drains.send(drain("x", 7, 3)).await.unwrap();
    let inputs = world.inputs().await;
    let [Input::Ask(question)] = &inputs[..] else {
        panic!("{inputs:?}")
    };
    world.answer(question.ticket.number - 1, 0);
    world.answer(question.ticket.number, 0);
    world.inputs().await;
    assert_eq!(world.drained.try_recv().unwrap(), (GateId::Queue, drain("x", 7, 3)));
    assert!(world.drained.try_recv().is_err());
}

#[tokio::test]
async fn the_gate_ends_with_the_queue() {
    let world = World::new(table());
    drop(world.answers);
    world.task.await.unwrap();
}

#[test]
fn owners_of_keys_are_what_the_routes_say() {
    let owners = |table: RouteTable, unit: &str| KeyOwners::new(Handle::new(table), name(unit), None);
    let of = |table: RouteTable, text: &str| {
        let owners = owners(table, "a");
        let mut lease = LeaseState::default();
        lease.opened(SessionId(1), Rev(1), boot_time());
        owners.routing.set_lease(lease);
        owners.of(&key(text))
    };
    let other = |epoch| Owner::Other { unit: name("b"), epoch };
    // The settings know no epochs.
    assert_eq!(of(settings(), "x"), Owner::Ours);
    let at_b = owners(settings(), "b");
    assert_eq!(at_b.of(&key("x")), Owner::Settings(name("a")));
    let unknown = Key {
        dimension: Bytes::from_static(b"other"),
        ..key("x")
    };
    assert_eq!(at_b.of(&unknown), Owner::Unknown);
    // Nothing of the store is here.
    assert_eq!(of(settings().awaiting_routes(), "x"), Owner::Frozen);
    let table = table();
    assert_eq!(of(table.clone(), "x"), Owner::Ours);
    assert_eq!(
        owners(table.clone(), "a").of(&key("x")),
        Owner::Frozen,
        "without a session (G8)"
    );
    let table = decide(&table, "x", "a", frozen(7));
    assert_eq!(of(table.clone(), "x"), Owner::Frozen);
    assert_eq!(of(table.clone(), "y"), Owner::Ours);
    let table = decide(&table, "x", "b", State::Active);
    assert_eq!(of(table, "x"), other(3));
}

#[tokio::test]
async fn before_a_freeze_the_queue_is_to_have_few_messages_of_the_key() {
    // S2
    let migrating = State::Migrating {
        to: name("b"),
        by: MoveId(7),
    };
    let table = decide(&table(), "x", "a", migrating);
    let mut world = World::new(table.clone());
    world.drains.send(drain("x", 7, 2)).await.unwrap();
    let inputs = world.inputs().await;
    let [Input::Ask(question)] = &inputs[..] else {
        panic!("{inputs:?}")
    };
    assert!(question.keys.contains(&key("x")) && !question.keys.contains(&key("y")));
    assert_eq!(question.at_most, 16, "more than so many hold up the freeze");
    let unknown = Key {
        dimension: Bytes::from_static(b"other"),
        ..key("x")
    };
    assert!(
        !question.keys.contains(&unknown),
        "what cannot be told holds up nothing"
    );
    world.answer(question.ticket.number, question.at_most);
    world.inputs().await;
    assert_eq!(world.drained.try_recv().unwrap(), (GateId::Queue, drain("x", 7, 2)));
    // The freeze asks anew, and for all.
    world
        .routing
        .replace_routes(&routes_of(&decide(&table, "x", "a", frozen(7))));
    world.drains.send(drain("x", 7, 3)).await.unwrap();
    let inputs = world.inputs().await;
    let is_for_all = |input: &Input| matches!(input, Input::Ask(question) if question.at_most == 0);
    assert!(inputs.iter().any(is_for_all), "{inputs:?}");
}

// a publication goes where the routes say, also while its key is frozen; what may be known later is waited for.
#[test]
fn publications_go_where_the_routes_say() {
    let route = |table: RouteTable, key: &Key| KeyOwners::new(Handle::new(table), name("a"), None).route(key);
    let to = |unit: &str, epoch: u64| Route::To(name(unit), epoch);
    assert_eq!(route(settings(), &key("x")), to("a", 0), "the settings know no epochs");
    assert_eq!(route(settings().awaiting_routes(), &key("x")), Route::Later);
    let frozen = decide(&table(), "x", "a", frozen(7));
    assert!(matches!(route(frozen.clone(), &key("x")), Route::To(unit, 1..) if unit == name("a")));
    let moved = decide(&frozen, "x", "b", State::Active);
    assert_eq!(route(moved, &key("x")), to("b", 3));
    let unknown = Key {
        dimension: Bytes::from_static(b"other"),
        ..key("x")
    };
    assert_eq!(route(table(), &unknown), Route::Nowhere);
    // what nobody took over waits for its owner, which delivers nothing of it.
    let nobody = State::Evacuated {
        takeover: vec![(name("b"), 0)],
    };
    let nobody = decide_about(&table(), NodeId::Unit(name("a")), "a", nobody);
    assert_eq!(route(nobody.clone(), &key("x")), to("a", 2));
    let owners = KeyOwners::new(Handle::new(nobody), name("a"), None);
    let mut lease = LeaseState::default();
    lease.opened(SessionId(1), Rev(1), boot_time());
    owners.routing.set_lease(lease);
    assert_eq!(owners.of(&key("x")), Owner::Frozen);
}
