//! A move is taken back: what it moved goes where it came from, and nothing else.

use super::*;
use crate::routing::record::{MoveKind, MoveOptions};

fn undo(id: MoveId, dry_run: bool) -> Command {
    Command::Undo(Undo {
        id,
        dry_run,
        who: "ann".to_owned(),
    })
}

async fn undone(relay: &Relay, id: MoveId, dry_run: bool) -> Undone {
    match relay.ask(undo(id, dry_run)).await.unwrap() {
        Answer::Undone(undone) => undone,
        other => panic!("{other:?}"),
    }
}

async fn work(relay: &Relay, id: MoveId) -> Move {
    let reading = relay.store.read(vec![RecordId::Move(id)]).await.unwrap();
    match reading.found[0].clone().unwrap().record.unwrap() {
        Record::Move(work) => work,
        other => panic!("{other:?}"),
    }
}

/// Conversations of two units, moved to the third as its driver does it.
async fn moved(relay: &Relay, keys: &[(&str, &str)]) -> MoveId {
    let what = keys.iter().map(|(name, _)| Which::Node(key("cid", name))).collect();
    for (name, owner) in keys {
        relay.ask(Command::Claim(give("cid", name, owner))).await.unwrap();
    }
    let ask = MoveAsk {
        what,
        to: unit("c"),
        options: MoveOptions::default(),
        dry_run: false,
        reason: String::new(),
        who: "ann".to_owned(),
    };
    let Ok(Answer::Plan(plan)) = relay.ask(Command::Move(ask)).await else {
        panic!("a plan")
    };
    let by = plan.id.unwrap();
    for (name, owner) in keys {
        steps(relay, name, owner, "c", by).await;
    }
    finish(relay, by).await;
    by
}

/// What a driver writes about a key.
async fn steps(relay: &Relay, name: &str, from: &str, to: &str, by: MoveId) {
    let id = || key("cid", name);
    let to_unit = unit(to);
    let migrating = State::Migrating {
        to: to_unit.clone(),
        by,
    };
    relay.commit(vec![node(id(), from, migrating)]).await;
    relay
        .commit(vec![node(id(), from, State::Frozen { to: to_unit, by })])
        .await;
    relay.commit(vec![node(id(), to, State::Active)]).await;
}

async fn finish(relay: &Relay, id: MoveId) {
    let mut over = work(relay, id).await;
    over.state = MoveState::Finished;
    relay.commit(vec![Record::Move(over)]).await;
}

// S8: one command takes a shift back, whatever units it came from.
#[tokio::test]
async fn keys_go_back_to_the_units_they_came_from() {
    let relay = Relay::with("undo", book()).await;
    let id = moved(&relay, &[("x", "a"), ("y", "b"), ("z", "b")]).await;
    let before = relay.rev().await;
    let dry = undone(&relay, id, true).await;
    assert_eq!((relay.rev().await, dry.stay), (before, 0));
    let shown = |undone: &Undone| -> Vec<_> {
        let plan = |plan: &Plan| (plan.to.to_string(), plan.nodes.len());
        undone.plans.iter().map(plan).collect()
    };
    assert_eq!(shown(&dry), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    let begun = undone(&relay, id, false).await;
    assert_eq!(shown(&begun), shown(&dry));
    let ids: Vec<_> = begun.plans.iter().map(|plan| plan.id.unwrap()).collect();
    assert_ne!(ids[0], ids[1]);
    for (id, to) in ids.iter().zip(["a", "b"]) {
        let work = work(&relay, *id).await;
        assert_eq!((work.to, work.state), (unit(to), MoveState::Running));
        assert!(work.reason.starts_with("ann: takes back move"), "{}", work.reason);
    }
}

// What others decided since is not undone by it.
#[tokio::test]
async fn what_has_moved_on_stays() {
    let relay = Relay::with("undo-on", book()).await;
    let id = moved(&relay, &[("x", "a"), ("y", "a"), ("z", "a"), ("w", "a")]).await;
    // There and back again by another move: this one did not bring it to where it is.
    steps(&relay, "x", "c", "b", MoveId(77)).await;
    steps(&relay, "x", "b", "c", MoveId(78)).await;
    steps(&relay, "y", "c", "b", MoveId(79)).await;
    let by = MoveId(80);
    let frozen = State::Frozen { to: unit("b"), by };
    relay.commit(vec![node(key("cid", "z"), "c", frozen)]).await;
    let undone = undone(&relay, id, false).await;
    assert_eq!(undone.stay, 3);
    assert_eq!(undone.plans.len(), 1);
    assert_eq!(undone.plans[0].nodes.len(), 1);
    assert_eq!(undone.plans[0].nodes[0].id, key("cid", "w"));
}

#[tokio::test]
async fn what_cannot_be_taken_back_says_why() {
    let relay = Relay::with("undo-not", book()).await;
    relay.refuses(undo(MoveId(1), false), "there is no move").await;
    let id = moved(&relay, &[("x", "a")]).await;
    let mut running = work(&relay, id).await;
    running.state = MoveState::Running;
    relay.commit(vec![Record::Move(running.clone())]).await;
    relay.refuses(undo(id, false), "strait route abort").await;
    running.state = MoveState::Finished;
    (running.kind, running.nodes) = (MoveKind::GiveBack, vec![NodeId::Unit(unit("b"))]);
    relay.commit(vec![Record::Move(running)]).await;
    relay.refuses(undo(id, false), "strait unit").await;
}
