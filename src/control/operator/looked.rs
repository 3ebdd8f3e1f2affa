//! Who owns keys, by the store: its records, claims, and a copy that is as new.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Operator, OperatorError, READ_AT_ONCE};
use crate::model::{ANY_KEY, Key, Name, RouteHints, RoutePolicy, UnitId};
use crate::routing::record::{Claim, Epoch, KeyBytes, Node, NodeId, Record, RecordId, Rev, Target};
use crate::routing::{Decision, Evidence, Explanation, Found, KeyHash, Known, RouteError, RouteTable, Routes};

/// What was found about keys.
pub(super) struct Looked {
    table: Arc<RouteTable>,
    nodes: BTreeMap<NodeId, (Node, Rev)>,
    claims: BTreeMap<(Name, KeyBytes), Option<Claim>>,
    /// What the copy was at before claims were asked for.
    asked_at: Epoch,
}

impl Operator {
    /// Looks keys up, and the keys that those follow. Waits until this relay's copy is as new as the store (O4).
    pub(super) async fn look(&self, keys: &[(Name, KeyBytes)]) -> Result<Looked, OperatorError> {
        let (nodes, claims) = (BTreeMap::new(), BTreeMap::new());
        let table = self.0.routing.table();
        let asked_at = table.routes().map_or(Epoch::default(), |routes| routes.epoch());
        let mut looked = Looked {
            table,
            nodes,
            claims,
            asked_at,
        };
        let mut newest = Epoch::default();
        let mut keys: BTreeSet<_> = keys.iter().cloned().collect();
        for _ in 0..GROUPS_MAX {
            let wanted: Vec<_> = keys
                .into_iter()
                .filter(|key| !looked.claims.contains_key(key))
                .collect();
            for some in wanted.chunks(READ_AT_ONCE) {
                newest = newest.max(self.read_keys(some, &mut looked).await?);
            }
            keys = wanted.iter().filter_map(|key| looked.group_of(key)).collect();
        }
        looked.table = self.caught_up(newest).await?;
        Ok(looked)
    }

    async fn read_keys(&self, keys: &[(Name, KeyBytes)], looked: &mut Looked) -> Result<Epoch, OperatorError> {
        let (_, claims) = self.store().claims(keys.to_vec()).await?;
        looked.claims.extend(keys.iter().cloned().zip(claims));
        let ids = keys
            .iter()
            .cloned()
            .map(|(dimension, key)| NodeId::Key { dimension, key });
        let reading = self.store().read(ids.map(RecordId::Node).collect()).await?;
        for change in reading.found.into_iter().flatten() {
            if let Some(Record::Node(node)) = change.record {
                looked.nodes.insert(node.id.clone(), (node, change.rev));
            }
        }
        Ok(reading.epoch)
    }

    /// This relay's copy, when it is at that epoch.
    pub(super) async fn caught_up(&self, epoch: Epoch) -> Result<Arc<RouteTable>, OperatorError> {
        let mut changes = self.0.routing.changes();
        let is_there = |routes: &Arc<Routes>| routes.epoch() >= epoch;
        let wait = async {
            loop {
                let table = self.0.routing.table();
                if table.routes().is_some_and(is_there) {
                    return table;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::time::timeout(self.0.copy_wait, wait).await.map_err(|_| {
            let at = self.0.routing.table();
            let at = at.routes().map_or_else(|| "nothing".to_owned(), |routes| format!("revision {}", routes.epoch()));
            OperatorError::Away(format!(
                "it is at revision {epoch} and this relay has heard of {at} only; `strait route status` shows how it stands"
            ))
        })
    }
}

impl Looked {
    /// The table that owners are judged by.
    pub(super) fn table(&self) -> &RouteTable {
        &self.table
    }

    /// What was decided about a key alone.
    pub(super) fn node(&self, dimension: &Name, key: &KeyBytes) -> Option<(Node, Rev)> {
        let (dimension, key) = (dimension.clone(), key.clone());
        self.nodes.get(&NodeId::Key { dimension, key }).cloned()
    }

    /// Who claimed a key.
    pub(super) fn claim(&self, dimension: &Name, key: &KeyBytes) -> Option<Claim> {
        self.claims.get(&(dimension.clone(), key.clone())).cloned().flatten()
    }

    /// Who owns a key.
    pub(super) fn owner<'a>(
        &'a self,
        dimension: &Name,
        key: &KeyBytes,
        local: &'a UnitId,
    ) -> Result<Decision<'a>, RouteError> {
        self.table.resolve(&hints(dimension, key), &ANY_KEY, local, self)
    }

    /// The same, step by step.
    pub(super) fn explain(
        &self,
        (dimension, key): (&Name, &KeyBytes),
        policy: &RoutePolicy,
        local: &UnitId,
    ) -> Explanation {
        self.table.explain(&hints(dimension, key), policy, local, self)
    }

    /// The key that one follows.
    fn group_of(&self, (dimension, key): &(Name, KeyBytes)) -> Option<(Name, KeyBytes)> {
        let node = self.node(dimension, key).map(|(node, _)| node.target);
        let target = node.or_else(|| self.claim(dimension, key).map(|claim| claim.target))?;
        match target {
            Target::Group { dimension, key } => Some((dimension, key)),
            Target::Unit(_) | Target::Follow(_) => None,
        }
    }
}

impl Evidence for Looked {
    fn claim(&self, dimension: &Name, key: &[u8], _: KeyHash) -> Found {
        let key = KeyBytes(bytes::Bytes::copy_from_slice(key));
        match self.claims.get(&(dimension.clone(), key)) {
            Some(Some(claim)) => Found::Known(Known {
                target: claim.target.clone(),
                base: claim.base,
                as_of: self.asked_at,
            }),
            Some(None) => Found::Nothing,
            None => Found::Unasked,
        }
    }
}

fn hints(dimension: &Name, key: &KeyBytes) -> RouteHints {
    RouteHints {
        keys: vec![Key {
            dimension: dimension.as_str().to_owned().into(),
            key: key.0.clone(),
        }],
        ..RouteHints::default()
    }
}

/// Keys that lead from one to the next.
const GROUPS_MAX: usize = 3;
