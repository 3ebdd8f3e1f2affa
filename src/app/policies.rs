//! What the settings say about calls of each service.

use crate::calls::{CallPolicies, CallPolicy};
use crate::ingress;
use crate::model::MissingKey;
use crate::settings::Settings;

/// Time limits and missing-key policies, by service.
pub(super) fn policies(settings: &Settings) -> CallPolicies {
    let named = settings.services.iter().map(|(service, of)| {
        let policy = CallPolicy {
            timeout: of.timeout,
            idle_timeout: of.idle_timeout,
            duration_max: of.duration_max,
            missing_key: of.missing_key.clone(),
        };
        (service.clone(), policy)
    });
    let calls = &settings.calls;
    let others = CallPolicy {
        timeout: calls.timeout,
        idle_timeout: calls.idle_timeout,
        duration_max: calls.duration_max,
        missing_key: calls.missing_key.clone(),
    };
    // Whoever asks a relay for its health or its API means that relay, whatever the policy for others.
    let own = ingress::api::own_services(&settings.services);
    let own = own.map(|service| {
        let policy = CallPolicy {
            missing_key: MissingKey::Local,
            // Nothing moves on a watch for as long as nothing changes, nor to a consumer while there are no messages.
            idle_timeout: others.duration_max,
            ..others.clone()
        };
        (service, policy)
    });
    let named = named.chain(own).collect();
    CallPolicies::new(named, others)
}
