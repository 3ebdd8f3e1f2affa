//! Calls of etcd that the store never makes.

use bytes::Bytes;
use prost::Message;
use strait::routing::record::{Rev, SessionId};
use strait::wire::etcd::{LEASE_REVOKE, LeaseId, Nothing, Put};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::Cluster;

#[derive(Clone, Copy, PartialEq, Message)]
struct Compact {
    #[prost(int64, tag = "1")]
    revision: i64,
}

/// A connection to the first member.
pub(crate) fn connect(cluster: &Cluster) -> Channel {
    let endpoint = Endpoint::from_shared(cluster.addresses()[0].clone());
    endpoint.unwrap().connect_lazy()
}

async fn call<Q: Message + 'static>(channel: Channel, path: &'static str, question: Q) {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Q, Nothing>::default();
    let path = PathAndQuery::from_static(path);
    grpc.unary(tonic::Request::new(question), path, codec).await.unwrap();
}

pub(crate) async fn put(channel: Channel, key: &str, value: &[u8]) {
    let put = Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value),
        lease: 0,
    };
    call(channel, "/etcdserverpb.KV/Put", put).await;
}

/// Forgets what was before this revision.
pub(crate) async fn compact(cluster: &Cluster, rev: Rev) {
    let revision = i64::try_from(rev.0).unwrap();
    call(connect(cluster), "/etcdserverpb.KV/Compact", Compact { revision }).await;
}

pub(crate) async fn revoke(cluster: &Cluster, session: SessionId) {
    let id = i64::try_from(session.0).unwrap();
    call(connect(cluster), LEASE_REVOKE, LeaseId { id }).await;
}
