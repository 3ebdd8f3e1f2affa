//! The directory of a run with its certificates, and waiting with a limit.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::certs::{Authority, Leaf, Pair};

/// Trust domain of all certificates.
pub const DOMAIN: &str = "strait.bench";

/// Which end of a pair: messages are published at A and consumed at B.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// Here they go in.
    A = 0,
    /// Here they come out.
    B = 1,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// Name of the unit.
    pub fn unit(self) -> &'static str {
        ["a", "b"][self as usize]
    }
}

/// A directory with an authority.
pub struct Stage {
    /// Where everything goes.
    pub directory: PathBuf,
    certificates: [Pair; 2],
}

impl Stage {
    /// An empty directory on the disk that is to be measured.
    pub fn new(directory: &Path) -> Self {
        let _ = fs::remove_dir_all(directory);
        fs::create_dir_all(directory).unwrap();
        let authority = Authority::new("bench");
        authority.write_bundle(&directory.join("ca.pem"));
        let issue = |side: Side| {
            let unit = side.unit();
            let leaf = Leaf::relay(DOMAIN, &geo(unit), unit, &format!("{unit}-1"));
            authority.issue(&leaf, directory, unit)
        };
        Self {
            directory: directory.to_owned(),
            certificates: Side::BOTH.map(issue),
        }
    }

    /// PEM of the authority.
    pub fn bundle(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Certificate and key of a side.
    pub fn certificate(&self, side: Side) -> &Pair {
        &self.certificates[side as usize]
    }
}

/// The Geo of a unit.
pub fn geo(unit: &str) -> String {
    format!("geo-{unit}")
}

/// Waits for a state, with a limit.
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    until_within(what, Duration::from_secs(60), holds);
}

/// The same, with another limit.
pub fn until_within(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < limit, "waited {limit:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An HTTP request without a body; the whole answer as text.
pub fn http(at: SocketAddr, method: &str, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(at).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request = format!("{method} {path} HTTP/1.1\r\nhost: {at}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
