//! Calls that wait for a permit or for their time.

use super::*;

// C-L3, C-T3: what a link takes along all at once is sent again within the budget, first come first served.
#[test]
fn calls_lost_with_a_link_wait_for_a_permit_in_the_order_in_which_they_failed() {
    test(async |fixture| {
        fixture.open(0..40);
        // Unseen by the other side: nobody makes a pause, so the line alone decides.
        fixture.fail(0..40, Reason::LinkLost, Retry::Safe);
        let mut answered = 40;
        while answered < 80 {
            fixture.until_attempts(answered + 1).await;
            let sent = fixture.b.service.opened.borrow().len();
            let under_way = sent - answered;
            assert!(under_way <= 7, "{under_way} retries at a time, of 39 active calls");
            for attempt in answered..sent {
                fixture.reply(attempt, answer(Code::Ok));
            }
            answered = sent;
        }
        let endings = fixture.until_endings(40).await;
        assert!(endings.iter().all(|(_, ending)| ending == "Ok"), "{endings:?}");
        let again: Vec<u64> = fixture.attempts()[40..].iter().map(|(call, _)| *call).collect();
        assert!(again.is_sorted(), "{again:?}");
        assert_eq!(fixture.counted("sent"), 40);
        assert!(fixture.counted("waited") >= 33);
        fixture.is_as_new().await;
    });
}

// C-T3: a service that fails its calls does not get them all again.
#[test]
fn calls_that_a_service_broke_do_not_wait_for_a_permit() {
    test(async |fixture| {
        fixture.open(0..40);
        fixture.fail(0..40, Reason::ServiceLost, Retry::Ambiguous);
        let refused = fixture.caller.endings();
        assert!((33..=37).contains(&refused.len()), "{refused:?}");
        assert!(
            refused.iter().all(|(_, ending)| ending == "service_lost"),
            "{refused:?}"
        );
        let retried = 40 - refused.len();
        fixture.until_attempts(40 + retried).await;
        fixture.b.service.answer_all(Code::Ok);
        fixture.until_endings(40).await;
        assert_eq!(usize::try_from(fixture.counted("no_budget")).unwrap(), refused.len());
        fixture.is_as_new().await;
    });
}

#[test]
fn when_no_link_is_up_a_call_ends_as_away_and_nothing_goes_out() {
    test(async |fixture| {
        fixture.open(0..9);
        // Some wait already, for their time or for a permit, when the last link goes.
        fixture.lose(0..5);
        fixture.b.away.set(true);
        fixture.lose(5..9);
        assert_eq!(
            fixture.caller.endings().len(),
            4,
            "calls that can only wait in vain do not wait"
        );
        let endings = fixture.until_endings(9).await;
        assert!(endings.iter().all(|(_, ending)| ending == "unit_away"), "{endings:?}");
        assert_eq!(fixture.attempts().len(), 9);
        fixture.is_as_new().await;
    });
}

// C-D2: a caller that leaves takes everything along, wherever its call is.
#[test]
fn a_cancelled_call_gives_up_its_permit_or_its_place_in_line() {
    test(async |fixture| {
        let calls = fixture.open(0..6);
        fixture.lose(0..6);
        let cancel = |call: usize| {
            fixture
                .rpc
                .on_request(calls[call], RequestEvent::Cancel(CancelReason::Caller));
        };
        // 0, 1 and 2 have permits and wait for their time, the others wait in line.
        cancel(4);
        cancel(0);
        fixture.until_attempts(9).await;
        let mut again: Vec<u64> = fixture.attempts()[6..].iter().map(|(call, _)| *call).collect();
        again.sort_unstable();
        assert_eq!(again, [1, 2, 3]);
        // One more leaves with its attempt under way: unit b is told.
        cancel(1);
        fixture.b.service.answer_all(Code::Ok);
        fixture.until_attempts(10).await;
        assert_eq!(fixture.attempts()[9].0, 5);
        fixture.b.service.answer_all(Code::Ok);
        let mut ended = fixture.until_endings(3).await;
        ended.sort();
        assert_eq!(ended, [2, 3, 5].map(|call| (call, "Ok".to_owned())));
        assert_eq!(fixture.b.service.events.borrow().len(), 1);
        fixture.is_as_new().await;
    });
}

#[test]
fn a_call_waits_for_a_permit_no_longer_than_its_deadline() {
    test(async |fixture| {
        fixture.open(0..3);
        fixture.fail(0..3, Reason::LinkLost, Retry::Safe);
        let mut request = idempotent();
        request.authority = "7".into();
        request.deadline = Some(request.received + Duration::from_millis(300));
        fixture.rpc.open(Box::new(request), fixture.caller.call(7)).unwrap();
        fixture.fail(6..7, Reason::LinkLost, Retry::Safe);
        assert_eq!(fixture.until_endings(1).await, [(7, "deadline_exceeded".to_owned())]);
        assert_eq!((fixture.counted("waited"), fixture.counted("deadline")), (1, 1));
        assert_eq!(fixture.attempts().len(), 7);
        fixture.b.service.answer_all(Code::Ok);
        fixture.is_as_new().await;
    });
}

// I1, C-L1
#[test]
fn calls_that_wait_when_the_shard_ends_get_the_failure_they_wait_with() {
    test(async |fixture| {
        fixture.open(0..8);
        fixture.lose(0..7);
        fixture.rpc.end_retries();
        let mut endings = fixture.caller.endings();
        endings.sort();
        assert_eq!(
            endings,
            [0, 1, 2, 3, 4, 5, 6].map(|call| (call, "link_lost".to_owned()))
        );
        // From then on nothing waits any more.
        fixture.lose(7..8);
        assert_eq!(fixture.caller.endings().len(), 8);
        assert_eq!((fixture.attempts().len(), fixture.counted("draining")), (8, 8));
        fixture.is_as_new().await;
    });
}
