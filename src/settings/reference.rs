//! The documented configuration file: every key with its description and default (C3).

use std::fmt::Write;

use super::Settings;
use super::schema::{Child, Node, Schema};

/// The text of `config/relay.toml`.
///
/// # Errors
/// If the defaults cannot be written as TOML, which would be a mistake in a component's settings.
pub fn reference() -> Result<String, toml::ser::Error> {
    let schema = Schema::new();
    let defaults = toml::to_string(&Settings::default())?;
    let mut out = INTRODUCTION.to_owned();
    let mut table = Table::new(String::new(), schema.root());
    for line in defaults.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table.finish(&mut out);
            table = Table::new(name.to_owned(), node_at(&schema, name));
            table.start(&mut out);
        } else if let Some((key, value)) = line.split_once(" = ") {
            table.key(&mut out, key, value);
        }
    }
    table.finish(&mut out);
    Ok(out)
}

const INTRODUCTION: &str = "\
# Configuration of a Strait relay: keys with their defaults. Copy what you change; the rest may be left out.
#
# Order: built-in defaults, this file, pairs/<geo>--<geo>.toml next to it that name this relay's Geo,
# environment variables (STRAIT__RELAY__SHARDS=2), flags (--set relay.shards=2). Later ones win; lists are
# replaced as a whole. Durations and sizes carry units (\"30s\", \"64MiB\").
#
# `strait config check` finds mistakes, `strait config show` says where each value came from, `strait config schema` has
# also the rarer keys of services, units and rules.
";

/// Tables whose keys the operator names; each with an example.
const OPEN: [(&str, &str); 9] = [
    (
        "peer.trust",
        "# cn-east = \"certs/cn-east-ca.pem\"\n# sg = \"certs/sg-ca.pem\"\n",
    ),
    ("peer.crls", "# sg = [\"certs/sg.crl\"]\n"),
    ("retry.services", "# \"im.Echo\" = false\n"),
    ("retry.units", "# b = false\n"),
    (
        "units",
        "# [units.b]\n# geo = \"sg\"\n# dial = true\n# access = [\"wss://b.example.com/ws\"]\n# [[units.b.relays]]\n# name = \"b-1\"\n# addresses = [\"relay-b1.example:7443\"]\n",
    ),
    (
        "services",
        "# [services.\"im.Echo\"]\n# endpoints = [\"http://127.0.0.1:9000\", \"unix:/run/echo.sock\"]\n# timeout = \"30s\"\n# missing_key = \"reject\"\n# waiting_max = 1024\n",
    ),
    (
        "calls.route",
        "# [calls.route.\"im.Chat\"]\n# dimensions = [\"im.conversation\", \"im.user\"]\n# reads = [\"History\"]\n# methods.Invite.dimensions = [\"im.user\"]\n# on_failure = \"park\"          # while the owner is away\n# parked_as = \"unavailable\"\n# away_by = \"quorum\"         # or: \"own-links\", whatever other units say\n# rejected_to = \"im.rejected\"   # topic where services here hear what owners refuse\n# kept_to = \"im.kept\"          # topic where services here hear what is kept\n# methods.Post.on_failure = \"local\"\n",
    ),
    ("replay.units", REPLAY),
    ("topics", TOPICS),
];

/// Lists of tables, each with an example.
const LISTS: [(&str, &str, &str); 3] = [
    ("ingress", "identities", IDENTITIES),
    ("routing", "rules", RULES),
    ("routes", "dimension", DIMENSIONS),
];

const DIMENSIONS: &str = "\
# [[routes.dimension]]
# name = \"im.conversation\"
# placement = \"claim\"          # the first writer has a key that no rule matches; or: \"rules\"
# owner_lease = \"infinite\"     # or whole seconds from 7s to 1h: how long a relay without the store admits writes
# new_keys = [{ class = \"gold\", to = [{ unit = \"b\", weight = 1 }] }]
# claim_fallback = \"deterministic\"   # new keys while the store is away: placed alike by all, claimed later; or: \"deny\"
# hooks = { service = \"im.OwnerControl\" }   # is asked while keys move: strait/v1/owner_control.proto
# freeze_reads = true          # methods that only read (calls.route) wait for moves as writes do
# tokens = \"short\"             # how long route tokens are good for: usual, short, long or none
";

