//! What is moved, on the command line.

use std::path::PathBuf;

use super::{CliError, csv};
use crate::control::operator::Which;
use crate::model::Name;
use crate::routing::BUCKETS;
use crate::routing::record::{KeyBytes, NodeId};

/// What is moved.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = true)]
pub(super) struct What {
    /// A key, `base64:...` for one that is no text; may be repeated
    #[arg(long = "key", value_name = "DIMENSION=KEY", value_parser = key)]
    keys: Vec<(Name, KeyBytes)>,
    /// All keys of a published rule, by its id (strait route book); may be repeated
    #[arg(long = "rule", value_name = "DIMENSION=ID", value_parser = rule)]
    rules: Vec<NodeId>,
    /// Buckets from the first to the last, from 0 to 4095; may be repeated
    #[arg(long, value_name = "DIMENSION=FROM-TO", value_parser = buckets)]
    buckets: Vec<Which>,
    /// Keys in a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl What {
    pub(super) fn all(&self) -> Result<Vec<Which>, CliError> {
        let node = |(dimension, key)| Which::Node(NodeId::Key { dimension, key });
        let mut all: Vec<_> = self.keys.iter().cloned().map(node).collect();
        all.extend(self.rules.iter().cloned().map(Which::Node));
        all.extend(self.buckets.iter().cloned());
        if let Some(file) = &self.file {
            let text = csv::read(file)?;
            for line in csv::keys(&text) {
                let (number, found) = line.map_err(CliError::Usage)?;
                let found = found.map_err(|why| CliError::Usage(format!("{}:{number}: {why}", file.display())))?;
                all.extend(found.map(|(key, _)| node(key)));
            }
        }
        Ok(all)
    }
}

pub(super) fn key(text: &str) -> Result<(Name, KeyBytes), String> {
    let (dimension, key) = text.split_once('=').ok_or("expected DIMENSION=KEY, such as uid=1500")?;
    let dimension = crate::cli::name(dimension)?;
    let key = KeyBytes::try_from(key.to_owned()).map_err(|error| format!("no base64: {error}"))?;
    if key.0.is_empty() {
        return Err("an empty text is not a key".to_owned());
    }
    Ok((dimension, key))
}

fn rule(text: &str) -> Result<NodeId, String> {
    let expected = "expected DIMENSION=ID, such as uid=3; `strait route book` lists ids";
    let (dimension, rule) = text.split_once('=').ok_or(expected)?;
    let dimension = crate::cli::name(dimension)?;
    let rule = rule.parse().map_err(|_| expected)?;
    Ok(NodeId::Rule { dimension, rule })
}

fn buckets(text: &str) -> Result<Which, String> {
    let expected = "expected DIMENSION=FROM-TO with buckets from 0 to 4095, such as uid=0-99";
    let (dimension, range) = text.split_once('=').ok_or(expected)?;
    let dimension = crate::cli::name(dimension)?;
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let (from, to): (u16, u16) = (from.parse().map_err(|_| expected)?, to.parse().map_err(|_| expected)?);
    if from > to || to >= BUCKETS {
        return Err(expected.to_owned());
    }
    let to = to + 1;
    Ok(Which::Buckets { dimension, from, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_is_read_or_refused_with_what_was_expected() {
        let (dimension, found) = key("uid=a=b").unwrap();
        assert_eq!((dimension.as_str(), &found.0[..]), ("uid", &b"a=b"[..]));
        assert_eq!(&key("uid=base64:AAE=").unwrap().1.0[..], b"\0\x01");
        for wrong in ["uid", "uid=", "=x", "uid=base64:?"] {
            assert!(key(wrong).is_err(), "{wrong}");
        }
        let found = serde_json::to_value(buckets("uid=0-99").unwrap()).unwrap();
        assert_eq!(
            found,
            serde_json::json!({"buckets": {"dimension": "uid", "from": 0, "to": 100}})
        );
        for wrong in ["uid=9-8", "uid=0-4096", "uid=x", "uid"] {
            assert!(buckets(wrong).is_err(), "{wrong}");
        }
        assert!(buckets("uid=4095").is_ok() && rule("uid=3").is_ok() && rule("uid=x").is_err());
    }
}
