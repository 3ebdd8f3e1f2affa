//! Rules: those that are new must leave all keys with the owners they have.

use std::collections::BTreeSet;

use super::Decided;
use super::changes::described;
use crate::model::{Name, UnitId};
use crate::routing::record::{Book, DimensionSpec, NodeId, Placement, Rev};
use crate::routing::{Rule, RuleKind, bucket};

/// Asks what was decided about a rule or a bucket.
type Ask<'a> = &'a mut dyn FnMut(&NodeId) -> Decided;

/// A rule that is published, and its id.
type Known = (u32, Rule);

/// Adds the rules that are new, with ids that none had.
pub(super) fn merge(book: &mut Book, published: &Book, configured: &Book, decided: Ask<'_>) -> Result<(), String> {
    let mut found = BTreeSet::new();
    let mut next = published.rules.iter().map(|(id, _)| *id).max().unwrap_or_default();
    for (_, rule) in &configured.rules {
        let known = published.rules.iter().find(|(_, known)| is_same(known, rule));
        if let Some(known) = known {
            keeps_owner(known, rule, decided)?;
            found.insert(known.0);
            continue;
        }
        next = next.checked_add(1).ok_or("no ids are left for rules")?;
        let spec = published.dimensions.iter().find(|spec| spec.name == rule.dimension);
        if let Some(spec) = spec {
            let since = takes_nothing((next, rule), spec, published, decided)?;
            if since > Rev::ZERO {
                book.since.insert(next, since);
            }
        }
        book.rules.push((next, rule.clone()));
    }
    match published.rules.iter().find(|(id, _)| !found.contains(id)) {
        None => Ok(()),
        Some(gone) => Err(format!(
            "{} is published and not configured any more; its keys would have another owner or none. Put it back into [routing]",
            described(gone)
        )),
    }
}

/// Whether two rules name the same keys, whoever owns them.
fn is_same(a: &Rule, b: &Rule) -> bool {
    let keys = |rule: &Rule| -> BTreeSet<String> { rule.keys.iter().cloned().collect() };
    a.dimension == b.dimension
        && a.prefix == b.prefix
        && a.range == b.range
        && a.hash == b.hash
        && a.default == b.default
        && keys(a) == keys(b)
}

/// A rule that is published may name another unit only if its keys belong to that one by now.
fn keeps_owner(known: &Known, rule: &Rule, decided: Ask<'_>) -> Result<(), String> {
    let (id, published) = known;
    if published.unit == rule.unit {
        return Ok(());
    }
    let is_there =
        |node: &NodeId, decided: Ask<'_>| matches!(decided(node), Decided::Unit(unit, _) if unit == rule.unit);
    let dimension = &rule.dimension;
    let all = match published.buckets() {
        Some(mut buckets) => buckets.all(|bucket| is_there(&bucket_of(dimension, bucket), decided)),
        None => is_there(&rule_of(dimension, *id), decided),
    };
    if all {
        return Ok(());
    }
    Err(format!(
        "{} is configured with unit {}, and publishing changes no owners; move its keys first: strait route move --rule \
         {dimension}={id} --to {}",
        described(known),
        rule.unit,
        rule.unit
    ))
}

/// A new rule may name only keys without owner, and keys of its own unit. Since when it has those, at the latest.
fn takes_nothing(
    (id, rule): (u32, &Rule),
    spec: &DimensionSpec,
    published: &Book,
    decided: Ask<'_>,
) -> Result<Rev, String> {
    let dimension = &rule.dimension;
    if let Placement::Claim(_) = spec.placement {
        return Err(format!(
            "{} is new, and keys of dimension {dimension} that it names may be claimed; take it out, and give single keys with \
             `strait route set` or `strait route move`",
            described(&(id, rule.clone()))
        ));
    }
    let rules: Vec<_> = published
        .rules
        .iter()
        .filter(|(_, old)| old.dimension == *dimension)
        .collect();
    // What was decided about buckets counts again when a rule has them. All are asked for at once: each may have to be read.
    let buckets = rule.buckets().into_iter().flatten();
    let of_buckets: Vec<_> = buckets.map(|bucket| decided(&bucket_of(dimension, bucket))).collect();
    let fits = |of_bucket: &Decided| match of_bucket {
        Decided::Nothing(_) => true,
        Decided::Unit(unit, _) => *unit == rule.unit,
        Decided::Unclear => false,
    };
    if !of_buckets.iter().all(fits) {
        return Err(format!(
            "{} is new and has buckets that belong to other units or are being moved; configure shares that leave them out",
            described(&(id, rule.clone()))
        ));
    }
    let mut latest = Rev::ZERO;
    for narrowed in narrowed(rule, &rules) {
        let owner = match owner(narrowed, decided) {
            Some((owner, since)) if owner == rule.unit => {
                let of_rule = published.since.get(&narrowed.0).copied().unwrap_or_default();
                latest = latest.max(since).max(of_rule);
                continue;
            }
            owner => owner.map(|(owner, _)| owner),
        };
        let new = described(&(id, rule.clone()));
        let old = described(narrowed);
        return Err(match owner {
            Some(owner) => format!(
                "{new} is new and would take keys of {old} from unit {owner}, and publishing changes no owners. Configure it with \
                 unit = \"{owner}\", publish, then: strait route move --rule {dimension}={id} --to {}",
                rule.unit
            ),
            None => format!(
                "{new} is new and would take keys of {old}, which are being moved or lie in buckets that have owners of their own; \
                 move the keys themselves: strait route move"
            ),
        });
    }
    Ok(latest)
}

