//! What is owned: three units, three kinds of keys, and the keys that callers use.

use bytes::Bytes;

use crate::model::{Key, Name, RouteHints, UnitId};
use crate::routing::record::{Book, DimensionSpec, KeyBytes, Lease, NodeId};
use crate::routing::{Rule, bucket};

/// A key that callers use, and the company that comes with it.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub dimension: Name,
    pub key: String,
    pub company: String,
}

pub(super) const UNITS: [&str; 3] = ["a", "b", "c"];
const COMPANIES: usize = 3;
const USERS: usize = 5;
/// Keys of the dimension whose keys are claimed.
const CONVERSATIONS: usize = 8;

pub(super) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// All keys.
pub(super) fn subjects() -> Vec<Subject> {
    let subject = |dimension: &str, key: String, number: usize| Subject {
        dimension: name(dimension),
        key,
        company: company(number),
    };
    let conversations = (0..CONVERSATIONS).map(|number| subject("cid", format!("c{number}"), number));
    let users = (0..USERS).map(|number| subject("uid", format!("u{number}"), number));
    let companies = (0..COMPANIES).map(|number| subject("org", company(number), number));
    conversations.chain(users).chain(companies).collect()
}

/// The one with an `x` has a rule of its own.
pub(super) fn company(number: usize) -> String {
    let first = if number.is_multiple_of(COMPANIES) { "x" } else { "o" };
    format!("{first}{}", number % COMPANIES)
}

impl Subject {
    pub(super) fn is_claimed(&self) -> bool {
        self.dimension.as_str() == "cid"
    }

    pub(super) fn bytes(&self) -> KeyBytes {
        self.key.as_str().into()
    }

    pub(super) fn hints(&self) -> RouteHints {
        let mut keys = vec![key(self.dimension.as_str(), &self.key)];
        if self.is_claimed() {
            keys.push(key("org", &self.company));
        }
        RouteHints {
            keys,
            ..RouteHints::default()
        }
    }

    /// The node of the key alone.
    pub(super) fn node(&self) -> NodeId {
        NodeId::Key {
            dimension: self.dimension.clone(),
            key: self.bytes(),
        }
    }

    /// The bucket or the rule that decides about the key.
    pub(super) fn wider_node(&self) -> NodeId {
        let dimension = self.dimension.clone();
        match self.dimension.as_str() {
            "uid" => NodeId::Bucket {
                dimension,
                bucket: bucket(self.key.as_bytes()),
            },
            "org" if self.key.starts_with('x') => NodeId::Rule { dimension, rule: 3 },
            "org" => NodeId::Rule { dimension, rule: 4 },
            _ => NodeId::Key {
                dimension: name("org"),
                key: self.company.as_str().into(),
            },
        }
    }
}

fn key(dimension: &str, key: &str) -> Key {
    Key {
        dimension: Bytes::copy_from_slice(dimension.as_bytes()),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

fn rule(dimension: &str, unit: &str) -> Rule {
    Rule {
        dimension: name(dimension),
        unit: name(unit),
        keys: Vec::new(),
        prefix: None,
        range: None,
        hash: None,
        default: false,
    }
}

/// What is published. Users are in buckets, companies have rules, conversations are claimed.
pub(super) fn book(leases: [Lease; 3]) -> Book {
    let dimension = |text: &str, placement: serde_json::Value, owner_lease| DimensionSpec {
        owner_lease,
        ..serde_json::from_value(
            serde_json::json!({ "name": text, "placement": placement, "hooks": { "service": "im.OwnerControl" } }),
        )
        .unwrap()
    };
    let [conversations, users, companies] = leases;
    let share = |unit, hash| Rule {
        hash: Some(hash),
        ..rule("uid", unit)
    };
    let prefix = Rule {
        prefix: Some("x".to_owned()),
        ..rule("org", "c")
    };
    let rest = Rule {
        default: true,
        ..rule("org", "a")
    };
    Book {
        units: UNITS.map(name).to_vec(),
        dimensions: vec![
            dimension(
                "cid",
                serde_json::json!({ "claim": [{ "follow": "org", "percent": 50 }] }),
                conversations,
            ),
            dimension("uid", "rules".into(), users),
            dimension("org", "rules".into(), companies),
        ],
        rules: vec![
            (1, share("a", [0.0, 50.0])),
            (2, share("b", [50.0, 100.0])),
            (3, prefix),
            (4, rest),
        ],
        ..Book::default()
    }
}

pub(super) fn unit(number: usize) -> UnitId {
    name(UNITS[number])
}
