//! What the admin address shows of the relay: its state, and which certificates its links were made with (O-S2).

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Shared;
use crate::admin::StatusSource;
use crate::peer::LinkRow;

/// Pages that only the app can fill.
pub(super) struct Pages(pub(super) Arc<Shared>);

impl StatusSource for Pages {
    fn status(&self) -> Map<String, Value> {
        self.0.status.fields()
    }

    fn certificates(&self) -> Map<String, Value> {
        let credentials = self.0.quic.credentials().current();
        let own = credentials.shown();
        let links = self.0.roster.links();
        let newest = newest(&links);
        let rows: Vec<Value> = links
            .iter()
            .map(|link| {
                let own_is_old = link.own.fingerprint != own.fingerprint;
                let peer_is_old = newest
                    .get(&link.relay_key())
                    .is_some_and(|newest| link.peer.not_before < *newest);
                let mut row = match serde_json::to_value(link) {
                    Ok(Value::Object(row)) => row,
                    _ => Map::new(),
                };
                row.insert("own_is_old".to_owned(), json!(own_is_old));
                row.insert("peer_is_old".to_owned(), json!(peer_is_old));
                Value::Object(row)
            })
            .collect();
        let mut page = Map::new();
        page.insert("identity".to_owned(), json!(credentials.identity().to_string()));
        page.insert("own".to_owned(), json!(own));
        page.insert("chain_not_after".to_owned(), json!(credentials.not_after()));
        page.insert("links".to_owned(), Value::Array(rows));
        page
    }
}

/// Per relay the beginning of the newest certificate it shows on any link: links with another one were made before.
fn newest(links: &[LinkRow]) -> BTreeMap<(String, String), i64> {
    let mut newest: BTreeMap<_, i64> = BTreeMap::new();
    for link in links {
        let seen = newest.entry(link.relay_key()).or_insert(link.peer.not_before);
        *seen = link.peer.not_before.max(*seen);
    }
    newest
}
