//! What is kept of a message, and when a wait ends.

use std::time::Duration;

use super::times::PATIENCE;
use super::*;

// M-G7: a message that waits must not hold the buffer it was read into.
#[test]
fn a_small_message_does_not_hold_the_buffer_it_was_read_into() {
    let buffer = Bytes::from(vec![7; 64 * 1024]);
    let catalog = Catalog::new(
        std::sync::Arc::new(queue::Topics::from([("t".to_owned(), queue::TopicSettings::default())])),
        crate::model::Name::new("a").unwrap(),
        [],
        1 << 20,
    );
    let known = catalog.find(&Bytes::from_static(b"t")).unwrap();
    let request = |body: Bytes| PublishRequest {
        body,
        key: Some(crate::wire::messages::MessageKey {
            dimension: Bytes::from_static(b"uid"),
            key: buffer.slice(..4),
        }),
        ..PublishRequest::default()
    };
    let checked = Checked::new(request(buffer.slice(100..200)), &known).unwrap();
    assert_eq!(checked.body, buffer.slice(100..200));
    assert!(!std::ptr::eq(checked.body.as_ptr(), &raw const buffer[100]));
    let key = checked.key.unwrap().key;
    assert_eq!(key, buffer.slice(..4));
    assert!(!std::ptr::eq(key.as_ptr(), buffer.as_ptr()));
    // A large one is not copied.
    let checked = Checked::new(request(buffer.slice(100..60_000)), &known).unwrap();
    assert!(std::ptr::eq(checked.body.as_ptr(), &raw const buffer[100]));
}

// R-I17: what waits for its route says why before its publisher gives up.
#[test]
fn a_publication_waits_for_its_route_for_less_time_than_its_publisher() {
    let now = tokio::time::Instant::now().into_std();
    let of = |millis| patience(Some(now + Duration::from_millis(millis)));
    assert_eq!(patience(None), PATIENCE);
    assert_eq!(of(60_000), PATIENCE);
    for millis in [400, 2_000, 4_000] {
        let left = Duration::from_millis(millis);
        let margin = left.saturating_sub(of(millis));
        assert!(
            margin >= (left / 5).min(Duration::from_millis(200)),
            "{millis}: {margin:?}"
        );
        assert!(of(millis) > left / 2, "{millis}: {margin:?}");
    }
    assert_eq!(of(0), Duration::ZERO);
}

// M-A2: the publisher hears the end before its own deadline.
#[test]
fn a_wait_ends_shortly_before_the_publisher_gives_up() {
    let now = tokio::time::Instant::now().into_std();
    let in_millis = |millis| Duration::from_millis(millis);
    let left = |deadline, wait_max| {
        let limit = limit(deadline, wait_max).unwrap();
        limit.saturating_duration_since(now)
    };
    let near = |found: Duration, expected: Duration| found.abs_diff(expected) < in_millis(30);
    assert!(near(left(Some(now + in_millis(10_000)), None), in_millis(9_950)));
    assert!(near(left(Some(now + in_millis(200)), None), in_millis(180)));
    assert!(near(
        left(Some(now + in_millis(10_000)), Some(in_millis(100))),
        in_millis(100)
    ));
    assert_eq!(limit(None, None), None);
}
