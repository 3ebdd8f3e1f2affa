//! Asks applications about moves of their keys: calls of `strait.v1.OwnerControl`, through the relays of the unit that is asked
//!
//!
//! # Path
//! `mover::Driver` -> [`OwnerControl`] -> [`OwnCalls`] -> the story of calls -> a relay of the unit -> its application
//!
//! # Not here
//! What is asked when, and what follows from an answer (`control::mover`).

mod answers;

use std::sync::Arc;

use bytes::Bytes;

use self::answers::{hooked, joined};
use super::own::{OwnCall, OwnCalls};
use crate::control::mover::{HookAnswer, HookCall, Hooked, Hooks};
use crate::routing;
use crate::routing::record::{HookSpec, NodeId};
use crate::wire::owner_control::{HookRequest, Node, What};

/// Asks applications. Which one of a dimension stands in the published book.
#[derive(Clone)]
pub struct OwnerControl {
    calls: OwnCalls,
    routing: routing::Handle,
}

impl OwnerControl {
    /// With the routes in force.
    pub fn new(calls: OwnCalls, routing: routing::Handle) -> Arc<Self> {
        Arc::new(Self { calls, routing })
    }

    /// The applications that are asked about a node: that of its dimension; of a unit all of them, each once.
    fn asked(&self, node: &NodeId) -> Vec<HookSpec> {
        let table = self.routing.table();
        let routes = table.routes();
        let dimensions = routes
            .map(|routes| routes.book().dimensions.as_slice())
            .unwrap_or_default();
        let mut specs: Vec<HookSpec> = Vec::new();
        for spec in dimensions {
            let is_asked = node.dimension().is_none_or(|name| *name == spec.name);
            let hooks = spec.hooks.as_ref().filter(|_| is_asked);
            let is_new = |hooks: &&HookSpec| specs.iter().all(|other| other.service != hooks.service);
            specs.extend(hooks.filter(is_new).cloned());
        }
        specs
    }
}

impl Hooks for OwnerControl {
    fn call(&self, call: HookCall) -> HookAnswer {
        let specs = self.asked(&call.node);
        let calls = self.calls.clone();
        Box::pin(async move {
            let mut answer = Hooked::Done;
            for spec in specs {
                let asked = OwnCall {
                    path: path(&spec, &call),
                    unit: call.unit.clone(),
                    body: request(&call).to_bytes(),
                    timeout: spec.timeout,
                };
                let answered = calls.call(asked).await;
                answer = joined(answer, hooked(call.hook, answered));
                if let Hooked::NotYet(_) | Hooked::Refused(_) = answer {
                    break;
                }
            }
            answer
        })
    }
}

fn path(spec: &HookSpec, call: &HookCall) -> Bytes {
    use crate::routing::record::Hook;

    let method = match call.hook {
        Hook::Prepare => "Prepare",
        Hook::Copy => "Copy",
        Hook::Lag => "Lag",
        Hook::Quiesce => "Quiesce",
        Hook::FinalSync => "FinalSync",
        Hook::Activate => "Activate",
        Hook::Cleanup => "Cleanup",
    };
    Bytes::from(format!("/{}/{method}", spec.service))
}

/// What a unit is asked.
fn request(call: &HookCall) -> HookRequest {
    let (dimension, what) = match &call.node {
        NodeId::Key { dimension, key } => (dimension.to_string(), What::Key(key.0.clone())),
        NodeId::Bucket { dimension, bucket } => (dimension.to_string(), What::Bucket((*bucket).into())),
        NodeId::Rule { dimension, rule } => (dimension.to_string(), What::Rule(*rule)),
        NodeId::Unit(unit) => (String::new(), What::Unit(unit.to_string())),
    };
    HookRequest {
        r#move: call.by.to_string(),
        node: Some(Node {
            dimension,
            what: Some(what),
        }),
        from: call.from.as_ref().map(ToString::to_string).unwrap_or_default(),
        to: call.to.to_string(),
        revision: call.rev.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;
    use crate::routing::record::{Hook, MoveId, Rev};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[test]
    fn a_question_names_the_work_the_node_and_both_units() {
        let mut call = HookCall {
            by: MoveId(255),
            node: NodeId::Key {
                dimension: name("cid"),
                key: "m1".into(),
            },
            rev: Rev(9),
            hook: Hook::FinalSync,
            unit: name("b"),
            from: Some(name("a")),
            to: name("b"),
        };
        let asked = request(&call);
        assert_eq!((asked.r#move.as_str(), asked.revision), ("00000000000000ff", 9));
        assert_eq!((asked.from.as_str(), asked.to.as_str()), ("a", "b"));
        let node = asked.node.unwrap();
        assert_eq!(node.dimension, "cid");
        assert_eq!(node.what, Some(What::Key(Bytes::from_static(b"m1"))));
        let spec = HookSpec::new(name("im.OwnerControl"));
        assert_eq!(path(&spec, &call), "/im.OwnerControl/FinalSync");
        call.node = NodeId::Unit(name("a"));
        call.from = None;
        let asked = request(&call);
        assert_eq!(asked.from, "");
        assert_eq!(asked.node.unwrap().what, Some(What::Unit("a".to_owned())));
    }
}
