use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::testing::{Recorder, Service, answer, on_shard, request, wait_for};
use super::*;
use crate::model::{Code, RequestBody};

/// Runs `near` here and `far` on a thread of its own, joined by a bridge for `limit` calls.
fn two_shards<N, F>(limit: usize, near: impl FnOnce(Rc<dyn Endpoint>) -> N, far: impl FnOnce(Far) -> F + Send + 'static)
where
    N: Future<Output = ()>,
    F: Future<Output = ()>,
{
    let (here, there) = bridge(limit);
    let thread = std::thread::spawn(move || on_shard(async move { far(there).await }));
    on_shard(async move {
        let (endpoint, task) = here.into_endpoint();
        let tracker = TaskTracker::new();
        tracker.spawn_local(task);
        near(endpoint).await;
    });
    thread.join().unwrap();
}

/// A far shard that answers each call as soon as it sees it, until the bridge ends.
async fn answering(far: Far) {
    let service = Service::new();
    let run = far.run(service.clone());
    tokio::pin!(run);
    loop {
        tokio::select! {
            () = &mut run => return,
            () = tokio::time::sleep(Duration::from_millis(1)) => service.answer_all(Code::Ok),
        }
    }
}

// C-E1: a service registered on one shard is called from another
#[test]
fn ten_thousand_calls_cross_two_threads_and_each_ends_once() {
    two_shards(
        20_000,
        |endpoint| async move {
            let caller = Recorder::new();
            for id in 0..10_000 {
                endpoint.open(Box::new(request("/a/b")), caller.call(id)).unwrap();
            }
            wait_for("all end", || caller.events.borrow().len() == 10_000).await;
            let mut ids: Vec<_> = caller.endings().into_iter().map(|(id, _)| id).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), 10_000);
            assert_eq!(endpoint.in_flight(), 0);
        },
        answering,
    );
}

// C-F3
#[test]
fn a_full_bridge_refuses_with_pushback_and_retry_is_safe() {
    two_shards(
        1,
        |endpoint| async move {
            let caller = Recorder::new();
            endpoint.open(Box::new(request("/a/b")), caller.call(1)).unwrap();
            assert!(!endpoint.is_ready());
            let refused = endpoint.open(Box::new(request("/a/b")), caller.call(2)).unwrap_err();
            assert_eq!(
                (refused.error.reason, refused.error.retry),
                (Reason::Limited, Retry::Safe)
            );
            assert!(refused.error.pushback.is_some());
            assert_eq!(refused.request.path, "/a/b");
            wait_for("the first ends", || endpoint.in_flight() == 0).await;
            endpoint.open(Box::new(request("/a/b")), caller.call(3)).unwrap();
        },
        answering,
    );
}

#[test]
fn body_credit_and_cancel_reach_the_far_endpoint_in_order() {
    two_shards(
        8,
        |endpoint| async move {
            let caller = Recorder::new();
            let id = endpoint.open(Box::new(request("/a/b")), caller.call(1)).unwrap();
            let chunk = RequestBody {
                chunk: Bytes::from_static(b"more"),
                end: false,
            };
            endpoint.on_request(id, RequestEvent::Body(chunk));
            endpoint.on_request(id, RequestEvent::Credit(7));
            wait_for("credit comes back", || caller.events.borrow().len() == 1).await;
            endpoint.on_request(id, RequestEvent::Cancel(CancelReason::Deadline));
            assert_eq!(endpoint.in_flight(), 0);
            // The far side answers after the cancel; nothing of that may arrive.
            let probe = endpoint.open(Box::new(request("/a/probe")), caller.call(2)).unwrap();
            wait_for("the probe is answered", || !caller.endings().is_empty()).await;
            assert_eq!(caller.endings(), [(2, "Ok".to_owned())]);
            endpoint.on_request(probe, RequestEvent::Credit(1));
        },
        |far| async move {
            let service = Service::new();
            let tracker = TaskTracker::new();
            let run = tracker.spawn_local(far.run(service.clone()));
            wait_for("two events", || service.events.borrow().len() == 2).await;
            let id = service.opened.borrow()[0].0;
            service.reply(id, ReplyEvent::Credit(4));
            wait_for("a cancel", || service.events.borrow().len() == 3).await;
            wait_for("the probe", || service.opened.borrow().len() == 2).await;
            let texts: Vec<_> = service
                .events
                .borrow()
                .iter()
                .map(|(_, event)| format!("{event:?}"))
                .collect();
            assert_eq!(texts, ["Body(4 bytes)", "Credit(7)", "Cancel(Deadline)"]);
            let probe = service.opened.borrow()[1].0;
            service.reply(id, answer(Code::Internal));
            service.reply(probe, answer(Code::Ok));
            run.await.unwrap();
        },
    );
}

// X3
#[test]
fn calls_fail_when_the_far_side_ends_and_later_ones_are_refused_safely() {
    let (end, ended) = oneshot::channel();
    two_shards(
        8,
        |endpoint| async move {
            let caller = Recorder::new();
            endpoint.open(Box::new(request("/a/b")), caller.call(1)).unwrap();
            end.send(()).unwrap();
            wait_for("the call fails", || {
                caller.endings() == [(1, "service_lost".to_owned())]
            })
            .await;
            assert!(!endpoint.is_ready());
            let refused = endpoint.open(Box::new(request("/a/b")), caller.call(2)).unwrap_err();
            assert_eq!(
                (refused.error.reason, refused.error.retry),
                (Reason::ServiceUnavailable, Retry::Safe)
            );
        },
        |far| async move {
            let service = Service::new();
            let opened = async {
                ended.await.unwrap();
                wait_for("the call arrives", || !service.opened.borrow().is_empty()).await;
            };
            tokio::select! {
                () = far.run(service.clone()) => panic!("ended first"),
                () = opened => {}
            }
            // The bridge cancels at the endpoint what it had opened there.
            assert_eq!(service.in_flight(), 0);
        },
    );
}

// X3
#[test]
fn calls_are_cancelled_when_the_near_side_is_dropped() {
    two_shards(
        8,
        |endpoint| async move {
            endpoint
                .open(Box::new(request("/a/b")), Recorder::new().call(1))
                .unwrap();
        },
        |far| async move {
            let service = Service::new();
            far.run(service.clone()).await;
            assert_eq!(service.in_flight(), 0);
        },
    );
}

// C-F8: what the far endpoint says about itself decides whether calls are sent over the bridge
#[test]
fn a_refusal_at_the_far_side_comes_back_with_its_retry_and_readiness_follows() {
    let seen = Arc::new(AtomicBool::new(false));
    let is_seen = Arc::clone(&seen);
    two_shards(
        100_000,
        |endpoint| async move {
            let caller = Recorder::new();
            endpoint.open(Box::new(request("/a/b")), caller.call(1)).unwrap();
            wait_for("the refusal", || caller.endings() == [(1, "limited".to_owned())]).await;
            wait_for("not ready is seen with a later call", || {
                endpoint.open(Box::new(request("/a/b")), caller.call(2)).unwrap();
                !endpoint.is_ready()
            })
            .await;
            seen.store(true, Ordering::Relaxed);
            wait_for("ready again is seen without a call", || endpoint.is_ready()).await;
        },
        |far| async move {
            let service = Service::new();
            service.refuse.set(Some((Reason::Limited, Retry::Safe)));
            let later = async {
                wait_for("a refusal", || service.refused.get() >= 1).await;
                service.ready.set(false);
                wait_for("not ready is seen", || is_seen.load(Ordering::Relaxed)).await;
                service.ready.set(true);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = far.run(service.clone()) => {}
                () = later => {}
            }
        },
    );
}
