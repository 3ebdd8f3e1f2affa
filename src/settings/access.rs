//! Whether `[access]` and the access points of units make sense.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Problems, Settings, path};
use crate::control::access::{self, Directory};

impl Settings {
    /// Where clients of users connect; empty without Geo and unit.
    pub fn access_directory(&self) -> Directory {
        let shared = |points: &[String]| points.iter().map(|point| Arc::from(point.as_str())).collect();
        let others = self.units.iter();
        let others = others.map(|(unit, of)| (unit.clone(), (of.geo.clone(), shared(&of.access))));
        let own = self.relay.unit.clone().zip(self.relay.geo.clone());
        let own = own.map(|(unit, geo)| (unit, (geo, shared(&self.relay.access))));
        Directory {
            units: others.chain(own).collect(),
            spread: self.access.spread,
            points_max: self.access.points_max,
            users_max: self.access.users_max,
        }
    }

    /// What is wrong goes to `problems`; what is only odd to `warnings`.
    pub(super) fn check_access(&self, problems: &mut Problems, warnings: &mut Problems) {
        let access = &self.access;
        if let Some(dimension) = &access.dimension
            && !self.routing.dimensions.contains(dimension)
        {
            let text = format!("{dimension} is not in routing.dimensions; name the dimension whose keys are users");
            problems.add(None, "access.dimension", text);
        }
        if access.spread > access::Settings::SPREAD_MAX {
            problems.add(
                None,
                "access.spread",
                "clients would be told to wait too long; 10m at most",
            );
        }
        if !(1..=access::Settings::POINTS_MAX).contains(&access.points_max) {
            let text = format!("out of range; use 1 to {}", access::Settings::POINTS_MAX);
            problems.add(None, "access.points_max", text);
        }
        if access.users_max == 0 {
            let text = "nobody could follow a user; use 1 or more, or take access.dimension out";
            problems.add(None, "access.users_max", text);
        }
        let others = self.units.iter();
        let others = others.map(|(unit, of)| (path::join("units", unit.as_str()), &of.access, Some(&of.geo)));
        let here = self.relay.geo.as_ref();
        let mut seen: BTreeMap<&str, String> = BTreeMap::new();
        let own = ("relay".to_owned(), &self.relay.access, here);
        for (key, points, geo) in std::iter::once(own).chain(others) {
            let key = path::join(&key, "access");
            check_points(&key, points, problems);
            for (index, point) in points.iter().enumerate() {
                let element = path::element(&key, index);
                match seen.get(point.as_str()) {
                    // Twice in one list is said already.
                    Some(other) if path::parent(other) != Some(key.as_str()) => {
                        let text = format!(
                            "{point} is {other} as well; clients of the two units could not be told apart: each needs addresses \
                             of its own"
                        );
                        problems.add(None, element, text);
                    }
                    Some(_) => {}
                    None => drop(seen.insert(point, element)),
                }
            }
            // Users of other Geos are no business of this one.
            if access.dimension.is_some() && points.is_empty() && geo == here {
                let text = "clients of its users are sent to other units: it has no access points";
                warnings.add(None, key, text);
            }
        }
    }
}

fn check_points(key: &str, points: &[String], problems: &mut Problems) {
    let limit = access::Settings::UNIT_POINTS_MAX;
    if points.len() > limit {
        let text = format!("{} access points are too many; at most {limit}", points.len());
        problems.add(None, key, text);
    }
    let bytes_max = access::Settings::POINT_BYTES_MAX;
    for (index, point) in points.iter().enumerate() {
        let element = path::element(key, index);
        if !(1..=bytes_max).contains(&point.len()) || !point.bytes().all(|byte| byte.is_ascii_graphic()) {
            let text =
                format!("expected 1 to {bytes_max} characters without spaces, such as \"wss://b.example.com/ws\"");
            problems.add(None, element, text);
        } else if points.iter().take(index).any(|earlier| earlier == point) {
            problems.add(None, element, "is listed twice; take one out");
        }
    }
}
