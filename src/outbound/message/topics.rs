//! The topics of this relay, ready for look-ups.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use crate::model::{Map, Name, Reason, RelayError, Retry, Topic, UnitId};
use crate::queue::{TopicRule, TopicSettings, Topics};

/// Topics and units in force.
pub struct Catalog {
    topics: Arc<Topics>,
    units: Vec<UnitId>,
    own: UnitId,
    message_bytes_max: usize,
    /// Topics that were used, so that a message costs one look-up. Emptied when it is full: names come from outside.
    used: RefCell<Map<Bytes, Rc<Known>>>,
}

/// A topic with what can be worked out of its settings.
pub(super) struct Known {
    pub(super) topic: Topic,
    pub(super) settings: TopicSettings,
    /// Where messages go, unless the key decides.
    pub(super) units: Vec<UnitId>,
    /// Longest message.
    pub(super) bytes_max: usize,
}

impl Catalog {
    /// Of these topics, of `own` unit among `others`. Messages may have `message_bytes_max` bytes, if a topic does not say less.
    pub fn new(
        topics: Arc<Topics>,
        own: UnitId,
        others: impl IntoIterator<Item = UnitId>,
        message_bytes_max: usize,
    ) -> Self {
        let mut units: Vec<_> = others.into_iter().collect();
        units.push(own.clone());
        units.sort_unstable();
        units.dedup();
        Self {
            topics,
            units,
            own,
            message_bytes_max,
            used: RefCell::new(HashMap::default()),
        }
    }

    pub(super) fn message_bytes_max(&self) -> usize {
        self.message_bytes_max
    }

    /// The topic of this name.
    pub(super) fn find(&self, name: &Bytes) -> Result<Rc<Known>, RelayError> {
        if let Some(known) = self.used.borrow().get(name) {
            return Ok(Rc::clone(known));
        }
        let known = Rc::new(self.look_up(name)?);
        let mut used = self.used.borrow_mut();
        if used.len() >= USED_MAX {
            used.clear();
        }
        // A copy: the name may be a small part of a large buffer.
        used.insert(Bytes::copy_from_slice(name), Rc::clone(&known));
        Ok(known)
    }

    fn look_up(&self, name: &Bytes) -> Result<Known, RelayError> {
        let text = std::str::from_utf8(name).unwrap_or("\u{0}");
        let topic = Name::new(text).map_err(|error| {
            let detail = format!("the topic is not a name: {error}");
            RelayError::new(Reason::BadInput, Retry::Never, detail)
        })?;
        let Some(settings) = TopicSettings::of(&self.topics, &topic) else {
            let detail = format!(
                "topic {topic} is not known at this relay; check the spelling, or add [topics.\"{topic}\"] to the \
                 configuration"
            );
            return Err(RelayError::new(Reason::UnknownTopic, Retry::Never, detail));
        };
        let units = match settings.rule {
            TopicRule::All => self.units.clone(),
            TopicRule::Local => vec![self.own.clone()],
            TopicRule::Owner => Vec::new(),
            TopicRule::Units => settings.units.clone(),
        };
        let bytes_max = match settings.message_bytes_max.as_usize() {
            0 => self.message_bytes_max,
            bytes => bytes.min(self.message_bytes_max),
        };
        Ok(Known {
            topic,
            settings: settings.clone(),
            units,
            bytes_max,
        })
    }
}

const USED_MAX: usize = 4096;
