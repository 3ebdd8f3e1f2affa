//! `ingress::grpc` against the h2 client.

use std::rc::Rc;

use bytes::Bytes;
use strait::ingress::grpc::Settings;
use strait::model::CancelReason;
use tokio_util::sync::CancellationToken;

use crate::support::*;

// C-G1, C-T2
#[test]
fn a_unary_call_passes_with_fields_body_and_trailers() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let client = h2_client(serve(&context(echo.clone()), &CancellationToken::new())).await;
        let request = request("Unary")
            .header("x-custom", "v1")
            .header("x-custom", "v2")
            .header("x-data-bin", "AAECAw")
            .header("grpc-encoding", "gzip")
            .header("strait-key", "uid=4711")
            .header("strait-source-unit", "forged")
            .header("grpc-previous-rpc-attempts", "7")
            .header("grpc-timeout", "5S")
            .body(())
            .unwrap();
        let answer = call(&client, request, "\x01\0\0\0\x03abc").await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.body, "\x01\0\0\0\x03abc");
        assert_eq!(answer.head.get_all("x-custom").iter().collect::<Vec<_>>(), ["v1", "v2"]);
        assert_eq!(answer.head["x-data-bin"], "AAECAw");
        assert_eq!(answer.trailers["grpc-status"], "0");
        assert_eq!(answer.trailers["x-bin"], "AAE");
        let requests = echo.requests.borrow();
        assert_eq!(requests.len(), 1);
        let seen = &requests[0];
        assert!(seen.body.end, "head, body and end arrive together");
        assert_eq!(seen.path, "/t.Echo/Unary");
        assert_eq!(seen.authority, "svc");
        assert_eq!(&seen.hints.keys[0].key[..], b"4711");
        assert_eq!(
            seen.deadline.unwrap() - seen.received,
            std::time::Duration::from_secs(5)
        );
        // te, grpc-timeout, the number of attempts and strait fields are of this hop.
        assert_eq!(seen.metadata.len(), 5);
    });
}

// C-G1
#[test]
fn trailers_only_replies_stay_one_block() {
    on_a_shard(async {
        let client = h2_client(serve(&context(Rc::new(Echo::default())), &CancellationToken::new())).await;
        let answer = call(&client, request("TrailersOnly").body(()).unwrap(), "")
            .await
            .unwrap();
        assert_eq!(answer.head["grpc-status"], "5");
        assert_eq!(answer.head["grpc-message"], "no%20one");
        assert!(answer.trailers.is_empty());
    });
}

// C-G1, C-G3
#[test]
fn a_stream_of_many_megabytes_passes_in_both_directions() {
    on_a_shard(async {
        let client = h2_client(serve(&context(Rc::new(Echo::default())), &CancellationToken::new())).await;
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request("Stream").body(()).unwrap(), false).unwrap();
        let total = 12 << 20;
        let reader = collect(response);
        let writer = async {
            let mut sent = 0;
            while sent < total {
                stream.reserve_capacity(64 * 1024);
                let granted = std::future::poll_fn(|cx| stream.poll_capacity(cx))
                    .await
                    .unwrap()
                    .unwrap();
                let len = granted.min(total - sent);
                let chunk: Vec<u8> = (sent..sent + len).map(|n| n.to_le_bytes()[0]).collect();
                stream.send_data(chunk.into(), false).unwrap();
                sent += len;
            }
            stream.send_data(Bytes::new(), true).unwrap();
        };
        let (answer, ()) = tokio::join!(reader, writer);
        let answer = answer.unwrap();
        assert_eq!(answer.body.len(), total);
        assert!(
            answer
                .body
                .iter()
                .enumerate()
                .all(|(n, byte)| *byte == n.to_le_bytes()[0])
        );
        assert_eq!(answer.trailers["grpc-status"], "0");
    });
}

// C-G2
#[test]
fn errors_of_a_relay_come_as_grpc_status_with_reason_and_place() {
    on_a_shard(async {
        let client = h2_client(serve(&context(Rc::new(Echo::default())), &CancellationToken::new())).await;
        let answer = call(&client, request("Fail").body(()).unwrap(), "").await.unwrap();
        assert_eq!(answer.head["grpc-status"], "14");
        assert_eq!(answer.head["strait-error"], "unit_away; unit=a; relay=a-1");
        assert_eq!(answer.head["grpc-retry-pushback-ms"], "70");
        let answer = call(&client, request("FailLate").body(()).unwrap(), "").await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "14");
        assert_eq!(answer.trailers["strait-error"], "link_lost; unit=a; relay=a-1");
        let answer = call(&client, request("Refused").body(()).unwrap(), "").await.unwrap();
        assert_eq!(answer.head["grpc-status"], "8");
        let bad = request("Unary").header("grpc-timeout", "soon").body(()).unwrap();
        let answer = call(&client, bad, "").await.unwrap();
        assert_eq!(answer.head["grpc-status"], "3");
        assert!(answer.head["grpc-message"].to_str().unwrap().contains("grpc-timeout"));
        let plain = http::Request::post("http://svc/t.Echo/Fail").body(()).unwrap();
        let answer = call(&client, plain, "x").await.unwrap();
        assert_eq!(answer.status, 503);
        assert_eq!(answer.head["strait-error"], "unit_away; unit=a; relay=a-1");
        let get = http::Request::get("http://svc/t.Echo/Unary").body(()).unwrap();
        assert_eq!(call(&client, get, "").await.unwrap().status, 400);
    });
}

