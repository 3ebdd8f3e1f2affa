//! Keys and what was decided about them as CSV (RFC 4180), and keys of a JSON export.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

use super::CliError;
use crate::control::operator::{Answer, NodeRow};
use crate::model::{Name, UnitId};
use crate::routing::record::{KeyBytes, NodeId, State, Target};

/// A dimension and a key of it.
pub(super) type Key = (Name, KeyBytes);

/// A key, and the unit beside it.
pub(super) type Row = (Key, Option<UnitId>);

/// A line by number: a key, nothing (it is about something else), or why it cannot be read.
pub(super) type Line = (usize, Result<Option<Row>, String>);

/// The text of a file; `-` is standard input.
pub(super) fn read(file: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|mut file| file.read_to_string(&mut text))
    };
    read.map_err(|source| CliError::File {
        path: file.to_path_buf(),
        source,
    })?;
    Ok(text)
}

/// Writes what `strait route export` gives. The first line names the columns.
pub(super) fn write_nodes(nodes: &[NodeRow], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", HEADER.join(","))?;
    for node in nodes {
        let (kind, dimension, key, number) = match &node.id {
            NodeId::Key { dimension, key } => ("key", dimension.to_string(), String::from(key.clone()), String::new()),
            NodeId::Bucket { dimension, bucket } => {
                ("bucket", dimension.to_string(), String::new(), bucket.to_string())
            }
            NodeId::Rule { dimension, rule } => ("rule", dimension.to_string(), String::new(), rule.to_string()),
            NodeId::Unit(_) => ("unit", String::new(), String::new(), String::new()),
        };
        let (unit, follows) = match &node.target {
            Target::Unit(unit) => (unit.to_string(), String::new()),
            Target::Follow(dimension) => (String::new(), dimension.to_string()),
            Target::Group { dimension, key } => (String::new(), format!("{dimension}={}", String::from(key.clone()))),
        };
        let previous = node.previous.as_ref().map_or_else(String::new, ToString::to_string);
        let cells = [
            dimension,
            key,
            unit,
            kind.to_owned(),
            number,
            follows,
            state(&node.state).to_owned(),
            node.rev.to_string(),
            previous,
            node.reason.clone(),
        ];
        writeln!(out, "{}", cells.map(|cell| quoted(&cell)).join(","))?;
    }
    Ok(())
}

/// A word for a state.
pub(super) fn state(state: &State) -> &'static str {
    match state {
        State::Active => "active",
        State::Migrating { .. } => "migrating",
        State::Frozen { .. } => "frozen",
        State::Draining => "draining",
        State::Fencing { .. } => "fencing",
        State::Evacuated { .. } => "evacuated",
        State::Returning { .. } => "returning",
        State::Tombstone => "tombstone",
    }
}

/// Keys of a text: CSV with or without a first line that names columns, or the JSON of an export.
pub(super) fn keys(text: &str) -> Vec<Result<Line, String>> {
    if text.trim_start().starts_with('{') {
        return from_json(text);
    }
    let mut rows = rows(text).into_iter().peekable();
    let first = rows.next_if(|(_, row)| {
        row.as_ref()
            .is_ok_and(|row| row.first().is_some_and(|cell| cell == "dimension"))
    });
    let columns = match first.map(|(_, row)| row) {
        Some(Ok(names)) => Columns::named(&names),
        _ => Ok(Columns::PLAIN),
    };
    let columns = match columns {
        Ok(columns) => columns,
        Err(why) => return vec![Err(why)],
    };
    rows.map(|(number, row)| Ok((number, row.and_then(|row| columns.read(&row)))))
        .collect()
}

fn from_json(text: &str) -> Vec<Result<Line, String>> {
    let nodes = match serde_json::from_str(text) {
        Ok(Answer::Nodes(nodes)) => nodes,
        Ok(_) => return vec![Err("this JSON is no export of routes".to_owned())],
        Err(error) => return vec![Err(format!("no export of routes: {error}"))],
    };
    let row = |node: NodeRow| match (node.id, node.target, node.state) {
        (NodeId::Key { .. }, _, State::Tombstone) => Ok(None),
        (NodeId::Key { dimension, key }, Target::Unit(unit), _) => Ok(Some(((dimension, key), Some(unit)))),
        (NodeId::Key { .. }, ..) => Err(FOLLOWS.to_owned()),
        _ => Ok(None),
    };
    (1..).zip(nodes).map(|(number, node)| Ok((number, row(node)))).collect()
}

