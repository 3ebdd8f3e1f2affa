//! What a new book changes, in words.

use serde::Serialize;
use serde_json::Value;

use crate::routing::record::{Book, DimensionSpec, Placement};
use crate::routing::{Rule, RuleKind};

/// What is new or another in a book, a line each.
pub fn changes(published: Option<&Book>, book: &Book) -> Vec<String> {
    let empty = Book::default();
    let old = published.unwrap_or(&empty);
    let mut lines = Vec::new();
    for (number, unit) in (1..).zip(&book.units) {
        if !old.units.contains(unit) {
            lines.push(format!("unit {unit} is added as number {number}"));
        }
    }
    for spec in &book.dimensions {
        match old.dimensions.iter().find(|other| other.name == spec.name) {
            None => lines.push(format!("dimension {} is added", spec.name)),
            Some(other) => {
                let of = |(field, then, now): (&str, String, String)| {
                    format!("dimension {}: {field} {then} -> {now}", spec.name)
                };
                lines.extend(fields(other, spec).map(of));
            }
        }
    }
    let new = book.rules.iter().filter(|rule| !old.rules.contains(rule));
    lines.extend(new.map(|rule| format!("{} is added", described(rule))));
    lines
}

/// What is another about a dimension: the name it has in the configuration, what was published and what is new.
fn fields(old: &DimensionSpec, new: &DimensionSpec) -> impl Iterator<Item = (&'static str, String, String)> {
    let (old, new) = (shown(old), shown(new));
    let both = old.into_iter().zip(new);
    both.filter(|((_, then), (_, now))| then != now)
        .map(|((field, then), (_, now))| (field, then, now))
}

/// The fields of a dimension, as its configuration has them.
fn shown(spec: &DimensionSpec) -> [(&'static str, String); 8] {
    let (placement, new_keys) = match &spec.placement {
        Placement::Rules => ("rules", None),
        Placement::Claim(rules) => ("claim", Some(rules)),
    };
    [
        ("placement", placement.to_owned()),
        ("new_keys", new_keys.map_or_else(|| "[]".to_owned(), json)),
        ("owner_lease", json(&spec.owner_lease)),
        ("freeze_reads", json(&spec.freeze_reads)),
        ("local_mode", json(&spec.local_mode)),
        ("claim_fallback", json(&spec.claim_fallback)),
        ("key_bytes_max", json(&spec.key_bytes_max)),
        ("hooks", spec.hooks.as_ref().map_or_else(|| "none".to_owned(), json)),
    ]
}

/// Without quotes, if it is a text, and without what is not set.
fn json(value: &impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap_or_default();
    strip(&mut value);
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// A rule for people: `rule 3 of uid (prefix "15", unit b)`. Single keys are counted, not named.
pub(super) fn described((id, rule): &(u32, Rule)) -> String {
    let names = match rule.kind() {
        Some(RuleKind::Keys) if rule.keys.len() == 1 => "1 key".to_owned(),
        Some(RuleKind::Keys) => format!("{} keys", rule.keys.len()),
        Some(RuleKind::Prefix) => format!("prefix {:?}", rule.prefix.as_deref().unwrap_or_default()),
        Some(RuleKind::Range) => {
            let [first, last] = rule.range.clone().unwrap_or_default();
            format!("range {first} to {last}")
        }
        Some(RuleKind::Hash) => {
            let [first, end] = rule.hash.unwrap_or_default();
            format!("hash {first} to {end} %")
        }
        Some(RuleKind::Default) => "default".to_owned(),
        None => "no keys".to_owned(),
    };
    format!("rule {id} of {} ({names}, unit {})", rule.dimension, rule.unit)
}
