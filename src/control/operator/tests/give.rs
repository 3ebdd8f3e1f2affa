//! Keys without owner get one; nobody loses a key (O3).

use super::*;

fn given(how: How) -> Result<Answer, String> {
    Ok(Answer::Given(Given { how, dry_run: false }))
}

fn row(dimension: &str, key: &str, to: &str) -> ImportRow {
    ImportRow {
        dimension: unit(dimension),
        key: key.into(),
        unit: unit(to),
    }
}

fn import(rows: Vec<ImportRow>, dry_run: bool) -> Command {
    Command::Import {
        rows,
        dry_run,
        who: "ann".to_owned(),
    }
}

// O3
#[tokio::test]
async fn a_key_is_claimed_once_and_then_only_a_move_takes_it() {
    let relay = Relay::with("claim", book()).await;
    assert_eq!(relay.owner("cid", "k").await, None);
    let claim = |to: &str| Command::Claim(give("cid", "k", to));
    assert_eq!(relay.ask(claim("b")).await, given(How::Claimed));
    assert_eq!(relay.owner("cid", "k").await.as_deref(), Some("b"));
    // A lost answer asked for again is no mistake.
    assert_eq!(relay.ask(claim("b")).await, given(How::There));
    assert_eq!(relay.ask(Command::Set(give("cid", "k", "b"))).await, given(How::There));
    relay.refuses(claim("c"), "belongs to unit b already").await;
    relay
        .refuses(Command::Set(give("cid", "k", "c")), "strait route move --to c")
        .await;
    assert_eq!(relay.owner("cid", "k").await.as_deref(), Some("b"));
}

// A key that was moved belongs to its new unit, whatever its claim says.
#[tokio::test]
async fn what_was_decided_stands_above_the_claim() {
    let relay = Relay::with("decided", book()).await;
    relay.ask(Command::Claim(give("cid", "k", "b"))).await.unwrap();
    relay.commit(vec![node(key("cid", "k"), "c", State::Active)]).await;
    relay
        .refuses(Command::Set(give("cid", "k", "b")), "belongs to unit c already")
        .await;
    assert_eq!(relay.ask(Command::Set(give("cid", "k", "c"))).await, given(How::There));
}

#[tokio::test]
async fn a_key_of_a_dimension_without_claims_is_pinned_if_no_rule_names_it() {
    let relay = Relay::with("pin", book()).await;
    relay
        .refuses(
            Command::Claim(give("org", "acme", "b")),
            "pin the key: strait route set",
        )
        .await;
    let before = relay.rev().await;
    let mut dry = give("org", "acme", "b");
    dry.dry_run = true;
    let how = How::Pinned;
    assert_eq!(
        relay.ask(Command::Set(dry)).await,
        Ok(Answer::Given(Given { how, dry_run: true }))
    );
    assert_eq!(relay.rev().await, before, "a dry run writes nothing");
    assert_eq!(
        relay.ask(Command::Set(give("org", "acme", "b"))).await,
        given(How::Pinned)
    );
    assert_eq!(relay.owner("org", "acme").await.as_deref(), Some("b"));
    relay
        .refuses(Command::Set(give("org", "acme", "c")), "belongs to unit b already")
        .await;
    // Users have owners by the rules.
    relay
        .refuses(Command::Set(give("uid", "1500", "a")), "belongs to unit b already")
        .await;
    assert_eq!(
        relay.ask(Command::Set(give("uid", "1500", "b"))).await,
        given(How::There)
    );
}

// A decision that was taken back leaves a tombstone, which the commit must name.
#[tokio::test]
async fn a_key_whose_decision_was_taken_back_can_be_pinned_again() {
    let relay = Relay::with("tombstone", book()).await;
    relay
        .commit(vec![node(key("org", "acme"), "b", State::Tombstone)])
        .await;
    assert_eq!(
        relay.ask(Command::Set(give("org", "acme", "c"))).await,
        given(How::Pinned)
    );
    assert_eq!(relay.owner("org", "acme").await.as_deref(), Some("c"));
}

