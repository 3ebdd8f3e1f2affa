//! Where services that connect to us say what they serve (C-E1).

use std::fmt;
use std::rc::Rc;

use super::{Endpoint, ServiceName};

/// Takes endpoints that register themselves over a framed socket; implemented by delivery.
pub trait Registry {
    /// Lets calls for `service` go to `endpoint` until the [`Registration`] is dropped. The same service
    /// may be registered by several endpoints; they share its calls.
    ///
    /// # Errors
    /// [`RegisterError`], told to the service as it stands.
    fn register(&self, service: &ServiceName, endpoint: Rc<dyn Endpoint>) -> Result<Registration, RegisterError>;
}

/// Keeps an endpoint registered; dropping it takes the endpoint out.
#[must_use = "dropping it ends the registration"]
pub struct Registration(Option<Box<dyn FnOnce()>>);

impl Registration {
    /// A registration that `end` undoes.
    pub fn new(end: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(end)))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Registration")
    }
}

/// Why a service cannot register.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The settings do not let this service be served here.
    #[error("service {0} is not in the settings of this relay; add [services.\"{0}\"]")]
    Unknown(ServiceName),
    /// As many endpoints as the settings allow are registered already.
    #[error("service {service} has {limit} registered endpoints, the limit; end one or raise the limit")]
    Full {
        /// The service.
        service: ServiceName,
        /// As the settings say.
        limit: usize,
    },
    /// This connection may not serve that service.
    #[error("this connection may not serve {0}")]
    Forbidden(ServiceName),
}
