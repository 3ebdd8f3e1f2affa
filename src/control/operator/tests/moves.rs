//! Moves: begun, watched, stopped.

use super::*;
use crate::control::store::{Answer as Answered, ClaimKey, ClaimsPage, Feed, Opened, Reading, RelayStanding, Reports};
use crate::routing::record::{Change, FreezeAck, RelayId, SessionId, Snapshot};

fn ask(what: Vec<Which>, to: &str) -> MoveAsk {
    MoveAsk {
        what,
        to: unit(to),
        options: MoveOptions::default(),
        dry_run: false,
        reason: "hall 3 closes".to_owned(),
        who: "ann".to_owned(),
    }
}

use crate::routing::record::MoveOptions;

async fn plan(relay: &Relay, ask: MoveAsk) -> Plan {
    match relay.ask(Command::Move(ask)).await.unwrap() {
        Answer::Plan(plan) => plan,
        other => panic!("{other:?}"),
    }
}

async fn row(relay: &Relay, id: MoveId) -> MoveRow {
    match relay.ask(Command::Moves { id: Some(id) }).await.unwrap() {
        Answer::Moves(mut rows) => rows.remove(0),
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

fn rule(rule: u32) -> Which {
    Which::Node(NodeId::Rule {
        dimension: unit("uid"),
        rule,
    })
}

// O2, R-3.9: every kind of owner there is.
#[tokio::test]
async fn a_move_names_each_node_with_its_owner() {
    let relay = Relay::with("move", book()).await;
    relay.ask(Command::Claim(give("cid", "claimed", "b"))).await.unwrap();
    relay.commit(vec![node(key("org", "acme"), "b", State::Active)]).await;
    let what = vec![
        Which::Node(key("cid", "claimed")),
        Which::Node(key("org", "acme")),
        Which::Node(key("uid", "1500")),
        rule(1),
        Which::Buckets {
            dimension: unit("uid"),
            from: 2046,
            to: 2050,
        },
        Which::Node(key("org", "acme")),
    ];
    let before = relay.rev().await;
    let dry = MoveAsk {
        dry_run: true,
        ..ask(what.clone(), "a")
    };
    let planned = plan(&relay, dry).await;
    assert_eq!((relay.rev().await, planned.id), (before, None));
    // Buckets 2046 and 2047 belong to unit a.
    assert_eq!((planned.nodes.len(), planned.there_already), (6, 2));
    assert!(planned.nodes.iter().all(|node| node.from == unit("b")), "{planned:?}");
    let begun = plan(&relay, ask(what, "a")).await;
    assert_eq!(begun.nodes, planned.nodes);
    let found = work(&relay, begun.id.unwrap()).await;
    assert_eq!((found.nodes.len(), found.state), (6, MoveState::Running));
    assert_eq!(found.reason, "ann: hall 3 closes");
    assert_eq!((found.asked_at, found.driver.to_string().as_str()), (NOW, "a/a-1"));
}

// Keys of a rule with `hash` go by their buckets, so a record about the rule would move nothing.
#[tokio::test]
async fn a_rule_of_shares_is_moved_bucket_by_bucket() {
    let relay = Relay::with("shares", book()).await;
    let planned = plan(&relay, ask(vec![rule(2)], "b")).await;
    assert_eq!(planned.nodes.len(), 2048);
    assert!(
        planned
            .nodes
            .iter()
            .all(|node| matches!(node.id, NodeId::Bucket { bucket: 0..2048, .. }))
    );
}

#[tokio::test]
async fn what_is_there_already_is_no_move() {
    let relay = Relay::with("there", book()).await;
    let planned = plan(&relay, ask(vec![rule(1)], "b")).await;
    assert_eq!((planned.id, planned.there_already), (None, 1));
    assert_eq!(
        relay.ask(Command::Moves { id: None }).await,
        Ok(Answer::Moves(Vec::new()))
    );
}

#[tokio::test]
async fn what_cannot_be_moved_says_why() {
    let mut book = book();
    let far = serde_json::json!([4, { "dimension": "uid", "unit": "of-another-geo", "prefix": "far:" }]);
    book["rules"].as_array_mut().unwrap().push(far);
    let relay = Relay::with("immovable", book).await;
    let moving = |what: Which, to: &str| Command::Move(ask(vec![what], to));
    relay.refuses(moving(rule(9), "a"), "there is no rule 9 of uid").await;
    relay.refuses(moving(rule(1), "x"), "unit x is not published").await;
    relay
        .refuses(moving(Which::Node(NodeId::Unit(unit("b"))), "a"), "a unit is not moved")
        .await;
    relay
        .refuses(
            moving(Which::Node(key("cid", "nobody")), "a"),
            "no unit has claimed this key",
        )
        .await;
    relay
        .refuses(moving(Which::Node(key("org", "nobody")), "a"), "strait route set")
        .await;
    let none = Which::Buckets {
        dimension: unit("uid"),
        from: 5,
        to: 5,
    };
    relay.refuses(moving(none, "a"), "names none").await;
    relay
        .refuses(Command::Move(ask(vec![], "a")), "nothing was named")
        .await;
    let many = (0..10_001).map(|n| Which::Node(key("org", &n.to_string()))).collect();
    relay.refuses(Command::Move(ask(many, "a")), "at most 10000").await;
    relay
        .refuses(
            moving(Which::Node(key("uid", "far:1")), "a"),
            "do not move between Geos",
        )
        .await;
    // Neither from there nor to there, also if it is only looked at.
    for dry_run in [true, false] {
        let to = MoveAsk {
            dry_run,
            ..ask(vec![rule(1)], "of-another-geo")
        };
        let text =
            "is of another Geo, which has routes of its own: keys do not move between Geos. Name a unit of this Geo";
        relay.refuses(Command::Move(to), text).await;
        let from = MoveAsk {
            dry_run,
            ..ask(vec![Which::Node(key("uid", "far:1"))], "a")
        };
        relay
            .refuses(Command::Move(from), "belongs to unit of-another-geo of another Geo")
            .await;
    }
    let by = MoveId(5);
    relay
        .commit(vec![node(key("org", "k"), "a", State::Migrating { to: unit("b"), by })])
        .await;
    relay
        .refuses(
            moving(Which::Node(key("org", "k")), "c"),
            "under way in move 0000000000000005",
        )
        .await;
}

#[tokio::test]
async fn a_move_is_shown_with_its_pace_until_it_is_over() {
    let relay = Relay::with("pace", book()).await;
    let planned = plan(&relay, ask(vec![rule(2)], "b")).await;
    let id = planned.id.unwrap();
    let begun = row(&relay, id).await;
    assert_eq!((begun.left, begun.eta_seconds, begun.is_over()), (2048, None, false));
    let mut half = work(&relay, id).await;
    (half.moved, half.aborted, half.asked_at) = (500, 12, NOW - 60);
    let bucket = NodeId::Bucket {
        dimension: unit("uid"),
        bucket: 600,
    };
    let state = State::Frozen { to: unit("b"), by: id };
    relay
        .commit(vec![
            Record::Move(half.clone()),
            node(bucket.clone(), "a", state.clone()),
        ])
        .await;
    let found = row(&relay, id).await;
    assert_eq!((found.left, found.eta_seconds), (1536, Some(180)));
    assert_eq!(found.under_way, [(bucket, state)]);
    half.state = MoveState::Finished;
    relay.commit(vec![Record::Move(half)]).await;
    let found = row(&relay, id).await;
    assert_eq!((found.left, found.eta_seconds, found.is_over()), (0, None, true));
    relay
        .refuses(
            Command::Moves { id: Some(MoveId(1)) },
            "there is no move 0000000000000001",
        )
        .await;
}

#[tokio::test]
async fn the_last_move_comes_first() {
    let relay = Relay::with("order", book()).await;
    let first = plan(&relay, ask(vec![rule(1)], "a")).await.id.unwrap();
    let mut older = work(&relay, first).await;
    older.asked_at -= 5;
    relay.commit(vec![Record::Move(older)]).await;
    let last = plan(&relay, ask(vec![rule(2)], "b")).await.id.unwrap();
    let Ok(Answer::Moves(rows)) = relay.ask(Command::Moves { id: None }).await else {
        panic!("moves")
    };
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), [last, first]);
}

