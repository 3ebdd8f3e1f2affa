//! Whole units: what is begun, what is refused, and what is told.

use super::*;
use crate::control::mover::units::Counts;
use crate::routing::record::{FreezeAck, Lease, MoveKind, MoveOptions, SessionId};

/// As `book`, with conversations that are claimed under a lease that ends, or not.
fn with_lease(lease: &str) -> serde_json::Value {
    let mut book = book();
    for dimension in book["dimensions"].as_array_mut().unwrap() {
        dimension["owner_lease"] = lease.into();
    }
    book
}

fn to(shares: &[(&str, u16)]) -> Vec<(UnitId, u16)> {
    shares.iter().map(|(name, weight)| (unit(name), *weight)).collect()
}

fn drain(of: &str, shares: &[(&str, u16)]) -> DrainAsk {
    DrainAsk {
        unit: unit(of),
        to: to(shares),
        options: MoveOptions::default(),
        after: None,
        dry_run: false,
        reason: "hall 3 closes".to_owned(),
        who: "ann".to_owned(),
    }
}

fn evacuate(of: &str, shares: &[(&str, u16)]) -> EvacuateAsk {
    EvacuateAsk {
        unit: unit(of),
        to: to(shares),
        accept_loss: true,
        accept_dual: false,
        dry_run: false,
        reason: "fire".to_owned(),
        who: "ann".to_owned(),
    }
}

fn give_back(of: &str) -> ReturnAsk {
    ReturnAsk {
        unit: unit(of),
        options: MoveOptions::default(),
        dry_run: false,
        reason: String::new(),
        who: "ann".to_owned(),
    }
}

async fn plan(relay: &Relay, command: Command) -> UnitPlan {
    match relay.ask(command).await.unwrap() {
        Answer::UnitPlan(plan) => *plan,
        other => panic!("{other:?}"),
    }
}

async fn row(relay: &Relay, of: &str) -> UnitRow {
    match relay.ask(Command::Units { unit: Some(unit(of)) }).await.unwrap() {
        Answer::Units(mut rows) => rows.remove(0),
        other => panic!("{other:?}"),
    }
}

async fn claim(relay: &Relay, count: u32, owner: &str) {
    let claims = (0..count).map(|n| Claim {
        dimension: unit("cid"),
        key: format!("{owner}{n:05}").as_str().into(),
        target: Target::Unit(unit(owner)),
        base: Epoch::default(),
        op: OpId(u128::from(n)),
        by: unit("a"),
    });
    relay.store.claim(claims.collect()).await.unwrap();
}

async fn work(relay: &Relay, id: MoveId) -> Move {
    let reading = relay.store.read(vec![RecordId::Move(id)]).await.unwrap();
    match reading.found[0].clone().unwrap().record.unwrap() {
        Record::Move(work) => work,
        other => panic!("{other:?}"),
    }
}

fn unit_node(of: &str, state: State) -> Record {
    node(NodeId::Unit(unit(of)), of, state)
}

/// A relay whose store has heard of it now.
async fn open(relay: &Relay, of: &str, name: &str) -> SessionId {
    let id = RelayId {
        unit: unit(of),
        relay: unit(name),
    };
    relay.store.open(id).await.unwrap().session
}

