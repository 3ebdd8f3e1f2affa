//! `[calls.route]` in `config/relay.toml`: which key of a call routes it, and which methods only read (S1).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Problems, Settings, path};
use crate::model::{Name, RoutePolicy};

/// `[calls.route."<service>"]`: how calls of a service are routed, wherever it runs. The relay that a caller hands its call to goes
/// by its own settings, and the others go by what it has done; so have the same at all relays of the Geo.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallRoute {
    /// Dimensions whose keys route the calls, in order of precedence; each one of `routing.dimensions`. A call with keys of other
    /// dimensions only is one without key. Default none: all, in the order of `routing.dimensions`.
    pub dimensions: Vec<Name>,
    /// Methods that only read, by name. While a key moves they go on at its owner, and the move waits for none of them; they claim no
    /// key, and that nobody has claimed it is answered as `NOT_FOUND`; they may be executed twice. Only where `reads` of the owner's
    /// relays says so too. Default none: all may write.
    pub reads: Vec<String>,
    /// `[calls.route."<service>".methods."<method>"]`: what is different for one method.
    pub methods: BTreeMap<String, MethodRoute>,
}

/// What is different for one method.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MethodRoute {
    /// Dimensions whose keys route its calls, in order of precedence. Required.
    pub dimensions: Vec<Name>,
}

impl CallRoute {
    /// How methods are routed that are not named, with what else is said of the service.
    pub fn policy(&self, of: &RoutePolicy) -> RoutePolicy {
        RoutePolicy {
            dimensions: self.dimensions.clone(),
            ..of.clone()
        }
    }

    /// How those are routed that are named.
    pub fn methods_of(&self, of: &RoutePolicy) -> HashMap<String, RoutePolicy> {
        let named = self.methods.keys().chain(&self.reads);
        let policy = |method: &String| RoutePolicy {
            dimensions: self
                .methods
                .get(method)
                .map_or_else(|| self.dimensions.clone(), |route| route.dimensions.clone()),
            reads: self.reads.contains(method),
            ..of.clone()
        };
        named.map(|method| (method.clone(), policy(method))).collect()
    }
}

impl Settings {
    pub(super) fn check_call_routes(&self, problems: &mut Problems) {
        for (service, route) in &self.calls.route {
            let at = path::join("calls.route", service.as_str());
            self.check_precedence(&at, &route.dimensions, problems);
            for (index, method) in route.reads.iter().enumerate() {
                let key = path::element(&path::join(&at, "reads"), index);
                if route.reads.iter().take(index).any(|earlier| earlier == method) {
                    problems.add(None, key, format!("method {method:?} is listed twice; remove one"));
                } else if !is_method(method) {
                    problems.add(None, key, METHOD);
                }
            }
            for (method, own) in &route.methods {
                let at = path::join(&path::join(&at, "methods"), method);
                if !is_method(method) {
                    problems.add(None, at.clone(), METHOD);
                }
                if own.dimensions.is_empty() {
                    let text = "required: the dimensions that route this method; without one, remove the table";
                    problems.add(None, path::join(&at, "dimensions"), text);
                }
                self.check_precedence(&at, &own.dimensions, problems);
            }
        }
    }

    fn check_precedence(&self, at: &str, dimensions: &[Name], problems: &mut Problems) {
        for (index, name) in dimensions.iter().enumerate() {
            let key = path::element(&path::join(at, "dimensions"), index);
            if !self.routing.dimensions.contains(name) {
                let text = format!("dimension {name} is not in routing.dimensions; add it there, or take it out here");
                problems.add(None, key, text);
            } else if dimensions.iter().take(index).any(|earlier| earlier == name) {
                problems.add(None, key, format!("dimension {name} is listed twice; remove one"));
            }
        }
    }
}

/// The last part of a gRPC path.
fn is_method(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

const METHOD: &str = "expected the name of a method as in /package.Service/Method, without service and slash";
