//! What can be looked at, and relays that are forgotten.

use super::*;
use crate::routing::record::RelayRecord;

#[tokio::test]
async fn a_key_is_shown_with_all_that_was_decided_about_it() {
    let relay = Relay::with("get", book()).await;
    relay.ask(Command::Claim(give("cid", "k", "b"))).await.unwrap();
    let first = relay.commit(vec![node(key("cid", "k"), "c", State::Active)]).await;
    let second = relay.commit(vec![node(key("cid", "k"), "a", State::Active)]).await;
    let Ok(Answer::Key(row)) = relay.ask(get("cid", "k")).await else {
        panic!("a key")
    };
    assert_eq!(row.explanation.owner.as_deref(), Some("a"));
    assert_eq!(row.node.map(|node| node.rev), Some(second));
    assert_eq!(
        row.claim.map(|claim| (claim.target, claim.by)),
        Some((Target::Unit(unit("b")), unit("a")))
    );
    let history = Command::History {
        dimension: unit("cid"),
        key: "k".into(),
        limit: 10,
    };
    let Ok(Answer::History(history)) = relay.ask(history).await else {
        panic!("a history")
    };
    assert_eq!(
        history.nodes.iter().map(|node| node.rev).collect::<Vec<_>>(),
        [second, first]
    );
    assert_eq!(history.claim.map(|claim| claim.target), Some(Target::Unit(unit("b"))));
    // By the claim alone, as if this relay had asked for it at a call.
    relay.ask(Command::Claim(give("cid", "l", "b"))).await.unwrap();
    let Ok(Answer::Key(row)) = relay.ask(get("cid", "l")).await else {
        panic!("a key")
    };
    assert_eq!(row.explanation.rule.as_deref(), Some("the key's claim"));
}

