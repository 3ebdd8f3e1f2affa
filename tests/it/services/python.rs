//! grpcio as client and server: gRPC of another family, in a process of its own.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The service `im.Echo` on grpcio. Ends when dropped.
pub struct PythonEcho {
    child: Child,
    address: String,
}

impl PythonEcho {
    /// Starts it and waits until it listens.
    pub fn start() -> Self {
        let mut child = python("server.py").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().to_owned();
        assert!(!address.is_empty(), "tests/python/server.py did not start");
        Self { child, address }
    }

    /// As an endpoint of a service in the settings.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for PythonEcho {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs all cases of the grpcio client against an address; gives its lines, one per case, that are not
/// `ok <case>`.
pub async fn python_client(address: &str) -> Vec<String> {
    let mut command = tokio::process::Command::from(python("client.py"));
    let output = command.arg(address).kill_on_drop(true).output().await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let mut failed: Vec<String> = text
        .lines()
        .filter(|line| !line.starts_with("ok "))
        .map(ToOwned::to_owned)
        .collect();
    if !output.status.success() || !text.contains("ok ") {
        failed.push(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    failed
}

fn python(script: &str) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    assert!(
        interpreter.exists(),
        "{} is missing: run `tests/run prepare` once, it installs grpcio there",
        interpreter.display()
    );
    let mut command = Command::new(interpreter);
    command.arg(root.join("tests/python").join(script)).stdin(Stdio::null());
    command
}
