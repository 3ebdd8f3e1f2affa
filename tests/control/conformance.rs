//! What every store does. Each function needs a store of its own, with nothing in it but a book.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use strait::control::store::{CLAIMS_PAGE, Feed, Store, StoreError};
use strait::routing::Routes;
use strait::routing::record::{
    Batch, Claim, Commit, Committed, FreezeAck, MoveId, Node, Record, RecordId, Rev, SessionId, Snapshot,
};

use crate::make::{active, book, claim, claim_key, commit, frozen, key, migrating, name, relay};

/// All of it, on a new store.
pub(crate) async fn all(store: Arc<dyn Store>) {
    publish(&*store).await;
    commits_compare(&*store).await;
    what_was_done_stays_done(&*store).await;
    nonsense_is_refused(&*store).await;
    feeds_chain(&*store).await;
    histories_are_told_backwards(&*store).await;
    first_to_claim_has_the_key(&*store).await;
    claims_of_many_agree(&store).await;
    claims_for_a_unit_are_told_once(&*store).await;
    commits_of_many_exclude_each_other(&store).await;
    lives_and_reports(&*store).await;
    reports_of_several_keys_keep_out_of_each_others_way(&*store).await;
    whoever_listens_hears_that_something_was_reported(&*store).await;
}

pub(crate) async fn publish(store: &dyn Store) {
    done(store, commit(vec![], vec![book()])).await;
}

pub(crate) async fn done(store: &dyn Store, commit: Commit) -> Rev {
    match store.commit(commit).await.unwrap() {
        Committed::Done(rev) => rev,
        Committed::Conflict { id, found } => panic!("{id:?} is at {found}"),
    }
}

fn id(text: &str) -> RecordId {
    RecordId::Node(key(text))
}

async fn node_of(store: &dyn Store, text: &str) -> Option<Node> {
    let reading = store.read(vec![id(text)]).await.unwrap();
    match reading.found.into_iter().next().unwrap()?.record? {
        Record::Node(node) => Some(node),
        other => panic!("{other:?}"),
    }
}

async fn commits_compare(store: &dyn Store) {
    let first = done(store, commit(vec![(id("cas"), Rev::ZERO)], vec![active("cas", "a")])).await;
    let read = node_of(store, "cas").await.unwrap();
    assert_eq!(read.rev, first, "the store fills in the revision");

    let late = commit(vec![(id("cas"), Rev::ZERO)], vec![active("cas", "b")]);
    let found = first;
    let conflict = Committed::Conflict { id: id("cas"), found };
    assert_eq!(store.commit(late).await.unwrap(), conflict);

    // As a whole or not at all.
    let compares = vec![(id("other"), Rev::ZERO), (id("cas"), Rev::ZERO)];
    let partly = commit(compares, vec![active("other", "b")]);
    assert_eq!(store.commit(partly).await.unwrap(), conflict);
    assert_eq!(node_of(store, "other").await, None);

    let second = done(store, commit(vec![(id("cas"), first)], vec![active("cas", "b")])).await;
    assert!(second > first);
    let reading = store.read(vec![id("none"), id("cas"), RecordId::Book]).await.unwrap();
    assert!(reading.epoch.rev() >= second);
    let revs: Vec<_> = reading
        .found
        .iter()
        .map(|found| found.as_ref().map(|found| found.rev))
        .collect();
    assert_eq!((revs[0], revs[1]), (None, Some(second)));
    assert!(revs[2].unwrap() < first);
}

/// G2
async fn what_was_done_stays_done(store: &dyn Store) {
    let ask = commit(vec![(id("again"), Rev::ZERO)], vec![active("again", "a")]);
    let rev = done(store, ask.clone()).await;
    assert_eq!(done(store, ask.clone()).await, rev);
    let blind = commit(vec![], vec![active("again", "b")]);
    let second = done(store, blind.clone()).await;
    done(store, commit(vec![(id("again"), second)], vec![active("again", "c")])).await;
    // Neither is done anew, though one compares nothing and the other would not fit.
    assert_eq!((done(store, blind).await, done(store, ask).await), (second, rev));
    let now = node_of(store, "again").await.unwrap();
    assert_eq!(
        serde_json::to_value(now.target).unwrap(),
        serde_json::json!({"unit": "c"})
    );
}

