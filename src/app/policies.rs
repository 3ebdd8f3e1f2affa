//! What the settings say about calls of each service.

use std::collections::HashMap;

use crate::calls::{CallPolicies, CallPolicy};
use crate::ingress;
use crate::model::{MissingKey, RoutePolicy, ServiceName};
use crate::settings::Settings;

/// Time limits and missing-key policies, by service.
pub(super) fn policies(settings: &Settings) -> CallPolicies {
    let named = settings.services.iter().map(|(service, of)| {
        let policy = CallPolicy {
            timeout: of.timeout,
            idle_timeout: of.idle_timeout,
            duration_max: of.duration_max,
            route: by_key(&of.missing_key),
            methods: HashMap::new(),
        };
        (service.clone(), policy)
    });
    let calls = &settings.calls;
    let others = CallPolicy {
        timeout: calls.timeout,
        idle_timeout: calls.idle_timeout,
        duration_max: calls.duration_max,
        route: by_key(&calls.missing_key),
        methods: HashMap::new(),
    };
    // Whoever asks a relay for its health or its API means that relay, whatever the policy for others.
    let own = ingress::api::own_services(&settings.services);
    let own = own.map(|service| {
        let policy = CallPolicy {
            route: by_key(&MissingKey::Local),
            // Nothing moves on a watch for as long as nothing changes, nor to a consumer while there are no messages.
            idle_timeout: others.duration_max,
            ..others.clone()
        };
        (service, policy)
    });
    let mut named: HashMap<ServiceName, CallPolicy> = named.chain(own).collect();
    for (service, routes) in &calls.route {
        let policy = named.entry(service.clone()).or_insert_with(|| others.clone());
        policy.methods = routes.methods_of(&policy.route);
        policy.route = routes.policy(&policy.route);
    }
    CallPolicies::new(named, others)
}

fn by_key(missing_key: &MissingKey) -> RoutePolicy {
    RoutePolicy {
        missing_key: missing_key.clone(),
        ..RoutePolicy::default()
    }
}
