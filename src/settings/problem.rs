//! Everything that is wrong with the settings, at once.

use std::collections::BTreeMap;
use std::fmt;

use super::path;

/// One thing that is wrong.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// Where the value was given: file and line, environment variable or flag.
    pub place: Option<String>,
    /// Path of the value, such as `routing.rules[2].prefix`; empty if the file as a whole is wrong.
    pub key: String,
    /// What is wrong and what was expected.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.text)
    }
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, place: Option<String>, key: impl Into<String>, text: impl Into<String>) {
        let problem = Problem {
            place,
            key: key.into(),
            text: text.into(),
        };
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// The value, unless something is wrong.
    pub(super) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Where each value came from.
#[derive(Clone, Debug, Default)]
pub struct Origins(pub(super) BTreeMap<String, String>);

impl Origins {
    /// Where a value was given: file and line, environment variable or flag. `None` for defaults.
    pub fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Where a value, or the table it is missing in, was given.
    pub(super) fn nearest(&self, key: &str) -> Option<String> {
        let mut key = key;
        loop {
            if let Some(place) = self.of(key) {
                return Some(place.to_owned());
            }
            key = path::parent(key)?;
        }
    }
}
