//! The embedded store, over streams to the relay that has it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use strait::control::authority::{Authority, Caller};
use strait::control::embedded::Embedded;
use strait::control::remote::Remote;
use strait::control::store::{Store, StoreError};
use strait::model::Name;
use strait::routing::record::{FreezeAck, MoveId};
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::conformance::{self, Copy, done};
use crate::embedded::open;
use crate::make::{Folder, Hand, active, claim, commit, frozen, key, name, relay};

/// A relay that has the store, and streams to it.
#[derive(Clone)]
struct World {
    authority: Authority,
    tasks: TaskTracker,
    /// Ends the streams that are open, when it is exchanged.
    streams: Arc<std::sync::Mutex<CancellationToken>>,
    dialled: Arc<AtomicUsize>,
}

impl World {
    fn new(store: &Embedded) -> Self {
        Self {
            authority: Authority::new(Arc::new(store.clone())),
            tasks: TaskTracker::new(),
            streams: Arc::default(),
            dialled: Arc::default(),
        }
    }

    fn dial(&self, caller: Caller) -> io::Result<DuplexStream> {
        self.dialled.fetch_add(1, Ordering::SeqCst);
        let over = self.streams.lock().unwrap().clone();
        if over.is_cancelled() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, far) = tokio::io::duplex(64 << 10);
        let authority = self.authority.clone();
        self.tasks.spawn(async move {
            let serving = authority.serve(caller, far, over.clone());
            serving.await.unwrap();
        });
        Ok(near)
    }

    /// As a relay of this unit.
    fn remote(&self, unit: &str, relay: Option<Name>) -> Remote {
        let world = self.clone();
        let unit = name(unit);
        let dial = move || {
            let dialled = world.dial(Caller {
                unit: unit.clone(),
                relay: relay.clone(),
            });
            async move { dialled }
        };
        Remote::new(dial, self.tasks.clone())
    }

    fn cut(&self) -> CancellationToken {
        let streams = self.streams.lock().unwrap().clone();
        streams.cancel();
        streams
    }

    fn mend(&self) {
        *self.streams.lock().unwrap() = CancellationToken::new();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_of_another_relay_is_a_store() {
    let folder = Folder::new("remote");
    let world = World::new(&open(&folder, &Hand::default()).unwrap());
    conformance::all(Arc::new(world.remote("a", None))).await;
    assert_eq!(world.dialled.load(Ordering::SeqCst), 1, "one stream carries all");
}

// A1
#[tokio::test]
async fn a_relay_speaks_for_itself_only() {
    let folder = Folder::new("denied");
    let store = open(&folder, &Hand::default()).unwrap();
    conformance::publish(&store).await;
    let rev = done(&store, commit(vec![], vec![frozen("k", 3)])).await;
    let world = World::new(&store);
    let (own, next) = (relay("a", 1), relay("a", 2));
    let remote = world.remote("a", Some(own.relay.clone()));
    let neighbour = world.remote("a", Some(next.relay.clone()));
    let stranger = world.remote("b", None);

    for other in [next.clone(), relay("b", 1)] {
        let error = remote.open(other).await.unwrap_err();
        assert!(matches!(error, StoreError::Denied(_)), "{error}");
    }
    let life = remote.open(own.clone()).await.unwrap();
    let ack = FreezeAck {
        session: life.session,
        by: MoveId(3),
        node: key("k"),
        rev,
        drained: true,
        held_by: None,
    };
    for other in [&neighbour, &stranger] {
        assert_eq!(other.renew(life.session).await, Err(StoreError::SessionOver));
        assert_eq!(other.close(life.session).await, Err(StoreError::SessionOver));
        other.report(vec![ack.clone()]).await.unwrap();
    }
    let standing = stranger.standing(None).await.unwrap();
    assert_eq!(
        (standing.len(), standing[0].acks.len()),
        (1, 0),
        "nobody reports for others"
    );
    let error = stranger.claim(vec![claim("k", "b", 1)]).await.unwrap_err();
    assert!(matches!(error, StoreError::Denied(_)), "{error}");

    // Another stream of the same relay, to a relay that has just started, may go on with the life.
    let restarted = World::new(&store);
    let remote = restarted.remote("a", Some(own.relay));
    remote.renew(life.session).await.unwrap();
    remote.report(vec![ack]).await.unwrap();
    assert_eq!(remote.standing(None).await.unwrap()[0].acks.len(), 1);
    remote.close(life.session).await.unwrap();
}

// W1, W2
#[tokio::test]
async fn a_stream_that_broke_is_opened_again_and_nothing_is_done_twice() {
    let folder = Folder::new("broken");
    let world = World::new(&open(&folder, &Hand::default()).unwrap());
    let remote = world.remote("a", None);
    conformance::publish(&remote).await;
    let mut copy = Copy::new(&remote).await;
    let ask = commit(vec![], vec![active("k", "a")]);
    let rev = done(&remote, ask.clone()).await;
    copy.until(rev).await;

    world.cut();
    let ended = loop {
        match copy.next().await {
            Ok(batch) => copy.take(&batch),
            Err(error) => break error,
        }
    };
    assert!(matches!(ended, StoreError::Away(_)), "{ended}");
    let dialled = world.dialled.load(Ordering::SeqCst);
    for _ in 0..100 {
        let error = remote.commit(ask.clone()).await.unwrap_err();
        assert!(matches!(error, StoreError::Away(_)), "{error}");
        // A line for people: the cause alone, not each layer that repeats it.
        let text = error.to_string();
        assert!(!text.contains("status:") && !text.contains("code:"), "{text}");
        assert!(text.matches(':').count() <= 1 && text.len() < 100, "{text}");
    }
    let attempts = world.dialled.load(Ordering::SeqCst) - dialled;
    assert!(attempts < 20, "{attempts} attempts, one for almost each question");

    world.mend();
    let until = tokio::time::Instant::now() + Duration::from_secs(10);
    let again = loop {
        match remote.commit(ask.clone()).await {
            Ok(again) => break again,
            Err(error) => assert!(tokio::time::Instant::now() < until, "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(again, strait::routing::record::Committed::Done(rev));
    // The feed goes on where it ended.
    let mut feed = remote.watch(copy.rev()).await.unwrap();
    let next = done(&remote, commit(vec![], vec![active("k", "b")])).await;
    while copy.rev() < next {
        copy.take(&feed.recv().await.unwrap().unwrap());
    }
}

// W1
#[tokio::test]
async fn a_relay_that_says_nothing_is_away_after_a_while() {
    let (near, far) = tokio::io::duplex(64 << 10);
    let near = std::sync::Mutex::new(Some(near));
    let dial = move || {
        let near = near.lock().unwrap().take();
        async move { near.ok_or_else(|| io::ErrorKind::ConnectionRefused.into()) }
    };
    let remote = Remote::new(dial, TaskTracker::new());
    let error = remote.renew(strait::routing::record::SessionId(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Away(_)), "{error}");
    drop(far);
}

// A2
#[tokio::test]
async fn nothing_runs_when_the_streams_are_closed() {
    let folder = Folder::new("tracked");
    let world = World::new(&open(&folder, &Hand::default()).unwrap());
    let remote = world.remote("a", None);
    conformance::publish(&remote).await;
    let copy = Copy::new(&remote).await;
    assert_eq!(world.tasks.len(), 2, "a stream and a feed");
    drop(copy);
    world.cut();
    world.tasks.close();
    let ended = tokio::time::timeout(Duration::from_secs(10), world.tasks.wait()).await;
    ended.expect("feed and stream end");
    assert!(world.tasks.is_empty());
}

// A snapshot is longer than a message may be.
#[tokio::test]
async fn long_answers_come_in_pieces() {
    let folder = Folder::new("long");
    let store = open(&folder, &Hand::default()).unwrap();
    let world = World::new(&store);
    let remote = world.remote("a", None);
    conformance::publish(&remote).await;
    let puts = (0..40_000).map(|n| active(&format!("{n:0>200}"), "a"));
    done(&remote, commit(vec![], puts.take(20_000).collect())).await;
    let puts = (20_000..40_000).map(|n| active(&format!("{n:0>200}"), "a"));
    done(&remote, commit(vec![], puts.collect())).await;
    let snapshot = remote.snapshot().await.unwrap();
    assert_eq!(snapshot.changes.len(), 40_001);
    assert_eq!(snapshot, store.snapshot().await.unwrap());
}
