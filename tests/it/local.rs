//! O-S3: who may use the local endpoints, and who services are told is calling.
//!
//! Users are real ones: the calls are made by processes under another uid, which only root can start.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use toml::{Table, Value};

use crate::harness::{Cluster, within};
use crate::services::{Client, Echo, request};

const LIMIT: Duration = Duration::from_secs(30);
const GATEWAY: u32 = 23_001;
const OTHER: u32 = 23_002;

/// Whether other users can be tried; says so if not.
fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !is_root {
        eprintln!("skipped: only root can start processes of other users");
    }
    is_root
}

/// A copy of the program where every user may start it.
fn program(cluster: &Cluster) -> PathBuf {
    let path = cluster.directory().join("strait");
    fs::copy(env!("CARGO_BIN_EXE_strait"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// `strait call` as another user, to a service that answers with the metadata it got.
fn call_as(user: u32, program: &Path, socket: &Path, more: &[&str]) -> Output {
    let user = user.to_string();
    Command::new("setpriv")
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .arg(program)
        .args(["call", "im.Echo/Metadata", "--key", "uid=b:1", "--data", "x", "--relay"])
        .arg(format!("unix:{}", socket.display()))
        .args(more)
        .output()
        .unwrap()
}

fn identity(user: u32, service: &str) -> Value {
    let mut table = Table::new();
    table.insert("uid".to_owned(), Value::from(i64::from(user)));
    table.insert("service".to_owned(), Value::from(service));
    Value::Table(table)
}

#[tokio::test]
async fn calls_over_a_unix_socket_carry_the_service_that_runs_under_their_user() {
    if !is_root() {
        return;
    }
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "ingress.socket_mode", "0666")
        .set("a", "ingress.identities", vec![identity(GATEWAY, "im.Gateway")])
        .start()
        .await;
    let (relay, program) = (cluster.relay("a-1"), program(&cluster));
    let framed = relay.directory().join("data/strait.sock");
    for (socket, more) in [(framed, &[][..]), (relay.grpc_socket(), &["--grpc"][..])] {
        let answer = call_as(GATEWAY, &program, &socket, more);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.status.success(), "{answer:?}");
        assert!(text.contains("strait-source-service: im.Gateway"), "{text}");
        assert!(text.contains("strait-source-unit: a"), "{text}");
        let answer = call_as(OTHER, &program, &socket, more);
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        assert!(answer.status.success(), "{answer:?}");
        assert!(!text.contains("strait-source-service"), "{text}");
    }
    // What a caller says of itself changes nothing.
    let client = Client::connect(&relay.grpc()).await;
    let claim = [("strait-key", "uid=b:1"), ("strait-source-service", "im.Gateway")];
    let reply = client.unary("Metadata", request(Bytes::new(), &claim)).await.unwrap();
    let text = String::from_utf8(reply.into_inner().to_vec()).unwrap();
    assert!(!text.contains("im.Gateway"), "{text}");
}

#[tokio::test]
async fn mode_and_group_of_the_sockets_decide_who_may_call() {
    if !is_root() {
        return;
    }
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .set("a", "ingress.socket_mode", "0660")
        .set("a", "ingress.socket_group", GATEWAY.to_string())
        .start()
        .await;
    let (relay, program) = (cluster.relay("a-1"), program(&cluster));
    let framed = relay.directory().join("data/strait.sock");
    for (socket, more) in [(framed, &[][..]), (relay.grpc_socket(), &["--grpc"][..])] {
        let file = fs::metadata(&socket).unwrap();
        assert_eq!((file.mode() & 0o777, file.gid()), (0o660, GATEWAY));
        // Its group has the number of the user.
        assert!(call_as(GATEWAY, &program, &socket, more).status.success());
        let refused = call_as(OTHER, &program, &socket, more);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    }
}

#[tokio::test]
async fn calls_over_tcp_need_the_token_where_there_is_one_and_it_goes_no_further() {
    const TOKEN: &str = "a-token-of-the-test-0001";
    let echo = Echo::start();
    let mut cluster = Cluster::pair(&echo.endpoint())
        .set("a", "ingress.token_file", "token")
        .prepare();
    let home = cluster.relay("a-1").directory().to_owned();
    fs::write(home.join("token"), format!("{TOKEN}\n")).unwrap();
    for name in ["a-1", "b-1"] {
        cluster.relay_mut(name).start().await;
    }
    cluster.until_all_linked().await;
    let relay = cluster.relay("a-1");
    let tcp = Client::connect(&relay.grpc()).await;
    for token in ["", "a-token-of-the-test-0002"] {
        let fields = [("strait-key", "uid=b:1"), ("strait-local-token", token)];
        let call = tcp.unary("Metadata", request(Bytes::new(), &fields));
        let status = within("a call", LIMIT, call).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
        assert!(status.message().contains("strait-local-token"), "{status:?}");
    }
    let fields = [("strait-key", "uid=b:1"), ("strait-local-token", TOKEN)];
    let call = tcp.unary("Metadata", request(Bytes::new(), &fields));
    let reply = within("a call", LIMIT, call).await.unwrap().into_inner();
    let text = String::from_utf8(reply.to_vec()).unwrap();
    assert!(!text.contains(TOKEN), "{text}");
    // Who may write to the socket needs none.
    let unix = Client::connect_unix(&relay.grpc_socket()).await;
    let call = unix.unary("Metadata", request(Bytes::new(), &[("strait-key", "uid=b:1")]));
    within("a call", LIMIT, call).await.unwrap();
    assert!(!relay.log().contains(TOKEN));
}
