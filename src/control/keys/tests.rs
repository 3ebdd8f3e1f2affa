//! Watches over changes of the table.

use super::*;
use crate::routing::Settings;
use crate::routing::record::{Rev, Snapshot};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Keys of `cid` belong to this unit.
fn routes(revision: u64, unit: &str) -> Arc<routing::Routes> {
    let book = serde_json::json!({
        "units": ["a", "b", "c"],
        "dimensions": [{ "name": "cid", "placement": "rules" }],
        "rules": [[1, { "dimension": "cid", "unit": unit, "default": true }]],
    });
    let changes = serde_json::json!([{ "rev": revision, "id": "book", "record": { "book": book } }]);
    Arc::new(routing::Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(revision)),
        seed: 1,
        changes: serde_json::from_value(changes).unwrap(),
    }))
}

fn desk() -> (Desk, routing::Handle) {
    let units = [name("b"), name("c")];
    let table = RouteTable::build(&Settings::default(), &name("a"), units.iter()).unwrap();
    let routing = routing::Handle::new(table.awaiting_routes());
    let desk = Desk::new(Parts {
        unit: name("a"),
        routing: routing.clone(),
        claims: None,
        ask: None,
        tokens: None,
    });
    (desk, routing)
}

fn keys(count: usize) -> Vec<Key> {
    let key = |number: usize| Key {
        dimension: "cid".into(),
        key: number.to_string().into(),
    };
    (0..count).map(key).collect()
}

// K2, K4: what was true in between is not told to whoever comes late, and what is the same is not told again.
#[tokio::test]
async fn a_slow_reader_hears_the_present_state_only() {
    let (desk, routing) = desk();
    let mut watch = desk.watch(keys(2)).unwrap();
    let news = watch.next().await;
    assert!(
        news.keys.iter().all(|(_, owner)| owner.is_err()),
        "nothing is known: {news:?}"
    );
    for (revision, unit) in [(1, "a"), (2, "b"), (3, "c"), (4, "b")] {
        routing.replace_routes(&routes(revision, unit));
    }
    let news = watch.next().await;
    let owners: Vec<_> = news.keys.iter().filter_map(|(_, owner)| owner.as_ref().ok()).collect();
    assert!(owners.len() == 2 && owners.iter().all(|owner| owner.unit == name("b") && owner.epoch == 4));
    routing.wake();
    let waited = tokio::time::timeout(std::time::Duration::from_millis(20), watch.next()).await;
    assert!(waited.is_err(), "nothing is new");
    routing.replace_routes(&routes(5, "c"));
    assert_eq!(watch.next().await.keys.len(), 2);
}

// K3
#[test]
fn what_is_watched_is_bounded_and_room_comes_back() {
    let (desk, _) = desk();
    assert!(matches!(desk.watch(keys(0)), Err(KeysError::Invalid(_))));
    assert!(matches!(desk.watch(keys(501)), Err(KeysError::Invalid(_))));
    let mut watches: Vec<_> = (0..100).map(|_| desk.watch(keys(500)).unwrap()).collect();
    assert!(matches!(desk.watch(keys(1)), Err(KeysError::Full)));
    watches.pop();
    assert!(desk.watch(keys(500)).is_ok());
}