// O2: all that the unit has: buckets, rules, decided keys, claims; by the weights; a dry run says the same and does nothing.
#[tokio::test]
async fn a_drain_takes_all_that_a_unit_has() {
    let relay = Relay::with("drain", book()).await;
    claim(&relay, 300, "b").await;
    relay.commit(vec![node(key("org", "acme"), "b", State::Active)]).await;
    // What was claimed for b and moved away since is not b's.
    relay.commit(vec![node(key("cid", "b00007"), "a", State::Active)]).await;
    let has = Counts {
        buckets: 2048,
        rules: 1,
        keys: 1,
        claims: 299,
    };
    let found = row(&relay, "b").await;
    assert_eq!((found.has, found.state, found.has_more), (has, State::Active, false));
    let before = relay.rev().await;
    let dry = plan(
        &relay,
        Command::Drain(DrainAsk {
            dry_run: true,
            ..drain("b", &[("a", 2), ("c", 1)])
        }),
    )
    .await;
    assert_eq!((relay.rev().await, dry.moves.len()), (before, 0));
    let begun = plan(&relay, Command::Drain(drain("b", &[("a", 2), ("c", 1)]))).await;
    assert_eq!(begun.shares, dry.shares);
    let all = begun
        .shares
        .iter()
        .fold(Counts::default(), |sum, share| sum.plus(share.gets));
    assert_eq!((all, &begun.next), (has, &None));
    let [a, c] = &begun.shares[..] else { panic!() };
    assert!(
        a.gets.sum() * 10 > c.gets.sum() * 17 && a.gets.sum() * 10 < c.gets.sum() * 23,
        "{begun:?}"
    );
    for (id, share) in begun.moves.iter().zip(&begun.shares) {
        let work = work(&relay, *id).await;
        assert_eq!((work.nodes.len(), &work.to), (share.gets.sum(), &share.unit));
        assert_eq!((work.of, work.reason.as_str()), (Some(unit("b")), "ann: hall 3 closes"));
    }
    assert_eq!(row(&relay, "b").await.state, State::Draining);
    // Moves that are under way take it.
    let again = plan(&relay, Command::Drain(drain("b", &[("a", 1)]))).await;
    assert_eq!(again.moves, []);
    let found = row(&relay, "b").await;
    assert_eq!((found.moves.len(), found.is_at_rest()), (2, false));
    relay
        .refuses(Command::Return(give_back("b")), "of the drain of unit b is under way")
        .await;
}

// claims come some at a time, each of them once.
#[tokio::test]
async fn claims_are_drained_in_parts() {
    let relay = Relay::with("parts", book()).await;
    claim(&relay, 4500, "b").await;
    let mut ask = drain("b", &[("a", 1)]);
    let (mut nodes, mut parts) = (std::collections::BTreeSet::new(), 0);
    loop {
        let begun = plan(&relay, Command::Drain(ask.clone())).await;
        for id in &begun.moves {
            for node in work(&relay, *id).await.nodes {
                assert!(nodes.insert(node), "twice");
            }
        }
        parts += 1;
        ask.after = begun.next;
        if ask.after.is_none() {
            break;
        }
    }
    assert!(parts > 1, "{parts}");
    assert_eq!(nodes.len(), 2048 + 1 + 4500);
}

#[tokio::test]
async fn a_drain_that_makes_no_sense_says_what_to_do() {
    let relay = Relay::with("senseless", book()).await;
    for (ask, part) in [
        (drain("x", &[("a", 1)]), "unit x is not published"),
        (drain("b", &[("x", 1)]), "unit x is not published"),
        (drain("b", &[("b", 1)]), "cannot get its own keys"),
        (drain("b", &[("a", 0)]), "weight above 0"),
        (drain("b", &[("a", 1), ("a", 2)]), "named twice"),
    ] {
        relay.refuses(Command::Drain(ask), part).await;
    }
    relay.commit(vec![unit_node("c", State::Draining)]).await;
    relay
        .refuses(Command::Drain(drain("b", &[("c", 1)])), "unit c takes no keys now")
        .await;
    let takeover = to(&[("b", 1)]);
    relay.commit(vec![unit_node("c", State::Evacuated { takeover })]).await;
    relay
        .refuses(
            Command::Drain(drain("b", &[("a", 1)])),
            "has keys of unit c, which is evacuated",
        )
        .await;
    relay
        .refuses(Command::Drain(drain("c", &[("a", 1)])), "strait unit return c")
        .await;
    relay
        .refuses(Command::Return(give_back("b")), "nothing is to be returned")
        .await;
    let unknown = Command::Units { unit: Some(unit("x")) };
    relay.refuses(unknown, "unit x is not published").await;
}

