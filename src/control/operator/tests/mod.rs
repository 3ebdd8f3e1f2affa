//! Each command against the embedded store and a copy that is fed from it.

mod give;
mod looks;
mod moves;
mod publish;
mod undo;
mod units;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio_util::task::TaskTracker;

use super::*;
use crate::control::embedded::Embedded;
use crate::model::{RoutePolicy, UnitId};
use crate::routing::record::{
    Claim, Commit, Committed, Epoch, Move, MoveId, MoveState, Node, Rev, State, Target, Term,
};
use crate::routing::{RouteTable, Routes, Settings};

/// A relay of unit a with a store of its own.
struct Relay {
    operator: Operator,
    store: Arc<dyn Store>,
    routing: routing::Handle,
    hand: Arc<AtomicU64>,
    configured: Arc<Mutex<Book>>,
    folder: PathBuf,
    tasks: TaskTracker,
    dice: AtomicU64,
}

impl Relay {
    /// With this book published.
    async fn with(name: &str, book: serde_json::Value) -> Self {
        let relay = Self::unpublished(name, book);
        relay
            .ask(Command::Publish {
                previous: false,
                dry_run: false,
                who: String::new(),
            })
            .await
            .unwrap();
        relay
    }

    fn unpublished(name: &str, book: serde_json::Value) -> Self {
        let folder = std::env::temp_dir().join(format!("strait-operator-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        let hand = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&hand);
        let clock = Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)));
        let store: Arc<dyn Store> = Arc::new(Embedded::open(&folder.join("routes"), clock, 7).unwrap());
        let rules = RouteTable::build(
            &Settings::default(),
            &unit("a"),
            &[unit("b"), unit("c"), unit("of-another-geo")],
        )
        .unwrap();
        let routing = routing::Handle::new(rules);
        let configured = Arc::new(Mutex::new(serde_json::from_value::<Book>(book).unwrap()));
        let told = Arc::clone(&configured);
        let operator = Operator::new(Parts {
            store: Arc::clone(&store),
            routing: routing.clone(),
            place: Place {
                unit: unit("a"),
                relay: unit("a-1"),
            },
            configured: Arc::new(move || told.lock().unwrap().clone()),
            view: Arc::new(|| View {
                store: "embedded at a/a-1".to_owned(),
                is_stale: false,
                unread: Some("it was refused".to_owned()),
                lease: LeaseState::default(),
                now: Duration::ZERO,
            }),
            in_flight_max: Duration::from_secs(10),
            copy_wait: COPY_WAIT * 10,
            claims: Claims::new().0,
            route_policy: Arc::new(|service, method| RoutePolicy {
                dimensions: service.iter().map(|_| unit("cid")).collect(),
                reads: method == Some("History"),
                ..RoutePolicy::default()
            }),
        });
        let tasks = TaskTracker::new();
        tasks.spawn(feed(Arc::clone(&store), routing.clone()));
        Self {
            operator,
            store,
            routing,
            hand,
            configured,
            folder,
            tasks,
            dice: AtomicU64::new(0),
        }
    }

    async fn ask(&self, command: Command) -> Result<Answer, String> {
        let dice = u128::from(self.dice.fetch_add(1, Ordering::SeqCst) + 1) << 64;
        let answer = self.operator.answer(command, NOW, dice).await;
        answer.map_err(|error| error.to_string())
    }

    /// What is refused, with this in its text.
    async fn refuses(&self, command: Command, part: &str) {
        let text = self.ask(command).await.unwrap_err();
        assert!(text.contains(part), "{text}");
    }

    async fn commit(&self, puts: Vec<Record>) -> Rev {
        let dice = u128::from(self.dice.fetch_add(1, Ordering::SeqCst) + 1) << 64;
        let commit = Commit {
            op: OpId(dice),
            compares: Vec::new(),
            puts,
            removes: Vec::new(),
        };
        match self.store.commit(commit).await.unwrap() {
            Committed::Done(rev) => rev,
            Committed::Conflict { .. } => panic!("nothing was compared"),
        }
    }

    async fn owner(&self, dimension: &str, key: &str) -> Option<String> {
        let Answer::Key(row) = self.ask(get(dimension, key)).await.unwrap() else {
            panic!("a key")
        };
        row.explanation.owner
    }

    async fn rev(&self) -> Rev {
        self.store.snapshot().await.unwrap().epoch.rev()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.close();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the worker of a relay does.
async fn feed(store: Arc<dyn Store>, routing: routing::Handle) {
    let snapshot = store.snapshot().await.unwrap();
    let mut routes = Routes::from_snapshot(&snapshot);
    put(&routing, &routes);
    let mut batches = store.watch(routes.rev()).await.unwrap();
    drop(store);
    while let Some(Ok(batch)) = batches.recv().await {
        routes = routes.apply(&batch).unwrap();
        put(&routing, &routes);
    }
}

fn put(routing: &routing::Handle, routes: &Routes) {
    routing.replace_routes(&Arc::new(routes.clone()));
}

fn unit(text: &str) -> UnitId {
    Name::new(text).unwrap()
}

fn key(dimension: &str, key: &str) -> NodeId {
    NodeId::Key {
        dimension: unit(dimension),
        key: key.into(),
    }
}

fn node(id: NodeId, owner: &str, state: State) -> Record {
    Record::Node(Node {
        id,
        target: Target::Unit(unit(owner)),
        state,
        rev: Rev::ZERO,
        term: Term::default(),
        previous: None,
        home: None,
        op: OpId(0),
        reason: String::new(),
    })
}

fn get(dimension: &str, key: &str) -> Command {
    Command::Get {
        dimension: unit(dimension),
        key: key.into(),
        service: None,
        method: None,
    }
}

fn give(dimension: &str, key: &str, to: &str) -> GiveAsk {
    GiveAsk {
        dimension: unit(dimension),
        key: key.into(),
        unit: unit(to),
        dry_run: false,
        who: "ann".to_owned(),
    }
}

/// Conversations are claimed, users go by rules, companies have none.
fn book() -> serde_json::Value {
    serde_json::json!({
        "units": ["a", "b", "c"],
        "dimensions": [{ "name": "cid", "placement": { "claim": [] } }, { "name": "uid" }, { "name": "org" }],
        "rules": [
            [1, { "dimension": "uid", "unit": "b", "prefix": "15" }],
            [2, { "dimension": "uid", "unit": "a", "hash": [0, 50] }],
            [3, { "dimension": "uid", "unit": "b", "hash": [50, 100] }],
        ],
    })
}

/// 2026-11-25T10:00:00Z
const NOW: u64 = 1_795_600_800;
