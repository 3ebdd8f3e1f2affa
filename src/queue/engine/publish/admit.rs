//! Whether there is room for a message of a publisher: sizes, topics, lines and the disk.

use std::time::Duration;

use crate::model::{Message, Reason, RelayError, Retry, UnitId};
use crate::queue::effects::Now;
use crate::queue::engine::Engine;
use crate::queue::engine::upkeep::Level;
use crate::queue::{Priority, Setup, TopicSettings};

impl Engine {
    /// Whether a message can be taken (M-E2, M-E3, M-E4, M-G6).
    pub(super) fn admit(
        &mut self,
        now: Now,
        message: &Message,
        settings: &TopicSettings,
        (outs, own): (&[UnitId], bool),
    ) -> Result<(), RelayError> {
        check_size(&self.setup, message, settings)?;
        if outs.is_empty() && !own {
            let detail = format!(
                "no unit gets messages of the topic {}; see its rule and units",
                message.topic
            );
            return Err(RelayError::new(Reason::NoRoute, Retry::Never, detail));
        }
        if message.is_expired(now.wall) {
            let detail = "the deadline of the message (expirytime, or the topic's ttl) has passed already";
            return Err(RelayError::new(Reason::DeadlineExceeded, Retry::Never, detail));
        }
        if let Some(detail) = self.refuses(now, settings.priority) {
            return Err(RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(DISK_PUSHBACK));
        }
        if let Err(detail) = self.places.check_topic(&message.topic, &self.setup) {
            return Err(RelayError::new(Reason::Limited, Retry::Never, detail));
        }
        let bytes = message.bytes();
        let full = |unit: &UnitId| {
            let detail = format!(
                "as many messages of topic {} wait for unit {unit} as its settings allow (bytes_max, messages_max)",
                message.topic
            );
            RelayError::new(Reason::Limited, Retry::Safe, detail).pushed_back(FULL_PUSHBACK)
        };
        for unit in outs {
            if let Some(outbox) = self.places.outboxes.get_mut(unit) {
                outbox.admit(&message.topic, settings, bytes).map_err(|_| full(unit))?;
            }
        }
        if own {
            let inbox = &self.places.inbox;
            inbox
                .admit(&message.topic, settings, bytes)
                .map_err(|_| full(&self.setup.place.unit))?;
        }
        Ok(())
    }

    /// Why the disk takes no new messages.
    fn refuses(&self, now: Now, priority: Priority) -> Option<&'static str> {
        if !self.journal.may_try(now.mono) {
            return Some("the disk of this relay fails; the relay tries again by itself");
        }
        match self.upkeep.level() {
            Level::Full => Some("the disk of this relay is nearly full (queue.refuse_all_at, queue.bytes_max)"),
            Level::Low if priority == Priority::Low => {
                Some("the disk of this relay is nearly full for topics of low priority (queue.refuse_low_at)")
            }
            Level::Low | Level::Ok => None,
        }
    }
}

/// Attributes and body together have a limit.
pub(in crate::queue::engine) fn check_size(
    setup: &Setup,
    message: &Message,
    settings: &TopicSettings,
) -> Result<(), RelayError> {
    let bytes = message.attributes.as_bytes().len() + message.body.len();
    let all = setup.queue.message_bytes_max.as_usize();
    let max = match settings.message_bytes_max.as_usize() {
        0 => all,
        of_topic => of_topic.min(all),
    };
    if bytes <= max {
        return Ok(());
    }
    let detail = format!(
        "the message has {bytes} bytes, topic {} allows {max} (message_bytes_max of the topic or of the queue)",
        message.topic
    );
    Err(RelayError::new(Reason::TooLarge, Retry::Never, detail))
}

const FULL_PUSHBACK: Duration = Duration::from_secs(1);
/// Pushback of publishers whom the disk has no room for, or that it failed.
pub(super) const DISK_PUSHBACK: Duration = Duration::from_secs(2);
