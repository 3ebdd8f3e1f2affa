//! What a new book changes, in words.

use crate::routing::record::Book;
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
            Some(other) if other != spec => lines.push(format!("dimension {} has other settings", spec.name)),
            Some(_) => {}
        }
    }
    let new = book.rules.iter().filter(|rule| !old.rules.contains(rule));
    lines.extend(new.map(|rule| format!("{} is added", described(rule))));
    lines
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
