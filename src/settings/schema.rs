//! What keys there are and what they hold, read from the JSON schema of [`Settings`].

use serde_json::Value;

use super::Settings;

/// The JSON schema of the settings.
pub struct Schema(Value);

/// The schema of one value.
#[derive(Clone, Copy)]
pub(super) struct Node<'s> {
    root: &'s Value,
    node: &'s Value,
}

/// What a key of a table is.
pub(super) enum Child<'s> {
    /// A key with this schema.
    Known(Node<'s>),
    /// No such key; these there are.
    Unknown(Vec<&'s str>),
}

impl Schema {
    /// The schema of the settings.
    pub fn new() -> Self {
        Self(schemars::schema_for!(Settings).to_value())
    }

    /// The schema as JSON.
    pub fn json(&self) -> &Value {
        &self.0
    }

    pub(super) fn root(&self) -> Node<'_> {
        Node {
            root: &self.0,
            node: &self.0,
        }
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

impl Schema {
    /// The value at a path.
    pub(super) fn at(&self, path: &serde_path_to_error::Path) -> Option<Node<'_>> {
        use serde_path_to_error::Segment;
        path.iter().try_fold(self.root(), |node, segment| match segment {
            Segment::Map { key } => match node.child(key) {
                Child::Known(child) => Some(child),
                Child::Unknown(_) => None,
            },
            Segment::Seq { .. } => node.element(),
            Segment::Enum { .. } | Segment::Unknown => Some(node),
        })
    }
}

impl<'s> Node<'s> {
    /// The words that it may be, if it is one of some.
    pub(super) fn words(self) -> Vec<&'s str> {
        let node = self.resolved().node;
        let several = node
            .get("oneOf")
            .or_else(|| node.get("anyOf"))
            .and_then(Value::as_array);
        if let Some(several) = several {
            return several.iter().flat_map(|one| self.at(one).words()).collect();
        }
        let list = node.get("enum").and_then(Value::as_array);
        let all = list.into_iter().flatten().chain(node.get("const"));
        all.filter_map(Value::as_str).collect()
    }

    /// A key of a table.
    pub(super) fn child(self, key: &str) -> Child<'s> {
        let node = self.resolved().node;
        let properties = node.get("properties").and_then(Value::as_object);
        if let Some(child) = properties.and_then(|properties| properties.get(key)) {
            return Child::Known(self.at(child));
        }
        let any = node
            .get("patternProperties")
            .and_then(Value::as_object)
            .and_then(|patterns| patterns.values().next())
            .or_else(|| node.get("additionalProperties").filter(|schema| schema.is_object()));
        if let Some(child) = any {
            return Child::Known(self.at(child));
        }
        Child::Unknown(properties.into_iter().flatten().map(|(key, _)| key.as_str()).collect())
    }

    /// An element of a list.
    pub(super) fn element(self) -> Option<Node<'s>> {
        self.resolved().node.get("items").map(|items| self.at(items))
    }

    /// Whether it may hold a value of this JSON type.
    pub(super) fn may_be(self, kind: &str) -> bool {
        let node = self.resolved().node;
        if let Some(several) = node
            .get("oneOf")
            .or_else(|| node.get("anyOf"))
            .and_then(Value::as_array)
        {
            return several.iter().any(|one| self.at(one).may_be(kind));
        }
        match node.get("type") {
            Some(Value::String(one)) => one == kind,
            Some(Value::Array(several)) => several.iter().any(|one| one == kind),
            // A constant of an enumeration.
            _ => kind == "string" && (node.get("const").is_some() || node.get("enum").is_some()),
        }
    }

    /// Whether it is a table.
    pub(super) fn is_table(self) -> bool {
        self.may_be("object")
    }

    /// The doc comment.
    pub(super) fn description(self) -> Option<&'s str> {
        let own = self.node.get("description");
        own.or_else(|| self.resolved().node.get("description"))?.as_str()
    }

    /// Keys of the table in alphabetical order.
    pub(super) fn keys(self) -> impl Iterator<Item = &'s str> {
        let properties = self.resolved().node.get("properties").and_then(Value::as_object);
        properties.into_iter().flatten().map(|(key, _)| key.as_str())
    }

    fn at(self, node: &'s Value) -> Self {
        Self { root: self.root, node }
    }

    /// Follows references and looks through `Option`.
    fn resolved(self) -> Self {
        let mut node = self.node;
        loop {
            let reference = node.get("$ref").and_then(Value::as_str);
            let target = reference.and_then(|reference| self.root.pointer(reference.trim_start_matches('#')));
            let inner = || {
                let several = node.get("anyOf")?.as_array()?;
                let mut others = several
                    .iter()
                    .filter(|one| one.get("type").is_none_or(|kind| kind != "null"));
                others.next().filter(|_| others.next().is_none())
            };
            match target.or_else(inner) {
                Some(next) => node = next,
                None => return self.at(node),
            }
        }
    }
}

/// The known key that was probably meant.
pub(super) fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let key = key.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(&key, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What to say about a key that does not exist.
pub(super) fn unknown_key(key: &str, known: &[&str]) -> String {
    if let Some(nearest) = nearest(key, known) {
        return format!("unknown key; did you mean {nearest:?}?");
    }
    match known {
        [] => "unknown key; this value has no keys".to_owned(),
        known => format!("unknown key; there are {}", known.join(", ")),
    }
}
