//! Where a message goes: to the units that the rule of its topic names (P3).

use std::time::Duration;

use super::Publishers;
use super::topics::Known;
use crate::model::{ANY_KEY, Key, Reason, RelayError, Retry, RouteHints, UnitId};
use crate::queue::TopicRule;
use crate::routing::RouteError;

/// Where a message goes.
pub(super) struct Way {
    pub(super) key: Option<Key>,
    pub(super) units: Vec<UnitId>,
    /// Since when the owner of the key is that; 0 if nothing moves.
    pub(super) routed: u64,
    /// How it ends if it does not become known.
    pub(super) unrouted: Option<Box<RelayError>>,
}

impl Publishers {
    /// The way that the topic's rule names (P3). The queue waits for one that is not known yet.
    pub(super) fn route(&self, known: &Known, key: Option<Key>) -> Result<Way, RelayError> {
        if known.settings.rule != TopicRule::Owner {
            return Ok(Way {
                key,
                units: known.units.clone(),
                routed: 0,
                unrouted: None,
            });
        }
        let Some(key) = key else {
            let detail = format!(
                "topic {} goes to the owner of the message's key (rule = \"owner\") and the message has no key; give it \
                 one, or the topic another rule",
                known.topic
            );
            return Err(RelayError::new(Reason::NoRoute, Retry::Never, detail));
        };
        let mut hints = RouteHints {
            keys: vec![key],
            ..RouteHints::default()
        };
        let table = self.routing.table();
        match table.resolve(&hints, &ANY_KEY, &self.place.unit, &self.claims) {
            Ok(decision) => Ok(Way {
                units: vec![decision.unit.clone()],
                // The rules of the settings know no epochs.
                routed: table.routes().map_or(0, |_| decision.epoch),
                unrouted: None,
                key: hints.keys.pop(),
            }),
            // It waits for the owner, or for whoever takes over later.
            Err(RouteError::NobodyTookOver { unit, epoch }) => Ok(Way {
                units: vec![unit],
                routed: epoch.0,
                unrouted: None,
                key: hints.keys.pop(),
            }),
            Err(error) if is_for_now(&error) => Ok(Way {
                units: Vec::new(),
                routed: 0,
                unrouted: Some(Box::new(RelayError::from(error).pushed_back(PUSHBACK))),
                key: hints.keys.pop(),
            }),
            Err(error) => {
                let mut error = RelayError::from(error);
                if error.reason == Reason::RoutesAway {
                    return Err(error.pushed_back(PUSHBACK));
                }
                error
                    .detail
                    .push_str("; `strait explain --key DIMENSION=KEY` shows which rules there are");
                Err(error)
            }
        }
    }
}

/// Whether a moment later it may be known where the key belongs.
fn is_for_now(error: &RouteError) -> bool {
    matches!(
        error,
        RouteError::Unclaimed { .. } | RouteError::Behind { .. } | RouteError::NoCopy
    )
}

/// When a publisher whose key has no owner yet should come back.
const PUSHBACK: Duration = Duration::from_millis(100);
