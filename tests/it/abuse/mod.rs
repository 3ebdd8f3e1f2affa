//! O-S4: what must not be possible from any listener: taking the relay down, its memory, or the service
//! of others. Each attack is followed by a good call over a connection of its own.

mod admin;
mod framed;
mod http2;
mod peers;

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Cluster, usage, within};
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// One relay with a local service, whose patience is a second or two.
struct Target {
    cluster: Cluster,
    echo: Echo,
    rss: u64,
    descriptors: usize,
}

impl Target {
    async fn start() -> Self {
        let echo = Echo::start();
        let cluster = Cluster::builder()
            .unit("a", 1)
            .unit("b", 1)
            .service("a", "im.Echo", &[echo.endpoint()])
            .set("a", "ingress.grpc.preface_timeout", "1s")
            .set("a", "ingress.grpc.header_timeout", "1s")
            .set("a", "ingress.grpc.write_timeout", "2s")
            .set("a", "ingress.framed.hello_timeout", "1s")
            .set("a", "ingress.framed.frame_timeout", "1s")
            .set("a", "ingress.framed.write_timeout", "2s")
            .start()
            .await;
        let mut target = Self {
            cluster,
            echo,
            rss: 0,
            descriptors: 0,
        };
        target.serves().await;
        let pid = target.cluster.relay("a-1").pid();
        target.rss = usage::rss(pid);
        target.descriptors = usage::descriptors(pid);
        target
    }

    fn grpc(&self) -> String {
        self.cluster.relay("a-1").grpc()
    }

    /// A good call passes, no call is orphaned and the relay has not grown by more than this.
    async fn is_well(&self, what: &str, grown_max: u64) {
        self.serves().await;
        crate::harness::wait_for(&format!("calls to end after {what}"), LIMIT, async || {
            (self.echo.seen.open() == 0).then_some(())
        })
        .await;
        let pid = self.cluster.relay("a-1").pid();
        let grown = usage::rss_peak(pid).saturating_sub(self.rss);
        assert!(grown < grown_max, "{what}: the relay grew by {} MiB", grown / MIB);
    }

    /// All connections of the attack are closed; a few descriptors more may be links to services.
    async fn forgets(&self, what: &str) {
        let pid = self.cluster.relay("a-1").pid();
        crate::harness::wait_for(&format!("connections to be closed after {what}"), LIMIT, async || {
            (usage::descriptors(pid) <= self.descriptors + 8).then_some(())
        })
        .await;
    }

    async fn serves(&self) {
        let client = Client::connect(&self.grpc()).await;
        let asked = request(Bytes::from("good"), &[("strait-key", "uid=a:1")]);
        let reply = within("a good call", Duration::from_secs(10), client.unary("Unary", asked)).await;
        assert_eq!(reply.unwrap().into_inner(), "good");
    }
}

/// Writes as much as the other side takes, then reads until it closes; gives what it sent, at most 1 MiB.
/// Fails if it does not close the connection.
async fn until_closed(what: &str, stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        // The other side may close before it has taken all; that is what is wanted.
        let _ = writer.write_all(&bytes).await;
        writer
    };
    let read = async {
        let mut answer = Vec::new();
        let mut buffer = vec![0; 16_384];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if answer.len() < 1 << 20 {
                answer.extend_from_slice(&buffer[..length]);
            }
        }
        answer
    };
    within(&format!("closing after {what}"), LIMIT, async {
        let (_writer, answer) = tokio::join!(write, read);
        answer
    })
    .await
}
