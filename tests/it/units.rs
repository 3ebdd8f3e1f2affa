//! R-I15, R-I18, R-D7, R-D8: a unit is drained, evacuated, and gets its keys back, as an operator does it.

use std::collections::BTreeMap;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use toml::Table;

use crate::harness::{Relay, wait_for};
use crate::moves::{KEYS, Writers, ask, check, write_within};
use crate::owners::{UNITS, World};

const LIMIT: Duration = Duration::from_secs(60);
/// The shortest there is, so that a test need not wait long for a unit that is dead.
const LEASE: Duration = Duration::from_secs(7);
const IN_FLIGHT_MAX: Duration = Duration::from_secs(3);

/// Conversations that are claimed, with a short lease; those that are in the world below belong to unit c.
async fn world() -> World {
    let mut conversations = Table::new();
    conversations.insert("name".to_owned(), "cid".into());
    conversations.insert("placement".to_owned(), "claim".into());
    conversations.insert("owner_lease".to_owned(), format!("{}s", LEASE.as_secs()).into());
    let users: Table = "name = \"uid\"\nowner_lease = \"7s\"".parse().unwrap();
    let world = World::start(&[
        (
            "routes.dimension",
            vec![toml::Value::Table(conversations), toml::Value::Table(users)].into(),
        ),
        ("routes.in_flight_max", format!("{}s", IN_FLIGHT_MAX.as_secs()).into()),
    ])
    .await;
    for key in 0..KEYS {
        assert_eq!(world.call("c", &format!("cid=m{key}")).await.unwrap(), "c");
    }
    world
}

/// `strait ... --admin <this relay>`, off the threads of the test.
async fn strait(relay: &Relay, line: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(line.split(' ')).args(["--admin", &relay.admin()]);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap());
    let Output { status, stdout, stderr } = ran.await.unwrap();
    let text = [stdout, stderr].concat();
    (status.code(), String::from_utf8_lossy(&text).into_owned())
}

async fn done(relay: &Relay, line: &str) -> String {
    let (code, text) = strait(relay, line).await;
    assert_eq!(code, Some(0), "{line}: {text}");
    text
}

/// Who serves each of the keys, asked at these units.
async fn owners(world: &World, from: &[&str]) -> BTreeMap<usize, String> {
    let mut owners = BTreeMap::new();
    for key in 0..KEYS {
        for unit in from {
            let name = format!("cid=m{key}");
            let served = wait_for("the key to be served", LIMIT, async || {
                world.call(unit, &name).await.ok()
            })
            .await;
            let owner = owners.entry(key).or_insert_with(|| served.clone());
            assert_eq!(*owner, served, "two owners of key {key}");
        }
    }
    owners
}

fn share(owners: &BTreeMap<usize, String>, unit: &str) -> usize {
    owners.values().filter(|owner| *owner == unit).count()
}

async fn unit(relay: &Relay, unit: &str) -> Value {
    ask(relay, &json!({ "ask": "units", "unit": unit })).await["units"][0].clone()
}

// R-I1, R-I2: a planned drain under the writes of all units; nothing is lost, doubled or refused; and the way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_is_drained_under_writes_and_gets_its_keys_back() {
    let world = world().await;
    let relay = world.cluster.relay("a-2");
    let planned = done(relay, "unit drain c --to a=2,b=1 --dry-run").await;
    assert!(planned.contains("nothing was changed"), "{planned}");
    assert_eq!(unit(relay, "c").await["state"], "active");

    let before = world.served();
    let writers = Writers::start(&world);
    let told = done(relay, "unit drain c --to a=2,b=1 --wait").await;
    assert!(told.contains("state      drained"), "{told}");
    let (acks, errors) = writers.end().await;
    check(&acks);
    assert!(errors.is_empty(), "{} writes failed: {:?}", errors.len(), errors[0]);
    let all = acks.iter().flatten().count();
    assert_eq!(
        world.served() - before,
        all as u64,
        "a write was done twice, or not at all"
    );
    let drained = owners(&world, &UNITS).await;
    assert_eq!((share(&drained, "c"), drained.len()), (0, KEYS), "{drained:?}");
    // Two thirds of twenty, give or take.
    assert!((7..=19).contains(&share(&drained, "a")), "{drained:?}");
    // Rules are moved whole; new keys of services that are still at work there go to the others.
    assert_ne!(world.call("b", "uid=c:1").await.unwrap(), "c");
    assert_ne!(world.call("c", "cid=new").await.unwrap(), "c");
    assert_eq!(unit(relay, "c").await["has"]["claims"], 0);

    let before = world.served();
    let writers = Writers::start(&world);
    done(world.cluster.relay("b-1"), "unit return c --wait").await;
    let (acks, errors) = writers.end().await;
    check(&acks);
    assert!(errors.is_empty(), "{} writes failed: {:?}", errors.len(), errors[0]);
    assert_eq!(world.served() - before, acks.iter().flatten().count() as u64);
    let back = owners(&world, &UNITS).await;
    assert_eq!(share(&back, "c"), KEYS, "{back:?}");
    assert_eq!(world.call("b", "uid=c:1").await.unwrap(), "c");
    assert_eq!(unit(relay, "c").await["state"], "active");
}

