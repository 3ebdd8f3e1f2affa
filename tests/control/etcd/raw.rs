//! Calls of etcd that the store never makes.

use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use strait::routing::record::{Rev, SessionId};
use strait::wire::etcd::{LEASE_GRANT, LEASE_REVOKE, LEASE_TIME_TO_LIVE, Lease, LeaseId, Nothing, Put};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::Cluster;

/// Makes a lease with a number.
#[derive(Clone, Copy, PartialEq, Message)]
struct Grant {
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

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
    let Nothing {} = ask(channel, path, question).await;
}

async fn ask<Q: Message + 'static, R: Message + Default + 'static>(
    channel: Channel,
    path: &'static str,
    question: Q,
) -> R {
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<Q, R>::default();
    let path = PathAndQuery::from_static(path);
    let answer = grpc.unary(tonic::Request::new(question), path, codec).await;
    answer.unwrap().into_inner()
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

/// For how long etcd keeps the lease of a life that is not renewed.
pub(crate) async fn granted(cluster: &Cluster, session: SessionId) -> Duration {
    let id = i64::try_from(session.0).unwrap();
    let lease: Lease = ask(connect(cluster), LEASE_TIME_TO_LIVE, LeaseId { id }).await;
    Duration::from_secs(lease.granted.try_into().unwrap())
}

/// Gives a life another lease, of so many seconds.
pub(crate) async fn grant(cluster: &Cluster, session: SessionId, ttl: i64) {
    let id = i64::try_from(session.0).unwrap();
    revoke(cluster, session).await;
    call(connect(cluster), LEASE_GRANT, Grant { ttl, id }).await;
}
