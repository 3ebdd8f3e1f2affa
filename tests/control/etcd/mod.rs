//! The store in etcd: three real members, one of which is killed.

mod certificates;
#[allow(dead_code, reason = "campaigns do other things to it")]
#[path = "../../it/harness/etcd.rs"]
mod cluster;
#[path = "../../it/harness/directory.rs"]
mod directory;
#[path = "../../it/harness/ports.rs"]
mod ports;
mod raw;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait::control::etcd::{Etcd, Parts, Tls};
use strait::control::store::{Store, StoreError};
use strait::routing::Routes;
use strait::routing::lease::{LEASE_MAX, REMEMBERED};
use strait::routing::record::{Claim, Commit, Committed, Record, RecordId, Rev};
use tokio_util::task::TaskTracker;

use self::certificates::Authority;
use self::cluster::Etcd as Cluster;
use self::directory::Directory;
use self::ports::free_port;
use crate::conformance::{self, Copy, done};
use crate::make::{active, claim, claim_key, commit, key, name, relay};

fn store(cluster: &Cluster, prefix: &str) -> Etcd {
    Etcd::new(&parts(cluster.addresses(), prefix, None), TaskTracker::new()).unwrap()
}

fn parts(addresses: Vec<String>, prefix: &str, tls: Option<Tls>) -> Parts {
    Parts {
        addresses,
        prefix: prefix.to_owned(),
        tls,
        seed: fastrand::u128(..),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_in_etcd_is_a_store() {
    let cluster = Cluster::start().await;
    conformance::all(Arc::new(store(&cluster, "/strait/eu"))).await;

    // Two that begin at once agree on what a new store begins with.
    let (one, other) = (store(&cluster, "/strait/us"), store(&cluster, "/strait/us/"));
    let (a, b) = tokio::join!(one.snapshot(), other.snapshot());
    assert_eq!(a.unwrap(), b.unwrap());
    assert_eq!(one.snapshot().await.unwrap().changes, [], "prefixes are apart");
    conformance::publish(&one).await;

    what_ends_without_a_word(&cluster, &one).await;
    links_that_are_missing(&cluster, &one).await;
    limits(&one).await;
}

/// T4: a relay whose lease has ended is still a relay that must be waited for.
async fn what_ends_without_a_word(cluster: &Cluster, store: &Etcd) {
    let life = store.open(relay("a", 1)).await.unwrap();
    raw::revoke(cluster, life.session).await;
    assert_eq!(store.renew(life.session).await, Err(StoreError::SessionOver));
    let standing = store.standing(None).await.unwrap();
    assert_eq!((standing.len(), standing[0].silent_for), (1, None));
    let next = store.open(relay("a", 1)).await.unwrap();
    let standing = store.standing(Some(name("a"))).await.unwrap();
    assert_eq!((standing.len(), standing[0].session), (1, next.session));
    // T5
    assert_eq!(standing[0].silent_for, Some(Duration::ZERO));
    // R-D7: for the longest lease there may be, and the longest call under it.
    assert!(raw::granted(cluster, next.session).await > REMEMBERED);
    assert!(REMEMBERED >= LEASE_MAX * 2);
    // T5: whatever it was granted, time that is left of it is none that it was silent.
    raw::grant(cluster, next.session, 60).await;
    let standing = store.standing(Some(name("a"))).await.unwrap();
    assert_eq!(standing[0].silent_for, Some(Duration::ZERO));
    store.close(next.session).await.unwrap();
}

/// T2, R-I13
async fn links_that_are_missing(cluster: &Cluster, store: &Etcd) {
    let first = done(store, commit(vec![], vec![active("k", "a")])).await;
    store.claim(vec![claim("between", "a", 1)]).await.unwrap();
    let last = done(store, commit(vec![], vec![active("k", "b")])).await;
    // Begins where no commit ended, but a claim.
    let mut feed = store.watch(first.next()).await.unwrap();
    assert_eq!(feed.recv().await.unwrap(), Err(StoreError::Compacted));
    assert_eq!(feed.recv().await, None);

    // etcd has forgotten.
    raw::compact(cluster, last).await;
    let mut feed = store.watch(first).await.unwrap();
    let ended = loop {
        match feed.recv().await.unwrap() {
            Ok(batch) => assert_eq!(batch.rev, first),
            Err(error) => break error,
        }
    };
    assert_eq!(ended, StoreError::Compacted);
    let history = store.history(RecordId::Node(key("k")), 10).await.unwrap();
    assert_eq!(history.iter().map(|change| change.rev).collect::<Vec<_>>(), [last]);

    // Somebody else writes records.
    let mut feed = store.watch(last).await.unwrap();
    raw::put(raw::connect(cluster), "/strait/us/routes/id/\"book\"", b"{}").await;
    let ended = loop {
        match feed.recv().await.unwrap() {
            Ok(batch) => assert_eq!(batch.rev, last),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StoreError::Broken(_)), "{ended}");
    let Record::Book(book) = crate::make::book() else {
        panic!()
    };
    let book = serde_json::to_vec(&Record::Book(book)).unwrap();
    raw::put(raw::connect(cluster), "/strait/us/routes/id/\"book\"", &book).await;
}

async fn limits(store: &Etcd) {
    let puts: Vec<_> = (0..120).map(|n| active(&format!("n{n}"), "a")).collect();
    done(store, commit(vec![], puts.clone())).await;
    let more = puts.into_iter().chain([active("one more", "a")]).collect();
    let error = store.commit(commit(vec![], more)).await.unwrap_err();
    assert!(error.to_string().contains("120 records in a commit"), "{error}");
    // More than one page.
    for page in 0..11 {
        let puts = (0..100).map(|n| active(&format!("p{page}-{n}"), "b"));
        done(store, commit(vec![], puts.collect())).await;
    }
    let snapshot = store.snapshot().await.unwrap();
    assert_eq!(snapshot.changes.len(), 1 + 1 + 120 + 1100);
    let mut copy = Copy::new(store).await;
    let last = done(store, commit(vec![], vec![active("last", "c")])).await;
    copy.until(last).await;
    copy.agrees_with(&store.snapshot().await.unwrap());
}

#[tokio::test]
async fn an_etcd_that_is_not_there_is_away() {
    let nowhere = parts(vec!["http://127.0.0.1:1".to_owned()], "/strait/eu", None);
    let store = Etcd::new(&nowhere, TaskTracker::new()).unwrap();
    let error = store.snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Away(_)), "{error}");
    let refused = |address: &str| {
        let parts = parts(vec![address.to_owned()], "/", None);
        Etcd::new(&parts, TaskTracker::new()).err().unwrap().to_string()
    };
    let text = refused("not an address");
    assert!(text.contains("expected https://host:port"), "{text}");
    let text = refused("https://etcd:2379");
    assert!(text.contains("needs certificates"), "{text}");
}

