//! The embedded store: the same as all, and what only a file can go through.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use strait::control::embedded::{Embedded, FileError};
use strait::control::store::{Store, StoreError};
use strait::routing::record::{FreezeAck, MoveId, RecordId, Rev};

use crate::conformance::{self, Copy, done};
use crate::make::{Folder, Hand, active, claim, claim_key, commit, frozen, key, name, relay};

pub(crate) fn open(folder: &Folder, hand: &Hand) -> Result<Embedded, FileError> {
    Embedded::open(&folder.path().join("routes"), hand.clock(), 7)
}

/// Opens a file that its last owner may be about to close.
async fn reopen(folder: &Folder, hand: &Hand) -> Embedded {
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match open(folder, hand) {
            Ok(store) => return store,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_is_a_store() {
    let folder = Folder::new("conformance");
    let store = open(&folder, &Hand::default()).unwrap();
    conformance::all(Arc::new(store)).await;
}

// E1, G2, R-3.7
#[tokio::test]
async fn a_restart_forgets_nothing_and_gives_every_life_its_full_time() {
    let folder = Folder::new("restart");
    let hand = Hand::default();
    let store = open(&folder, &hand).unwrap();
    conformance::publish(&store).await;
    let ask = commit(vec![(RecordId::Node(key("k")), Rev::ZERO)], vec![active("k", "a")]);
    let rev = done(&store, ask.clone()).await;
    let won = store.claim(vec![claim("k", "a", 1)]).await.unwrap();
    let life = store.open(relay("a", 1)).await.unwrap();
    hand.forward(Duration::from_secs(25));
    let silent = async |store: &Embedded| store.standing(None).await.unwrap()[0].silent_for;
    assert_eq!(silent(&store).await, Some(Duration::from_secs(25)));
    let before = store.snapshot().await.unwrap();

    drop(store);
    let store = reopen(&folder, &hand).await;
    let mut after = store.snapshot().await.unwrap();
    after.changes.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(after, before);
    assert_eq!(silent(&store).await, Some(Duration::ZERO));
    store.renew(life.session).await.unwrap();
    assert_eq!(done(&store, ask).await, rev);
    assert_eq!(store.claim(vec![claim("k", "b", 2)]).await.unwrap(), won);
    // A relay that is as far as the store goes on; what was before is not known any more.
    let mut feed = store.watch(before.epoch.rev()).await.unwrap();
    assert_eq!(feed.recv().await.unwrap().unwrap().rev, before.epoch.rev());
    assert_eq!(store.watch(rev).await.unwrap_err(), StoreError::Compacted);
    // Sessions and revisions go on where they were.
    assert!(store.open(relay("a", 2)).await.unwrap().session > life.session);
}

// reports are not on disk; after a restart relays report again.
#[tokio::test]
async fn reports_are_asked_for_again_after_a_restart() {
    let folder = Folder::new("reports");
    let hand = Hand::default();
    let store = open(&folder, &hand).unwrap();
    conformance::publish(&store).await;
    let rev = done(&store, commit(vec![], vec![frozen("k", 3)])).await;
    let life = store.open(relay("a", 1)).await.unwrap();
    let ack = FreezeAck {
        session: life.session,
        by: MoveId(3),
        node: key("k"),
        rev,
        drained: true,
        held_by: None,
    };
    store.report(vec![ack]).await.unwrap();
    assert_eq!(store.standing(None).await.unwrap()[0].acks.len(), 1);
    drop(store);
    let store = reopen(&folder, &hand).await;
    assert_eq!(store.standing(None).await.unwrap()[0].acks, []);
}

// E1: a copy of the file, taken at any moment between answers, has all that was answered until then.
#[tokio::test]
async fn what_was_answered_is_in_the_file() {
    let folder = Folder::new("kill");
    let hand = Hand::default();
    let store = open(&folder, &hand).unwrap();
    conformance::publish(&store).await;
    for round in 0..10_u128 {
        let text = format!("k{round}");
        let rev = done(&store, commit(vec![], vec![active(&text, "b")])).await;
        let won = store.claim(vec![claim(&text, "a", round)]).await.unwrap();
        let life = store.open(relay("c", 1)).await.unwrap();
        // As after a SIGKILL: the file was not closed.
        let copy = Folder::new(&format!("kill-{round}"));
        std::fs::copy(folder.path().join("routes"), copy.path().join("routes")).unwrap();
        let left = open(&copy, &hand).unwrap();
        let read = left.read(vec![RecordId::Node(key(&text))]).await.unwrap();
        assert_eq!(read.found[0].as_ref().map(|change| change.rev), Some(rev));
        assert_eq!(read.epoch, life.epoch);
        let (_, claims) = left.claims(vec![claim_key(&text)]).await.unwrap();
        assert_eq!(claims.into_iter().flatten().collect::<Vec<_>>(), won);
        assert_eq!(left.standing(Some(name("c"))).await.unwrap()[0].session, life.session);
    }
}

// E3
#[tokio::test]
async fn a_file_that_cannot_be_used_says_what_to_do() {
    let folder = Folder::new("file");
    let hand = Hand::default();
    let store = open(&folder, &hand).unwrap();
    let text = |error: FileError| error.to_string();
    let second = text(open(&folder, &hand).err().unwrap());
    assert!(
        second.contains("another relay runs with this data directory"),
        "{second}"
    );
    drop(store);

    let damaged = Folder::new("file-damaged");
    std::fs::write(damaged.path().join("routes"), vec![b'x'; 10_000]).unwrap();
    let damaged = text(open(&damaged, &hand).err().unwrap());
    assert!(damaged.contains("put a backup in its place"), "{damaged}");

    let folder = Folder::new("file-foreign");
    let foreign = redb::Database::create(folder.path().join("routes")).unwrap();
    let write = foreign.begin_write().unwrap();
    write
        .open_table(redb::TableDefinition::<&str, &str>::new("songs"))
        .unwrap();
    write.commit().unwrap();
    drop(foreign);
    let foreign = text(open(&folder, &hand).err().unwrap());
    assert!(foreign.contains("no file of routes"), "{foreign}");
}

// R-I13: what does not fit into a feed that nobody reads is in it all the same when somebody does.
#[tokio::test]
async fn a_slow_reader_misses_nothing() {
    let folder = Folder::new("slow");
    let store = open(&folder, &Hand::default()).unwrap();
    conformance::publish(&store).await;
    let mut copy = Copy::new(&store).await;
    let mut last = Rev::ZERO;
    for round in 0..200 {
        last = done(&store, commit(vec![], vec![active(&format!("k{}", round % 7), "a")])).await;
    }
    copy.until(last).await;
    copy.agrees_with(&store.snapshot().await.unwrap());
}

/// Writes until somebody kills it, and tells what was acknowledged.
#[tokio::test]
#[ignore = "not a test by itself: the process that the next test starts and kills"]
async fn a_writer_to_be_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = Embedded::open(&PathBuf::from(folder).join("routes"), Hand::default().clock(), 7).unwrap();
    conformance::publish(&store).await;
    let mut round = 0_u64;
    loop {
        round += 1;
        let text = format!("k{round}");
        let (wrote, claimed) = (commit(vec![], vec![active(&text, "a")]), vec![claim(&text, "b", 1)]);
        let (rev, won) = tokio::join!(done(&store, wrote), store.claim(claimed));
        assert_eq!(won.unwrap().len(), 1);
        println!("{ACKNOWLEDGED}{round} {rev}");
    }
}

// E1: killed at any moment under load, it has all that was acknowledged, and opens at once.
#[tokio::test]
async fn a_relay_that_is_killed_has_all_it_acknowledged() {
    let folder = Folder::new("sigkill");
    let mut writer = Command::new(std::env::current_exe().unwrap())
        .args(["embedded::a_writer_to_be_killed", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut acknowledged = Vec::new();
    for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
        // What it said before it was killed comes to the end.
        let line = line.unwrap();
        if let Some((_, told)) = line.split_once(ACKNOWLEDGED) {
            let (round, rev) = told.split_once(' ').unwrap();
            acknowledged.push((format!("k{round}"), Rev(rev.parse().unwrap())));
            if acknowledged.len() == 50 {
                writer.kill().unwrap();
            }
        }
    }
    writer.wait().unwrap();
    assert!(acknowledged.len() >= 50);
    let store = open(&folder, &Hand::default()).unwrap();
    for (text, rev) in acknowledged {
        let read = store.read(vec![RecordId::Node(key(&text))]).await.unwrap();
        assert_eq!(read.found[0].as_ref().map(|change| change.rev), Some(rev));
        let (_, claims) = store.claims(vec![claim_key(&text)]).await.unwrap();
        assert_eq!(claims, [Some(claim(&text, "b", 1))]);
    }
}

const FOLDER: &str = "STRAIT_TEST_FOLDER";
const ACKNOWLEDGED: &str = "acknowledged ";
