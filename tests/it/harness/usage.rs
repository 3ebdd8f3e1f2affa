//! What a process uses, read from `/proc`.

use std::fs;
use std::time::Duration;

/// Processor time of a process and its threads, user and kernel, since it started.
pub fn cpu(pid: u32) -> Duration {
    ticks(pid, 13, 14)
}

/// Processor time of the children that a process has waited for.
pub fn cpu_of_children(pid: u32) -> Duration {
    ticks(pid, 15, 16)
}

/// Resident memory in bytes.
pub fn rss(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:") * 1024
}

/// Largest resident memory so far, in bytes.
pub fn rss_peak(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:") * 1024
}

/// Open file descriptors.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Sum of two fields of `/proc/<pid>/stat`, counted from 0, given in ticks of 10 ms.
fn ticks(pid: u32, first: usize, second: usize) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the program's name in brackets and may hold blanks.
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let read = |index: usize| {
        fields
            .get(index - 2)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Duration::from_millis((read(first) + read(second)) * 10)
}

fn status_kib(pid: u32, field: &str) -> u64 {
    fs::read_to_string(format!("/proc/{pid}/status"))
        .unwrap_or_default()
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}
