//! Other services, endpoints or limits are in the settings (C-L2).

use std::collections::HashMap;
use std::rc::Rc;

use super::Delivery;
use crate::delivery::connector;
use crate::delivery::service::Service;
use crate::delivery::settings::{ServiceSettings, Services};

impl Delivery {
    /// Puts other services in force. Calls under way go on; so do connections to endpoints that stay. `services` leaves
    /// out what the relay itself answers.
    pub fn reload(self: &Rc<Self>, services: &Services) {
        let gone = |service: &Rc<Service>| !service.attached.get() && !services.contains_key(&service.name);
        for service in self.services().iter().filter(|service| gone(service)) {
            self.services.borrow_mut().remove(&service.name);
            service.retire();
            tracing::info!(local.service = %service.name, "service left the settings");
        }
        for (name, settings) in services {
            let known = self.services.borrow().get(name).cloned();
            let service = known.unwrap_or_else(|| self.set_up(name, settings.clone()));
            let before = service.settings();
            service.set_settings(settings.clone());
            let anew = keeps_otherwise(&before, settings);
            connector::keep(self, &service, &self.dial, &self.ends, anew);
        }
    }

    /// The services known here, and whether a call to each would be handed over now.
    pub fn availability(&self) -> HashMap<String, bool> {
        let services = self.services.borrow();
        let one = |service: &Rc<Service>| (service.name.to_string(), service.is_available());
        services.values().map(one).collect()
    }
}

/// Whether keepers have to begin anew: they look at these settings only once.
fn keeps_otherwise(before: &ServiceSettings, now: &ServiceSettings) -> bool {
    before.health != now.health
        || before.endpoint_in_flight_max != now.endpoint_in_flight_max
        || before.connections_max != now.connections_max
}
