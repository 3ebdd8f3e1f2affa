//! Whether the relay should get work, as its components see it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// Named conditions of the relay. Ready is when all of them are. Clones share them.
#[derive(Clone, Default)]
pub struct Health(Arc<Mutex<BTreeMap<Cow<'static, str>, Condition>>>);

/// What a component says about itself.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Condition {
    /// Whether the relay may get work as far as this component knows.
    pub ready: bool,
    /// Why not, or anything worth knowing.
    pub reason: String,
}

impl Health {
    /// No condition yet: ready. Report what must come up before anything else runs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reports a condition; replaces what was said under this name before.
    pub fn set(&self, name: impl Into<Cow<'static, str>>, ready: bool, reason: impl Into<String>) {
        let condition = Condition {
            ready,
            reason: reason.into(),
        };
        self.lock().insert(name.into(), condition);
    }

    /// Whether all conditions are ready.
    pub fn is_ready(&self) -> bool {
        self.lock().values().all(|condition| condition.ready)
    }

    /// All conditions by name.
    pub fn conditions(&self) -> BTreeMap<String, Condition> {
        let conditions = self.lock();
        let conditions = conditions
            .iter()
            .map(|(name, condition)| (name.to_string(), condition.clone()));
        conditions.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Cow<'static, str>, Condition>> {
        // A map of texts is whole after any panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
