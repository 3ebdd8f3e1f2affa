//! Keys that a service watches.

use std::sync::atomic::Ordering;

use tokio::sync::watch;

use super::{Desk, Owner, hints};
use crate::model::{Key, RouteHints, UnitId};

/// Keys that a service watches.
pub struct Watch {
    desk: Desk,
    keys: Vec<Watched>,
    changes: watch::Receiver<u64>,
    /// Of the copy that was looked at last.
    digest: Option<(u64, u64)>,
}

struct Watched {
    hints: RouteHints,
    told: Option<Told>,
}

/// What was said of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Told {
    Owner(UnitId, u64, bool),
    Nobody(String),
}

/// What is new.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct News {
    /// Of the copy that says so.
    pub epoch: u64,
    /// Keys, and who owns each, or why nobody does.
    pub keys: Vec<(Key, Result<Owner, String>)>,
}

impl Watch {
    /// Of keys that are counted already.
    pub(super) fn new(desk: Desk, keys: Vec<Key>) -> Self {
        let watched = |key| Watched {
            hints: hints(vec![key]),
            told: None,
        };
        Self {
            changes: desk.0.parts.routing.changes(),
            desk,
            keys: keys.into_iter().map(watched).collect(),
            digest: None,
        }
    }

    /// All keys at first, then those about which something has changed, as they are now. May be dropped while it waits.
    pub async fn next(&mut self) -> News {
        loop {
            self.changes.borrow_and_update();
            let news = self.news();
            if !news.keys.is_empty() {
                return news;
            }
            if self.changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    fn news(&mut self) -> News {
        let table = self.desk.0.parts.routing.table();
        let digest = table
            .routes()
            .map_or((0, table.version()), |routes| (routes.digest(), 0));
        let is_same = self.digest.replace(digest) == Some(digest);
        let mut keys = Vec::new();
        for watched in &mut self.keys {
            if is_same && matches!(watched.told, Some(Told::Owner(..))) {
                continue;
            }
            let owner = self
                .desk
                .owner(&table, &watched.hints, &self.desk.0.parts.claims)
                .map_err(|error| error.to_string());
            let told = match &owner {
                Ok(owner) => Told::Owner(owner.unit.clone(), owner.epoch, owner.is_moving),
                Err(why) => Told::Nobody(why.clone()),
            };
            if watched.told.as_ref() != Some(&told) {
                watched.told = Some(told);
                keys.extend(watched.hints.keys.first().cloned().map(|key| (key, owner)));
            }
        }
        News {
            epoch: table.version(),
            keys,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.desk.0.watched.fetch_sub(self.keys.len(), Ordering::Relaxed);
    }
}