// R-D7: what may be lost is signed for, by name and reason; a dry run says what would be refused.
#[tokio::test]
async fn an_evacuation_is_signed_for() {
    let relay = Relay::with("signed", with_lease("infinite")).await;
    claim(&relay, 300, "b").await;
    open(&relay, "b", "b-1").await;
    let shares = [("a", 2), ("c", 1)];
    let unsigned = EvacuateAsk {
        accept_loss: false,
        ..evacuate("b", &shares)
    };
    relay
        .refuses(Command::Evacuate(unsigned.clone()), "--accept-loss")
        .await;
    let before = relay.rev().await;
    let dry = Command::Evacuate(EvacuateAsk {
        dry_run: true,
        ..unsigned
    });
    let dry = plan(&relay, dry).await;
    assert!(dry.refusal.unwrap().contains("--accept-loss"));
    assert_eq!((relay.rev().await, dry.moves.len()), (before, 0));
    assert_eq!((dry.key_by_key.buckets, dry.key_by_key.rules), (2048, 1));
    let claims: Vec<_> = dry.shares.iter().map(|share| share.gets.claims).collect();
    assert!(
        claims.iter().sum::<usize>() == 300 && claims[0] > claims[1],
        "{claims:?}"
    );
    assert!(
        dry.notes.iter().any(|note| note.contains("b/b-1 answers")),
        "{:?}",
        dry.notes
    );

    // A lease that never ends, and a relay that does not answer.
    relay.hand.fetch_add(60, Ordering::SeqCst);
    let text = "strait route forget b/b-1 --stopped";
    relay.refuses(Command::Evacuate(evacuate("b", &shares)), text).await;
    let dual = EvacuateAsk {
        accept_dual: true,
        ..evacuate("b", &shares)
    };
    let silent = EvacuateAsk {
        reason: " ".to_owned(),
        ..dual.clone()
    };
    relay.refuses(Command::Evacuate(silent), "--reason").await;
    let command = Command::Evacuate(dual);
    let target = command.target();
    assert!(target.contains("signed for two owners: fire"), "{target}");
    let begun = plan(&relay, command).await;
    let work = work(&relay, begun.moves[0]).await;
    let takeover = to(&shares);
    assert_eq!(
        work.kind,
        MoveKind::Evacuate {
            takeover,
            accept_dual: true
        }
    );
    assert_eq!((work.to, work.of), (unit("a"), Some(unit("b"))));
    // Its relay was forgotten, so there is nobody to wait for.
    let id = RelayId {
        unit: unit("b"),
        relay: unit("b-1"),
    };
    relay.store.forget(id).await.unwrap();
    assert_eq!(Lease::Infinite.length(), None);
}

// one at a time; and whom the fence waits for, and how long.
#[tokio::test]
async fn a_fence_says_whom_it_waits_for() {
    let relay = Relay::with("fence", with_lease("20s")).await;
    for (of, name) in [("b", "b-1"), ("b", "b-2"), ("c", "c-1")] {
        open(&relay, of, name).await;
    }
    let session = open(&relay, "b", "b-2").await;
    let begun = plan(&relay, Command::Evacuate(evacuate("b", &[("a", 1)]))).await;
    let by = begun.moves[0];
    let rev = relay.commit(vec![unit_node("b", State::Fencing { by })]).await;
    relay.hand.fetch_add(12, Ordering::SeqCst);
    let ack = FreezeAck {
        session,
        by,
        node: NodeId::Unit(unit("b")),
        rev,
        drained: true,
        held_by: None,
    };
    relay.store.report(vec![ack]).await.unwrap();
    let found = row(&relay, "b").await;
    assert_eq!(found.reason, "", "the one who wrote it said nothing");
    let fence = found.fence.unwrap();
    assert_eq!(fence.needed, Some(Duration::from_secs(30)));
    let [silent] = &fence.waits_for[..] else {
        panic!("{fence:?}")
    };
    assert_eq!(
        (silent.relay.to_string().as_str(), silent.left),
        ("b/b-1", Some(Duration::from_secs(18)))
    );
    relay
        .refuses(Command::Evacuate(evacuate("c", &[("a", 1)])), "one at a time")
        .await;
    relay
        .refuses(Command::Evacuate(evacuate("b", &[("a", 1)])), "being evacuated already")
        .await;
    relay
        .refuses(Command::Return(give_back("b")), &format!("strait route abort {by}"))
        .await;
}

#[tokio::test]
async fn a_unit_that_nobody_hears_of_gets_nothing_back() {
    let relay = Relay::with("unheard", book()).await;
    let takeover = to(&[("a", 1)]);
    relay.commit(vec![unit_node("b", State::Evacuated { takeover })]).await;
    relay
        .refuses(Command::Return(give_back("b")), "no relay of unit b is heard of")
        .await;
    open(&relay, "b", "b-1").await;
    let begun = plan(&relay, Command::Return(give_back("b"))).await;
    assert_eq!(work(&relay, begun.moves[0]).await.kind, MoveKind::GiveBack);
}
