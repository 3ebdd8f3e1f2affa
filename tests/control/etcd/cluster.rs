//! Three members of etcd on loopback, which end with their value.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::make::Folder;

pub(crate) struct Cluster {
    members: Vec<Member>,
    folder: Folder,
}

struct Member {
    client: u16,
    peer: u16,
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
            process: spawn(&folder, &pairs, at),
        });
        let cluster = Self {
            members: members.collect(),
            folder,
        };
        cluster.leader().await;
        cluster
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        let clients = self.members.iter().map(|member| member.client);
        clients.map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    /// Which member says that it leads. The measure of it is among its metrics.
    async fn leader(&self) -> usize {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            for (at, member) in self.members.iter().enumerate() {
                let metrics = metrics(member.client).await.unwrap_or_default();
                if metrics.lines().any(|line| line == "etcd_server_is_leader 1") {
                    return at;
                }
            }
            assert!(
                Instant::now() < until,
                "no leader; see the logs in {}",
                self.folder.path().display()
            );
            tokio::task::yield_now().await;
        }
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

async fn metrics(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

fn spawn(folder: &Folder, pairs: &[(u16, u16)], at: usize) -> Child {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let all = pairs.iter().enumerate();
    let all: Vec<_> = all.map(|(at, (_, peer))| format!("m{at}={}", url(*peer))).collect();
    let (client, peer) = (url(pairs[at].0), url(pairs[at].1));
    let log = folder.path().join(format!("m{at}.log"));
    let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
    Command::new(binary())
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
        .stderr(log)
        .spawn()
        .unwrap()
}

fn binary() -> PathBuf {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/etcd/usr/bin/etcd"));
    assert!(path.exists(), "{} is not there; run tests/run prepare", path.display());
    path
}
