//! Which clients have used which keys lately: they are told when such a key gets another owner (R-3.6, R-3.9 S6).
//!
//! # Invariants
//! - U1. What is remembered is bounded: per client its hottest keys, and only clients that want to be told.
//! - U2. Nothing depends on it: whoever is not told hears it with the answer of the next call.

use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::rpc::Rpc;
use super::strikes::Client;
use crate::control::clock::boot_time;
use crate::model::{ANY_KEY, Caller, Hottest, Key, Map, Name, RouteHints, RoutePush, UnitId};
use crate::routing::token::Occasion;
use crate::routing::{RouteTable, Source, Standing};

/// Clients, and what they use.
#[derive(Default)]
pub(super) struct Users {
    clients: Map<Client, User>,
}

struct User {
    port: Weak<dyn Caller>,
    keys: Hottest<(Name, Bytes), Used>,
}

/// A key that a client has used.
struct Used {
    /// When, last.
    at: Duration,
    /// Whom the client knows as its owner.
    unit: UnitId,
}

impl Users {
    /// A client has used a key that belongs to this unit.
    pub(super) fn on_used(
        &mut self,
        port: &Rc<dyn Caller>,
        client: Client,
        (dimension, key): (&Name, &[u8]),
        unit: &UnitId,
        now: Duration,
    ) {
        let fresh = || User {
            port: Rc::downgrade(port),
            keys: Hottest::new(KEYS_MAX),
        };
        let of_client = self.clients.entry(client).or_insert_with(fresh);
        // Another connection may have come to lie where one was that is gone.
        if !std::ptr::addr_eq(of_client.port.as_ptr(), Rc::as_ptr(port)) || of_client.port.strong_count() == 0 {
            *of_client = fresh();
        }
        let id = (dimension.clone(), Bytes::copy_from_slice(key));
        match of_client.keys.used(&id) {
            Some(last) => {
                last.at = now;
                if last.unit != *unit {
                    last.unit = unit.clone();
                }
            }
            None => of_client.keys.insert(
                id,
                Used {
                    at: now,
                    unit: unit.clone(),
                },
            ),
        }
    }

    /// Clients that are still there.
    fn clients(&mut self) -> Vec<Client> {
        self.clients.retain(|_, user| user.port.strong_count() > 0);
        self.clients.keys().copied().collect()
    }
}

impl Rpc {
    /// Tells clients of keys that were moved; runs as long as the shard.
    pub(super) async fn watch_users(&self) {
        let Some(tokens) = &self.tokens else {
            return std::future::pending().await;
        };
        let mut changes = self.parts.routing.changes();
        let mut digest = 0;
        while changes.changed().await.is_ok() {
            let table = self.parts.routing.table();
            let Some(routes) = table.routes() else { continue };
            if std::mem::replace(&mut digest, routes.digest()) == routes.digest() {
                continue;
            }
            let clients = tokens.users.borrow_mut().clients();
            for client in clients {
                self.tell(client, &table);
                // Hundreds of keys each: others on this thread are served in between.
                tokio::task::yield_now().await;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Tells a client of all its keys that have another owner in this table.
    fn tell(&self, client: Client, table: &RouteTable) {
        let Some(tokens) = &self.tokens else { return };
        let mut users = tokens.users.borrow_mut();
        let Some(of_client) = users.clients.get_mut(&client) else {
            return;
        };
        let Some(port) = of_client.port.upgrade() else { return };
        let now = boot_time();
        of_client.keys.retain(|(dimension, key), last| {
            if let Some((unit, push)) = self.news(table, dimension, key, &last.unit) {
                port.on_route(&push);
                last.unit = unit;
            }
            now.saturating_sub(last.at) <= LATELY
        });
    }

    /// Whom a key belongs to, if that is another unit than this one by now, and by a decision about the key itself.
    fn news(&self, table: &RouteTable, dimension: &Name, key: &Bytes, known: &UnitId) -> Option<(UnitId, RoutePush)> {
        let (tokens, routes) = (self.tokens.as_ref()?, table.routes()?);
        let dimension_text = Bytes::copy_from_slice(dimension.as_str().as_bytes());
        let named = Key {
            dimension: dimension_text,
            key: key.clone(),
        };
        let hints = RouteHints {
            keys: vec![named.clone()],
            ..RouteHints::default()
        };
        let claims = &self.parts.claims;
        let decision = table.resolve(&hints, &ANY_KEY, &self.parts.place.unit, claims);
        let decision = decision.ok()?;
        let is_decided = matches!(decision.source, Source::Override | Source::Claim);
        if decision.unit == known || decision.standing != Standing::Open || !is_decided {
            return None;
        }
        let text = tokens.parts.keys.issue(routes, &decision, key, claims)?;
        tokens.parts.counts.on_issued(Occasion::Push);
        let push = RoutePush {
            key: named,
            token: Bytes::copy_from_slice(text.as_bytes()),
        };
        Some((decision.unit.clone(), push))
    }
}

/// Keys of a client that are remembered.
const KEYS_MAX: usize = 256;
/// Since when a key counts as used lately.
const LATELY: Duration = Duration::from_secs(600);
