//! Users whose homes are followed, over changes of the table.

use serde_json::json;

use super::*;
use crate::control::claims::{Outcome, Wanted};
use crate::routing::record::{Epoch, Rev, Snapshot};
use crate::routing::{RouteTable, Routes};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// What a copy at a revision says: users belong to a unit by rule, and these records are there.
fn routes(revision: u64, unit: &str, nodes: &[serde_json::Value]) -> Arc<Routes> {
    let book = json!({
        "units": ["a", "b", "c"],
        "dimensions": [{ "name": "uid", "placement": "rules", "key_bytes_max": 8 }],
        "rules": [[1, { "dimension": "uid", "unit": unit, "default": true }]],
    });
    let mut changes = vec![json!({ "rev": revision, "id": "book", "record": { "book": book } })];
    for node in nodes {
        let mut node = node.clone();
        node["rev"] = json!(revision);
        node["op"] = json!("00000000000000000000000000000001");
        let id = json!({ "node": node["id"] });
        changes.push(json!({ "rev": revision, "id": id, "record": { "node": node } }));
    }
    Arc::new(Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(revision)),
        seed: 1,
        changes: serde_json::from_value(json!(changes)).unwrap(),
    }))
}

/// A record of user `u`.
fn user(unit: &str, state: &serde_json::Value) -> serde_json::Value {
    json!({ "id": { "key": { "dimension": "uid", "key": "u" } }, "target": { "unit": unit }, "state": state })
}

fn frozen(to: &str) -> serde_json::Value {
    json!({ "frozen": { "to": to, "by": "0000000000000001" } })
}

fn of_unit(unit: &str, state: &serde_json::Value) -> serde_json::Value {
    json!({ "id": { "unit": unit }, "target": { "unit": unit }, "state": state })
}

fn directory() -> Directory {
    let unit = |text: &str, geo: &str| (name(text), (name(geo), vec![format!("wss://{text}").into()]));
    Directory {
        units: [unit("a", "g"), unit("b", "g"), unit("c", "g"), unit("far", "other")].into(),
        spread: Duration::from_secs(15),
        points_max: 16,
        users_max: 1000,
    }
}

fn desk() -> (Desk, routing::Handle) {
    let units = [name("b"), name("c")];
    let table = RouteTable::build(&routing::Settings::default(), &name("a"), units.iter()).unwrap();
    let routing = routing::Handle::new(table.awaiting_routes());
    let desk = Desk::new(Parts {
        unit: name("a"),
        geo: name("g"),
        dimension: Some(name("uid")),
        directory: directory(),
        routing: routing.clone(),
        claims: None,
        metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
    });
    (desk, routing)
}

fn followed(key: &str, home: Option<&str>) -> User {
    User {
        key: key.into(),
        home: home.map(name),
    }
}

fn addresses(points: &[Point]) -> Vec<&str> {
    points.iter().map(|point| &*point.address).collect()
}

async fn next(following: &mut Following) -> News {
    let news = tokio::time::timeout(Duration::from_secs(10), following.next());
    news.await.expect("something is to be told")
}

/// Nothing is to be told now.
fn is_quiet(following: &mut Following) -> bool {
    let news = following.look();
    news.users.is_empty() && news.advice.is_empty()
}

// E2, E4, D1: the present state first; then advice when the unit has changed, once, whatever was true in between.
#[tokio::test]
async fn a_user_whose_home_moves_is_told_of_once() {
    let (desk, routing) = desk();
    let mut following = desk.follow(vec![followed("u", None)]).unwrap();
    let first = next(&mut following).await;
    let listed = &first.users[0];
    assert_eq!((&listed.home, addresses(&listed.points)[0]), (&None, "wss://a"));
    assert!(!listed.detail.is_empty() && first.advice.is_empty());

    routing.replace_routes(&routes(2, "b", &[]));
    let news = next(&mut following).await;
    let advice = &news.advice[0];
    assert_eq!((&advice.now.home, &advice.previous), (&Some(name("b")), &name("a")));
    assert_eq!(addresses(&advice.now.points)[0], "wss://b");
    assert_eq!(advice.now.points.len(), 3, "units of this Geo");
    assert!(news.users.is_empty() && advice.after < advice.within && advice.within == Duration::from_secs(15));
    assert!(is_quiet(&mut following));
    routing.replace_routes(&routes(3, "b", &[user("b", &json!("active"))]));
    assert!(is_quiet(&mut following), "another epoch is no other unit");
    // Late, and back again meanwhile.
    for (revision, unit) in [(4, "c"), (5, "a"), (6, "c")] {
        routing.replace_routes(&routes(revision, unit, &[]));
    }
    let news = next(&mut following).await;
    let moved: Vec<_> = news
        .advice
        .iter()
        .map(|advice| (&advice.now.home, advice.now.epoch))
        .collect();
    assert_eq!(moved.len(), 1, "{news:?}");
    assert_eq!((moved[0].0, news.epoch), (&Some(name("c")), 6));
    for (revision, unit) in [(7, "b"), (8, "c")] {
        routing.replace_routes(&routes(revision, unit, &[]));
    }
    assert!(is_quiet(&mut following), "it is where it was");
}

