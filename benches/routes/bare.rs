//! What the stores themselves take for a write and a read, without anything of Strait's store around them.

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use redb::{Database, TableDefinition};
use strait::wire::etcd::{Message, Nothing, Put, RANGE, Range, Ranged};
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// As many bytes as a claim has.
const VALUE: [u8; 150] = [b'x'; 150];
const TABLE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("bare");

/// A connection to a member of etcd.
#[derive(Clone)]
pub struct Member(Channel);

impl Member {
    /// Connects to the first of these.
    pub async fn connect(addresses: &[String]) -> Self {
        let endpoint = Endpoint::from_shared(addresses[0].clone()).unwrap();
        Self(endpoint.tcp_nodelay(true).connect().await.unwrap())
    }

    /// Writes a key of its own; how long that took.
    pub async fn write(&self, number: u64) -> Duration {
        let put = Put {
            key: format!("/bare/{number}").into(),
            value: Bytes::from_static(&VALUE),
            lease: 0,
        };
        let begun = Instant::now();
        self.call::<_, Nothing>("/etcdserverpb.KV/Put", put).await;
        begun.elapsed()
    }

    /// A read that a majority has to confirm: the round trip to the store; how long that took.
    pub async fn read(&self) -> Duration {
        let range = Range {
            key: Bytes::from_static(b"/bare/0"),
            ..Range::default()
        };
        let begun = Instant::now();
        self.call::<_, Ranged>(RANGE, range).await;
        begun.elapsed()
    }

    async fn call<Q: Message + 'static, R: Message + Default + 'static>(&self, path: &'static str, question: Q) {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.unwrap();
        let codec = ProstCodec::<Q, R>::default();
        let path = PathAndQuery::from_static(path);
        grpc.unary(Request::new(question), path, codec).await.unwrap();
    }
}

/// A file of the library that the embedded store is made of.
pub struct File(Database);

impl File {
    /// A new one in this folder.
    pub fn create(folder: &Path) -> Self {
        Self(Database::create(folder.join("bare.redb")).unwrap())
    }

    /// Writes a value in a transaction of its own, synced; how long that took.
    pub fn write(&self, number: u64) -> Duration {
        let begun = Instant::now();
        let transaction = self.0.begin_write().unwrap();
        transaction
            .open_table(TABLE)
            .unwrap()
            .insert(number, VALUE.as_slice())
            .unwrap();
        transaction.commit().unwrap();
        begun.elapsed()
    }
}