// C-D2
#[test]
fn a_reset_and_a_lost_connection_cancel_their_calls() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let client = h2_client(serve(&context(echo.clone()), &CancellationToken::new())).await;
        let mut one = client.clone().ready().await.unwrap();
        let (response, mut stream) = one.send_request(request("Silent").body(()).unwrap(), false).unwrap();
        until("the call is open", || echo.open_calls() == 1).await;
        stream.send_reset(h2::Reason::CANCEL);
        drop(response);
        until("the call is cancelled", || echo.open_calls() == 0).await;
        let (response, stream) = one.send_request(request("Silent").body(()).unwrap(), false).unwrap();
        until("the call is open", || echo.open_calls() == 1).await;
        drop((one, client, response, stream));
        until("the call is cancelled", || echo.open_calls() == 0).await;
        assert_eq!(*echo.cancels.borrow(), [CancelReason::Caller, CancelReason::Caller]);
    });
}

#[test]
fn a_reply_before_the_end_of_the_request_stops_the_request() {
    on_a_shard(async {
        let client = h2_client(serve(&context(Rc::new(Echo::default())), &CancellationToken::new())).await;
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request("Early").body(()).unwrap(), false).unwrap();
        let answer = collect(response).await.unwrap();
        assert_eq!(answer.trailers["grpc-status"], "0");
        let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
        assert_eq!(reason, h2::Reason::NO_ERROR);
    });
}

// O-S4
#[test]
fn metadata_over_the_limit_is_answered_and_the_connection_survives() {
    on_a_shard(async {
        let client = h2_client(serve(&context(Rc::new(Echo::default())), &CancellationToken::new())).await;
        let large = request("Unary").header("x-large", "v".repeat(20_000)).body(()).unwrap();
        let answer = call(&client, large, "").await.unwrap();
        assert_eq!(answer.head["grpc-status"], "8");
        assert!(answer.head["strait-error"].to_str().unwrap().starts_with("too_large"));
        let mut many = request("Unary");
        for n in 0..70 {
            many = many.header(format!("x-{n}"), "v");
        }
        let answer = call(&client, many.body(()).unwrap(), "").await.unwrap();
        assert_eq!(answer.head["grpc-status"], "8");
        let answer = call(&client, request("Unary").body(()).unwrap(), "ok").await.unwrap();
        assert_eq!(answer.body, "ok");
    });
}

// C-L1
#[test]
fn a_drain_lets_running_calls_finish_and_then_closes() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let drain = CancellationToken::new();
        let socket = serve(&context(echo.clone()), &drain);
        let (client, connection) = h2::client::handshake(socket).await.unwrap();
        let (ended, is_ended) = tokio::sync::oneshot::channel();
        spawn(async move {
            let _ = ended.send(connection.await);
        });
        let mut client = client.ready().await.unwrap();
        let (response, mut stream) = client.send_request(request("Stream").body(()).unwrap(), false).unwrap();
        until("the call is open", || echo.open_calls() == 1).await;
        drain.cancel();
        until("no new call is possible", || {
            let Ok((response, _)) = client.send_request(request("Stream").body(()).unwrap(), true) else {
                return true;
            };
            drop(response);
            false
        })
        .await;
        stream.send_data("last".into(), true).unwrap();
        assert_eq!(collect(response).await.unwrap().body, "last");
        is_ended.await.unwrap().unwrap();
    });
}

#[test]
fn calls_above_the_stream_limit_wait_at_the_client() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let settings = Settings {
            streams_max: 2,
            ..Settings::default()
        };
        let client = h2_client(serve(&context_with(echo.clone(), settings), &CancellationToken::new())).await;
        // Before it has seen our settings, h2 opens more streams than are allowed.
        assert_eq!(
            call(&client, request("Unary").body(()).unwrap(), "first")
                .await
                .unwrap()
                .body,
            "first"
        );
        // h2 holds back what the server does not allow, so all of these end well.
        let calls: Vec<_> = (0..20)
            .map(|n| {
                let client = client.clone();
                async move {
                    call(&client, request("Unary").body(()).unwrap(), format!("{n}"))
                        .await
                        .unwrap()
                        .body
                }
            })
            .collect();
        for (n, body) in futures_join(calls).await.into_iter().enumerate() {
            assert_eq!(body, n.to_string());
        }
    });
}

async fn futures_join<T: 'static>(tasks: Vec<impl Future<Output = T> + 'static>) -> Vec<T> {
    let mut set = tokio::task::JoinSet::new();
    let mut out: Vec<Option<T>> = Vec::new();
    for (n, task) in tasks.into_iter().enumerate() {
        out.push(None);
        set.spawn_local(async move { (n, task.await) });
    }
    while let Some(done) = set.join_next().await {
        let (n, value) = done.unwrap();
        out[n] = Some(value);
    }
    out.into_iter().map(Option::unwrap).collect()
}