async fn nonsense_is_refused(store: &dyn Store) {
    let before = store.snapshot().await.unwrap().epoch;
    let check = async |asked: Commit, part: &str| {
        let error = store.commit(asked).await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    };
    check(commit(vec![], vec![active("x", "z")]), "unit z is not published").await;
    check(commit(vec![], vec![]), "writes nothing").await;
    let long = "x".repeat(257);
    check(commit(vec![], vec![active(&long, "a")]), "256 are allowed").await;
    let removal = Commit {
        removes: vec![RecordId::Book],
        ..commit(vec![], vec![])
    };
    check(removal, "never removed").await;
    let removal = Commit {
        removes: vec![RecordId::Relay(relay("a", 1))],
        ..commit(vec![], vec![])
    };
    check(removal, "not by commits").await;
    let error = store.claim(vec![claim("x", "z", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("unit z is not published"), "{error}");
    let error = store.claim(vec![claim(&long, "a", 1)]).await.unwrap_err();
    assert!(error.to_string().contains("256 are allowed"), "{error}");
    assert_eq!(store.snapshot().await.unwrap().epoch, before);
}

/// A copy that takes a feed in, as relays do.
pub(crate) struct Copy {
    routes: Routes,
    feed: Feed,
    pub(crate) batches: usize,
}

impl Copy {
    pub(crate) async fn new(store: &dyn Store) -> Self {
        let routes = Routes::from_snapshot(&store.snapshot().await.unwrap());
        let feed = store.watch(routes.rev()).await.unwrap();
        Self {
            routes,
            feed,
            batches: 0,
        }
    }

    /// The next batch; a feed that says nothing for seconds is a fault.
    pub(crate) async fn next(&mut self) -> Result<Batch, StoreError> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.feed.recv()).await;
        next.expect("a feed says that it is there")
            .expect("a feed ends with an error")
    }

    /// Takes in what comes, until it is at a revision. R-I13: every batch begins where the one before ended.
    pub(crate) async fn until(&mut self, rev: Rev) {
        while self.routes.rev() < rev {
            let batch = self.next().await.unwrap();
            self.take(&batch);
        }
    }

    pub(crate) fn take(&mut self, batch: &Batch) {
        assert_eq!(batch.prev, self.routes.rev(), "a gap");
        assert!(
            batch
                .changes
                .iter()
                .all(|change| change.rev > batch.prev && change.rev <= batch.rev)
        );
        assert!(batch.changes.is_sorted_by_key(|change| change.rev));
        self.routes = self.routes.apply(batch).unwrap();
        self.batches += 1;
    }

    pub(crate) fn rev(&self) -> Rev {
        self.routes.rev()
    }

    pub(crate) fn agrees_with(&self, snapshot: &Snapshot) {
        let whole = Routes::from_snapshot(snapshot);
        assert_eq!(
            (self.routes.epoch(), self.routes.digest()),
            (whole.epoch(), whole.digest())
        );
    }
}

/// R-I13
async fn feeds_chain(store: &dyn Store) {
    let start = store.snapshot().await.unwrap();
    let mut early = Copy::new(store).await;
    let mut last = Rev::ZERO;
    for round in 0..30 {
        let puts = (0..=round % 4).map(|n| active(&format!("feed-{n}"), if round % 2 == 0 { "a" } else { "b" }));
        last = done(store, commit(vec![], puts.collect())).await;
    }
    early.until(last).await;
    let mut late = Copy {
        routes: Routes::from_snapshot(&start),
        feed: store.watch(start.epoch.rev()).await.unwrap(),
        batches: 0,
    };
    late.until(last).await;
    let now = store.snapshot().await.unwrap();
    early.agrees_with(&now);
    late.agrees_with(&now);
    assert!(early.batches > 1, "batches come as commits are done");

    // Of nothing new it tells that there is nothing new.
    let progress = early.next().await.unwrap();
    assert_eq!((progress.prev, progress.rev, progress.changes.len()), (last, last, 0));

    // A copy of another store, or of a future that was lost.
    let future = Rev(last.0 + 1_000_000);
    assert_eq!(store.watch(future).await.unwrap_err(), StoreError::Compacted);
}

