//! Kept calls of keys that others take over, or that move.

use super::*;

/// Units a, b and c with a ledger each, whose keys have leases that end.
async fn world_with_leases(in_flight_max: &str) -> (World, BTreeMap<&'static str, Ledger>, Vec<client::Client>) {
    let dimension = |text: &str| Value::Table(text.parse().unwrap());
    let dimensions = vec![
        dimension("name = \"cid\"\nplacement = \"claim\"\nowner_lease = \"7s\""),
        dimension("name = \"uid\"\nowner_lease = \"7s\""),
    ];
    let world = World::start_with_units(|unit, builder| {
        keeping(unit, builder)
            .set(unit, "routes.dimension", dimensions.clone())
            .set(unit, "routes.in_flight_max", in_flight_max)
    })
    .await;
    let ledgers: BTreeMap<&str, Ledger> = UNITS.map(|unit| (unit, Ledger::default())).into();
    let mut served = Vec::new();
    for relay in ["a-1", "a-2", "b-1", "c-1"] {
        served.push(ledgers[&relay[..1]].serve(world.cluster.relay(relay)).await);
    }
    (world, ledgers, served)
}

/// Waits until nobody writes the keys of a unit, and nobody has taken over.
async fn until_fenced(relay: &Relay, unit: &str) {
    wait_for("nobody to have the keys", LIMIT, async || {
        let asked = json!({ "ask": "units", "unit": unit });
        let state = ask(relay, &asked).await["units"][0]["state"].clone();
        state["fencing"].is_object().then_some(())
    })
    .await;
}

