//! The disk by itself, right before and after each figure that depends on it: without that, durable figures of two
//! minutes, let alone of two machines, say nothing about each other.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::load::at;

/// Times of single syncs.
#[derive(Clone, Default)]
pub struct Syncs {
    /// Tenths of a microsecond, sorted.
    times: Vec<u32>,
}

impl Syncs {
    /// Overwrites the same 4 KiB of a file and syncs, again and again, for so long.
    pub fn probe(directory: &Path, time: Duration) -> Self {
        let path = directory.join("probe");
        fs::write(&path, vec![1; 64 * 1024]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        let mut times = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < time {
            let started = Instant::now();
            file.write_all_at(&[times.len() as u8; 4096], 4096).unwrap();
            file.sync_data().unwrap();
            times.push(u32::try_from(started.elapsed().as_nanos() / 100).unwrap_or(u32::MAX));
        }
        fs::remove_file(path).unwrap();
        times.sort_unstable();
        Self { times }
    }

    /// Both together.
    pub fn and(mut self, other: &Self) -> Self {
        self.times.extend_from_slice(&other.times);
        self.times.sort_unstable();
        self
    }
}

/// `4 KiB overwrite + fdatasync: ...` on one line.
impl fmt::Display for Syncs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.times.len();
        let [half, most, nearly, all] = [0.5, 0.9, 0.99, 1.0].map(|share| at(&self.times, share) / 1000.0);
        write!(
            f,
            "4 KiB overwrite + fdatasync, {count} times: p50 {half:.2} ms, p90 {most:.2}, p99 {nearly:.2}, max {all:.1};"
        )?;
        let mut below = 0;
        for bound in [0.25, 0.5, 1.0, 3.0, 5.0, 20.0] {
            let now_below = self.times.partition_point(|time| f64::from(*time) < bound * 10_000.0);
            let share = 100.0 * (now_below - below) as f64 / count.max(1) as f64;
            write!(f, " <{bound} ms {share:.0} %")?;
            below = now_below;
        }
        write!(f, " more {:.1} %", 100.0 * (count - below) as f64 / count.max(1) as f64)
    }
}

/// MiB/s of reading all files of a directory one after the other past the page cache.
pub fn sequential_read(directory: &Path) -> Option<f64> {
    let files: Vec<_> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let files = files
        .into_iter()
        .filter(|path| path.metadata().is_ok_and(|meta| meta.len() > 0 && meta.is_file()));
    let begin = Instant::now();
    let mut bytes = 0;
    for path in files {
        let done = Command::new("dd")
            .arg(format!("if={}", path.display()))
            .args(["of=/dev/null", "bs=1M", "iflag=direct", "status=none"])
            .status();
        if done.is_ok_and(|status| status.success()) {
            bytes += path.metadata().ok()?.len();
        }
    }
    (bytes > 0).then(|| bytes as f64 / 1_048_576.0 / begin.elapsed().as_secs_f64())
}
