//! Processes under measurement.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::usage;

/// A process with its children. Killed on drop.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; its output goes to a file.
    pub fn start(command: &mut Command, log: &Path) -> Self {
        let output = File::create(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}; run benches/relay/install"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    /// Whether it runs still; if not, what it said.
    pub fn check(&mut self) -> Result<(), String> {
        match self.child.try_wait().unwrap() {
            None => Ok(()),
            Some(status) => Err(format!(
                "{status}: {}",
                fs::read_to_string(&self.log).unwrap_or_default()
            )),
        }
    }

    /// Processor time of the process and its children.
    pub fn cpu(&self) -> Duration {
        self.pids().into_iter().map(usage::cpu).sum()
    }

    /// Processor time of the process alone, to the nanosecond: for one that does next to nothing.
    pub fn cpu_exact(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let on_cpu = |thread: fs::DirEntry| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(threads.flatten().filter_map(on_cpu).sum())
    }

    /// Resident memory of the process and its children, in bytes.
    pub fn rss(&self) -> u64 {
        self.pids().into_iter().map(usage::rss).sum()
    }

    /// Ends it as a loss of power would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn pids(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let children = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        std::iter::once(own).chain(children).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx ends its workers on TERM only; what is still there after that is killed.
        let pid = self.child.id().to_string();
        let _ = Command::new("kill")
            .arg("-TERM")
            .arg(pid)
            .stderr(Stdio::null())
            .status();
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