// D2: nothing is said before the move is over; taken back, its clients stay.
#[tokio::test]
async fn a_user_that_is_frozen_gets_no_advice_before_it_is_there() {
    let (desk, routing) = desk();
    routing.replace_routes(&routes(2, "a", &[user("a", &json!("active"))]));
    let mut following = desk.follow(vec![followed("u", None)]).unwrap();
    assert_eq!(next(&mut following).await.users[0].home, Some(name("a")));
    routing.replace_routes(&routes(3, "a", &[user("a", &frozen("b"))]));
    assert!(is_quiet(&mut following));
    // Who comes now hears that it is on its way, and then that it has stayed or gone.
    let mut late = desk.follow(vec![followed("u", None)]).unwrap();
    let told = next(&mut late).await;
    assert!(told.users[0].is_moving && told.users[0].home == Some(name("a")));
    routing.replace_routes(&routes(4, "a", &[user("a", &json!("active"))]));
    let told = next(&mut late).await;
    assert!(!told.users[0].is_moving && told.advice.is_empty());
    assert!(is_quiet(&mut following), "the move was taken back");
    routing.replace_routes(&routes(5, "a", &[user("a", &frozen("b"))]));
    routing.replace_routes(&routes(6, "a", &[user("b", &json!("active"))]));
    for following in [&mut following, &mut late] {
        let news = next(following).await;
        assert_eq!(news.advice[0].now.home, Some(name("b")));
    }
}

// P1, P2, R-3.10: who takes over an evacuated unit is the home; what is evacuated or fenced is no place to go, what is drained the last.
#[tokio::test]
async fn points_follow_the_state_of_units() {
    let (desk, routing) = desk();
    let (draining, evacuated) = (json!("draining"), json!({ "evacuated": { "takeover": [["b", 1]] } }));
    let fenced = json!({ "fencing": { "by": "0000000000000001" } });
    for (units, home, listed) in [
        (vec![], "a", 3),
        (vec![of_unit("c", &draining)], "a", 3),
        (vec![of_unit("c", &evacuated)], "a", 2),
        (vec![of_unit("a", &draining)], "a", 3),
        (vec![of_unit("a", &evacuated)], "b", 2),
        (vec![of_unit("a", &fenced)], "a", 3),
    ] {
        routing.replace_routes(&routes(9, "a", &units));
        let list = desk.list("u".into()).await.unwrap();
        let order = addresses(&list.points);
        assert_eq!(list.home, Some(name(home)), "{units:?}");
        assert_eq!(order.len(), listed, "{units:?}: {order:?}");
        let is_fenced = units.iter().any(|unit| unit["state"] == fenced);
        let at = if is_fenced { order.last() } else { order.first() };
        assert_eq!(at, Some(&format!("wss://{home}").as_str()), "{units:?}: {order:?}");
        if units == [of_unit("c", &draining)] {
            for user in 0..10 {
                let list = desk.list(user.to_string().as_str().into()).await.unwrap();
                assert_eq!(addresses(&list.points).last(), Some(&"wss://c"), "user {user}");
            }
        }
        assert_eq!(list.is_moving, is_fenced);
    }
}

// E2: what a gateway missed while it followed at no relay is told at once, if it says what it had heard.
#[tokio::test]
async fn who_comes_back_with_an_old_home_is_told_of_the_new_one() {
    let (desk, routing) = desk();
    routing.replace_routes(&routes(2, "b", &[]));
    let users = [None, Some("b"), Some("c")].map(|home| followed("u", home));
    let news = next(&mut desk.follow(users.to_vec()).unwrap()).await;
    assert_eq!(news.users.len(), 3);
    let from: Vec<_> = news.advice.iter().map(|advice| &advice.previous).collect();
    assert_eq!(from, [&name("c")]);
}