// I16: what was kept for a unit whose keys others have taken over goes to those, in order; also what was kept while the unit
// was being evacuated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_calls_go_to_those_who_take_over_the_keys() {
    const KEYS: usize = 6;
    let (mut world, ledgers, _served) = world_with_leases("3s").await;
    let plain = async |at: &Client, key: usize| {
        let route = format!("cid=m{key}");
        let fields = [("strait-key", route.as_str()), ("idempotency-key", &route)];
        call(at, "Plain", &fields).await
    };
    let (at_a, at_c) = (
        grpc(world.cluster.relay("a-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    for key in 0..KEYS {
        assert_eq!(plain(&at_c, key).await.unwrap()["strait-unit"], "c");
    }
    world.cluster.relay_mut("c-1").kill();
    world.cluster.until_unlinked("a-1", "c").await;
    until_seen_away(world.cluster.relay("a-1"), "c", 2).await;
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut keep = async |from: usize| {
        for number in from..from + 3 * KEYS {
            let (key, id) = (format!("m{}", number % KEYS), format!("call-{number}"));
            let route = format!("cid={key}");
            let fields = [("strait-key", route.as_str()), ("idempotency-key", id.as_str())];
            if number % 2 == 0 {
                let answer = call(&at_a, "Post", &fields).await.unwrap();
                assert_eq!(answer["strait-provisional"], "true");
            } else {
                let status = call(&at_a, "Park", &fields).await.unwrap_err();
                assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
            }
            acknowledged.entry(key).or_default().push(id);
        }
    };
    keep(0).await;
    let relay = world.cluster.relay("a-2");
    let evacuation = ["unit", "evacuate", "c", "--to", "a=1,b=1", "--accept-loss"];
    strait(relay, &evacuation);
    until_fenced(world.cluster.relay("a-1"), "c").await;
    keep(100).await;
    let mut owners = BTreeMap::new();
    for key in 0..KEYS {
        let fields = wait_for("the key to be taken over", LIMIT, async || plain(&at_a, key).await.ok()).await;
        owners.insert(format!("m{key}"), fields["strait-unit"].clone());
    }
    assert!(owners.values().all(|owner| owner != "c"), "{owners:?}");
    // Nobody of the old owner is there to say where they have gone.
    let before = ledgers["c"].got().len();
    for (key, wanted) in &acknowledged {
        let ledger = &ledgers[owners[key].as_str()];
        let replayed = wait_for("what was kept to be replayed", LIMIT, async || {
            let got = ledger.got().into_iter();
            let got = got.filter(|entry| entry.key == *key && entry.field("strait-replay").is_some());
            let ids: Vec<String> = got.map(|entry| entry.id).collect();
            (ids.len() >= wanted.len()).then_some(ids)
        })
        .await;
        assert_eq!(replayed, *wanted, "{key} at {}", owners[key]);
        let applied = ledger
            .applied()
            .into_iter()
            .filter(|entry| entry.key == *key && entry.method != "Plain");
        let applied: BTreeSet<String> = applied.map(|entry| entry.id).collect();
        assert_eq!(applied, wanted.iter().cloned().collect(), "{key}");
    }
    world.cluster.relay_mut("c-1").start().await;
    world.cluster.until_linked("a-1", "c").await;
    assert_eq!(ledgers["c"].got().len(), before, "the old owner executed some");
    for relay in ["a-1", "a-2", "b-1", "c-1"] {
        assert!(dead(world.cluster.relay(relay)).is_empty(), "{relay}");
    }
}

// a unit is fenced, and one of its relays answers while another one is waited for. Nobody has its keys: calls wait for a takeover
// as long as for any move, then they are kept, and go to whoever takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_a_unit_that_is_fenced_for_long_are_kept_though_it_answers() {
    let (mut world, ledgers, _served) = world_with_leases("15s").await;
    let (at_a, at_c) = (
        grpc(world.cluster.relay("a-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    let of_key = |method: &'static str, id: &'static str| (method, [("strait-key", "cid=1"), ("idempotency-key", id)]);
    let (method, fields) = of_key("Plain", "first");
    assert_eq!(call(&at_a, method, &fields).await.unwrap()["strait-unit"], "a");
    world.cluster.relay_mut("a-2").kill();
    let evacuation = ["unit", "evacuate", "a", "--to", "b=1,c=1", "--accept-loss"];
    strait(world.cluster.relay("b-1"), &evacuation);
    until_fenced(world.cluster.relay("b-1"), "a").await;
    let before = ledgers["a"].got().len();

    let (post, plain, own) = (of_key("Post", "1"), of_key("Plain", "plain"), of_key("Post", "own"));
    let (kept, refused, at_home) = tokio::join!(
        call(&at_c, post.0, &post.1),
        call(&at_c, plain.0, &plain.1),
        call(&at_a, own.0, &own.1)
    );
    assert_eq!(kept.unwrap()["strait-provisional"], "true");
    for status in [refused.unwrap_err(), at_home.unwrap_err()] {
        assert!(said(&status, "strait-error").starts_with("moving"), "{status:?}");
    }
    // There is nothing to wait for any more.
    let begun = Instant::now();
    let (method, fields) = of_key("Park", "2");
    let status = call(&at_c, method, &fields).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    let (method, fields) = of_key("Post", "3");
    assert_eq!(
        call(&at_c, method, &fields).await.unwrap()["strait-provisional"],
        "true"
    );
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "kept after {took:?}");
    until_fenced(world.cluster.relay("b-1"), "a").await;

    let owner = wait_for("the key to be taken over", LIMIT, async || {
        let (method, fields) = of_key("Plain", "last");
        Some(call(&at_c, method, &fields).await.ok()?["strait-unit"].clone())
    })
    .await;
    assert_ne!(owner, "a");
    let ledger = &ledgers[owner.as_str()];
    let replayed = wait_for("what was kept to be replayed", LIMIT, async || {
        let got = ledger.got().into_iter();
        let got = got.filter(|entry| entry.field("strait-replay").is_some());
        let ids: Vec<String> = got.map(|entry| entry.id).collect();
        (ids.len() >= 3).then_some(ids)
    })
    .await;
    assert_eq!(replayed, ["1", "2", "3"]);
    assert_eq!(
        ledgers["a"].got().len(),
        before,
        "the unit that is fenced executed some"
    );
    for relay in ["a-1", "b-1", "c-1"] {
        assert!(dead(world.cluster.relay(relay)).is_empty(), "{relay}");
    }
}

// a move waits for calls that its old owner has taken, and so they pass the freeze.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_waits_for_kept_calls_and_lets_them_through() {
    let mut world =
        World::start_with_units(|unit, builder| keeping(unit, builder).set(unit, "routes.in_flight_max", "3s")).await;
    let at_b = Ledger::default();
    let served = at_b.serve(world.cluster.relay("b-1")).await;
    let (from_b, from_c) = (
        grpc(world.cluster.relay("b-1")).await,
        grpc(world.cluster.relay("c-1")).await,
    );
    let key = ("strait-key", "cid=1");
    for (client, id) in [(&from_b, "b"), (&from_c, "c")] {
        let answer = call(client, "Plain", &[key, ("idempotency-key", id)]).await.unwrap();
        assert_eq!(answer["strait-unit"], "b");
    }
    world.cluster.relay_mut("b-1").kill();
    world.cluster.until_unlinked("c-1", "b").await;
    until_seen_away(world.cluster.relay("c-1"), "b", 2).await;
    drop(served);
    for id in ["1", "2", "3"] {
        let status = call(&from_c, "Park", &[key, ("idempotency-key", id)])
            .await
            .unwrap_err();
        assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    }
    world.cluster.relay_mut("b-1").start().await;
    let relay = world.cluster.relay("b-1");
    wait_for("replays that find no service", LIMIT, async || {
        let again = counted(relay, "strait_replayed_calls_total", "again").await;
        (again > 0.0).then_some(())
    })
    .await;
    let what = json!([{ "node": { "key": { "dimension": "cid", "key": "1" } } }]);
    let command = json!({ "ask": "move", "what": what, "to": "c", "options": { "freeze_budget": "30s" } });
    let plan = ask(relay, &command).await;
    let id = plan["plan"]["id"]
        .as_str()
        .unwrap_or_else(|| panic!("{plan}"))
        .to_owned();
    wait_for("the key to be frozen", LIMIT, async || {
        let (_, text) = http_get(&relay.admin(), "/explain?dimension=cid&key=1").await.ok()?;
        let explained: Json = serde_json::from_str(&text).ok()?;
        explained["frozen"].is_string().then_some(())
    })
    .await;
    let _served = at_b.serve(relay).await;
    wait_for("the key to be moved", LIMIT, async || {
        let row = ask(relay, &json!({ "ask": "moves", "id": id })).await["moves"][0].clone();
        let is_over = row["state"] == "trailing" || row["state"] == "finished";
        is_over.then(|| assert_eq!(row["moved"], 1, "{row}"))
    })
    .await;
    let applied: Vec<String> = at_b.applied().into_iter().map(|entry| entry.id).collect();
    assert_eq!(applied, ["b", "c", "1", "2", "3"], "they came before the move");
}