#[tokio::test]
async fn what_cannot_be_given_says_what_to_do() {
    let relay = Relay::with("cannot", book()).await;
    relay
        .refuses(Command::Set(give("room", "1", "a")), "dimension room is not published")
        .await;
    relay
        .refuses(Command::Set(give("cid", "1", "x")), "unit x is not published")
        .await;
    relay.refuses(Command::Set(give("cid", "", "a")), "an empty text").await;
    relay
        .refuses(
            Command::Set(give("cid", &"x".repeat(257), "a")),
            "longer than the 256 bytes",
        )
        .await;
    let takeover = vec![(unit("c"), 1)];
    let evacuated = node(NodeId::Unit(unit("b")), "b", State::Evacuated { takeover });
    relay.commit(vec![evacuated]).await;
    relay
        .refuses(Command::Claim(give("cid", "1", "b")), "unit b takes no keys now")
        .await;
}

// A key that follows a group belongs to whoever owns that, by its claim or by decision.
#[tokio::test]
async fn keys_that_follow_others_have_an_owner() {
    let relay = Relay::with("group", book()).await;
    relay.ask(Command::Claim(give("cid", "group", "b"))).await.unwrap();
    let target = Target::Group {
        dimension: unit("cid"),
        key: "group".into(),
    };
    let follows = |text: &str, op| Claim {
        dimension: unit("cid"),
        key: text.into(),
        target: target.clone(),
        base: Epoch(0),
        op: OpId(op),
        by: unit("a"),
    };
    relay.store.claim(vec![follows("k", 1 << 100)]).await.unwrap();
    relay
        .refuses(Command::Set(give("cid", "k", "c")), "belongs to unit b already")
        .await;
    assert_eq!(relay.ask(Command::Set(give("cid", "k", "b"))).await, given(How::There));
}

#[tokio::test]
async fn an_import_gives_what_nobody_has_and_names_the_rest() {
    let relay = Relay::with("import", book()).await;
    relay.ask(Command::Claim(give("cid", "taken", "c"))).await.unwrap();
    let rows = || {
        vec![
            row("cid", "new", "b"),
            row("cid", "taken", "b"),
            row("org", "acme", "c"),
            row("uid", "1500", "a"),
            row("uid", "1500", "b"),
            row("room", "1", "a"),
            row("cid", "new", "b"),
        ]
    };
    let before = relay.rev().await;
    let expected = |dry_run, given, there_already| Imported {
        given,
        there_already,
        conflicts: vec![
            Conflict {
                at: 1,
                owner: unit("c"),
            },
            Conflict {
                at: 3,
                owner: unit("b"),
            },
        ],
        refused: Vec::new(),
        dry_run,
    };
    let told = async |dry_run| match relay.ask(import(rows(), dry_run)).await.unwrap() {
        Answer::Imported(mut imported) => {
            let refused: Vec<_> = std::mem::take(&mut imported.refused);
            assert_eq!(refused.iter().map(|row| row.at).collect::<Vec<_>>(), [4, 5]);
            assert!(refused[0].detail.contains("another unit before"), "{refused:?}");
            assert!(
                refused[1].detail.contains("dimension room is not published"),
                "{refused:?}"
            );
            imported
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(told(true).await, expected(true, 2, 1));
    assert_eq!(relay.rev().await, before, "a dry run writes nothing");
    assert_eq!(relay.owner("cid", "new").await, None);
    assert_eq!(told(false).await, expected(false, 2, 1));
    // The same once more finds all of it done.
    assert_eq!(told(false).await, expected(false, 0, 3));
    assert_eq!(relay.owner("cid", "new").await.as_deref(), Some("b"));
    assert_eq!(relay.owner("org", "acme").await.as_deref(), Some("c"));
    assert_eq!(relay.owner("cid", "taken").await.as_deref(), Some("c"));
}

#[tokio::test]
async fn an_import_may_be_large_but_not_without_end() {
    let relay = Relay::with("large", book()).await;
    let rows = |count: usize| -> Vec<_> {
        (0..count)
            .map(|n| row(if n % 2 == 0 { "cid" } else { "org" }, &format!("k{n}"), "b"))
            .collect()
    };
    relay.refuses(import(rows(IMPORT_MAX + 1), false), "at most 1000").await;
    let Answer::Imported(imported) = relay.ask(import(rows(IMPORT_MAX), false)).await.unwrap() else {
        panic!("imported")
    };
    assert_eq!(
        (imported.given, imported.refused, imported.conflicts),
        (IMPORT_MAX, vec![], vec![])
    );
    for key in ["k0", "k998"] {
        assert_eq!(relay.owner("cid", key).await.as_deref(), Some("b"));
    }
    for key in ["k1", "k999"] {
        assert_eq!(relay.owner("org", key).await.as_deref(), Some("b"));
    }
}
