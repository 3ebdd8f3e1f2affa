//! One case each.

mod bounds;
mod consumers;
mod damage;
mod endings;
mod failures;
mod groups;
mod leaving;

use std::time::Duration;

use crate::model::{GapReason, UnixMillis};
use crate::queue::api::{ConsumerId, Deliver, Settlement};
use crate::queue::effects::{Effects, Told, Why};
use crate::queue::inbox::consumers::FLIGHT_BYTES_MAX;
use crate::queue::inbox::tests::world::{World, message, name, setup, topic};
use crate::queue::record::{Pausable, Pause};
use crate::queue::{Exhausted, OnExpiry, Overflow, RetrySettings, TopicSettings};

fn nack() -> Settlement {
    let reason = "no".to_owned();
    Settlement::Nack { delay: None, reason }
}

fn nack_for(seconds: u64) -> Settlement {
    Settlement::Nack {
        delay: Some(Duration::from_secs(seconds)),
        reason: "no".to_owned(),
    }
}

fn exhausting(attempts: u32, exhausted: Exhausted) -> TopicSettings {
    TopicSettings {
        retry: RetrySettings {
            attempts,
            ..RetrySettings::default()
        },
        exhausted,
        ..TopicSettings::default()
    }
}