/// Where a line has what.
struct Columns {
    dimension: usize,
    key: usize,
    unit: Option<usize>,
    kind: Option<usize>,
    follows: Option<usize>,
    state: Option<usize>,
}

impl Columns {
    const PLAIN: Self = Self {
        dimension: 0,
        key: 1,
        unit: Some(2),
        kind: None,
        follows: None,
        state: None,
    };

    fn named(names: &[String]) -> Result<Self, String> {
        let find = |name: &str| names.iter().position(|other| other == name);
        Ok(Self {
            dimension: 0,
            key: find("key").ok_or("the first line names no column \"key\"")?,
            unit: find("unit"),
            kind: find("kind"),
            follows: find("follows"),
            state: find("state"),
        })
    }

    fn read(&self, row: &[String]) -> Result<Option<Row>, String> {
        let cell = |column: Option<usize>| column.and_then(|column| row.get(column)).map_or("", String::as_str);
        let is_key = matches!(cell(self.kind), "" | "key");
        if !is_key || cell(self.state) == "tombstone" {
            return Ok(None);
        }
        if !cell(self.follows).is_empty() {
            return Err(FOLLOWS.to_owned());
        }
        let dimension = Name::new(cell(Some(self.dimension))).map_err(|error| format!("dimension: {error}"))?;
        let key =
            KeyBytes::try_from(cell(Some(self.key)).to_owned()).map_err(|error| format!("key: no base64: {error}"))?;
        if key.0.is_empty() {
            return Err("the key is missing; a line is dimension,key,unit".to_owned());
        }
        let unit = match cell(self.unit) {
            "" => None,
            unit => Some(Name::new(unit).map_err(|error| format!("unit: {error}"))?),
        };
        Ok(Some(((dimension, key), unit)))
    }
}

/// Rows with the number of the line that each begins at; empty lines are none.
fn rows(text: &str) -> Vec<(usize, Result<Vec<String>, String>)> {
    let mut rows = Vec::new();
    let mut reader = Reader {
        rest: text.chars().peekable(),
        line: 1,
    };
    while reader.rest.peek().is_some() {
        let number = reader.line;
        let row = reader.row();
        if row.as_ref().map_or(true, |row| row.iter().any(|cell| !cell.is_empty())) {
            rows.push((number, row));
        }
    }
    rows
}

struct Reader<'a> {
    rest: std::iter::Peekable<std::str::Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn row(&mut self) -> Result<Vec<String>, String> {
        let mut row = Vec::new();
        loop {
            let cell = if self.rest.next_if_eq(&'"').is_some() {
                self.quoted()?
            } else {
                self.plain()
            };
            row.push(cell);
            self.rest.next_if_eq(&'\r');
            match self.rest.next() {
                Some(',') => {}
                Some('\n') => {
                    self.line += 1;
                    return Ok(row);
                }
                None => return Ok(row),
                Some(_) => {
                    self.skip();
                    return Err("a quoted text must end at a comma or at the end of the line".to_owned());
                }
            }
        }
    }

    fn plain(&mut self) -> String {
        let mut cell = String::new();
        while let Some(next) = self.rest.next_if(|next| !matches!(next, ',' | '\n' | '\r')) {
            cell.push(next);
        }
        cell.trim().to_owned()
    }

    fn quoted(&mut self) -> Result<String, String> {
        let mut cell = String::new();
        loop {
            match self.rest.next() {
                Some('"') if self.rest.next_if_eq(&'"').is_some() => cell.push('"'),
                Some('"') => return Ok(cell),
                Some(next) => {
                    if next == '\n' {
                        self.line += 1;
                    }
                    cell.push(next);
                }
                None => return Err("a quoted text does not end".to_owned()),
            }
        }
    }

    /// To the next line.
    fn skip(&mut self) {
        if self.rest.by_ref().any(|next| next == '\n') {
            self.line += 1;
        }
    }
}