// R-D7: the unit is dead. Nobody has its keys before its lease and what it had admitted are over; then others have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_unit_is_evacuated_when_its_leases_are_over() {
    let mut world = world().await;
    let killed = Instant::now();
    world.cluster.relay_mut("c-1").kill();
    let relay = world.cluster.relay("a-2");
    let (code, text) = strait(relay, "unit evacuate c --to a=2,b=1").await;
    assert!(code == Some(2) && text.contains("--accept-loss"), "{text}");
    let told = done(relay, "unit evacuate c --to a=2,b=1 --accept-loss --reason fire --wait").await;
    assert!(
        told.contains("evacuated") && told.contains("unit a (weight 2)"),
        "{told}"
    );
    // It said that it lives once a second.
    let least = (LEASE + IN_FLIGHT_MAX).saturating_sub(Duration::from_secs(2));
    assert!(killed.elapsed() > least, "taken over after {:?}", killed.elapsed());
    assert!(killed.elapsed() < least * 3, "taken over after {:?}", killed.elapsed());
    let taken = owners(&world, &["a", "b"]).await;
    assert_eq!((share(&taken, "c"), taken.len()), (0, KEYS), "{taken:?}");
    assert!((7..=19).contains(&share(&taken, "a")), "{taken:?}");

    let (code, text) = strait(relay, "unit return c").await;
    assert!(
        code == Some(2) && text.contains("no relay of unit c is heard of"),
        "{text}"
    );
    world.cluster.relay_mut("c-1").start().await;
    world.reconnect("c").await;
    let relay = world.cluster.relay("a-2");
    wait_for("the relay to be heard of", LIMIT, async || {
        let (code, _) = strait(relay, "unit return c --dry-run").await;
        (code == Some(0)).then_some(())
    })
    .await;
    done(relay, "unit return c --wait").await;
    let back = owners(&world, &UNITS).await;
    assert_eq!(share(&back, "c"), KEYS, "{back:?}");
}

// R-I15: the unit was only asleep. When it wakes it admits nothing, though calls lie before it and its copy is of before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_that_wakes_after_it_was_evacuated_admits_nothing() {
    let world = world().await;
    let asleep = world.cluster.relay("c-1");
    asleep.signal("STOP");
    let mut waiting = JoinSet::new();
    for key in 0..KEYS {
        let client = world.client("c");
        waiting.spawn(async move { write_within(&client, key, LIMIT).await });
    }
    let before = world.served_by("c");
    let relay = world.cluster.relay("a-2");
    done(relay, "unit evacuate c --to a=1,b=1 --accept-loss --wait").await;
    // Takeover gates admit before it wakes.
    let taken = owners(&world, &["a", "b"]).await;
    assert_eq!(share(&taken, "c"), 0);
    world.cluster.relay("c-1").signal("CONT");
    let mut served = 0;
    // Those that waited long enough are served by whoever has the key now, or told to come again.
    for ack in waiting.join_all().await.into_iter().flatten() {
        assert_eq!(ack.unit, taken[&ack.key]);
        served += 1;
    }
    let own = owners(&world, &UNITS).await;
    assert_eq!(own, taken);
    assert_eq!(
        world.served_by("c"),
        before,
        "a gate of c admitted a call; {served} others were served elsewhere"
    );
}

// V6, R-I18: who took over is evacuated too. The list of the first is rewritten in the same commit, and nobody else's keys move.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_took_over_can_be_evacuated_too() {
    let world = world().await;
    let relay = world.cluster.relay("a-2");
    let begun = Instant::now();
    done(relay, "unit evacuate c --to a=1,b=1 --accept-loss --wait").await;
    // Its relay answers, so nobody waits for leases.
    assert!(begun.elapsed() < LEASE, "{:?}", begun.elapsed());
    let first = owners(&world, &UNITS).await;
    assert!(share(&first, "b") > 0 && share(&first, "a") > 0, "{first:?}");
    let (code, text) = strait(relay, "unit drain b --to a=1").await;
    assert!(code == Some(2) && text.contains("has keys of unit c"), "{text}");
    done(relay, "unit evacuate b --to a=1 --accept-loss --wait").await;
    assert_eq!(
        unit(relay, "c").await["state"],
        json!({ "evacuated": { "takeover": [["a", 1]] } })
    );
    let second = owners(&world, &UNITS).await;
    assert_eq!(share(&second, "a"), KEYS, "{second:?}");
    for back in ["c", "b"] {
        done(relay, &format!("unit return {back} --wait")).await;
    }
    let back = owners(&world, &UNITS).await;
    assert_eq!(share(&back, "c"), KEYS, "{back:?}");
}
