use super::*;
use crate::model::{Ending, Metadata, Part, Reason, Refused, ReplyBody, Retry};

/// Takes calls and keeps them; a call to unit `x` is refused.
#[derive(Default)]
struct Somebody {
    calls: RefCell<Vec<(Request, CallerRef)>>,
    events: RefCell<Vec<String>>,
}

impl Callee for Somebody {
    fn open(&self, request: Box<Request>, caller: CallerRef) -> Result<CallId, Refused> {
        if request.hints.unit == Name::new("x").ok() {
            let error = Box::new(RelayError::new(Reason::UnknownUnit, Retry::Never, "no such unit"));
            return Err(Refused { error, request });
        }
        let mut calls = self.calls.borrow_mut();
        calls.push((*request, caller));
        Ok(CallId(u64::try_from(calls.len()).unwrap() - 1))
    }

    fn on_request(&self, id: CallId, event: RequestEvent) {
        self.events.borrow_mut().push(format!("{} {event:?}", id.0));
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn call(unit: &str) -> OwnCall {
    OwnCall {
        path: Bytes::from_static(b"/im.OwnerControl/Copy"),
        unit: name(unit),
        body: Bytes::from_static(b"asked"),
        timeout: Duration::from_secs(5),
    }
}

fn part(body: &'static [u8], end: Option<Ending>) -> ReplyEvent {
    ReplyEvent::Part(Part {
        head: None,
        body: ReplyBody(Bytes::from_static(body)),
        end,
    })
}

fn status(status: Code, message: &'static str) -> Ending {
    Ending {
        status,
        message: Bytes::from_static(message.as_bytes()),
        trailers: Metadata::default(),
        ..Ending::default()
    }
}

/// Has a story make a call, and answers it with these events.
async fn answered(call: OwnCall, events: Vec<ReplyEvent>) -> (Result<Bytes, OwnError>, Rc<Somebody>) {
    let somebody = Rc::new(Somebody::default());
    let place = Place {
        unit: name("a"),
        relay: name("a-1"),
    };
    let (calls, asked) = OwnCalls::new();
    let story = OwnStory::new(place, name("geo"), somebody.clone());
    let answers = async {
        while somebody.calls.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        let caller = somebody.calls.borrow()[0].1.clone();
        for event in events {
            caller.send(event);
        }
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = calls.call(call) => answer,
        () = story.run(asked) => panic!("the story ended"),
        () = answers => unreachable!(),
    };
    (answer, somebody)
}

// W1, W2
#[tokio::test]
async fn a_call_goes_to_its_unit_as_one_of_a_relay_and_is_answered() {
    let events = vec![part(b"an", None), part(b"swer", Some(status(Code::Ok, "")))];
    let (answer, somebody) = answered(call("b"), events).await;
    assert_eq!(answer.unwrap(), "answer");
    assert_eq!(*somebody.events.borrow(), ["0 Credit(2)"]);
    let calls = somebody.calls.borrow();
    let request = &calls[0].0;
    assert_eq!(
        (&request.hints.unit, request.hints.idempotent),
        (&Some(name("b")), true)
    );
    let source = request.facts.source.as_ref().unwrap();
    assert_eq!(
        (&source.unit, source.service.as_ref().unwrap().as_str()),
        (&name("a"), RELAY)
    );
    assert_eq!(request.deadline, request.received.checked_add(Duration::from_secs(5)));
}

#[tokio::test]
async fn what_a_service_or_a_relay_says_against_it_is_told() {
    let events = vec![part(b"", Some(status(Code::FailedPrecondition, "disk full")))];
    let (answer, _) = answered(call("b"), events).await;
    let expected = OwnError::Service {
        code: Code::FailedPrecondition,
        message: "disk full".to_owned(),
    };
    assert_eq!(answer.unwrap_err(), expected);
    let error = Box::new(RelayError::new(Reason::UnitAway, Retry::Safe, "away"));
    let (answer, _) = answered(call("b"), vec![ReplyEvent::Failed(error.clone())]).await;
    assert_eq!(answer.unwrap_err(), OwnError::Relay(error));
    let (answer, _) = answered(call("x"), Vec::new()).await;
    assert!(matches!(answer, Err(OwnError::Relay(error)) if error.reason == Reason::UnknownUnit));
}

#[tokio::test]
async fn an_answer_without_an_end_in_sight_is_not_taken() {
    static LARGE: [u8; SMALL_BODY_BYTES] = [0; SMALL_BODY_BYTES];
    let (answer, somebody) = answered(call("b"), vec![part(&LARGE, None), part(b"x", None)]).await;
    assert_eq!(answer.unwrap_err(), OwnError::TooLarge);
    assert_eq!(somebody.events.borrow().last().unwrap(), "0 Cancel(Caller)");
}

#[tokio::test]
async fn a_shard_that_ends_answers() {
    let (calls, asked) = OwnCalls::new();
    drop(asked);
    assert_eq!(calls.call(call("b")).await.unwrap_err(), OwnError::Ending);
}