// E3: bounded each time, per relay and in what is told at once; and room comes back.
#[tokio::test]
async fn what_is_followed_is_bounded_and_room_comes_back() {
    let (desk, routing) = desk();
    routing.replace_routes(&routes(2, "b", &[]));
    let many = |count: usize| (0..count).map(|at| followed(&at.to_string(), None)).collect::<Vec<_>>();
    assert!(matches!(desk.follow(many(0)), Err(AccessError::Invalid(_))));
    assert!(matches!(desk.follow(many(501)), Err(AccessError::Invalid(_))));
    for wrong in ["", "123456789"] {
        assert!(matches!(
            desk.follow(vec![followed(wrong, None)]),
            Err(AccessError::Invalid(_))
        ));
        assert!(matches!(desk.list(wrong.into()).await, Err(AccessError::Invalid(_))));
    }
    let mut first = desk.follow(many(500)).unwrap();
    let second = desk.follow(many(500)).unwrap();
    assert!(matches!(desk.follow(many(1)), Err(AccessError::Full(1000))));
    assert!(desk.list("1".into()).await.is_ok(), "to list takes no room");
    drop(second);
    assert!(desk.follow(many(500)).is_ok());

    let mut heard = HashMap::new();
    for _ in 0..5 {
        let news = next(&mut first).await;
        assert_eq!(news.users.len(), 100);
        for listed in news.users {
            *heard.entry(listed.user).or_insert(0) += 1;
        }
    }
    assert!(heard.len() == 500 && is_quiet(&mut first));
    routing.replace_routes(&routes(3, "c", &[]));
    for _ in 0..5 {
        assert_eq!(next(&mut first).await.advice.len(), 100);
    }
    assert!(is_quiet(&mut first));
}

#[tokio::test]
async fn without_a_dimension_of_users_nothing_is_answered() {
    let (desk, routing) = desk();
    let off = Desk::new(Parts {
        unit: name("a"),
        geo: name("g"),
        dimension: None,
        directory: Directory::default(),
        routing,
        claims: None,
        metrics: desk.0.metrics.clone(),
    });
    assert_eq!(off.list("u".into()).await, Err(AccessError::Off));
    assert!(matches!(off.follow(vec![followed("u", None)]), Err(AccessError::Off)));
}

// S1, R-3.12: while the store does not answer, it is not said that nobody has claimed a user.
#[tokio::test]
async fn a_user_that_nobody_can_be_asked_about_is_in_doubt() {
    let (claims, mut wanted) = Claims::new();
    let units = [name("b"), name("c")];
    let table = RouteTable::build(&routing::Settings::default(), &name("a"), units.iter()).unwrap();
    let routing = routing::Handle::new(table.awaiting_routes());
    let book = json!({
        "units": ["a", "b", "c"],
        "dimensions": [{ "name": "uid", "placement": { "claim": [] } }],
        "rules": [],
    });
    routing.replace_routes(&Arc::new(Routes::from_snapshot(&Snapshot {
        epoch: Epoch::new(0, Rev(1)),
        seed: 1,
        changes: serde_json::from_value(json!([{ "rev": 1, "id": "book", "record": { "book": book } }])).unwrap(),
    })));
    let desk = Desk::new(Parts {
        unit: name("a"),
        geo: name("g"),
        dimension: Some(name("uid")),
        directory: directory(),
        routing,
        claims: Some(claims),
        metrics: Metrics::register(&prometheus::Registry::new()).unwrap(),
    });
    for (outcome, part) in [
        (Some(Outcome::Free), "no unit has claimed this key"),
        (Some(Outcome::Away), "it cannot be known now"),
        (Some(Outcome::Full), "it cannot be known now"),
        (None, "it cannot be known now"),
    ] {
        let answers = async {
            let Some(Wanted::Holder(_, reply)) = wanted.recv().await else {
                panic!("a question")
            };
            match outcome {
                Some(outcome) => reply.send(outcome).unwrap(),
                None => drop(reply),
            }
        };
        let (listed, ()) = tokio::join!(desk.list("u".into()), answers);
        let listed = listed.unwrap();
        assert!(
            listed.home.is_none() && listed.detail.contains(part),
            "{}",
            listed.detail
        );
    }
}
