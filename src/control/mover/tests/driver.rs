//! The driver against the store in a file.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::{Driver, HookAnswer, HookCall, Hooked, Hooks, Limits, Metrics};
use super::world::{World, key, name, relay};
use crate::control::embedded::Embedded;
use crate::control::store::Store;
use crate::routing::record::{
    Commit, FreezeAck, Hook, Lag, Move, MoveId, MoveState, OpId, Record, RecordId, RelayId, Rev, State,
};
use crate::routing::{self, RouteTable, Routes};

/// An application that says yes, and notes what it was asked.
struct Notes(parking_lot::Mutex<BTreeMap<Hook, usize>>);

impl Hooks for Notes {
    fn call(&self, call: HookCall) -> HookAnswer {
        let mut notes = self.0.lock();
        let count = notes.entry(call.hook).or_default();
        *count += 1;
        // It has not copied enough at first.
        let is_late = call.hook == Hook::Lag && *count == 1;
        let hooked = match call.hook {
            Hook::Lag if is_late => Hooked::Lag(Lag {
                changes: 5000,
                ..Lag::default()
            }),
            Hook::Lag => Hooked::Lag(Lag::default()),
            _ => Hooked::Done,
        };
        Box::pin(std::future::ready(hooked))
    }
}

/// Puts the feed in force, and reports freezes and what comes before them for a relay of unit a.
async fn keep(store: Arc<dyn Store>, routing: routing::Handle, id: RelayId) {
    let opened = store.open(id).await.unwrap();
    let mut routes = Routes::from_snapshot(&store.snapshot().await.unwrap());
    let mut feed = store.watch(routes.rev()).await.unwrap();
    while let Some(Ok(batch)) = feed.recv().await {
        routes = routes.apply(&batch).unwrap();
        let held = routes
            .moving()
            .filter(|node| matches!(node.state, State::Frozen { .. } | State::Migrating { .. }));
        let acks = held.map(|node| FreezeAck {
            session: opened.session,
            by: node.state.work().unwrap(),
            node: node.id.clone(),
            rev: node.rev,
            drained: true,
            held_by: None,
        });
        let acks: Vec<_> = acks.collect();
        publish(&routing, &routes);
        if !acks.is_empty() {
            store.report(acks).await.unwrap();
        }
        let _ = store.renew(opened.session).await;
    }
}

fn publish(routing: &routing::Handle, routes: &Routes) {
    routing.replace_routes(&Arc::new(routes.clone()));
}

async fn put(store: &dyn Store, op: u128, record: Record) {
    let commit = Commit {
        op: OpId(op),
        compares: Vec::new(),
        puts: vec![record],
        removes: Vec::new(),
    };
    store.commit(commit).await.unwrap();
}

async fn found(store: &dyn Store, id: RecordId) -> Option<Record> {
    let reading = store.read(vec![id]).await.unwrap();
    reading.found.into_iter().flatten().next()?.record
}

async fn ended(store: &dyn Store, id: MoveId) -> Move {
    let looks = async {
        let mut feed = store.watch(store.snapshot().await.unwrap().epoch.rev()).await.unwrap();
        loop {
            if let Some(Record::Move(work)) = found(store, RecordId::Move(id)).await
                && work.state != MoveState::Running
            {
                return work;
            }
            feed.recv().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looks).await.unwrap()
}

// D1, R-I12: moves end while relays report, with the application asked at each step; how long keys were frozen.
#[tokio::test]
async fn a_driver_moves_keys_in_the_store_of_a_file() {
    let folder = std::env::temp_dir().join(format!("strait-driver-{:x}", fastrand::u64(..)));
    std::fs::create_dir(&folder).unwrap();
    let clock: crate::control::embedded::Clock = Arc::new(crate::control::clock::boot_time);
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&folder.join("routes"), clock, 7).unwrap());
    let book = World::new(&[], &[]).ledger.book().unwrap().clone();
    put(&*store, 1, Record::Book(book)).await;

    let table = RouteTable::build(&routing::Settings::default(), &name("a"), []).unwrap();
    let routing = routing::Handle::new(table);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let kept = tracker.spawn(keep(Arc::clone(&store), routing.clone(), relay("a-1")));
    let hooks = Arc::new(Notes(parking_lot::Mutex::default()));
    let asked: Arc<dyn Hooks> = Arc::<Notes>::clone(&hooks);
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let driver = Driver::new(
        Arc::clone(&store),
        relay("a-1"),
        routing,
        asked,
        Limits::default(),
        metrics,
    );
    let driving = tracker.spawn(driver.run(stop.clone()));

    let world = World::new(&["a-1"], &[]);
    for (id, hooked, count) in [(5, true, 3), (6, false, 40)] {
        let mut work = world.work(id, "b", (id * 100..id * 100 + count).map(key).collect());
        work.since = store.snapshot().await.unwrap().epoch.rev();
        work.options.hooks = hooked;
        put(&*store, id.into(), Record::Move(work)).await;
        let work = ended(&*store, MoveId(id)).await;
        assert_eq!(
            (work.state, u64::from(work.moved), work.aborted),
            (MoveState::Trailing, count, 0)
        );
    }
    let Some(Record::Node(node)) = found(&*store, RecordId::Node(key(500))).await else {
        panic!()
    };
    assert_eq!((node.target.unit(), &node.state), (Some(&name("b")), &State::Active));
    let asked = hooks.0.lock().clone();
    for hook in [
        Hook::Prepare,
        Hook::Copy,
        Hook::Quiesce,
        Hook::FinalSync,
        Hook::Activate,
    ] {
        assert_eq!(asked.get(&hook), Some(&3), "{asked:?}");
    }
    assert!(asked.get(&Hook::Lag) > Some(&3) && !asked.contains_key(&Hook::Cleanup));

    stop.cancel();
    driving.await.unwrap();
    kept.abort();
    assert!(store.snapshot().await.unwrap().epoch.rev() > Rev(40));
    std::fs::remove_dir_all(&folder).unwrap();
}