const RULES: &str = "\
# [[routing.rules]]
# dimension = \"im.conversation\"
# prefix = \"cid:1\"            # or: keys = [..] | range = [\"1000\", \"1999\"] | hash = [0, 50] | default = true
# unit = \"b\"
";

const REPLAY: &str = "\
# [replay.units.b.limits]
# messages_per_second = 500.0
# bytes_per_second = \"1MiB\"
# burst = 50
# [replay.units.b.topics.\"chat.edits\"]
# messages_per_second = 100.0
";

const TOPICS: &str = "\
# [topics.\"chat.*\"]             # all topics that begin so and have no longer match
# rule = \"owner\"               # or: \"all\", \"local\", \"units\" with units = [\"a\", \"b\"]
# ordered = true
# ttl = \"1day\"
# on_expiry = \"drop\"           # or: \"dead-letter\"
# bytes_max = \"1GiB\"
# overflow = \"reject-new\"      # or: \"drop-oldest\"
# priority = \"normal\"          # or: \"low\": refused earlier when the disk gets full
# exhausted = \"dlq-and-continue\" # or: \"block-key\", \"dlq-rest-of-key\"
# visibility_timeout = \"30s\"
# [topics.\"chat.*\".retry]
# first = \"1s\"
# longest = \"5m\"
# attempts = 16
# [topics.\"chat.*\".groups.archive.push]
# service = \"im.Archive\"
# method = \"Receive\"
# in_flight_max = 64
";

const IDENTITIES: &str = "\
# [[ingress.identities]]
# uid = 1001
# service = \"im.Gateway\"
";

struct Table<'s> {
    name: String,
    node: Option<Node<'s>>,
    written: Vec<String>,
}

impl<'s> Table<'s> {
    fn new(name: String, node: impl Into<Option<Node<'s>>>) -> Self {
        Self {
            name,
            node: node.into(),
            written: Vec::new(),
        }
    }

    fn start(&self, out: &mut String) {
        out.push('\n');
        comment(out, self.node.and_then(Node::description).unwrap_or_default());
        let _ = writeln!(out, "[{}]", self.name);
    }

    fn key(&mut self, out: &mut String, key: &str, value: &str) {
        self.written.push(key.to_owned());
        // An empty list of tables would forbid the [[tables]] themselves; its example stands for it, at the end.
        if !self.is_list_of_tables(key) {
            comment(out, self.description(key));
            let _ = writeln!(out, "{key} = {value}");
        }
    }

    /// Adds the keys that have no default, as comments, and examples.
    fn finish(&self, out: &mut String) {
        for key in self.node.into_iter().flat_map(Node::keys) {
            let is_table =
                matches!(self.node.map(|node| node.child(key)), Some(Child::Known(child)) if child.is_table());
            if is_table || self.written.iter().any(|written| written == key) {
                continue;
            }
            comment(out, self.description(key));
            let _ = writeln!(out, "# {key} = \"\"");
        }
        if let Some((_, example)) = OPEN.iter().find(|(name, _)| *name == self.name) {
            out.push_str(example);
        }
        for (name, key, example) in LISTS {
            if name == self.name {
                comment(out, self.description(key));
                out.push_str(example);
            }
        }
    }

    fn is_list_of_tables(&self, key: &str) -> bool {
        match self.node.map(|node| node.child(key)) {
            Some(Child::Known(child)) => child.element().is_some_and(Node::is_table),
            _ => false,
        }
    }

    fn description(&self, key: &str) -> &'s str {
        match self.node.map(|node| node.child(key)) {
            Some(Child::Known(child)) => child.description().unwrap_or_default(),
            _ => "",
        }
    }
}

fn node_at<'s>(schema: &'s Schema, name: &str) -> Option<Node<'s>> {
    name.split('.')
        .try_fold(schema.root(), |node, key| match node.child(key) {
            Child::Known(child) => Some(child),
            Child::Unknown(_) => None,
        })
}

/// Writes a doc comment as TOML comments.
fn comment(out: &mut String, text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.len() + word.len() + 3 > WIDTH {
            let _ = writeln!(out, "# {line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        let _ = writeln!(out, "# {line}");
    }
}

const WIDTH: usize = 110;