async fn histories_are_told_backwards(store: &dyn Store) {
    let mut revs = Vec::new();
    for unit in ["a", "b", "c"] {
        revs.push(done(store, commit(vec![], vec![active("history", unit)])).await);
    }
    revs.reverse();
    let told = store.history(id("history"), 10).await.unwrap();
    assert_eq!(told.iter().map(|change| change.rev).collect::<Vec<_>>(), revs);
    let told = store.history(id("history"), 2).await.unwrap();
    assert_eq!(told.iter().map(|change| change.rev).collect::<Vec<_>>(), revs[..2]);
    assert_eq!(store.history(id("never"), 2).await.unwrap(), []);
}

/// R-I5
async fn first_to_claim_has_the_key(store: &dyn Store) {
    let free = store.claims(vec![claim_key("c1")]).await.unwrap();
    assert_eq!(free.1, [None]);
    let won = store.claim(vec![claim("c1", "a", 1)]).await.unwrap();
    assert_eq!(won, [claim("c1", "a", 1)]);
    let lost = store.claim(vec![claim("c1", "b", 2)]).await.unwrap();
    assert_eq!(lost, won, "the loser learns who has it");
    let again = store.claim(vec![claim("c1", "a", 1)]).await.unwrap();
    assert_eq!(again, won, "a retry of our own is a win");
    // Two in one request for the same key, and keys in any order.
    let both = vec![claim("c3", "b", 3), claim("c1", "c", 4), claim("c3", "c", 5)];
    let got = store.claim(both).await.unwrap();
    assert_eq!(got, [claim("c3", "b", 3), claim("c1", "a", 1), claim("c3", "b", 3)]);
    let (rev, read) = store
        .claims(["c3", "none", "c1"].map(claim_key).to_vec())
        .await
        .unwrap();
    assert_eq!(read, [Some(claim("c3", "b", 3)), None, Some(claim("c1", "a", 1))]);
    assert_eq!(
        rev,
        store.snapshot().await.unwrap().epoch.rev(),
        "claims are no commits"
    );
    // More than etcd takes at once.
    let many: Vec<_> = (0_u128..300)
        .map(|n| claim(&format!("many-{n}"), "a", 10 + n))
        .collect();
    assert_eq!(store.claim(many.clone()).await.unwrap(), many);
    let keys = (0..300).map(|n| claim_key(&format!("many-{n}"))).collect();
    let read = store.claims(keys).await.unwrap().1;
    assert_eq!(read.into_iter().flatten().collect::<Vec<_>>(), many);
}

/// R-I5: whatever is lost, repeated and out of order, everybody is told the same owner of a key.
async fn claims_of_many_agree(store: &Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0_u128..12 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let unit = ["a", "b", "c"][usize::try_from(task).unwrap() % 3];
            let mut told = Vec::new();
            for round in 0_u128..8 {
                let mut wanted: Vec<_> = (0_u128..5)
                    .map(|n| claim(&format!("race-{n}"), unit, 1000 + task * 10 + n))
                    .collect();
                fastrand::shuffle(&mut wanted);
                let asked = store.claim(wanted);
                if round % 3 == 1 {
                    // The answer is lost, or the question even.
                    let _ = tokio::time::timeout(Duration::from_micros(fastrand::u64(..3000)), asked).await;
                } else {
                    told.extend(asked.await.unwrap());
                }
            }
            told
        });
    }
    let mut owners = BTreeMap::<String, Claim>::new();
    for told in tasks.join_all().await.into_iter().flatten() {
        let key = String::from(told.key.clone());
        let owner = owners.entry(key).or_insert_with(|| told.clone());
        assert_eq!(*owner, told);
    }
    assert_eq!(owners.len(), 5);
}

