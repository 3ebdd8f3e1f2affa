//! Whether `[routes]` fits together, and with the dimensions and units of the other tables.

use super::{Problems, Settings, path};
use crate::control::StoreKind;
use crate::model::Name;
use crate::routing::record::RelayId;

impl Settings {
    /// The relay that has the embedded store; `None` with another store, or if it is not written as `unit/relay`.
    pub fn route_authority(&self) -> Option<RelayId> {
        if self.routes.store != StoreKind::Embedded {
            return None;
        }
        let (unit, relay) = self.routes.authority.split_once('/')?;
        Some(RelayId {
            unit: Name::new(unit).ok()?,
            relay: Name::new(relay).ok()?,
        })
    }

    /// Whether this relay has the embedded store.
    pub fn is_route_authority(&self) -> bool {
        self.route_authority().is_some_and(|authority| {
            Some(&authority.unit) == self.relay.unit.as_ref() && Some(&authority.relay) == self.relay.name.as_ref()
        })
    }

    pub(super) fn check_routes(&self, problems: &mut Problems) {
        let routes = &self.routes;
        let mut add = |key: &str, text: String| problems.add(None, path::join("routes", key), text);
        match routes.store {
            StoreKind::None => {}
            StoreKind::Embedded => self.check_authority(&mut add),
            StoreKind::Etcd => {
                if routes.etcd.endpoints.is_empty() {
                    let text = "required with store = \"etcd\"; name the members, each as \"http://host:2379\"";
                    add("etcd.endpoints", text.to_owned());
                }
                if !routes.etcd.prefix.starts_with('/') {
                    add("etcd.prefix", "must begin with a slash, such as \"/strait\"".to_owned());
                }
            }
        }
        if routes.in_flight_max.is_zero() {
            add("in_flight_max", "must be longer than zero".to_owned());
        }
        for (index, dimension) in routes.dimension.iter().enumerate() {
            if !self.routing.dimensions.contains(&dimension.name) {
                let text = format!(
                    "dimension {} is not in routing.dimensions; add it there, where its position is its precedence",
                    dimension.name
                );
                add(&format!("dimension[{index}].name"), text);
            }
            if routes
                .dimension
                .iter()
                .take(index)
                .any(|earlier| earlier.name == dimension.name)
            {
                add(
                    &format!("dimension[{index}].name"),
                    format!("dimension {} is described twice", dimension.name),
                );
            }
        }
    }

    fn check_authority(&self, add: &mut impl FnMut(&str, String)) {
        let Some(authority) = self.route_authority() else {
            let text = "required with store = \"embedded\": the relay that has the routes, as \"unit/relay\"";
            return add("authority", text.to_owned());
        };
        if self.is_route_authority() {
            return;
        }
        if self.routes.authority_addresses.is_empty() {
            let text = format!("required, because relay {authority} has the routes: its peer port, as \"host:7443\"");
            add("authority_addresses", text);
        }
        let own = Some(&authority.unit) == self.relay.unit.as_ref();
        if own {
            return;
        }
        match self.units.get(&authority.unit) {
            None => add(
                "authority",
                format!("unit {} is neither in [units] nor this relay's own", authority.unit),
            ),
            Some(unit) if Some(&unit.geo) != self.relay.geo.as_ref() => add(
                "authority",
                format!(
                    "unit {} is of Geo {}; routes belong to one Geo and stay in it",
                    authority.unit, unit.geo
                ),
            ),
            Some(_) => {}
        }
    }
}