// Both sides show certificates; one of another authority is worth nothing, on either side.
#[tokio::test]
async fn members_and_relays_know_each_other_by_certificates() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (chain, key) = ours.issue();
    let cluster = Cluster::start_secured(&ours.pem(), (&chain, &key)).await;
    let open = |trusted: &Authority, issued: &Authority| {
        let parts = parts(cluster.addresses(), "/strait/eu", Some(issued.tls(trusted)));
        Etcd::new(&parts, TaskTracker::new()).unwrap()
    };
    let store = open(&ours, &ours);
    conformance::publish(&store).await;
    let rev = done(&store, commit(vec![], vec![active("k", "a")])).await;
    Copy::new(&store).await.until(rev).await;
    let (stranger, fooled) = (open(&ours, &theirs), open(&theirs, &ours));
    let (a, b) = tokio::join!(stranger.snapshot(), fooled.snapshot());
    for error in [a.unwrap_err(), b.unwrap_err()] {
        assert!(matches!(error, StoreError::Away(_)), "{error}");
    }
}

/// Asks until there is an answer, with the same operation.
async fn insist<T, F: Future<Output = Result<T, StoreError>>>(ask: impl Fn() -> F) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(matches!(error, StoreError::Away(_)), "{error}"),
        }
    }
}

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    commits: Vec<(Commit, Rev)>,
    claims: Vec<Claim>,
}