/// Published rules that keys of a new one may go by until now.
fn narrowed<'a>(rule: &Rule, published: &[&'a Known]) -> Vec<&'a Known> {
    let of = |kinds: &[RuleKind]| -> Vec<&'a Known> {
        let fits = |known: &&&Known| known.1.kind().is_some_and(|kind| kinds.contains(&kind));
        published.iter().filter(fits).copied().collect()
    };
    match rule.kind() {
        Some(RuleKind::Keys) => {
            let mut found = BTreeSet::new();
            for key in &rule.keys {
                found.extend(by_key(key.as_bytes(), published).map(|known| known.0));
            }
            published
                .iter()
                .filter(|known| found.contains(&known.0))
                .copied()
                .collect()
        }
        Some(RuleKind::Prefix) => {
            let prefix = rule.prefix.as_deref().unwrap_or_default();
            match longest_prefix(prefix.as_bytes(), published) {
                Some(parent) => vec![parent],
                None if prefix.bytes().all(|byte| byte.is_ascii_digit()) => {
                    of(&[RuleKind::Range, RuleKind::Hash, RuleKind::Default])
                }
                None => of(&[RuleKind::Hash, RuleKind::Default]),
            }
        }
        Some(RuleKind::Range) => of(&[RuleKind::Hash, RuleKind::Default]),
        Some(RuleKind::Hash) => of(&[RuleKind::Default]),
        Some(RuleKind::Default) | None => Vec::new(),
    }
}

/// The rule that a key goes by.
fn by_key<'a>(key: &[u8], published: &[&'a Known]) -> Option<&'a Known> {
    let of = |kind: RuleKind| {
        published
            .iter()
            .copied()
            .filter(move |known| known.1.kind() == Some(kind))
    };
    let exact = of(RuleKind::Keys).find(|known| known.1.names(key));
    let best = exact
        .or_else(|| longest_prefix(key, published))
        .or_else(|| of(RuleKind::Range).find(|known| known.1.names(key)));
    let hashed = |known: &&Known| known.1.buckets().is_some_and(|buckets| buckets.contains(&bucket(key)));
    let best = best.or_else(|| of(RuleKind::Hash).find(hashed));
    best.or_else(|| of(RuleKind::Default).next())
}

fn longest_prefix<'a>(text: &[u8], published: &[&'a Known]) -> Option<&'a Known> {
    let prefix = |known: &&'a Known| known.1.prefix.as_ref().map_or(0, String::len);
    let fits = published
        .iter()
        .copied()
        .filter(|known| known.1.prefix.is_some() && known.1.names(text));
    fits.max_by_key(prefix)
}

/// Who has all keys of a rule, and since when; `None` if that is not one unit at rest.
fn owner((id, rule): &Known, decided: Ask<'_>) -> Option<(UnitId, Rev)> {
    if rule.hash.is_some() {
        return None;
    }
    match decided(&rule_of(&rule.dimension, *id)) {
        Decided::Nothing(since) => Some((rule.unit.clone(), since)),
        Decided::Unit(unit, since) => Some((unit, since)),
        Decided::Unclear => None,
    }
}

fn rule_of(dimension: &Name, rule: u32) -> NodeId {
    let dimension = dimension.clone();
    NodeId::Rule { dimension, rule }
}

fn bucket_of(dimension: &Name, bucket: u16) -> NodeId {
    let dimension = dimension.clone();
    NodeId::Bucket { dimension, bucket }
}
