//! A real Prometheus, and the program that checks what it is given.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Directory, free_port, http_get, wait_for};

/// A Prometheus process that scrapes some addresses twice a second. Ends when dropped.
pub struct Prometheus {
    child: Child,
    address: String,
    _directory: Directory,
}

impl Prometheus {
    /// Starts it and waits until it answers. Relays are of the job `strait`.
    pub async fn start(relays: &[String]) -> Self {
        let directory = Directory::new();
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 500ms, scrape_timeout: 500ms }}\n\
             scrape_configs: [{{ job_name: strait, static_configs: [{{ targets: {relays:?} }}] }}]\n"
        );
        fs::write(&config, text).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let log = fs::File::create(directory.path().join("prometheus.log")).unwrap();
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("series").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self {
            child,
            address,
            _directory: directory,
        };
        wait_for("Prometheus to be ready", Duration::from_secs(60), async || {
            let answer = http_get(&prometheus.address, "/-/ready").await;
            matches!(answer, Ok((200, _))).then_some(())
        })
        .await;
        prometheus
    }

    /// The samples of an instant query.
    pub async fn query(&self, expression: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", escape(expression));
        let (status, body) = http_get(&self.address, &path).await.unwrap();
        assert_eq!(status, 200, "{expression}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// What it was told about a family of series.
    pub async fn metadata(&self, family: &str) -> Value {
        let (_, body) = http_get(&self.address, &format!("/api/v1/metadata?metric={family}"))
            .await
            .unwrap();
        let answer: Value = serde_json::from_str(&body).unwrap();
        answer["data"][family][0].clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `promtool check metrics` finds wrong with a scrape in the text format.
pub fn promtool_complaints(scrape: &str) -> String {
    let mut child = Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(scrape.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success() || !text.is_empty(), "{}", output.status);
    text
}

/// What `promtool` says about the rules of a folder and their tests; empty if they are as they should be.
pub fn promtool_rules(folder: &std::path::Path) -> String {
    let run = |words: [&str; 3]| {
        let output = Command::new(program("promtool"))
            .args(words)
            .current_dir(folder)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        if output.status.success() { String::new() } else { text }
    };
    run(["check", "rules", "alerts.yml"]) + &run(["test", "rules", "alerts_test.yml"])
}

/// The one that `tests/run prepare` unpacked, or the one of the system.
fn program(name: &str) -> PathBuf {
    let unpacked = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("target/prometheus/usr/bin")
        .join(name);
    if unpacked.exists() {
        return unpacked;
    }
    let found = Command::new(name).arg("--version").output().is_ok();
    assert!(
        found,
        "{name} is missing: run `tests/run prepare` once, it unpacks the package"
    );
    name.into()
}

fn escape(text: &str) -> String {
    let escaped = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    escaped.collect()
}
