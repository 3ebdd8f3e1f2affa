//! `[retry]` of the configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{ServiceName, UnitId};

/// `[retry]`: whether calls of local services that failed are sent again. All of it can be changed without a restart.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Whether any call is sent again. Default true. If false, each call has one attempt, whatever it says of itself.
    pub enabled: bool,
    /// By name of the service that is called, whether its calls are sent again. Default true for each.
    pub services: BTreeMap<ServiceName, bool>,
    /// By unit that is called, this relay's own included, whether calls to it are sent again. Default true for each.
    pub units: BTreeMap<UnitId, bool>,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            services: BTreeMap::new(),
            units: BTreeMap::new(),
        }
    }
}

impl RetrySettings {
    /// Whether a call to this service and unit may be sent again (C-T7).
    pub fn allows(&self, service: Option<&str>, unit: &UnitId) -> bool {
        let service = service.and_then(|service| self.services.get(service));
        self.enabled && service.copied().unwrap_or(true) && self.units.get(unit).copied().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    // C-T7
    #[test]
    fn retries_are_switched_off_per_service_per_unit_or_everywhere() {
        let check = |text: &str, expected: [bool; 3]| {
            let settings: RetrySettings = toml::from_str(text).unwrap();
            let unit = |name| Name::new(name).unwrap();
            let found = [
                settings.allows(Some("im.Echo"), &unit("b")),
                settings.allows(Some("im.Presence"), &unit("b")),
                settings.allows(Some("im.Echo"), &unit("c")),
            ];
            assert_eq!(found, expected, "{text}");
        };
        check("", [true; 3]);
        check("enabled = false", [false; 3]);
        check("[services]\n\"im.Echo\" = false", [false, true, false]);
        check("[units]\nb = false\nc = true", [false, false, true]);
        check("enabled = false\n[units]\nb = true", [false; 3]);
    }
}
