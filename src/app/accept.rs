//! Accepts local connections and hands each to the shard that has the fewest.
//!
//! One task per listener, on the control thread: connections are few and live long. A kernel that spreads
//! them by hash (`SO_REUSEPORT`) would put two of three busy clients on one shard as often as not.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::shard::{Command, Protocol, Socket};
use super::{AppError, Shared};
use crate::ingress::access::SocketFiles;

/// All sockets for local services.
pub(super) struct Listeners {
    listeners: Vec<(Protocol, Listener)>,
}

enum Listener {
    Tcp(TcpListener),
    /// The path is removed when the listener goes.
    Unix {
        listener: UnixListener,
        _path: SocketPath,
    },
}

struct SocketPath(PathBuf);

impl Drop for SocketPath {
    fn drop(&mut self) {
        // It may be gone already; nothing depends on it.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listeners {
    /// Binds all addresses of the settings.
    pub(super) fn bind(shared: &Shared) -> Result<Self, AppError> {
        let ingress = &shared.settings.ingress;
        let data_dir = &shared.data_dir;
        let files = ingress.socket_files()?;
        let mut listeners = Vec::new();
        let tcp = [
            (Protocol::Grpc, &ingress.grpc.listen),
            (Protocol::Framed, &ingress.framed.listen),
        ];
        for (protocol, addresses) in tcp {
            for address in addresses {
                let listener = bind_tcp(*address).map_err(|source| AppError::Bind {
                    what: protocol.as_str(),
                    address: address.to_string(),
                    source,
                })?;
                listeners.push((protocol, Listener::Tcp(listener)));
            }
        }
        let grpc_socket = Path::new(&ingress.grpc.socket);
        for (protocol, socket) in [
            (Protocol::Grpc, grpc_socket),
            (Protocol::Framed, ingress.framed.socket.as_path()),
        ] {
            if socket.as_os_str().is_empty() {
                continue;
            }
            let path = data_dir.join(socket);
            let listener = bind_unix(&path, files).map_err(|source| AppError::Bind {
                what: protocol.as_str(),
                address: path.display().to_string(),
                source,
            })?;
            listeners.push((
                protocol,
                Listener::Unix {
                    listener,
                    _path: SocketPath(path),
                },
            ));
        }
        Ok(Self { listeners })
    }

    /// Accepts until `stop`. `shards` take the connections in turn, those with room first.
    pub(super) async fn run(self, shards: Vec<mpsc::Sender<Command>>, stop: CancellationToken) {
        let tracker = TaskTracker::new();
        for (protocol, listener) in self.listeners {
            let (shards, stop) = (shards.clone(), stop.clone());
            tracker.spawn(async move { accept(protocol, listener, &shards, &stop).await });
        }
        tracker.close();
        tracker.wait().await;
    }
}

async fn accept(protocol: Protocol, listener: Listener, shards: &[mpsc::Sender<Command>], stop: &CancellationToken) {
    let mut turn = 0_usize;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok(socket) => {
                let Some(shard) = shards.get(turn % shards.len().max(1)) else {
                    return;
                };
                turn = turn.wrapping_add(1);
                if shard.send(Command::Serve(protocol, socket)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of file descriptors, most likely: waiting lets connections end; a tight loop would not.
                tracing::warn!(protocol = protocol.as_str(), %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                stream.into_std().map(Socket::Tcp)
            }
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok(Socket::Unix(stream.into_std()?, Some(user)))
            }
        }
    }
}

fn bind_tcp(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Binds a Unix socket. A file that a relay left behind when it was killed is replaced, one that answers
/// is not.
fn bind_unix(path: &Path, files: SocketFiles) -> io::Result<UnixListener> {
    if path.exists() {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "a process answers on this socket",
                ));
            }
            Err(_) => std::fs::remove_file(path)?,
        }
    }
    let listener = UnixListener::bind(path)?;
    // Until the mode is set, the umask of the process decides.
    if files.group.is_some() {
        chown(path, None, files.group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(files.mode))?;
    Ok(listener)
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
