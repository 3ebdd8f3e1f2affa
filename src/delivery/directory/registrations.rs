//! Services that register themselves: on this shard, and what is heard of those on others.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::Delivery;
use crate::crossing::{Receiver, bridge};
use crate::delivery::settings::ServiceSettings;
use crate::delivery::shared::News;
use crate::model::{Endpoint, RegisterError, Registration, Registry, ServiceName};

impl Delivery {
    /// Another shard has or loses an endpoint.
    pub(super) fn on_news(&self, news: News) {
        match news {
            News::Registered { id, service, near } => {
                let (endpoint, replies) = near.into_endpoint();
                self.tracker.spawn_local(replies);
                let service = self.set_up(&service, ServiceSettings::default());
                let slot = self.slot(&service, "registered", "crossing", Some(endpoint));
                service.add(Rc::clone(&slot));
                self.elsewhere.borrow_mut().insert(id, slot);
            }
            News::Unregistered { id, service } => {
                let slot = self.elsewhere.borrow_mut().remove(&id);
                let service = self.services.borrow().get(&service).cloned();
                if let (Some(slot), Some(service)) = (slot, service) {
                    service.remove(&slot);
                    slot.retire();
                }
            }
        }
    }
}

impl Registry for Delivery {
    fn register(&self, name: &ServiceName, endpoint: Rc<dyn Endpoint>) -> Result<Registration, RegisterError> {
        let known = self.services.borrow().get(name.as_str()).cloned();
        let service = known.ok_or_else(|| RegisterError::Unknown(name.clone()))?;
        let id = self.directory.begin(name, service.settings().registered_max)?;
        let limit = self.settings.crossing_in_flight_max;
        self.directory.tell_others(self.shard, || {
            let (near, far) = bridge(limit);
            self.tracker.spawn_local(far.run(Rc::clone(&endpoint)));
            let service = name.clone();
            News::Registered { id, service, near }
        });
        let slot = self.slot(&service, "registered", "framed", Some(endpoint));
        service.add(Rc::clone(&slot));
        self.on_room();
        tracing::info!(local.service = %name, "service registered");
        let (directory, own) = (Arc::clone(&self.directory), self.shard);
        Ok(Registration::new(move || {
            service.remove(&slot);
            slot.retire();
            directory.end(&service.name);
            directory.tell_others(own, || {
                let service = service.name.clone();
                News::Unregistered { id, service }
            });
            tracing::info!(local.service = %service.name, "service unregistered");
        }))
    }
}

/// Waits for news; forever if there will be none. Cancel safe.
pub(super) async fn next_news(news: Option<&Receiver<News>>, batch: &mut VecDeque<News>) {
    let open = match news {
        Some(news) => news.take(batch).await,
        None => false,
    };
    // Without other shards there will be no news.
    if !open && batch.is_empty() {
        std::future::pending::<()>().await;
    }
}