#[tokio::test]
async fn a_move_is_stopped_once_and_not_after_its_end() {
    let relay = Relay::with("abort", book()).await;
    let id = plan(&relay, ask(vec![rule(1)], "a")).await.id.unwrap();
    let abort = |id| Command::Abort {
        id,
        who: "ann".to_owned(),
    };
    relay.refuses(abort(MoveId(1)), "there is no move").await;
    assert_eq!(relay.ask(abort(id)).await, Ok(Answer::Done));
    assert_eq!(work(&relay, id).await.state, MoveState::Aborting);
    let rev = relay.rev().await;
    assert_eq!(relay.ask(abort(id)).await, Ok(Answer::Done));
    assert_eq!(relay.rev().await, rev, "it is being stopped already");
    let mut over = work(&relay, id).await;
    over.state = MoveState::Finished;
    relay.commit(vec![Record::Move(over)]).await;
    relay.refuses(abort(id), "strait route undo").await;
}

/// A store in which somebody writes a record just before the first move is written.
struct Meddled {
    store: Arc<dyn Store>,
    meddles: Mutex<Option<Record>>,
}

impl Store for Meddled {
    fn commit(&self, commit: Commit) -> Answered<'_, Committed> {
        let is_move = commit.puts.iter().any(|record| matches!(record, Record::Move(_)));
        let meddles = is_move.then(|| self.meddles.lock().unwrap().take()).flatten();
        Box::pin(async move {
            if let Some(record) = meddles {
                let first = Commit {
                    op: OpId(1),
                    compares: Vec::new(),
                    puts: vec![record],
                    removes: Vec::new(),
                };
                self.store.commit(first).await?;
            }
            self.store.commit(commit).await
        })
    }

    fn snapshot(&self) -> Answered<'_, Snapshot> {
        self.store.snapshot()
    }

    fn watch(&self, from: Rev) -> Answered<'_, Feed> {
        self.store.watch(from)
    }

    fn read(&self, ids: Vec<RecordId>) -> Answered<'_, Reading> {
        self.store.read(ids)
    }

    fn history(&self, id: RecordId, limit: usize) -> Answered<'_, Vec<Change>> {
        self.store.history(id, limit)
    }

    fn claim(&self, claims: Vec<Claim>) -> Answered<'_, Vec<Claim>> {
        self.store.claim(claims)
    }

    fn claims(&self, keys: Vec<ClaimKey>) -> Answered<'_, (Rev, Vec<Option<Claim>>)> {
        self.store.claims(keys)
    }

    fn claims_of(&self, unit: UnitId, after: Option<ClaimKey>) -> Answered<'_, ClaimsPage> {
        self.store.claims_of(unit, after)
    }

    fn open(&self, relay: RelayId) -> Answered<'_, Opened> {
        self.store.open(relay)
    }

    fn renew(&self, session: SessionId) -> Answered<'_, ()> {
        self.store.renew(session)
    }

    fn close(&self, session: SessionId) -> Answered<'_, ()> {
        self.store.close(session)
    }

    fn forget(&self, relay: RelayId) -> Answered<'_, ()> {
        self.store.forget(relay)
    }

    fn report(&self, acks: Vec<FreezeAck>) -> Answered<'_, ()> {
        self.store.report(acks)
    }

    fn reports(&self) -> Answered<'_, Reports> {
        self.store.reports()
    }

    fn standing(&self, unit: Option<UnitId>) -> Answered<'_, Vec<RelayStanding>> {
        self.store.standing(unit)
    }
}

