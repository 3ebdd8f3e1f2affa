//! The configuration is published, and nothing changes its owner by that.

use super::*;
use crate::routing::record::Placement;

fn publish(dry_run: bool) -> Command {
    Command::Publish {
        previous: false,
        dry_run,
        who: "ann".to_owned(),
    }
}

async fn published(relay: &Relay, dry_run: bool) -> Published {
    match relay.ask(publish(dry_run)).await.unwrap() {
        Answer::Published(published) => published,
        other => panic!("{other:?}"),
    }
}

fn rule(relay: &Relay, id: u32, unit: &str, prefix: &str) {
    let rule = serde_json::json!({ "dimension": "uid", "unit": unit, "prefix": prefix });
    let rule = serde_json::from_value(rule).unwrap();
    let mut configured = relay.configured.lock().unwrap();
    configured.rules.retain(|(other, _)| *other != id);
    configured.rules.push((id, rule));
}

#[tokio::test]
async fn a_new_store_gets_the_configuration_once() {
    let relay = Relay::unpublished("first", book());
    relay.refuses(Command::Book, "nothing is published yet").await;
    let dry = published(&relay, true).await;
    assert!(dry.dry_run && dry.rev.is_none(), "{dry:?}");
    assert!(
        dry.changes
            .contains(&"rule 1 of uid (prefix \"15\", unit b) is added".to_owned()),
        "{dry:?}"
    );
    relay.refuses(Command::Book, "nothing is published yet").await;
    let first = published(&relay, false).await;
    assert!(first.rev.is_some() && first.changes == dry.changes, "{first:?}");
    let again = published(&relay, false).await;
    assert_eq!((again.rev, again.changes), (None, Vec::new()));
    assert_eq!(again.unread.as_deref(), Some("it was refused"));
}

// U1: the way there is a move, and after it the configuration may say so.
#[tokio::test]
async fn a_rule_with_another_unit_is_published_by_moving_it() {
    let relay = Relay::with("unit", book()).await;
    rule(&relay, 1, "c", "15");
    relay
        .refuses(publish(false), "strait route move --rule uid=1 --to c")
        .await;
    let moved = NodeId::Rule {
        dimension: unit("uid"),
        rule: 1,
    };
    let by = MoveId(3);
    relay
        .commit(vec![node(moved.clone(), "b", State::Frozen { to: unit("c"), by })])
        .await;
    relay.refuses(publish(false), "strait route move").await;
    relay.commit(vec![node(moved, "c", State::Active)]).await;
    assert_eq!(published(&relay, false).await.changes, Vec::<String>::new());
}

// A rule that divides another one gets the keys' owner first; that owner is the one of now, not the one of the book.
#[tokio::test]
async fn a_new_rule_below_a_moved_one_belongs_to_its_new_unit() {
    let relay = Relay::with("below", book()).await;
    let moved = NodeId::Rule {
        dimension: unit("uid"),
        rule: 1,
    };
    relay.commit(vec![node(moved, "c", State::Active)]).await;
    assert_eq!(relay.owner("uid", "1555").await.as_deref(), Some("c"));
    rule(&relay, 9, "b", "155");
    relay.refuses(publish(false), "from unit c").await;
    rule(&relay, 9, "c", "155");
    let told = published(&relay, false).await;
    assert_eq!(told.changes, ["rule 4 of uid (prefix \"155\", unit c) is added"]);
    assert_eq!(relay.owner("uid", "1555").await.as_deref(), Some("c"));
}

// All buckets of a rule that was moved are read before it is said that they were.
#[tokio::test]
async fn a_share_that_was_moved_whole_may_be_configured() {
    let relay = Relay::with("share", book()).await;
    let bucket = |bucket| {
        let dimension = unit("uid");
        node(NodeId::Bucket { dimension, bucket }, "c", State::Active)
    };
    relay.configured.lock().unwrap().rules[1].1.unit = unit("c");
    relay.commit((0..2047).map(bucket).collect()).await;
    relay
        .refuses(publish(false), "rule 2 of uid (hash 0 to 50 %, unit a)")
        .await;
    relay.commit(vec![bucket(2047)]).await;
    assert_eq!(published(&relay, false).await.changes, Vec::<String>::new());
}

// O1: what the new book relies on may change between reading and writing.
#[tokio::test]
async fn a_move_that_begins_meanwhile_is_not_overlooked() {
    let relay = Relay::with("meanwhile", book()).await;
    let moved = NodeId::Rule {
        dimension: unit("uid"),
        rule: 1,
    };
    rule(&relay, 9, "b", "155");
    let configured = relay.configured.lock().unwrap().clone();
    let (before, rev) = relay.operator.read_book().await.unwrap().unwrap();
    let (merged, read) = relay.operator.merge(Some(&before), &configured).await.unwrap();
    assert!(merged.is_some());
    let compares = super::super::publish::compares(rev, &read).unwrap();
    assert_eq!(compares, [(RecordId::Book, rev), (RecordId::Node(moved), Rev::ZERO)]);
}

fn new_keys(relay: &Relay, percent: u8) {
    let placement = serde_json::json!({ "claim": [{ "percent": percent, "to": [{ "unit": "c", "weight": 1 }] }] });
    relay.configured.lock().unwrap().dimensions[0].placement = serde_json::from_value(placement).unwrap();
}

async fn placement(relay: &Relay) -> Placement {
    let (book, _) = relay.operator.read_book().await.unwrap().unwrap();
    book.dimensions[0].placement.clone()
}

// S8: new keys are shifted by a publication, and back by one command that needs no file of before.
#[tokio::test]
async fn new_keys_go_again_where_they_went_before() {
    let relay = Relay::with("shift", book()).await;
    let back = |dry_run| Command::Publish {
        previous: true,
        dry_run,
        who: "ann".to_owned(),
    };
    relay.refuses(back(false), "nothing was published before").await;
    let first = placement(&relay).await;
    new_keys(&relay, 5);
    published(&relay, false).await;
    let shifted = placement(&relay).await;
    assert_ne!(shifted, first);
    // A unit that came with the shift stays.
    relay.configured.lock().unwrap().units.push(unit("d"));
    new_keys(&relay, 50);
    published(&relay, false).await;
    let Ok(Answer::Published(dry)) = relay.ask(back(true)).await else {
        panic!("published")
    };
    let of = |percent: u8| format!("[{{\"percent\":{percent},\"to\":[{{\"unit\":\"c\",\"weight\":1}}]}}]");
    let (then, now) = (of(50), of(5));
    assert_eq!(dry.changes, [format!("dimension cid: new_keys {then} -> {now}")]);
    assert_eq!(dry.unread, None, "nothing of the file is published");
    assert_ne!(placement(&relay).await, shifted, "a dry run");
    relay.ask(back(false)).await.unwrap();
    assert_eq!(placement(&relay).await, shifted);
    let (book, _) = relay.operator.read_book().await.unwrap().unwrap();
    assert!(book.units.contains(&unit("d")));
    // And forth again.
    relay.ask(back(false)).await.unwrap();
    assert_ne!(placement(&relay).await, shifted);
}
