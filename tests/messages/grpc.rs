//! A gRPC client of the API: tonic, with messages as `strait::wire::messages` writes them.

use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use strait::wire::messages::{
    self, Ack, Encode, PublishBatchReply, PublishBatchRequest, PublishReply, PublishRequest, Received, Say, Start,
    SubscribeRequest,
};
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::codec::BytesCodec;

/// A connection to a relay.
#[derive(Clone)]
pub struct Api(Grpc<Channel>);

/// Both directions of a stream.
pub struct Stream {
    sender: Option<mpsc::Sender<Bytes>>,
    replies: Streaming<Bytes>,
}

impl Api {
    pub async fn connect(address: &str) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self(Grpc::new(channel).max_decoding_message_size(16 << 20))
    }

    pub async fn unary(&self, method: &str, body: Bytes, timeout: Option<Duration>) -> Result<Bytes, Status> {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        let mut request = Request::new(body);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        Ok(grpc.unary(request, path(method), BytesCodec).await?.into_inner())
    }

    pub async fn publish(&self, request: PublishRequest) -> Result<PublishReply, Status> {
        self.publish_within(request, None).await
    }

    pub async fn publish_within(
        &self,
        request: PublishRequest,
        timeout: Option<Duration>,
    ) -> Result<PublishReply, Status> {
        let reply = self.unary("Publish", request.to_bytes(), timeout).await?;
        Ok(messages::decode(reply).unwrap())
    }

    pub async fn publish_batch(&self, messages: Vec<PublishRequest>) -> Result<Vec<PublishReply>, Status> {
        let request = PublishBatchRequest { messages };
        let reply = self.unary("PublishBatch", request.to_bytes(), None).await?;
        Ok(messages::decode::<PublishBatchReply>(reply).unwrap().replies)
    }

    pub async fn stream(&self, method: &str, first: &impl Encode) -> Result<Stream, Status> {
        let mut grpc = self.0.clone();
        grpc.ready().await.unwrap();
        let (sender, requests) = mpsc::channel(4096);
        sender.send(first.to_bytes()).await.unwrap();
        let request = Request::new(ReceiverStream::new(requests));
        let replies = grpc.streaming(request, path(method), BytesCodec).await?.into_inner();
        Ok(Stream {
            sender: Some(sender),
            replies,
        })
    }

    pub async fn subscribe(&self, topic: &str, group: &str, in_flight_max: u32) -> Result<Stream, Status> {
        let start = Start {
            topic: topic.to_owned(),
            group: group.to_owned(),
            in_flight_max,
        };
        self.stream("Subscribe", &say(Say::Start(start))).await
    }
}

impl Stream {
    pub async fn send(&self, message: &impl Encode) {
        let sender = self.sender.as_ref().unwrap();
        sender.send(message.to_bytes()).await.unwrap();
    }

    /// Without waiting; `false` if the connection takes no more.
    pub fn try_send(&self, message: &impl Encode) -> bool {
        self.sender.as_ref().unwrap().try_send(message.to_bytes()).is_ok()
    }

    pub fn close(&mut self) {
        self.sender = None;
    }

    pub async fn next_bytes(&mut self) -> Result<Option<Bytes>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.replies.message());
        next.await.expect("something comes")
    }

    pub async fn published(&mut self) -> PublishReply {
        messages::decode(self.next_bytes().await.unwrap().expect("a reply")).unwrap()
    }

    pub async fn received(&mut self) -> Received {
        messages::decode(self.next_bytes().await.unwrap().expect("a message")).unwrap()
    }

    pub async fn ack(&self, delivery: u64) {
        let deliveries = vec![delivery];
        self.send(&say(Say::Ack(Ack { deliveries }))).await;
    }
}

pub fn say(say: Say) -> SubscribeRequest {
    SubscribeRequest { request: Some(say) }
}

/// A message of a topic.
pub fn message(topic: &str, body: impl Into<Bytes>) -> PublishRequest {
    PublishRequest {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        body: body.into(),
        ..PublishRequest::default()
    }
}

/// Reason of a relay's error.
pub fn reason(status: &Status) -> String {
    let field = status.metadata().get("strait-error");
    let text = field.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().to_owned()
}

fn path(method: &str) -> PathAndQuery {
    format!("/strait.v1.Messages/{method}").parse().unwrap()
}
