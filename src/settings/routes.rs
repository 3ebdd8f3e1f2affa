//! Whether `[routes]` fits together, and with the dimensions and units of the other tables.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Problems, Settings, path};
use crate::control::{DimensionSettings, PlacementKind, StoreKind};
use crate::model::Name;
use crate::peer::credentials::LineRole;
use crate::routing::lease::{IN_FLIGHT_LEASES_MAX, LEASE_MAX};
use crate::routing::record::{Book, DimensionSpec, Fallback, HookSpec, Lease, RelayId};

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

    /// What this relay has to do with lines to the relay that has the routes.
    pub fn line_role(&self) -> LineRole {
        match self.routes.store {
            StoreKind::Embedded if self.is_route_authority() => LineRole::Takes,
            StoreKind::Embedded => LineRole::Opens,
            StoreKind::None | StoreKind::Etcd => LineRole::None,
        }
    }

    /// What a new store begins with: the dimensions and rules of these settings, and the units of this Geo. Units of other Geos
    /// have stores of their own, so no key moves to them or from them; rules may name them.
    pub fn route_book(&self) -> Book {
        let own = self.relay.unit.iter();
        let here = |geo| Some(geo) == self.relay.geo.as_ref();
        let others = self.units.iter().filter(|(_, settings)| here(&settings.geo));
        let units: BTreeSet<_> = others.map(|(unit, _)| unit).chain(own).cloned().collect();
        let dimension = |name: &Name| {
            let described = self.routes.dimension.iter().find(|spec| spec.name == *name);
            described.map_or_else(|| DimensionSpec::new(name.clone()), DimensionSettings::spec)
        };
        Book {
            units: units.into_iter().collect(),
            dimensions: self.routing.dimensions.iter().map(dimension).collect(),
            rules: (1..).zip(self.routing.rules.iter().cloned()).collect(),
            ..Book::default()
        }
    }

    /// What is wrong goes to `problems`; what is only odd to `warnings`.
    pub(super) fn check_routes(&self, problems: &mut Problems, warnings: &mut Problems) {
        let routes = &self.routes;
        let mut add = |key: &str, text: String| problems.add(None, format!("routes.{key}"), text);
        if routes.store == StoreKind::Embedded {
            self.check_authority(&mut add);
        }
        self.check_etcd(problems);
        self.check_tokens(problems);
        let mut add = |key: &str, text: String| problems.add(None, format!("routes.{key}"), text);
        self.check_in_flight(&mut add);
        if !FALLBACK_AFTER.contains(&routes.claim_fallback_after) {
            add("claim_fallback_after", "must be from 100ms to 1m".to_owned());
        }
        if routes.provisional_max == 0 {
            let text =
                "no key could be placed while the store is away; use 1 or more, or leave claim_fallback = \"deny\"";
            add("provisional_max", text.to_owned());
        }
        for (index, dimension) in routes.dimension.iter().enumerate() {
            if routes.store == StoreKind::None {
                let text = "says how keys are placed and moved that are kept in a route store, and there is none; set routes.store \
                            = \"embedded\" or \"etcd\", or take it out";
                add(&format!("dimension[{index}]"), text.to_owned());
            }
            self.check_new_keys(index, dimension, &mut add);
            if dimension.owner_lease.length().is_some_and(|lease| lease > LEASE_MAX) {
                let text = "stores remember silent relays for a lease of an hour at most; use one of 1h or less, or \"infinite\"";
                add(&format!("dimension[{index}].owner_lease"), text.to_owned());
            }
            if !self.routing.dimensions.contains(&dimension.name) {
                let text = format!(
                    "dimension {} is not in routing.dimensions; add it there, where its position is its precedence",
                    dimension.name
                );
                add(&format!("dimension[{index}].name"), text);
            }
            if dimension.placement == PlacementKind::Rules && !dimension.new_keys.is_empty() {
                let text = "says where new keys go that are claimed; set placement = \"claim\", or take it out";
                add(&format!("dimension[{index}].new_keys"), text.to_owned());
            }
            if dimension.placement == PlacementKind::Rules && dimension.claim_fallback != Fallback::Deny {
                let text =
                    "says what becomes of keys that cannot be claimed; set placement = \"claim\", or take it out";
                add(&format!("dimension[{index}].claim_fallback"), text.to_owned());
            } else if dimension.claim_fallback != Fallback::Deny && dimension.owner_lease != Lease::Infinite {
                let text = "owners admit new keys only as long as owner_lease lasts without the store; set owner_lease = \"infinite\"";
                warnings.add(None, format!("routes.dimension[{index}].claim_fallback"), text);
            }
            let timeout = dimension.hooks.as_ref().map(|hooks| hooks.timeout);
            if timeout.is_some_and(|timeout| timeout.is_zero() || timeout > HookSpec::TIMEOUT_MAX) {
                let text = "must be longer than zero, and a minute at most";
                add(&format!("dimension[{index}].hooks.timeout"), text.to_owned());
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

    fn check_in_flight(&self, add: &mut impl FnMut(&str, String)) {
        let longest = self.routes.in_flight_max;
        if longest.is_zero() || longest > LEASE_MAX {
            let text = "must be longer than zero, and an hour at most";
            add("in_flight_max", text.to_owned());
        } else if let Some(text) = self.too_long() {
            add("in_flight_max", text);
        }
    }

    /// Clocks differ in speed, and the lease has to have room for that (`routing::lease`).
    fn too_long(&self) -> Option<String> {
        let dimensions = self.route_book().dimensions;
        let shortest = dimensions.iter().filter(|_| self.routes.store != StoreKind::None);
        let shortest = shortest.min_by_key(|spec| spec.owner_lease)?;
        let most = shortest.owner_lease.length()? * IN_FLIGHT_LEASES_MAX;
        (self.routes.in_flight_max > most).then(|| {
            format!(
                "may be {IN_FLIGHT_LEASES_MAX} times the shortest owner_lease at most, {}, or a clock that is a little slow ends calls of \
                 dimension {} too late; use less, or a longer owner_lease",
                humantime::format_duration(most),
                shortest.name
            )
        })
    }

    /// Units that new keys go to are units of this Geo, and get some.
    fn check_new_keys(&self, index: usize, dimension: &DimensionSettings, add: &mut impl FnMut(&str, String)) {
        for (at, rule) in dimension.new_keys.iter().enumerate() {
            let key = format!("dimension[{index}].new_keys[{at}]");
            for (place, share) in rule.to.iter().enumerate() {
                let unit = &share.unit;
                let is_own = self.relay.unit.as_ref() == Some(unit);
                match self.units.get(unit) {
                    _ if is_own => {}
                    None => {
                        let text = format!(
                            "unit {unit} is neither in [units] nor this relay's own; check the spelling, or add [units.{unit}]"
                        );
                        add(&format!("{key}.to[{place}].unit"), text);
                    }
                    Some(known) if Some(&known.geo) != self.relay.geo.as_ref() => {
                        let text = format!(
                            "unit {unit} is of Geo {}; new keys stay in this Geo: name one of its units",
                            known.geo
                        );
                        add(&format!("{key}.to[{place}].unit"), text);
                    }
                    Some(_) => {}
                }
                if share.weight == 0 {
                    let text = "the unit would get no keys; use 1 or more, or take the unit out";
                    add(&format!("{key}.to[{place}].weight"), text.to_owned());
                }
            }
            if rule.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
                add(&format!("{key}.percent"), "expected 1 to 100".to_owned());
            }
            if let Some(follow) = &rule.follow
                && !self.routing.dimensions.contains(follow)
            {
                let text =
                    format!("dimension {follow} is not in routing.dimensions; check the spelling, or add it there");
                add(&format!("{key}.follow"), text);
            }
        }
    }

    fn check_tokens(&self, problems: &mut Problems) {
        let tokens = &self.routes.tokens;
        let mut add = |key: &str, text: &str| problems.add(None, path::join("routes.tokens", key), text.to_owned());
        if self.routes.store == StoreKind::None && !tokens.key_file.as_os_str().is_empty() {
            add(
                "key_file",
                "tokens are for claimed keys, and without a store none are claimed; set routes.store, or take it out",
            );
        }
        if tokens.geo_number == 0 {
            add("geo_number", "must be 1 or more");
        }
    }

    fn check_etcd(&self, problems: &mut Problems) {
        if self.routes.store != StoreKind::Etcd {
            return;
        }
        let etcd = &self.routes.etcd;
        let mut add = |key: &str, text: &str| problems.add(None, path::join("routes.etcd", key), text.to_owned());
        if etcd.endpoints.is_empty() {
            add(
                "endpoints",
                "required with store = \"etcd\"; name the members, each as \"https://host:2379\"",
            );
        }
        if !etcd.prefix.starts_with('/') {
            add("prefix", "must begin with a slash, such as \"/strait\"");
        }
        if etcd.endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
            let files = [
                ("authorities", &etcd.authorities),
                ("certificate", &etcd.certificate),
                ("key", &etcd.key),
            ];
            for (key, file) in files {
                if file.as_os_str().is_empty() {
                    add(key, "required when endpoints begin with https");
                }
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

/// Of `routes.claim_fallback_after`.
const FALLBACK_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
