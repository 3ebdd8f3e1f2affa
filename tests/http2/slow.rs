//! Callers that drip what they send or hardly read what they get (T13), and streams that are only silent (C-G3).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use strait::ingress::grpc::Settings;
use strait::model::{ByteSize, CancelReason};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// A pace that is found out soon.
fn quick() -> Settings {
    Settings {
        body_rate_min: ByteSize::kib(64),
        body_rate_time: Duration::from_millis(200),
        ..Settings::default()
    }
}

/// A client with the windows of HTTP/2 itself.
async fn small_client(context: &Rc<strait::ingress::grpc::Context>) -> h2::client::SendRequest<Bytes> {
    let socket = serve(context, &CancellationToken::new());
    let (client, connection) = h2::client::handshake(socket).await.unwrap();
    spawn(async move {
        let _ = connection.await;
    });
    client
}

fn prefixed(len: u32, bytes: usize) -> Bytes {
    let mut message = vec![0];
    message.extend(len.to_be_bytes());
    message.resize(message.len() + bytes, 1);
    Bytes::from(message)
}

/// A call whose message does not go on, until the relay ends it.
async fn drips_to_its_end(client: &h2::client::SendRequest<Bytes>) {
    let mut opener = client.clone().ready().await.unwrap();
    let (response, mut body) = opener.send_request(request("Silent").body(()).unwrap(), false).unwrap();
    body.send_data(prefixed(1000, 1), false).unwrap();
    let answer = collect(response).await.unwrap();
    assert_eq!(answer.head["grpc-status"], "4", "{answer:?}");
}

// T13: one byte now and then is not progress.
#[test]
fn a_message_that_drips_ends_its_call_and_a_stream_that_is_silent_between_messages_stays() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let client = small_client(&context_with(echo.clone(), quick())).await;
        // Silent after a whole message, for all of the time that the other one takes.
        let mut opener = client.clone().ready().await.unwrap();
        let (silent, mut silent_body) = opener.send_request(request("Stream").body(()).unwrap(), false).unwrap();
        silent_body.send_data(prefixed(3, 3), false).unwrap();
        let mut silent = silent.await.unwrap().into_body();
        assert_eq!(silent.data().await.unwrap().unwrap(), prefixed(3, 3));

        let mut opener = client.clone().ready().await.unwrap();
        let (response, mut body) = opener.send_request(request("Silent").body(()).unwrap(), false).unwrap();
        body.send_data(prefixed(1000, 1), false).unwrap();
        spawn(async move {
            // A stream that is gone takes nothing more.
            while body.send_data(Bytes::from_static(b"x"), false).is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let answer = collect(response).await.unwrap();
        assert_eq!(answer.head["grpc-status"], "4", "{answer:?}");
        let text = answer.head["grpc-message"].to_str().unwrap();
        assert!(text.contains("65536 bytes per second"), "{text}");
        until("the callee is told", || {
            *echo.cancels.borrow() == [CancelReason::Deadline]
        })
        .await;

        silent_body.send_data(prefixed(2, 2), true).unwrap();
        assert_eq!(silent.data().await.unwrap().unwrap(), prefixed(2, 2));
    });
}

// T13: what the callee does not take is not the caller's fault.
#[test]
fn a_caller_that_may_not_send_is_not_slow() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let context = context_with(echo.clone(), quick());
        let client = small_client(&context).await;
        let mut opener = client.clone().ready().await.unwrap();
        // `Silent` never gives credit; the relay takes one window of it.
        let (pushed_back, mut body) = opener.send_request(request("Silent").body(()).unwrap(), false).unwrap();
        body.send_data(prefixed(1 << 20, 1 << 20), false).unwrap();
        // Three times as long as it takes to find out who drips.
        for _ in 0..3 {
            drips_to_its_end(&client).await;
        }
        assert_eq!(echo.open_calls(), 1, "the one that is pushed back goes on");
        drop(pushed_back);
    });
}

// T13: a reply that waits for a client that gives no room.
#[test]
fn a_reply_that_nobody_reads_is_given_up_and_others_go_on() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let client = small_client(&context_with(echo.clone(), quick())).await;
        let mut opener = client.clone().ready().await.unwrap();
        let (response, mut body) = opener.send_request(request("Unary").body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(vec![1; 1 << 20]), true).unwrap();
        let mut unread = response.await.unwrap().into_body();
        // Nothing is read while two calls after each other drip long enough to be ended.
        for _ in 0..2 {
            drips_to_its_end(&client).await;
        }
        let mut read = 0;
        let error = loop {
            match unread.data().await.expect("the reply is whole although nobody read it") {
                Ok(chunk) => read += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
        assert!(read <= 65_535, "{read}");
        let answer = call(&client, request("Unary").body(()).unwrap(), "on").await.unwrap();
        assert_eq!(answer.body, "on");
    });
}

// T13: the bytes that are written to a socket nobody reads from, but for a few.
#[test]
fn a_client_that_hardly_reads_its_socket_is_disconnected() {
    on_a_shard(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let settings = Settings {
            write_timeout: Duration::from_millis(300),
            ..quick()
        };
        let mut socket = serve(
            &context_with(Rc::new(Echo::default()), settings),
            &CancellationToken::new(),
        );
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let mut written = 0_u32;
        let mut byte = [0];
        let fate = tokio::time::timeout(Duration::from_secs(15), async {
            loop {
                // Pings, which are answered; one byte of the answers is read for many of them.
                let ping = [&[0, 0, 8, 6, 0, 0, 0, 0, 0][..], &written.to_be_bytes(), &[0; 4]].concat();
                tokio::select! {
                    sent = socket.write_all(&ping) => {
                        if sent.is_err() {
                            return;
                        }
                    }
                    () = tokio::time::sleep(Duration::from_millis(50)) => {
                        if !matches!(socket.read(&mut byte).await, Ok(1)) {
                            return;
                        }
                    }
                }
                written += 1;
            }
        });
        fate.await.expect("it is never disconnected");
    });
}
