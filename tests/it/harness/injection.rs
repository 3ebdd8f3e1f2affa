//! Makes system calls of a running process fail or take long, with `strace`.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::wait_for;

/// Lasts until it is dropped.
pub struct Injection(Child);

/// Calls that bring data to the disk.
pub const SYNCS: &str = "fdatasync,fsync";

impl Injection {
    /// Does `what` to these calls of a process, such as `error=EIO` or `delay_enter=300ms`; with `:when=1` to the first one of
    /// each thread.
    pub async fn start(pid: u32, calls: &str, what: &str) -> Self {
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-p", &pid.to_string()])
            .arg(format!("--trace={calls}"))
            .arg(format!("--inject={calls}:{what}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace is installed by tests/run prepare");
        let mut injection = Self(child);
        wait_for("strace to have every thread", LIMIT, async || {
            assert!(injection.0.try_wait().unwrap().is_none(), "strace may not trace");
            all_traced(pid).then_some(())
        })
        .await;
        injection
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // On this signal it lets go of the process, which goes on.
        let pid = self.0.id().to_string();
        let _ = Command::new("kill").arg("-INT").arg(pid).status();
        let _ = self.0.wait();
    }
}

fn all_traced(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status
            .lines()
            .any(|line| line.split_ascii_whitespace().eq(["TracerPid:", "0"]))
    })
}

const LIMIT: Duration = Duration::from_secs(20);
