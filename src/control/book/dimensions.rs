//! Kinds of keys: what may change about them while keys have owners.

use crate::routing::record::{Book, DimensionSpec, Lease, Placement};

/// Takes over what is configured about dimensions.
pub(super) fn merge(book: &mut Book, configured: &Book) -> Result<(), String> {
    let names = |specs: &[DimensionSpec]| -> Vec<_> { specs.iter().map(|spec| spec.name.clone()).collect() };
    let (published, wanted) = (names(&book.dimensions), names(&configured.dimensions));
    if let Some(missing) = published.iter().find(|name| !wanted.contains(name)) {
        return Err(format!(
            "dimension {missing} is published and not in routing.dimensions; put it back, its keys have owners"
        ));
    }
    if !wanted.starts_with(&published) {
        let order: Vec<_> = published.iter().map(ToString::to_string).collect();
        return Err(format!(
            "routing.dimensions must begin with {}, in this order, as they are published: a call with keys of several \
             dimensions goes by the first of them, and would go elsewhere",
            order.join(", ")
        ));
    }
    for (old, new) in book.dimensions.iter().zip(&configured.dimensions) {
        check(old, new)?;
    }
    book.dimensions.clone_from(&configured.dimensions);
    Ok(())
}

fn check(old: &DimensionSpec, new: &DimensionSpec) -> Result<(), String> {
    let name = &old.name;
    if matches!(
        (&old.placement, &new.placement),
        (Placement::Claim(_), Placement::Rules)
    ) {
        return Err(format!(
            "the keys of dimension {name} are claimed and would lose their owners with placement = \"rules\"; leave it at claim"
        ));
    }
    if new.owner_lease < old.owner_lease {
        return Err(format!(
            "dimension {name}: owner_lease is published as {} and cannot become {}: relays that have not heard of it would go on \
             longer than others wait for them",
            shown(old.owner_lease),
            shown(new.owner_lease)
        ));
    }
    if new.key_bytes_max < old.key_bytes_max {
        return Err(format!(
            "dimension {name}: key_bytes_max is published as {} and cannot become {}: longer keys may have owners",
            old.key_bytes_max, new.key_bytes_max
        ));
    }
    Ok(())
}

fn shown(lease: Lease) -> String {
    String::from(lease)
}
