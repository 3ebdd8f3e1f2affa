//! What the figures have in common: rounds, percentiles, tables.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use crate::spread::Spread;

/// How much to measure.
pub struct Effort {
    /// Rounds of each figure.
    pub rounds: usize,
    /// Claims of a round.
    pub claims: usize,
    /// Moves of a round.
    pub moves: usize,
}

/// A figure with its rows.
#[derive(Serialize)]
pub struct Figure {
    /// What it is.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<&'static str>,
    /// What differs, and a value for each column.
    pub rows: Vec<(String, Vec<Spread>)>,
    /// What stands below.
    pub notes: Vec<String>,
}

impl Figure {
    /// An empty one.
    pub fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self {
            title: title.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row from its rounds; each round has a value for each column.
    pub fn row(&mut self, name: impl Into<String>, rounds: &[Vec<f64>]) {
        let columns = 0..self.columns.len();
        let spread = |column| Spread::of(rounds.iter().filter_map(|round: &Vec<f64>| round.get(column).copied()));
        self.rows.push((name.into(), columns.map(spread).collect()));
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n| |", self.title);
        for column in &self.columns {
            write!(text, " {column} |").unwrap();
        }
        text.push_str("\n|---|");
        self.columns.iter().for_each(|_| text.push_str("---|"));
        for (name, values) in &self.rows {
            write!(text, "\n| {name} |").unwrap();
            for value in values {
                write!(text, " {value:.2} |").unwrap();
            }
        }
        text.push('\n');
        self.notes.iter().for_each(|note| writeln!(text, "{note}").unwrap());
        text
    }
}

/// The time below which this share of all is, in milliseconds.
pub fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort();
    let index = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
    times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}
