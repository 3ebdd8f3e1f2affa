//! A key that nobody has: until the relay's claim desk has an owner for it, in turns with a write of the store itself.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use strait::control::claims::{Claims, Driver, DriverParts, FallbackParts, Limits};
use strait::control::clock::boot_time;
use strait::control::embedded::Embedded;
use strait::control::etcd;
use strait::control::heard::Heard;
use strait::control::provisional::{self, ProvisionalFile};
use strait::control::store::Store;
use strait::model::{ANY_KEY, Key, Name, RouteHints};
use strait::routing::record::{Book, Commit, OpId, Record, RecordId, Rev};
use strait::routing::{self, RouteTable, Routes, Settings};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bare::{File, Member};
use crate::harness::{Directory, Etcd};
use crate::stage::Kept;
use crate::table::{Effort, Figure, percentile};

const KNOWN_MAX: usize = 1_000_000;

/// A desk with its store, as a relay has them.
struct Desk {
    claims: Claims,
    routing: routing::Handle,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The store itself.
enum Bare {
    Etcd(Member),
    File(File),
}

/// The figure.
pub async fn measure(kept: Kept, effort: &Effort) -> Figure {
    let (directory, tasks) = (Directory::new(), TaskTracker::new());
    let etcd = match kept {
        Kept::Etcd => Some(Etcd::start().await),
        Kept::Embedded => None,
    };
    let addresses = etcd.as_ref().map(Etcd::addresses);
    let (store, bare): (Arc<dyn Store>, _) = if let Some(addresses) = &addresses {
        let parts = etcd::Parts {
            addresses: addresses.clone(),
            prefix: "/strait/bench".to_owned(),
            tls: None,
            seed: 7,
        };
        let store = etcd::Etcd::new(&parts, tasks.clone()).unwrap();
        (Arc::new(store), Bare::Etcd(Member::connect(addresses).await))
    } else {
        let path = directory.path().join("routes.redb");
        let store = Embedded::open(&path, Arc::new(boot_time), 7).unwrap();
        (Arc::new(store), Bare::File(File::create(directory.path())))
    };
    let desk = Desk::open(store, directory.path(), tasks).await;
    let mut rounds = [Vec::new(), Vec::new()];
    let mut ratios = Vec::new();
    let mut number = 0;
    for _ in 0..effort.rounds {
        let (mut writes, mut claims) = (Vec::new(), Vec::new());
        for _ in 0..effort.claims {
            number += 1;
            writes.push(match &bare {
                Bare::Etcd(member) => member.write(number).await,
                Bare::File(file) => tokio::task::block_in_place(|| file.write(number)),
            });
            claims.push(desk.claim(number).await);
        }
        let row = |times: &mut Vec<Duration>| vec![percentile(times, 0.5), percentile(times, 0.99)];
        let (write, claim) = (row(&mut writes), row(&mut claims));
        ratios.push(claim.iter().zip(&write).map(|(claim, write)| claim / write).collect());
        rounds[0].push(write);
        rounds[1].push(claim);
    }
    desk.close().await;
    let title = format!(
        "Claims, {}: {} of a round, one after the other",
        kept.name(),
        effort.claims
    );
    let mut figure = Figure::new(title, &["p50 ms", "p99 ms"]);
    figure.row("write of the store itself, 150 B", &rounds[0]);
    figure.row("claim at the desk", &rounds[1]);
    figure.row("claim / write", &ratios);
    figure
}

impl Desk {
    /// Publishes a dimension of claimed keys, and takes a copy of the routes, as the keeper of a relay does.
    async fn open(store: Arc<dyn Store>, folder: &Path, tasks: TaskTracker) -> Self {
        let unit = Name::new("a").unwrap();
        let spec = json!({ "name": "cid", "placement": { "claim": [] } });
        let book = Book {
            units: vec![unit.clone()],
            dimensions: vec![serde_json::from_value(spec).unwrap()],
            rules: Vec::new(),
            since: BTreeMap::new(),
        };
        let commit = Commit {
            op: OpId(1),
            compares: vec![(RecordId::Book, Rev::ZERO)],
            puts: vec![Record::Book(book)],
            removes: Vec::new(),
        };
        store.commit(commit).await.unwrap();
        let routes = Routes::from_snapshot(&store.snapshot().await.unwrap());
        let table = RouteTable::build(&Settings::default(), &unit, []).unwrap();
        let routing = routing::Handle::new(table.with_routes(Arc::new(routes)));
        let (claims, wanted) = Claims::new();
        let stop = CancellationToken::new();
        let fallback = FallbackParts {
            file: ProvisionalFile::open(&folder.join("provisional.redb")).unwrap(),
            provisional_max: 1,
            heard: Heard::new(boot_time()),
            metrics: provisional::Metrics::register(&prometheus::Registry::new()).unwrap(),
        };
        let driver = Driver::new(DriverParts {
            store,
            routing: routing.clone(),
            unit,
            claims: (claims.clone(), wanted),
            known_max: KNOWN_MAX,
            limits: Limits::default(),
            fallback,
        });
        tasks.spawn(driver.run(stop.clone()));
        Self {
            claims,
            routing,
            stop,
            tasks,
        }
    }

    /// Claims a key as a call does that waits for its route.
    async fn claim(&self, number: u64) -> Duration {
        let hints = RouteHints {
            keys: vec![Key {
                dimension: Bytes::from_static(b"cid"),
                key: format!("new:{number}").into(),
            }],
            ..RouteHints::default()
        };
        let local = Name::new("a").unwrap();
        let mut changes = self.routing.changes();
        let begun = Instant::now();
        self.claims.ask(&hints, &ANY_KEY);
        loop {
            let table = self.routing.table();
            let found = table.resolve(&hints, &ANY_KEY, &local, &self.claims);
            if found.is_ok() {
                return begun.elapsed();
            }
            changes.changed().await.unwrap();
        }
    }

    async fn close(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
