//! One relay process.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::{Metrics, free_port, http_get, wait_for};

/// A `strait run` process with its files. Killed on drop; then its log must hold no ERROR line that the
/// test did not announce.
pub struct Relay {
    /// Unit it belongs to.
    pub unit: String,
    /// Its name, such as `a-1`.
    pub name: String,
    directory: PathBuf,
    ports: Ports,
    child: Option<Child>,
    announced: Vec<String>,
    /// Size of the file system of its own that its data lie on.
    small_disk: Option<String>,
}

/// Where a relay listens; kept over restarts.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    grpc: u16,
    framed: u16,
    admin: u16,
    pub(super) peer: u16,
}

/// Threads that carry calls: two even on one core, so that what crosses between them is tested.
pub(super) const SHARDS: usize = 2;

/// Time for a start or an orderly end; both take far less, but test machines are busy.
const LIMIT: Duration = Duration::from_secs(30);

impl Ports {
    pub(super) fn free() -> Self {
        Self {
            grpc: free_port(),
            framed: free_port(),
            admin: free_port(),
            peer: free_port(),
        }
    }
}

impl Relay {
    pub(super) fn new(unit: &str, name: &str, directory: PathBuf, ports: Ports) -> Self {
        Self {
            unit: unit.to_owned(),
            name: name.to_owned(),
            directory,
            ports,
            child: None,
            announced: Vec::new(),
            small_disk: None,
        }
    }

    /// `127.0.0.1:port` of the gRPC endpoint.
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.ports.grpc)
    }

    /// `127.0.0.1:port` of the framed endpoint.
    pub fn framed(&self) -> String {
        format!("127.0.0.1:{}", self.ports.framed)
    }

    /// `127.0.0.1:port` of the admin endpoint.
    pub fn admin(&self) -> String {
        format!("127.0.0.1:{}", self.ports.admin)
    }

    /// `127.0.0.1:port` where peers connect to; UDP.
    pub fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.ports.peer)
    }

    /// Unix socket of the gRPC endpoint.
    pub fn grpc_socket(&self) -> PathBuf {
        self.directory.join("data/grpc.sock")
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.join("relay.toml")
    }

    /// Directory of the configuration, certificates and data.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The settings every relay of a test has; what links to others and services is added by the cluster.
    pub(super) fn base_config(&self, geo: &str, domain: &str) -> toml::Table {
        let (grpc, framed, admin, peer) = (self.grpc(), self.framed(), self.admin(), self.peer());
        let (unit, name) = (&self.unit, &self.name);
        let text = format!(
            r#"
            [relay]
            geo = "{geo}"
            unit = "{unit}"
            name = "{name}"
            data_dir = "data"
            shards = {SHARDS}
            [ingress.grpc]
            listen = ["{grpc}"]
            socket = "grpc.sock"
            [ingress.framed]
            listen = ["{framed}"]
            socket = "strait.sock"
            [admin]
            listen = "{admin}"
            [peer]
            listen = "{peer}"
            certificate = "relay.pem"
            key = "relay.key"
            trust_domain = "{domain}"
            "#
        );
        text.parse().unwrap()
    }

    /// Announces that ERROR lines with this text are part of the test.
    pub fn expect_error(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Starts the process and waits until it says it is ready.
    pub async fn start(&mut self) {
        self.spawn();
        self.until_ready().await;
    }

    /// Starts the process.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let child = self
            .program()
            .arg("run")
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// Gives its data a file system of their own with so much space, such as `32m`. It ends with the process, and nobody
    /// else sees it: look at it through [`data_inside`](Self::data_inside).
    pub fn on_small_disk(&mut self, size: &str) {
        self.small_disk = Some(size.to_owned());
    }

    /// The data directory as the process sees it.
    pub fn data_inside(&self) -> PathBuf {
        let inside = self.directory.join("data");
        Path::new("/proc")
            .join(self.pid().to_string())
            .join("root")
            .join(inside.strip_prefix("/").unwrap())
    }

    fn program(&self) -> Command {
        let binary = env!("CARGO_BIN_EXE_strait");
        let Some(size) = &self.small_disk else {
            return Command::new(binary);
        };
        let script = "mount -t tmpfs -o size=$1,mode=700 strait \"$2\" && shift 2 && exec \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["--map-root-user", "--mount", "sh", "-c", script, "sh", size])
            .arg(self.directory.join("data"))
            .arg(binary);
        command
    }

    /// Waits for `/readyz`; fails at once if the process ends.
    pub async fn until_ready(&mut self) {
        let (admin, name) = (self.admin(), self.name.clone());
        wait_for(&format!("relay {name} to be ready"), LIMIT, async || {
            if let Some(status) = self.exited() {
                panic!("relay {name} ended with {status}; its log:\n{}", self.log());
            }
            matches!(http_get(&admin, "/readyz").await, Ok((200, _))).then_some(())
        })
        .await;
    }

    /// Ends the process at once, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to drain, as a service manager does, and waits for its end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        let status = wait_for("the relay to end", LIMIT, async || self.exited()).await;
        self.child = None;
        status
    }

    /// Sends a signal by name: `TERM`, `HUP`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(self.pid().to_string())
            .status();
        assert!(status.unwrap().success(), "could not signal {}", self.name);
    }

    /// Process id; the process must run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the relay must run").id()
    }

    /// Whether the process ended by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().unwrap()
    }

    /// One scrape.
    pub async fn metrics(&self) -> Metrics {
        let (status, body) = http_get(&self.admin(), "/metrics").await.unwrap();
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// Standard output and error of all runs so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("relay.log")
    }

    fn unannounced_errors(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| is_error(line))
            .filter(|line| !self.announced.iter().any(|text| line.contains(text.as_str())))
            .map(ToOwned::to_owned)
            .collect()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("--- last lines of relay {}:\n{}", self.name, tail.join("\n"));
        } else {
            let errors = self.unannounced_errors();
            assert!(
                errors.is_empty(),
                "relay {} logged errors:\n{}",
                self.name,
                errors.join("\n")
            );
        }
    }
}

/// Whether a log line, plain or JSON, is of level ERROR or tells of a panic.
fn is_error(line: &str) -> bool {
    line.contains(" ERROR ")
        || line.contains("\"level\":\"ERROR\"")
        || line.contains("\u{1b}[31mERROR")
        || line.contains("panicked at")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announced_errors_are_not_counted() {
        let directory = crate::harness::Directory::new();
        let mut relay = Relay::new("a", "a-1", directory.path().to_owned(), Ports::free());
        fs::write(
            relay.log_path(),
            "x ERROR y: disk is gone\nx  INFO y: fine\nx ERROR y: clock is wrong\n",
        )
        .unwrap();
        relay.expect_error("disk is gone");
        assert_eq!(relay.unannounced_errors(), ["x ERROR y: clock is wrong"]);
        relay.expect_error("clock is wrong");
    }

    #[test]
    fn an_error_line_is_found_whatever_the_log_format_is() {
        assert!(is_error("2026-01-01T00:00:00Z ERROR strait::app: disk is gone"));
        assert!(is_error("{\"level\":\"ERROR\",\"message\":\"disk is gone\"}"));
        assert!(is_error("thread 'main' panicked at src/app.rs:1:1:"));
        assert!(!is_error("2026-01-01T00:00:00Z  WARN strait::app: ERRORS may follow"));
    }
}
