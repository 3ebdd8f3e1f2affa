//! Three members of etcd on loopback, which end with their value.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::certificates::Authority;
use crate::make::Folder;

pub(crate) struct Cluster {
    members: Vec<Member>,
    folder: Folder,
}

struct Member {
    client: u16,
    peer: u16,
    scheme: &'static str,
    process: Child,
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Cluster {
    /// Three members that have a leader.
    pub(crate) async fn start(name: &str) -> Self {
        let folder = Folder::new(&format!("etcd-{name}"));
        let held: Vec<_> = (0..6).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = held.iter().map(|held| held.local_addr().unwrap().port()).collect();
        drop(held);
        let pairs: Vec<_> = ports.chunks(2).map(|pair| (pair[0], pair[1])).collect();
        let members = (0..pairs.len()).map(|at| Member {
            client: pairs[at].0,
            peer: pairs[at].1,
            scheme: "http",
            process: spawn(&folder, &pairs, at),
        });
        let cluster = Self {
            members: members.collect(),
            folder,
        };
        cluster.leader().await;
        cluster
    }

    /// One member that asks for certificates of this authority.
    pub(crate) async fn start_secured(name: &str, authority: &Authority) -> Self {
        let folder = Folder::new(&format!("etcd-{name}"));
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let ports: Vec<_> = held.iter().map(|held| held.local_addr().unwrap().port()).collect();
        drop(held);
        let (chain, key) = authority.issue();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let mut command = command(&folder, &[(ports[0], ports[1])], 0, "https");
        let process = command
            .arg("--cert-file")
            .arg(file("chain.pem", &chain))
            .arg("--key-file")
            .arg(file("key.pem", &key))
            .arg("--trusted-ca-file")
            .arg(file("authority.pem", &authority.pem()))
            .args(["--client-cert-auth", "--listen-metrics-urls"])
            .arg(format!("http://127.0.0.1:{}", ports[2]))
            .spawn();
        let member = Member {
            client: ports[0],
            peer: ports[1],
            scheme: "https",
            process: process.unwrap(),
        };
        lead(&[ports[2]], folder.path()).await;
        Self {
            members: vec![member],
            folder,
        }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let members = self.members.iter();
        members
            .map(|member| format!("{}://127.0.0.1:{}", member.scheme, member.client))
            .collect()
    }

    async fn leader(&self) -> usize {
        let ports: Vec<_> = self.members.iter().map(|member| member.client).collect();
        lead(&ports, self.folder.path()).await
    }

    /// As SIGKILL does. Which one it was.
    pub(crate) async fn kill_leader(&mut self) -> usize {
        let at = self.leader().await;
        let process = &mut self.members[at].process;
        process.kill().unwrap();
        process.wait().unwrap();
        at
    }

    /// With what it has on disk.
    pub(crate) fn restart(&mut self, at: usize) {
        let pairs: Vec<_> = self.members.iter().map(|member| (member.client, member.peer)).collect();
        self.members[at].process = spawn(&self.folder, &pairs, at);
    }
}

/// Which member says that it leads. The measure of it is among its metrics.
async fn lead(ports: &[u16], folder: &Path) -> usize {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        for (at, port) in ports.iter().enumerate() {
            let metrics = metrics(*port).await.unwrap_or_default();
            if metrics.lines().any(|line| line == "etcd_server_is_leader 1") {
                return at;
            }
        }
        assert!(
            Instant::now() < until,
            "no leader; see the logs in {}",
            folder.display()
        );
        tokio::task::yield_now().await;
    }
}

async fn metrics(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn spawn(folder: &Folder, pairs: &[(u16, u16)], at: usize) -> Child {
    command(folder, pairs, at, "http").spawn().unwrap()
}

fn command(folder: &Folder, pairs: &[(u16, u16)], at: usize, scheme: &str) -> Command {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let all = pairs.iter().enumerate();
    let all: Vec<_> = all.map(|(at, (_, peer))| format!("m{at}={}", url(*peer))).collect();
    let (client, peer) = (format!("{scheme}://127.0.0.1:{}", pairs[at].0), url(pairs[at].1));
    let log = folder.path().join(format!("m{at}.log"));
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    let mut command = Command::new(binary());
    command
        .args([
            "--name",
            &format!("m{at}"),
            "--logger",
            "zap",
            "--initial-cluster-state",
            "new",
        ])
        .arg("--data-dir")
        .arg(folder.path().join(format!("m{at}")))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &all.join(",")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    command
}

fn binary() -> PathBuf {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/etcd/usr/bin/etcd"));
    assert!(path.exists(), "{} is not there; run tests/run prepare", path.display());
    path
}
