//! What the demo takes of the machine: ports and a folder.

use std::fs;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Ports of the loopback interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    pub(super) grpc: u16,
    pub(super) framed: u16,
    pub(super) admin: u16,
    pub(super) peer: u16,
}

impl Ports {
    /// Ports that are free now; the default ones if they are wanted and free.
    pub(super) fn free(usual: bool) -> io::Result<Self> {
        let usual = usual && [7400, 7401, 7402].into_iter().all(is_free);
        let mut found = Vec::new();
        while found.len() < 4 {
            let candidates = std::iter::repeat_with(|| fastrand::u16(PORTS)).take(PORTS.len());
            let mut free = candidates.filter(|port| !found.contains(port) && is_free(*port));
            found.push(free.next().ok_or_else(|| io::Error::from(io::ErrorKind::AddrInUse))?);
        }
        let [grpc, framed, admin, peer] = found.as_slice() else {
            return Err(io::ErrorKind::AddrInUse.into());
        };
        Ok(Self {
            grpc: if usual { 7400 } else { *grpc },
            framed: if usual { 7401 } else { *framed },
            admin: if usual { 7402 } else { *admin },
            peer: *peer,
        })
    }
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
}

/// A folder for the owner only, removed on drop.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> io::Result<Self> {
        let usual = std::env::temp_dir();
        // Sockets lie in it, whose paths may not be long.
        let base = if usual.as_os_str().len() > 60 {
            PathBuf::from("/tmp")
        } else {
            usual
        };
        let name = format!("strait-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = base.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Below the range from which Linux takes the source ports of outgoing connections.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