#[tokio::test]
async fn an_export_has_what_was_decided_and_the_book_its_ids() {
    let relay = Relay::with("export", book()).await;
    let rule = NodeId::Rule {
        dimension: unit("uid"),
        rule: 1,
    };
    relay
        .commit(vec![
            node(key("org", "acme"), "b", State::Active),
            node(rule.clone(), "c", State::Active),
        ])
        .await;
    let Ok(Answer::Nodes(rows)) = relay.ask(Command::Export).await else {
        panic!("nodes")
    };
    assert_eq!(
        rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>(),
        [key("org", "acme"), rule]
    );
    let Ok(Answer::Book(book)) = relay.ask(Command::Book).await else {
        panic!("a book")
    };
    assert_eq!(book.book.rules.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(book.moved[0].target, Target::Unit(unit("c")));
}

// Without the store: what the relay knows by itself.
#[tokio::test]
async fn the_status_tells_of_the_copy() {
    let relay = Relay::with("status", book()).await;
    let by = MoveId(7);
    let rev = relay
        .commit(vec![node(key("cid", "k"), "a", State::Frozen { to: unit("b"), by })])
        .await;
    // Whoever looks in the store waits for the copy.
    relay.owner("cid", "k").await;
    let Ok(Answer::Status(status)) = relay.ask(Command::Status).await else {
        panic!("a status")
    };
    assert_eq!(
        (status.epoch, status.under_way, status.overrides),
        (Some(Epoch(rev.0)), 1, 1)
    );
    assert_eq!(
        status.dimensions.iter().map(|row| row.admits).collect::<Vec<_>>(),
        [false; 3],
        "there is no session"
    );
}

fn forget(is_stopped: bool) -> Command {
    Command::Forget {
        relay: RelayId {
            unit: unit("b"),
            relay: unit("b-1"),
        },
        is_stopped,
        who: "ann".to_owned(),
    }
}

fn known(relay: &str) -> RelayId {
    RelayId {
        unit: unit("b"),
        relay: unit(relay),
    }
}

// R-D7: a move waits for a relay until its lease is over, or somebody says that it does not run.
#[tokio::test]
async fn a_relay_is_forgotten_when_it_can_admit_nothing_any_more() {
    let relay = Relay::with("forget", book()).await;
    relay
        .refuses(
            forget(true),
            "relay b/b-1 is not known; `strait route relays` lists them",
        )
        .await;
    let life = relay.store.open(known("b-1")).await.unwrap();
    relay.store.open(known("b-2")).await.unwrap();
    relay.refuses(forget(true), "is alive; stop it first").await;
    relay.hand.store(29, Ordering::SeqCst);
    relay.refuses(forget(false), "until it was silent for 30s").await;
    assert_eq!(relay.ask(forget(true)).await, Ok(Answer::Done));
    relay.store.open(known("b-1")).await.unwrap();
    relay.hand.store(59, Ordering::SeqCst);
    assert_eq!(relay.ask(forget(false)).await, Ok(Answer::Done));
    let Ok(Answer::Relays(rows)) = relay.ask(Command::Relays).await else {
        panic!("relays")
    };
    assert_eq!(
        rows.iter().map(|row| row.relay.clone()).collect::<Vec<_>>(),
        [known("b-2")]
    );
    assert_eq!(rows[0].silent_for, Some(Duration::from_secs(59)));
    let gone = RelayRecord {
        relay: known("b-1"),
        session: life.session,
        succeeds: false,
    };
    let left = relay.store.read(vec![Record::Relay(gone).id()]).await.unwrap();
    assert_eq!(left.found, [None]);
}

// R-D7
#[tokio::test]
async fn a_relay_with_an_endless_lease_is_never_forgotten_by_time() {
    let mut book = book();
    book["dimensions"][0]["owner_lease"] = "infinite".into();
    let relay = Relay::with("endless", book).await;
    relay.store.open(known("b-1")).await.unwrap();
    relay.hand.store(1_000_000, Ordering::SeqCst);
    relay
        .refuses(
            forget(false),
            "may admit writes of dimension cid for as long as it runs",
        )
        .await;
    assert_eq!(relay.ask(forget(true)).await, Ok(Answer::Done));
}

// O4, and what a person is told when there is nothing to judge by.
#[tokio::test]
async fn a_copy_that_is_behind_is_waited_for_and_then_told() {
    let relay = Relay::with("behind", book()).await;
    let operator = Operator::new(Parts {
        store: Arc::clone(&relay.store),
        routing: relay.routing.clone(),
        place: relay.operator.0.place.clone(),
        configured: Arc::clone(&relay.operator.0.configured),
        view: Arc::clone(&relay.operator.0.view),
        in_flight_max: Duration::ZERO,
        copy_wait: Duration::ZERO,
        claims: Claims::new().0,
        route_policy: Arc::new(|_, _| RoutePolicy::default()),
    });
    let nothing = operator.caught_up(Epoch(1 << 40)).await.err().unwrap();
    assert!(matches!(nothing, OperatorError::Away(_)), "{nothing}");
    let text = nothing.to_string();
    assert!(
        text.contains("has heard of") && text.contains("strait route status"),
        "{text}"
    );
    let away = Answer::from(nothing);
    assert_eq!(away.outcome(), "failed");
}

// which key routes calls of a method is said by the relay that takes them.
#[tokio::test]
async fn a_key_is_explained_for_the_method_that_is_called() {
    let relay = Relay::with("method", book()).await;
    relay.ask(Command::Claim(give("cid", "k", "b"))).await.unwrap();
    let asked = |dimension: &str, key: &str, method: &str| match get(dimension, key) {
        Command::Get { dimension, key, .. } => Command::Get {
            dimension,
            key,
            service: Some("im.Chat".to_owned()),
            method: Some(method.to_owned()),
        },
        other => other,
    };
    let explained = async |command: Command| match relay.ask(command).await.unwrap() {
        Answer::Key(row) => row.explanation,
        other => panic!("{other:?}"),
    };
    let found = explained(asked("cid", "k", "History")).await;
    assert_eq!((found.owner.as_deref(), found.only_reads), (Some("b"), true));
    assert_eq!(found.routed_by, ["cid"]);
    let other = explained(asked("uid", "15", "Say")).await;
    assert!(other.owner.is_none() && !other.only_reads, "{other:?}");
    assert!(other.error.is_some_and(|error| error.contains("calls.route")));
    assert!(explained(get("uid", "15")).await.routed_by.is_empty());
}