/// a drain finds every claim for its unit, page by page, also those that have nothing of it between them.
async fn claims_for_a_unit_are_told_once(store: &dyn Store) {
    let count = CLAIMS_PAGE + CLAIMS_PAGE / 2;
    let mut expected = BTreeSet::new();
    let all: Vec<_> = (0..count).collect();
    for some in all.chunks(100) {
        let wanted = some.iter().map(|n| {
            // Few at the beginning, all at the end.
            let is_rare = *n < CLAIMS_PAGE + 1 && n % 400 != 1;
            claim(&format!("page-{n:05}"), if is_rare { "b" } else { "c" }, 1)
        });
        let wanted: Vec<_> = wanted.collect();
        let of_unit = wanted.iter().filter(|claim| claim.target.unit() == Some(&name("c")));
        expected.extend(of_unit.map(|claim| String::from(claim.key.clone())));
        store.claim(wanted).await.unwrap();
    }
    let (mut told, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let page = store.claims_of(name("c"), after).await.unwrap();
        pages += 1;
        let keys = page.claims.into_iter().map(|claim| String::from(claim.key));
        told.extend(keys.filter(|key| key.starts_with("page-")));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert!(pages > 1);
    assert_eq!(told.len(), expected.len());
    assert_eq!(told.into_iter().collect::<BTreeSet<_>>(), expected);
}

/// G1: a counter that all raise by compare-and-swap, each with lost answers and retries, is as high as raises were done.
async fn commits_of_many_exclude_each_other(store: &Arc<dyn Store>) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut revs = Vec::new();
            while revs.len() < 5 {
                let is = node_of(&*store, "counter").await;
                let rev = is.as_ref().map_or(Rev::ZERO, |node| node.rev);
                let count: u32 = is.map_or(0, |node| node.reason.parse().unwrap());
                let mut next = active("counter", "a");
                if let Record::Node(node) = &mut next {
                    node.reason = (count + 1).to_string();
                }
                let raise = commit(vec![(id("counter"), rev)], vec![next]);
                if fastrand::bool() {
                    let lost = store.commit(raise.clone());
                    let _ = tokio::time::timeout(Duration::from_micros(fastrand::u64(..3000)), lost).await;
                }
                if let Committed::Done(rev) = store.commit(raise).await.unwrap() {
                    revs.push(rev);
                }
            }
            revs
        });
    }
    let revs: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let different: BTreeSet<_> = revs.iter().collect();
    assert_eq!(
        (revs.len(), different.len()),
        (40, 40),
        "each has a revision of its own"
    );
    assert_eq!(node_of(&**store, "counter").await.unwrap().reason, "40");
}

async fn lives_and_reports(store: &dyn Store) {
    let freeze = done(store, commit(vec![], vec![frozen("held", 7)])).await;
    let first = store.open(relay("a", 1)).await.unwrap();
    let other = store.open(relay("a", 2)).await.unwrap();
    assert!(first.epoch.rev() > freeze && other.epoch > first.epoch);
    assert!(!first.succeeds && !other.succeeds, "nobody was there before");
    assert_ne!(first.session, other.session);
    store.renew(first.session).await.unwrap();

    let ack = |session: SessionId, rev: Rev, drained: bool| FreezeAck {
        session,
        by: MoveId(7),
        node: key("held"),
        rev,
        drained,
        held_by: None,
    };
    let acks = async || {
        let standing = store.standing(Some(name("a"))).await.unwrap();
        let row = standing.into_iter().find(|row| row.relay == relay("a", 1)).unwrap();
        assert!(row.silent_for.unwrap() < Duration::from_secs(10));
        row.acks
    };
    assert_eq!(acks().await, []);
    store.report(vec![ack(first.session, freeze, false)]).await.unwrap();
    assert_eq!(acks().await, [ack(first.session, freeze, false)]);
    let both = [true, false].map(|drained| ack(first.session, freeze, drained));
    store.report(both.to_vec()).await.unwrap();
    store.report(vec![ack(first.session, freeze, false)]).await.unwrap();
    assert_eq!(
        acks().await,
        [ack(first.session, freeze, true)],
        "what was done is not undone by what comes late"
    );

    // R-R6: the next freeze needs another report.
    let again = done(store, commit(vec![], vec![frozen("held", 7)])).await;
    assert_eq!(acks().await, []);
    store.report(vec![ack(first.session, freeze, true)]).await.unwrap();
    assert_eq!(acks().await, []);
    store.report(vec![ack(first.session, again, true)]).await.unwrap();
    assert_eq!(acks().await, [ack(first.session, again, true)]);

    // G5: a new life begins without what the one before said, and that one is over at once.
    let second = store.open(relay("a", 1)).await.unwrap();
    assert_ne!(second.session, first.session);
    assert!(second.succeeds, "the life before ended without a good-bye");
    let standing = store.standing(Some(name("a"))).await.unwrap();
    let succeeds: Vec<_> = standing.iter().map(|row| (row.relay.clone(), row.succeeds)).collect();
    assert_eq!(succeeds, [(relay("a", 1), true), (relay("a", 2), false)]);
    assert_eq!(acks().await, []);
    store.report(vec![ack(first.session, again, true)]).await.unwrap();
    assert_eq!(acks().await, []);
    assert_eq!(store.renew(first.session).await, Err(StoreError::SessionOver));
    assert_eq!(store.close(first.session).await, Err(StoreError::SessionOver));
    store.renew(second.session).await.unwrap();
    assert_eq!(store.standing(None).await.unwrap().len(), 2);
    assert_eq!(store.standing(Some(name("b"))).await.unwrap(), []);

    let mut copy = Copy::new(store).await;
    store.close(second.session).await.unwrap();
    assert_eq!(store.standing(None).await.unwrap().len(), 1);
    assert_eq!(store.renew(second.session).await, Err(StoreError::SessionOver));
    store.forget(relay("a", 2)).await.unwrap();
    assert_eq!(store.standing(None).await.unwrap(), []);
    let third = store.open(relay("a", 1)).await.unwrap();
    assert!(!third.succeeds, "it had said good-bye");
    store.close(third.session).await.unwrap();
    assert_eq!(store.renew(other.session).await, Err(StoreError::SessionOver));
    let now = store.snapshot().await.unwrap();
    copy.until(now.epoch.rev()).await;
    copy.agrees_with(&now);
    assert_eq!(copy.rev(), now.epoch.rev());
}