/// Writes a key of its own again and again, and claims keys that others want too, until `enough`.
async fn write_and_claim(store: Etcd, task: u128, acknowledged: Arc<AtomicUsize>, enough: usize) -> Acknowledged {
    let mut own = Acknowledged::default();
    let mut round = 0_u128;
    while acknowledged.load(Ordering::SeqCst) < enough {
        round += 1;
        let text = format!("t{task}-{round}");
        let ask = commit(vec![(RecordId::Node(key(&text)), Rev::ZERO)], vec![active(&text, "a")]);
        match insist(|| store.commit(ask.clone())).await {
            Committed::Done(rev) => own.commits.push((ask, rev)),
            conflict @ Committed::Conflict { .. } => panic!("nobody else writes it: {conflict:?}"),
        }
        let wanted = claim(
            &format!("c{round}"),
            ["a", "b"][usize::from(task.is_multiple_of(2))],
            task * 100_000 + round,
        );
        own.claims.extend(insist(|| store.claim(vec![wanted.clone()])).await);
        acknowledged.fetch_add(1, Ordering::SeqCst);
    }
    own
}

/// Follows the feed over all interruptions, without ever taking a snapshot, up to a revision.
async fn follow(store: Etcd, mut routes: Routes, until: tokio::sync::watch::Receiver<Option<Rev>>) -> Routes {
    loop {
        let mut feed = insist(|| store.watch(routes.rev())).await;
        while let Some(batch) = feed.recv().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    assert!(matches!(error, StoreError::Away(_)), "{error}");
                    break;
                }
            };
            assert_eq!(batch.prev, routes.rev(), "a gap");
            routes = routes.apply(&batch).unwrap();
            if until.borrow().is_some_and(|until| routes.rev() >= until) {
                return routes;
            }
        }
    }
}

// R-I5, R-I13, G2: with the leader killed under load nothing acknowledged is lost, nothing is done twice, and the feed has no
// gap.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_killed_takes_nothing_with_it() {
    let mut cluster = Cluster::start().await;
    let store = store(&cluster, "/strait/eu");
    conformance::publish(&store).await;
    let life = store.open(relay("a", 1)).await.unwrap();
    let routes = Routes::from_snapshot(&store.snapshot().await.unwrap());
    let (told, until) = tokio::sync::watch::channel(None);
    let following = TaskTracker::new().spawn(follow(store.clone(), routes, until));

    let acknowledged = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        tasks.spawn(write_and_claim(store.clone(), task, Arc::clone(&acknowledged), ENOUGH));
    }
    while acknowledged.load(Ordering::SeqCst) < ENOUGH / 3 {
        tokio::task::yield_now().await;
    }
    let killed = cluster.kill_leader().await;
    while acknowledged.load(Ordering::SeqCst) < ENOUGH * 2 / 3 {
        tokio::task::yield_now().await;
    }
    cluster.restart(killed);
    let all = tasks.join_all().await;

    let snapshot = insist(|| store.snapshot()).await;
    told.send(Some(snapshot.epoch.rev())).unwrap();
    let copy = following.await.unwrap();
    let whole = Routes::from_snapshot(&snapshot);
    assert_eq!((copy.rev(), copy.digest()), (whole.rev(), whole.digest()));
    let there: BTreeMap<_, _> = snapshot
        .changes
        .iter()
        .map(|change| (change.id.clone(), change.rev))
        .collect();
    let mut owners = BTreeMap::new();
    for Acknowledged { commits, claims } in all {
        for (asked, rev) in commits {
            assert_eq!(there.get(&asked.compares[0].0), Some(&rev));
            assert_eq!(insist(|| store.commit(asked.clone())).await, Committed::Done(rev));
        }
        for claim in claims {
            let owner = owners
                .entry(String::from(claim.key.clone()))
                .or_insert_with(|| claim.clone());
            assert_eq!(*owner, claim, "two were told that they have it");
        }
    }
    let keys = owners.keys().map(|key| claim_key(key)).collect();
    let (_, read) = insist(|| store.claims(Vec::clone(&keys))).await;
    assert!(read.into_iter().flatten().eq(owners.into_values()));
    // the life goes on, with its full time anew.
    insist(|| store.renew(life.session)).await;
}

/// Rounds of a run with a kill.
const ENOUGH: usize = 150;
