//! Members of etcd on loopback, which end with their value.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{Directory, free_port};

/// A cluster of etcd. Field order is drop order: processes end before their files go.
pub struct Etcd {
    members: Vec<Member>,
    directory: Directory,
    /// What each is started with besides its name and addresses.
    more: Vec<String>,
    scheme: &'static str,
}

struct Member {
    client: u16,
    peer: u16,
    /// Where it says whether it leads.
    metrics: u16,
    process: Option<Child>,
}

impl Etcd {
    /// Three members that have a leader.
    pub async fn start() -> Self {
        let mut etcd = Self::prepare(3, "http");
        etcd.start_all().await;
        etcd
    }

    /// One member that shows this chain with its key, and asks for certificates of an authority; all of them in PEM.
    pub async fn start_secured(authority: &str, (chain, key): (&str, &str)) -> Self {
        let mut etcd = Self::prepare(1, "https");
        for (option, text) in [("cert", chain), ("key", key), ("trusted-ca", authority)] {
            let path = etcd.directory.path().join(format!("{option}.pem"));
            fs::write(&path, text).unwrap();
            etcd.more.push(format!("--{option}-file={}", path.display()));
        }
        etcd.more.push("--client-cert-auth".to_owned());
        etcd.start_all().await;
        etcd
    }

    fn prepare(members: usize, scheme: &'static str) -> Self {
        let member = |_| Member {
            client: free_port(),
            peer: free_port(),
            metrics: free_port(),
            process: None,
        };
        Self {
            members: (0..members).map(member).collect(),
            directory: Directory::new(),
            more: Vec::new(),
            scheme,
        }
    }

    async fn start_all(&mut self) {
        for at in 0..self.members.len() {
            self.restart(at);
        }
        self.leader().await;
    }

    /// Where clients connect to, each `http://host:port`.
    pub fn addresses(&self) -> Vec<String> {
        let members = self.members.iter();
        members
            .map(|member| format!("{}://127.0.0.1:{}", self.scheme, member.client))
            .collect()
    }

    /// How many members there are, running or not.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Which member leads; waits until one says so.
    pub async fn leader(&self) -> usize {
        let until = Instant::now() + LIMIT;
        loop {
            for (at, member) in self.members.iter().enumerate() {
                if member.says("etcd_server_is_leader 1").await {
                    return at;
                }
            }
            let logs = self.directory.path().display();
            assert!(Instant::now() < until, "no leader; see the logs in {logs}");
            sleep(PAUSE).await;
        }
    }

    /// Waits until every member has a leader.
    pub async fn until_whole(&self) {
        let until = Instant::now() + LIMIT;
        for (at, member) in self.members.iter().enumerate() {
            while !member.says("etcd_server_has_leader 1").await {
                let logs = self.directory.path().display();
                assert!(
                    Instant::now() < until,
                    "member {at} has no leader; see the logs in {logs}"
                );
                sleep(PAUSE).await;
            }
        }
    }

    /// As SIGKILL does. Which one it was.
    pub async fn kill_leader(&mut self) -> usize {
        let at = self.leader().await;
        self.kill(at);
        at
    }

    /// As SIGKILL does.
    pub fn kill(&mut self, at: usize) {
        self.members[at].kill();
    }

    /// With what it has on disk.
    pub fn restart(&mut self, at: usize) {
        let process = self.command(at).spawn().unwrap();
        self.members[at].process = Some(process);
    }

    /// Sends a signal by name: `STOP`, `CONT`.
    pub fn signal(&self, at: usize, name: &str) {
        let pid = self.members[at].process.as_ref().expect("the member must run").id();
        let status = Command::new("kill")
            .arg(format!("-{name}"))
            .arg(pid.to_string())
            .status();
        assert!(status.unwrap().success(), "could not signal member {at}");
    }

    fn command(&self, at: usize) -> Command {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all = self.members.iter().enumerate();
        let all: Vec<_> = all.map(|(at, member)| format!("m{at}={}", url(member.peer))).collect();
        let member = &self.members[at];
        let (client, peer) = (
            format!("{}://127.0.0.1:{}", self.scheme, member.client),
            url(member.peer),
        );
        let file = |name: String| self.directory.path().join(name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(file(format!("m{at}.log")));
        let mut command = Command::new(binary());
        command
            .args(["--name", &format!("m{at}"), "--logger", "zap"])
            .args(["--initial-cluster-state", "new", "--initial-cluster", &all.join(",")])
            .arg("--data-dir")
            .arg(file(format!("m{at}")))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--listen-metrics-urls", &url(member.metrics)])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        command
    }
}

impl Member {
    /// Whether this line is among its metrics.
    async fn says(&self, line: &str) -> bool {
        let asked = tokio::time::timeout(ANSWER_LIMIT, metrics(self.metrics)).await;
        let metrics = asked.ok().and_then(Result::ok).unwrap_or_default();
        metrics.lines().any(|found| found == line)
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn metrics(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn binary() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/etcd/usr/bin/etcd");
    assert!(path.exists(), "{} is not there; run tests/run prepare", path.display());
    path
}

/// Until there is a leader: machines of tests are busy.
const LIMIT: Duration = Duration::from_secs(30);
/// A member that was stopped says nothing.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(20);
