//! Tables for people and JSON for comparing runs.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::measure::Row;

/// All rows as Markdown tables, one per load.
pub fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut title = String::new();
    for row in rows {
        let offered = row
            .offered
            .map_or(String::new(), |rate| format!(", {rate:.0} calls/s offered"));
        let next = format!("{} B, {} in flight{offered}", row.size, row.in_flight);
        if next != title {
            let _ = write!(text, "\n### {next}\n{HEAD}");
            title = next;
        }
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0}/{:.0} | {} | {} |",
            row.peer,
            row.per_second,
            row.p50,
            row.p99,
            row.p999,
            row.cpu_a.median,
            row.cpu_b.median,
            row.cpu_relays,
            row.cpu_echo.median,
            row.cpu_load.median,
            row.rss[0],
            row.rss[1],
            row.failed,
            if row.serves_on { "yes" } else { "NO" },
        );
    }
    text
}

const HEAD: &str = "\
| peer | calls/s [min..max] | p50 us | p99 us | p99.9 us | CPU A us | CPU B us | A+B us/call | CPU echo | CPU load | \
RSS A/B MiB | failed | serves on |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
";

/// Ratios of Strait to each other peer under the same load.
pub fn ratios(rows: &[Row]) -> String {
    let mut text = String::from("\n### Strait against the others (A+B CPU per call; calls/s; response times)\n");
    text.push_str("| load | peer | CPU | calls/s | p50 | p99 | p99.9 |\n|---|---|---|---|---|---|---|\n");
    for own in rows.iter().filter(|row| is_strait(row)) {
        let same = |other: &&Row| {
            other.size == own.size
                && other.in_flight == own.in_flight
                && other.offered.is_some() == own.offered.is_some()
                && !is_strait(other)
        };
        for other in rows.iter().filter(same) {
            let cpu = own.cpu_relays.median / other.cpu_relays.median;
            let _ = writeln!(
                text,
                "| {}, {} B, {} in flight{} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} |",
                own.peer,
                own.size,
                own.in_flight,
                if own.offered.is_some() { ", offered" } else { "" },
                other.peer,
                if cpu.is_finite() {
                    format!("{cpu:.2}")
                } else {
                    "-".to_owned()
                },
                own.per_second.median / other.per_second.median,
                own.p50.median / other.p50.median,
                own.p99.median / other.p99.median,
                own.p999.median / other.p999.median,
            );
        }
    }
    text
}

fn is_strait(row: &Row) -> bool {
    row.peer.starts_with("strait")
}

/// Writes `relay.md` and `relay.json`.
pub fn write(directory: &Path, rows: &[Row], text: &str) {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let all = json!({ "cpus": cpus, "kernel": first_line("uname", &["-r"]), "rows": rows });
    fs::write(directory.join("relay.md"), text).unwrap();
    fs::write(
        directory.join("relay.json"),
        serde_json::to_string_pretty(&all).unwrap(),
    )
    .unwrap();
}

/// What was measured on what.
pub fn versions() -> String {
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{cpus} CPUs, Linux {}; {}; {}; {}; strait {}\n",
        first_line("uname", &["-r"]),
        first_line("h2load", &["--version"]),
        first_line("/usr/sbin/haproxy", &["-v"]),
        first_line("/usr/sbin/nginx", &["-v"]),
        env!("CARGO_PKG_VERSION"),
    )
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return format!("{program} not installed");
    };
    let all = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&all)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
