//! One TOML file, with the line of each value, and without the keys that do not exist.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::path;
use super::problem::Problems;
use super::schema::{Child, Node, Schema, unknown_key};

/// What a file gives.
#[derive(Default)]
pub(super) struct Document {
    /// Its values; each knows file and line.
    pub(super) values: Map<String, Value>,
    /// File and line of each table and value.
    pub(super) places: BTreeMap<String, String>,
}

impl Document {
    /// Reads a file. Mistakes go to `problems`; what is right is returned all the same.
    pub(super) fn read(name: &str, text: &str, schema: &Schema, problems: &mut Problems) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::new(text);
        for error in &errors {
            let line = error.span().map_or(1, |span| lines.line(span.start));
            problems.add(
                Some(format!("{name}:{line}")),
                "",
                format!("not TOML: {}", error.message()),
            );
        }
        if !errors.is_empty() {
            return Self::default();
        }
        let mut reader = Reader {
            name,
            lines,
            problems,
            places: BTreeMap::new(),
        };
        let values = reader.table(table.get_ref(), schema.root(), "");
        Self {
            values,
            places: reader.places,
        }
    }
}

struct Reader<'a> {
    name: &'a str,
    lines: Lines,
    problems: &'a mut Problems,
    places: BTreeMap<String, String>,
}

impl Reader<'_> {
    fn table(&mut self, table: &DeTable<'_>, node: Node<'_>, path: &str) -> Map<String, Value> {
        let mut values = Map::new();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let child_path = path::join(path, name);
            let place = format!("{}:{}", self.name, self.lines.line(key.span().start));
            match node.child(name) {
                Child::Known(child) => {
                    self.places.insert(child_path.clone(), place);
                    values.insert(name.to_owned(), self.value(value, child, &child_path));
                }
                Child::Unknown(known) => self.problems.add(Some(place), child_path, unknown_key(name, &known)),
            }
        }
        values
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, node: Node<'_>, path: &str) -> Value {
        let place = format!("{}:{}", self.name, self.lines.line(value.span().start));
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.as_ref().to_owned()),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => ValueKind::I64(number),
                Err(_) => ValueKind::String(number.to_string()),
            },
            DeValue::Float(number) => match number.as_str().parse() {
                Ok(number) => ValueKind::Float(number),
                Err(_) => ValueKind::String(number.to_string()),
            },
            DeValue::Boolean(value) => ValueKind::Boolean(*value),
            DeValue::Datetime(time) => ValueKind::String(time.to_string()),
            DeValue::Table(table) if node.is_table() => ValueKind::Table(self.table(table, node, path)),
            // A table where none belongs: serde says what does.
            DeValue::Table(_) => ValueKind::Table(Map::new()),
            DeValue::Array(list) => ValueKind::Array(
                list.iter()
                    .enumerate()
                    .map(|(index, value)| {
                        let path = path::element(path, index);
                        let line = self.lines.line(value.span().start);
                        self.places.insert(path.clone(), format!("{}:{line}", self.name));
                        self.value(value, node.element().unwrap_or(node), &path)
                    })
                    .collect(),
            ),
        };
        Value::new(Some(&place), kind)
    }
}

/// Offsets of line ends.
struct Lines(Vec<usize>);

impl Lines {
    fn new(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(offset, _)| offset).collect())
    }

    /// Line of an offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.0.partition_point(|end| *end < offset) + 1
    }
}
