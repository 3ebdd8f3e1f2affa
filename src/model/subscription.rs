//! Where services that connect to us say which messages they take (M-B4).

use std::rc::Rc;

use super::{Endpoint, NameError, Registration, Topic};

/// What a service wants to take.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subscription {
    /// Name of the topic.
    pub topic: String,
    /// Name of the group.
    pub group: String,
    /// Messages it wants to have at a time; 0 = the default.
    pub in_flight_max: usize,
}

/// Is told whether a subscription is in force, and if not, why. It only passes that on (V2).
pub type SubscribedFn = Box<dyn FnOnce(Result<(), String>)>;

/// Takes consumers that register themselves over a framed socket; implemented by the inbound side of messages.
pub trait Subscriptions {
    /// Lets messages go to `endpoint`, as calls whose reply is the settlement, until the [`Registration`] is dropped. Whether
    /// that is in force comes to `told`, if this succeeds and the registration is not dropped before.
    ///
    /// # Errors
    /// [`SubscribeError`], told to the service as it stands.
    fn subscribe(
        &self,
        wanted: &Subscription,
        endpoint: Rc<dyn Endpoint>,
        told: SubscribedFn,
    ) -> Result<Registration, SubscribeError>;
}

/// Why a consumer cannot register.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The relay takes no new consumers.
    #[error("this relay is shutting down; subscribe at another relay of the unit")]
    Draining,
    /// A name breaks the name rule.
    #[error("the {what} is not a name: {source}")]
    Name {
        /// `topic` or `group`.
        what: &'static str,
        /// What is wrong.
        source: NameError,
    },
    /// The topic is not in the settings.
    #[error("topic {0} is not known at this relay; check the spelling, or add [topics.\"{0}\"]")]
    UnknownTopic(Topic),
}
