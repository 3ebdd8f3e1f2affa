//! What the figures have in common: rounds that take turns, the disk probed before and after, tables.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::task::LocalSet;

use crate::peers::Peer;
use crate::probe::Syncs;
use crate::spread::Spread;
use crate::stage::Stage;

/// How long to measure, and whom.
pub struct Effort {
    /// Whom.
    pub peers: Vec<Peer>,
    /// Rounds of each.
    pub rounds: usize,
    /// Of a round.
    pub time: Duration,
    /// Whether this is only to see that it works.
    pub quick: bool,
    /// Messages for memory and restart.
    pub hoard: u64,
}

/// A figure with its rows.
#[derive(Serialize)]
pub struct Figure {
    /// What it is.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<&'static str>,
    /// Peer, or what differs; and a value for each column.
    pub rows: Vec<(String, Vec<Spread>)>,
    /// What stands below, the disk's own times among it.
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

    /// Adds how the first column of one row compares with that of another.
    pub fn ratio(&mut self, of: &str, to: &str, column: usize) {
        let median = |name: &str| {
            let row = self.rows.iter().find(|(row, _)| row == name)?;
            row.1.get(column).map(|spread| spread.median)
        };
        if let (Some(of_value), Some(to_value)) = (median(of), median(to)) {
            let column = self.columns[column];
            self.notes
                .push(format!("{column}: {of} / {to} = {:.2}", of_value / to_value));
        }
    }

    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let mut text = format!("\n### {}\n| |", self.title);
        self.columns
            .iter()
            .for_each(|column| write!(text, " {column} |").unwrap());
        text.push_str("\n|---|");
        self.columns.iter().for_each(|_| text.push_str("---|"));
        for (name, values) in &self.rows {
            write!(text, "\n| {name} |").unwrap();
            for value in values {
                write!(text, " {} |", cell(value)).unwrap();
            }
        }
        text.push('\n');
        self.notes.iter().for_each(|note| writeln!(text, "{note}").unwrap());
        text
    }
}

/// A value of a table. One that is no number was not measured in at least one round, and must not look like a result.
fn cell(value: &Spread) -> String {
    if [value.median, value.min, value.max]
        .iter()
        .any(|number| number.is_nan())
    {
        return NOT_MEASURED.to_owned();
    }
    let digits = if value.median >= 100.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

/// Runs a measurement between two looks at the disk, which are noted below the figure.
pub fn probed(stage: &Stage, effort: &Effort, measure: impl FnOnce() -> Figure) -> Figure {
    let time = Duration::from_millis(if effort.quick { 500 } else { 2_000 });
    let before = Syncs::probe(&stage.directory, time);
    let mut figure = measure();
    let after = Syncs::probe(&stage.directory, time);
    figure.notes.push(format!("before: {before}"));
    figure.notes.push(format!("after:  {after}"));
    eprintln!("{}", figure.markdown());
    figure
}

/// Runs something with tasks, on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, future)
}

/// The bytes all bodies of this length have behind their stamp.
pub fn pattern(bytes: usize) -> Bytes {
    (0..bytes).map(|n| (n * 7 % 251) as u8).collect()
}

/// Processor time in microseconds for each of so many.
pub fn each(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count.max(1) as f64
}

/// In the place of a figure that could not be taken.
pub const NOT_MEASURED: &str = "not measured";
