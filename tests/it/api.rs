//! C-G4: health and reflection, of the relay itself and of the services behind it.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::codegen::tokio_stream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::{HealthReporter, HealthService};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::{Background, Cluster, Relay, wait_for, within};
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(30);
const TO_B: &[(&str, &str)] = &[("strait-key", "uid=b:1")];

async fn channel(relay: &Relay) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{}", relay.grpc())).unwrap();
    endpoint.connect().await.unwrap()
}

fn question(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

async fn check(channel: &Channel, service: &str, fields: &[(&'static str, &str)]) -> Result<Answer, Code> {
    let mut client = HealthClient::new(channel.clone());
    let answer = within("check", LIMIT, client.check(request(question(service), fields))).await;
    answer
        .map(|answer| answer.into_inner().status())
        .map_err(|status: Status| status.code())
}

/// The health service of a program that knows one service, `only.here`.
fn health_service() -> (String, Background) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let thread = Background::start("health", move || async move {
        let reporter = HealthReporter::new();
        reporter.set_service_status("only.here", ServingStatus::Serving).await;
        let service = HealthService::from_health_reporter(reporter);
        let service = tonic_health::pb::health_server::HealthServer::new(service);
        let incoming = TcpIncoming::from(TcpListener::from_std(listener).unwrap());
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming)
            .await
            .unwrap();
    });
    (endpoint, thread)
}

#[tokio::test]
async fn a_relay_answers_for_its_own_health_and_that_of_its_services() {
    let (echo, gone) = (Echo::start(), "http://127.0.0.1:1".to_owned());
    let cluster = Cluster::pair(&echo.endpoint())
        .service("b", "im.Gone", &[gone])
        .start()
        .await;
    let relay = cluster.relay("b-1");
    let channel = channel(relay).await;
    assert_eq!(check(&channel, "", &[]).await, Ok(Answer::Serving));
    wait_for("the service to be available", LIMIT, async || {
        (check(&channel, "im.Echo", &[]).await == Ok(Answer::Serving)).then_some(())
    })
    .await;
    assert_eq!(check(&channel, "im.Gone", &[]).await, Ok(Answer::NotServing));
    assert_eq!(check(&channel, "im.None", &[]).await, Err(Code::NotFound));
    assert_eq!(echo.seen.get(|seen| &seen.opened), 0, "the relay asked a service");
    // The services end: whoever watches is told.
    let mut client = HealthClient::new(channel.clone());
    let mut watch = client.watch(question("im.Echo")).await.unwrap().into_inner();
    let told = within("first", LIMIT, watch.message()).await.unwrap().unwrap();
    assert_eq!(told.status(), Answer::Serving);
    drop(echo);
    let told = within("second", LIMIT, watch.message()).await.unwrap().unwrap();
    assert_eq!(told.status(), Answer::NotServing);
}

// A key says whose health is meant: that of the owner, where the settings give the service to a program.
#[tokio::test]
async fn with_a_key_health_is_that_of_the_owner() {
    let (endpoint, _service) = health_service();
    let cluster = Cluster::pair("http://127.0.0.1:1")
        .service("b", "grpc.health.v1.Health", &[endpoint])
        .start()
        .await;
    let channel = channel(cluster.relay("a-1")).await;
    wait_for("the service of b", LIMIT, async || {
        (check(&channel, "only.here", TO_B).await == Ok(Answer::Serving)).then_some(())
    })
    .await;
    assert_eq!(check(&channel, "only.here", &[]).await, Err(Code::NotFound));
    assert_eq!(check(&channel, "", &[]).await, Ok(Answer::Serving));
}

// C-L1: a watch is told of the drain and ended; it does not hold up the end of the relay.
#[tokio::test]
async fn a_relay_that_drains_says_so_and_ends_watches() {
    let echo = Echo::start();
    let mut cluster = Cluster::pair(&echo.endpoint())
        .set("a", "relay.drain_timeout", "60s")
        .start()
        .await;
    let channel = channel(cluster.relay("a-1")).await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let mut health = HealthClient::new(channel.clone());
    let mut watch = health.watch(question("")).await.unwrap().into_inner();
    // Watches follow readiness within 100 ms, so the first answer may be from before it.
    let mut told = within("first", LIMIT, watch.message()).await.unwrap().unwrap();
    if told.status() == Answer::NotServing {
        told = within("readiness", LIMIT, watch.message()).await.unwrap().unwrap();
    }
    assert_eq!(told.status(), Answer::Serving);
    let slow = request(Bytes::from_static(b"m"), &[TO_B[0], ("x-delay-ms", "1000")]);
    let slow = tokio::join!(client.unary("Unary", slow), async {
        wait_for("the slow call", LIMIT, async || (echo.seen.open() == 1).then_some(())).await;
        cluster.relay("a-1").signal("TERM");
        let told = within("second", LIMIT, watch.message()).await.unwrap().unwrap();
        assert_eq!(told.status(), Answer::NotServing);
        let end = within("end of the watch", LIMIT, watch.message()).await;
        assert!(matches!(end, Ok(None)), "{end:?}");
    });
    slow.0.unwrap();
    let relay = cluster.relay_mut("a-1");
    let status = wait_for("the relay to end", LIMIT, async || relay.exited()).await;
    assert!(status.success());
}

#[tokio::test]
async fn reflection_lists_and_describes_the_api() {
    let cluster = Cluster::pair("http://127.0.0.1:1").start().await;
    let mut client = ServerReflectionClient::new(channel(cluster.relay("a-1")).await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let questions = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("grpc.health.v1.Health".to_owned())),
    ]);
    let answers = within("answers", LIMIT, client.server_reflection_info(questions)).await;
    let mut answers = answers.unwrap().into_inner();
    let mut next = async || {
        let answer: ServerReflectionResponse = within("answer", LIMIT, answers.message()).await.unwrap().unwrap();
        answer.message_response.unwrap()
    };
    let MessageResponse::ListServicesResponse(list) = next().await else {
        panic!("no list");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|service| service.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "strait.v1.Access",
            "strait.v1.Messages",
            "strait.v1.Routes"
        ]
    );
    let MessageResponse::FileDescriptorResponse(files) = next().await else {
        panic!("no file");
    };
    assert!(!files.file_descriptor_proto.is_empty());
}

// The server behind the pipe ends connections on which calls are cancelled too fast. That must not be the end
// of the API.
#[tokio::test]
async fn many_cancelled_questions_do_no_harm() {
    let cluster = Cluster::pair("http://127.0.0.1:1").start().await;
    let channel = channel(cluster.relay("a-1")).await;
    for _ in 0..20 {
        let asked = (0..100).map(|_| {
            let mut client = HealthClient::new(channel.clone());
            async move {
                let _ = tokio::time::timeout(Duration::from_micros(300), client.check(question(""))).await;
            }
        });
        let mut all = tokio::task::JoinSet::new();
        asked.for_each(|one| drop(all.spawn(one)));
        all.join_all().await;
    }
    wait_for("an answer", LIMIT, async || {
        (check(&channel, "", &[]).await == Ok(Answer::Serving)).then_some(())
    })
    .await;
}