impl Relay {
    /// Begins a move while somebody writes a record just before the move is.
    async fn begin_while(&self, meddles: Record, ask: MoveAsk) -> Result<Answer, OperatorError> {
        let parts = &self.operator.0;
        let operator = Operator::new(Parts {
            store: Arc::new(Meddled {
                store: Arc::clone(&self.store),
                meddles: Mutex::new(Some(meddles)),
            }),
            routing: parts.routing.clone(),
            place: parts.place.clone(),
            configured: Arc::clone(&parts.configured),
            view: Arc::clone(&parts.view),
            in_flight_max: parts.in_flight_max,
            copy_wait: parts.copy_wait,
            claims: parts.claims.clone(),
            route_policy: Arc::clone(&parts.route_policy),
        });
        operator.answer(Command::Move(ask), NOW, 99 << 64).await
    }
}

// S8: a trail that ends between the plan of the next move and its record does not make the key stay.
#[tokio::test]
async fn what_is_decided_between_plan_and_record_is_planned_anew() {
    let relay = Relay::with("meddled", book()).await;
    let with_trail = |previous: Option<&str>| match node(key("org", "acme"), "b", State::Active) {
        Record::Node(node) => Record::Node(Node {
            previous: previous.map(unit),
            ..node
        }),
        other => other,
    };
    relay.commit(vec![with_trail(Some("a"))]).await;
    let moving = |to: &str| ask(vec![Which::Node(key("org", "acme"))], to);
    let Ok(Answer::Plan(begun)) = relay.begin_while(with_trail(None), moving("a")).await else {
        panic!("a plan")
    };
    let work = work(&relay, begun.id.unwrap()).await;
    let reading = relay
        .store
        .read(vec![RecordId::Node(key("org", "acme"))])
        .await
        .unwrap();
    let rev = reading.found[0].as_ref().unwrap().rev;
    assert!(
        work.since >= rev,
        "else the key would be taken for one that others decided about"
    );
    // If somebody gives it to the unit meanwhile, there is nothing left to move.
    let relay = Relay::with("given", book()).await;
    relay.commit(vec![with_trail(None)]).await;
    let given = node(key("org", "acme"), "a", State::Active);
    let Ok(Answer::Plan(nothing)) = relay.begin_while(given, moving("a")).await else {
        panic!("a plan")
    };
    assert_eq!((nothing.id, nothing.there_already), (None, 1));
}

// whoever asks how far a move is hears why something stayed.
#[tokio::test]
async fn what_stayed_says_why() {
    let relay = Relay::with("stayed", book()).await;
    relay.commit(vec![node(key("org", "acme"), "b", State::Active)]).await;
    let begun = plan(&relay, ask(vec![Which::Node(key("org", "acme"))], "a")).await;
    let id = begun.id.unwrap();
    assert_eq!(row(&relay, id).await.stayed, []);
    let Record::Node(given_up) = node(key("org", "acme"), "b", State::Active) else {
        panic!("a node")
    };
    let reason = format!("move {id}: refused: disk full");
    relay.commit(vec![Record::Node(Node { reason, ..given_up })]).await;
    assert_eq!(
        row(&relay, id).await.stayed,
        [(key("org", "acme"), "refused: disk full".to_owned())]
    );
}
