//! Tables, sizes, numbers and times as people read them.

use std::io::{self, Write};
use std::time::Duration;

/// Rows of texts under a heading, in columns that are as wide as they need to be. Columns whose heading ends in `>`
/// are aligned to the right.
pub(super) struct Table {
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heading: &[&str]) -> Self {
        Self {
            right: heading.iter().map(|name| name.ends_with('>')).collect(),
            rows: vec![
                heading
                    .iter()
                    .map(|name| name.trim_end_matches('>').to_owned())
                    .collect(),
            ],
        }
    }

    pub(super) fn row(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.right.len()).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let space = " ".repeat(width.saturating_sub(cell.chars().count()));
                let (before, after) = if *right {
                    (space.as_str(), "")
                } else {
                    ("", space.as_str())
                };
                line.push_str(before);
                line.push_str(cell);
                line.push_str(after);
                line.push_str("  ");
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub(super) fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes with a binary unit: `1.2 MiB`.
pub(super) fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            // Tenths, rounded down, without floating point.
            let whole = bytes >> shift;
            let tenth = (bytes - (whole << shift)).saturating_mul(10) >> shift;
            return format!("{}.{tenth} {unit}", number(whole));
        }
    }
    format!("{bytes} B")
}

/// A time with its two largest units: `2m 10s`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds == 0 {
        return format!("{}ms", time.as_millis());
    }
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let shown = parts.iter().skip_while(|(number, _)| *number == 0).take(2);
    let shown: Vec<_> = shown
        .enumerate()
        .filter(|(index, (number, _))| *index == 0 || *number > 0)
        .map(|(_, (number, unit))| format!("{number}{unit}"))
        .collect();
    shown.join(" ")
}

/// A rate: `500/s`, `0.5/s`.
pub(super) fn rate(per_second: f64) -> String {
    if per_second < 10.0 && per_second.fract() > 0.0 {
        format!("{per_second:.1}/s")
    } else {
        format!("{per_second:.0}/s")
    }
}

/// Milliseconds since 1970 as a moment, to the second.
pub(super) fn moment(millis: u64) -> String {
    // Later than the year 9999 has no text.
    let millis = millis.min(253_402_300_799_000);
    humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sizes_and_times_are_for_people() {
        let numbers = [0, 999, 1000, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "999", "1,000", "1,234,567"]);
        let sizes = [0, 1023, 1024, 1_300_000, 5 << 30, u64::MAX].map(size);
        assert_eq!(
            sizes,
            ["0 B", "1023 B", "1.0 KiB", "1.2 MiB", "5.0 GiB", "16,777,215.9 TiB"]
        );
        let times = [0, 999, 1000, 130_000, 3_600_000, 3_601_000, 200_000_000]
            .map(|millis| time(Duration::from_millis(millis)));
        assert_eq!(times, ["0ms", "999ms", "1s", "2m 10s", "1h", "1h", "2d 7h"]);
        assert_eq!([0.0, 0.5, 9.97, 500.4].map(rate), ["0/s", "0.5/s", "10.0/s", "500/s"]);
        assert_eq!(
            [0, u64::MAX].map(moment),
            ["1970-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
        );
    }

    #[test]
    fn columns_are_as_wide_as_they_need_to_be() {
        let mut table = Table::new(&["UNIT", "BACKLOG>", "STATE"]);
        table.row(vec!["b".into(), "12".into(), "down".into()]);
        table.row(vec!["cn-east".into(), "1,000,000".into(), String::new()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        let expected = "UNIT       BACKLOG  STATE\nb               12  down\ncn-east  1,000,000\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
