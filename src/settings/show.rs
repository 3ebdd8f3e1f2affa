//! The settings in force, one line per value, with where each came from (O-C2).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value as Json;

use super::{Loaded, Settings, path};

/// One value in force.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Shown {
    /// Its path.
    pub key: String,
    /// The value, as TOML writes it; `"***"` for a secret.
    pub value: String,
    /// File and line, environment variable, flag, or `default`.
    pub from: String,
}

/// All values in force in the order of their paths.
pub fn show(loaded: &Loaded) -> Vec<Shown> {
    let json = serde_json::to_value(&loaded.settings).unwrap_or_default();
    let mut shown = Vec::new();
    walk(&json, "", &mut |key, value| {
        shown.push(Shown {
            key: key.to_owned(),
            value: if is_secret(key) {
                "\"***\"".to_owned()
            } else {
                toml_text(value)
            },
            from: loaded.origins.of(key).unwrap_or("default").to_owned(),
        });
    });
    shown
}

/// Paths of the values in which two settings differ, in order.
pub fn differences(one: &Settings, other: &Settings) -> Vec<String> {
    let [one, other] = [one, other].map(|settings| {
        let json = serde_json::to_value(settings).unwrap_or_default();
        let mut values = BTreeMap::new();
        walk(&json, "", &mut |key, value| {
            values.insert(key.to_owned(), value.clone());
        });
        values
    });
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    differ.cloned().collect()
}

/// Secrets are never written into the settings themselves, only names of their files. Should a key for
/// one be added, its name decides.
fn is_secret(key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    ["password", "secret", "token"].iter().any(|word| last.contains(word))
}

fn walk(value: &Json, key: &str, visit: &mut impl FnMut(&str, &Json)) {
    match value {
        Json::Null => {}
        Json::Object(table) => table
            .iter()
            .for_each(|(name, value)| walk(value, &path::join(key, name), visit)),
        Json::Array(list) if list.iter().any(Json::is_object) => {
            for (index, value) in list.iter().enumerate() {
                walk(value, &path::element(key, index), visit);
            }
        }
        value => visit(key, value),
    }
}

fn toml_text(value: &Json) -> String {
    match value {
        Json::Array(list) => format!("[{}]", list.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        // JSON and TOML write texts, numbers and truth values alike.
        value => value.to_string(),
    }
}