/// A cell that reads back as it is.
fn quoted(cell: &str) -> String {
    let is_plain = !cell.contains(['"', ',', '\n', '\r']) && cell.trim() == cell;
    if is_plain {
        cell.to_owned()
    } else {
        format!("\"{}\"", cell.replace('"', "\"\""))
    }
}

const HEADER: [&str; 10] = [
    "dimension",
    "key",
    "unit",
    "kind",
    "number",
    "follows",
    "state",
    "rev",
    "previous",
    "reason",
];
const FOLLOWS: &str = "the key follows another one; give that to the unit";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::routing::record::Rev;

    fn row(key: &[u8], reason: &str) -> NodeRow {
        let name = |text| Name::new(text).unwrap();
        serde_json::from_value(serde_json::json!({
            "id": { "key": { "dimension": name("cid"), "key": KeyBytes(key.to_vec().into()) } },
            "target": { "unit": "b" }, "state": "active", "rev": Rev(3), "previous": null, "reason": reason,
        }))
        .unwrap()
    }

    fn read_all(text: &str) -> Vec<Line> {
        keys(text).into_iter().map(Result::unwrap).collect()
    }

    proptest! {
        // Whatever bytes a key has, an export reads back.
        #[test]
        fn what_is_written_reads_back(keys in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..6), "[ a\"\n\r,]{0,6}"), 1..5)) {
            let nodes: Vec<_> = keys.iter().map(|(key, reason)| row(key, reason)).collect();
            let mut text = Vec::new();
            write_nodes(&nodes, &mut text).unwrap();
            let csv = read_all(&String::from_utf8(text).unwrap());
            let json = read_all(&serde_json::to_string(&Answer::Nodes(nodes)).unwrap());
            for found in [csv, json] {
                let found: Vec<_> = found.into_iter().map(|(_, row)| row.unwrap().unwrap().0.1).collect();
                let expected: Vec<_> = keys.iter().map(|(key, _)| KeyBytes(key.clone().into())).collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn no_text_is_too_wild(text in "[a,\"\n\r {}:]{0,40}") {
            keys(&text);
        }
    }

    #[test]
    fn lines_are_read_with_their_numbers() {
        let text = "cid,k1,a\r\n\ncid,\"k,\n2\",b\nci d,k,a\ncid,,a\ncid,\"k\"x,a\ncid,k9";
        let found = read_all(text);
        let told: Vec<_> = found
            .iter()
            .map(|(number, row)| match row {
                Ok(Some(((_, key), unit))) => format!("{number} {} {unit:?}", String::from(key.clone())),
                Ok(None) => format!("{number} none"),
                Err(why) => format!("{number} {why}"),
            })
            .collect();
        assert_eq!(told.len(), 6, "{told:?}");
        assert!(
            told[0].starts_with("1 k1 Some(") && told[1].starts_with("3 k,\n2 Some("),
            "{told:?}"
        );
        assert!(told[2].starts_with("5 dimension: "), "{told:?}");
        assert_eq!(told[3], "6 the key is missing; a line is dimension,key,unit");
        assert!(told[4].starts_with("7 a quoted text must end"), "{told:?}");
        assert_eq!(told[5], "8 k9 None");
    }

    #[test]
    fn columns_that_are_named_may_come_in_any_order() {
        let text = "dimension,unit,kind,key,follows,state\ncid,b,key,k,,active\nuid,b,bucket,,,active\ncid,,key,l,org,active\ncid,b,key,m,,tombstone\n";
        let found = read_all(text);
        let key = found[0].1.as_ref().unwrap().as_ref().unwrap();
        assert_eq!(
            (String::from(key.0.1.clone()), key.1.as_ref().map(Name::as_str)),
            ("k".to_owned(), Some("b"))
        );
        assert_eq!(found[1].1, Ok(None));
        assert_eq!(found[2].1, Err(FOLLOWS.to_owned()));
        assert_eq!(found[3].1, Ok(None));
        assert!(keys("dimension,unit\ncid,b\n")[0].is_err());
    }
}