/// R-R6: a relay reports keys one by one, as they are drained. None of these reports takes another one away.
async fn reports_of_several_keys_keep_out_of_each_others_way(store: &dyn Store) {
    let life = store.open(relay("a", 3)).await.unwrap();
    let texts = ["first", "second", "third", "fourth"];
    for round in 0..10 {
        let mut acks = Vec::new();
        for state in [migrating, frozen] {
            let records = texts.map(|text| state(text, 7)).to_vec();
            let rev = done(store, commit(vec![], records)).await;
            acks = texts.map(|text| ack_of(text, life.session, rev)).to_vec();
            let reports = acks.iter().map(|ack| store.report(vec![ack.clone()]));
            let [a, b, c, d] = reports.collect::<Vec<_>>().try_into().ok().unwrap();
            let (a, b, c, d) = tokio::join!(a, b, c, d);
            assert_eq!([a, b, c, d], [Ok(()), Ok(()), Ok(()), Ok(())]);
        }
        let standing = store.standing(Some(name("a"))).await.unwrap();
        let mut found = standing.into_iter().next().unwrap().acks;
        found.sort_by(|a, b| a.node.cmp(&b.node));
        acks.sort_by(|a, b| a.node.cmp(&b.node));
        assert_eq!(found, acks, "round {round}");
    }
    store.close(life.session).await.unwrap();
}

async fn whoever_listens_hears_that_something_was_reported(store: &dyn Store) {
    let life = store.open(relay("a", 3)).await.unwrap();
    let mut reports = store.reports().await.unwrap();
    for _ in 0..3 {
        let rev = done(store, commit(vec![], vec![frozen("heard", 7)])).await;
        store.report(vec![ack_of("heard", life.session, rev)]).await.unwrap();
        let word = tokio::time::timeout(Duration::from_secs(10), reports.recv()).await;
        assert_eq!(word.unwrap(), Some(()));
        let standing = store.standing(Some(name("a"))).await.unwrap();
        assert!(
            standing[0].acks.iter().any(|ack| ack.rev == rev),
            "the word came before the report"
        );
    }
    store.close(life.session).await.unwrap();
}

fn ack_of(text: &str, session: SessionId, rev: Rev) -> FreezeAck {
    FreezeAck {
        session,
        by: MoveId(7),
        node: key(text),
        rev,
        drained: true,
        held_by: None,
    }
}
