use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;

use super::*;

fn any_token() -> impl Strategy<Value = Token> {
    let target = prop_oneof![
        any::<NonZeroU16>().prop_map(TokenTarget::Unit),
        Just(TokenTarget::Follow)
    ];
    let revs = (0..=Rev::MAX.0).prop_flat_map(|as_of| (0..=as_of, Just(as_of)));
    let lifetime = prop_oneof![Just(Lifetime::Usual), Just(Lifetime::Short), Just(Lifetime::Long)];
    let flags = any::<(bool, bool, bool)>();
    (target, any::<u16>(), revs, 0..u64::from(u32::MAX), lifetime, flags).prop_map(
        |(target, incarnation, (rev, as_of), issued_at, lifetime, (claim, provisional, canary))| Token {
            target,
            epoch: Epoch::new(incarnation, Rev(rev)),
            as_of: Rev(as_of),
            issued_at,
            lifetime,
            flags: Flags {
                claim,
                provisional,
                canary,
            },
        },
    )
}

fn any_name() -> impl Strategy<Value = Name> {
    proptest::collection::vec(prop::sample::select(b"AZaz09._-".to_vec()), 1..40)
        .prop_map(|bytes| name(&String::from_utf8(bytes).unwrap()))
}

proptest! {
    // Catches a field written and read at different places, or with different widths.
    #[test]
    fn what_is_issued_opens_to_the_same(
        token in any_token(),
        dimension in any_name(),
        key in proptest::collection::vec(any::<u8>(), 0..300),
        geo in any::<u16>(),
    ) {
        let ring = Ring::new(secrets(&[(0x11, "")]), geo, token.issued_at);
        let text = ring.issue(&dimension, &key, &token).unwrap();
        prop_assert_eq!(text.as_str().len(), 56);
        prop_assert_eq!(ring.open(text.as_bytes(), &dimension, &key, token.issued_at), Ok(token));
        // A ring that was made long before derives what it does not have.
        let old = Ring::new(secrets(&[(0x11, "")]), geo, 0);
        prop_assert_eq!(old.open(text.as_bytes(), &dimension, &key, token.issued_at), Ok(token));
    }

    // R-I7. Catches whatever is left out of the MAC.
    #[test]
    fn every_flipped_bit_is_refused(token in any_token(), key in proptest::collection::vec(any::<u8>(), 1..40)) {
        let now = token.issued_at;
        let ring = Ring::new(secrets(&[(0x11, "")]), GEO, now);
        let dimension = dimension();
        let text = ring.issue(&dimension, &key, &token).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(text.as_bytes()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let changed = URL_SAFE_NO_PAD.encode(flipped(&bytes, bit));
            prop_assert!(ring.open(changed.as_bytes(), &dimension, &key, now).is_err(), "bit {} of the token", bit);
        }
        for bit in 0..text.as_bytes().len() * 8 {
            let changed = flipped(text.as_bytes(), bit);
            prop_assert!(ring.open(&changed, &dimension, &key, now).is_err(), "bit {} of the text", bit);
        }
        for bit in 0..key.len() * 8 {
            let changed = ring.open(text.as_bytes(), &dimension, &flipped(&key, bit), now);
            prop_assert_eq!(changed, Err(Refused::Mac), "bit {} of the key", bit);
        }
        for bit in 0..dimension.as_str().len() * 8 {
            let changed = String::from_utf8(flipped(dimension.as_str().as_bytes(), bit));
            let Some(changed) = changed.ok().and_then(|text| Name::new(&text).ok()) else { continue };
            prop_assert_eq!(ring.open(text.as_bytes(), &changed, &key, now), Err(Refused::Mac));
        }
        for bit in 0..16 {
            let geo = Ring::new(secrets(&[(0x11, "")]), GEO ^ (1 << bit), now);
            prop_assert_eq!(geo.open(text.as_bytes(), &dimension, &key, now), Err(Refused::Geo));
        }
    }

    // R-I7. The key of a Geo is another one even where the token names the right Geo.
    #[test]
    fn a_token_of_one_dimension_or_key_is_none_of_another(
        first in (any_name(), proptest::collection::vec(any::<u8>(), 0..8)),
        second in (any_name(), proptest::collection::vec(any::<u8>(), 0..8)),
    ) {
        prop_assume!(first != second);
        let text = ring().issue(&first.0, &first.1, &token()).unwrap();
        prop_assert_eq!(ring().open(text.as_bytes(), &second.0, &second.1, NOW), Err(Refused::Mac));
    }

    // T2
    #[test]
    fn no_text_is_too_odd(text in proptest::collection::vec(any::<u8>(), 0..130), now in any::<u64>()) {
        prop_assert!(ring().open(&text, &dimension(), KEY, now).is_err());
    }

    // R-I7: accepted from the day before it was issued to the end of its hard lifetime, at any hour.
    #[test]
    fn clocks_may_differ_by_a_day_and_tokens_end(
        issued_at in 100 * DAY..200 * DAY,
        now in 80 * DAY..220 * DAY,
        lifetime in prop::sample::select(Lifetime::ALL.to_vec()),
    ) {
        let ring = Ring::new(secrets(&[(0x11, "")]), GEO, now);
        let text = issue(&ring, &Token { issued_at, lifetime, ..token() });
        let opened = open(&ring, &text, now);
        let in_time = now.saturating_sub(issued_at) <= lifetime.hard() && issued_at / DAY <= now / DAY + 1;
        prop_assert_eq!(opened.is_ok(), in_time, "{:?}", opened);
    }
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

// What length the key has is under the MAC: catches `dimension | key`, where bytes could change sides.
#[test]
fn bytes_do_not_move_from_dimension_to_key() {
    let text = ring().issue(&name("ab"), b"c", &token()).unwrap();
    assert_eq!(ring().open(text.as_bytes(), &name("a"), b"bc", NOW), Err(Refused::Mac));
}

#[test]
fn each_refusal_says_why() {
    let check = |bytes: Vec<u8>, expected| {
        let text = URL_SAFE_NO_PAD.encode(bytes);
        assert_eq!(ring().open(text.as_bytes(), &dimension(), KEY, NOW), Err(expected));
    };
    let bytes = URL_SAFE_NO_PAD.decode(issue(&ring(), &token()).as_bytes()).unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        bytes
    };
    check(with(0, 0x21), Refused::Version);
    check(with(0, 0x12), Refused::Kind);
    check(with(1, bytes[1] + 1), Refused::Day);
    check(with(3, 8), Refused::Geo);
    check(with(5, 4), Refused::Mac);
    check(with(41, !bytes[41]), Refused::Mac);
    check(bytes[..41].to_vec(), Refused::Length);
    check(Vec::new(), Refused::Length);
    // As long as a token with a signature for other Geos (kind 2).
    let mut long = with(0, 0x12);
    long.resize(90, 0);
    check(long, Refused::Kind);
    let mut spaced = issue(&ring(), &token()).as_bytes().to_vec();
    spaced[9] = b' ';
    assert_eq!(ring().open(&spaced, &dimension(), KEY, NOW), Err(Refused::Encoding));
    assert_eq!(
        open(&ring(), &issue(&ring(), &token()), NOW + DAY + 1),
        Err(Refused::Expired)
    );
    let retired = open(&ring(), &issue(&ring(), &token()), NOW + 8 * DAY);
    assert_eq!(retired, Err(Refused::Day), "the key of that day is retired");
    let again = open(&ring(), &issue(&ring(), &token()), NOW + 256 * DAY);
    assert_eq!(again, Err(Refused::Day), "its number comes again, its day does not");
}

// as_of is not before the epoch.
#[test]
fn a_token_that_contradicts_itself_is_not_issued() {
    let wrong = Token {
        as_of: Rev(999),
        ..token()
    };
    assert!(ring().issue(&dimension(), KEY, &wrong).is_none());
    let wide = Token {
        as_of: Rev(1 << 48),
        ..token()
    };
    assert!(ring().issue(&dimension(), KEY, &wide).is_none());
}

// A revision this relay has not seen is no reason to refuse: it catches up first (R-3.4, AHEAD).
#[test]
fn a_token_ahead_of_this_relay_opens_and_says_so() {
    let ahead = Token {
        as_of: Rev::MAX,
        ..token()
    };
    let opened = open(&ring(), &issue(&ring(), &ahead), NOW).unwrap();
    assert_eq!(opened.evidence_as_of(), Epoch::new(2, Rev::MAX));
}

#[test]
fn tokens_are_renewed_past_the_soft_time_or_with_an_old_revision() {
    let then = Rev(1004);
    for lifetime in Lifetime::ALL {
        let token = Token { lifetime, ..token() };
        assert!(!token.is_due(NOW + lifetime.soft() - 1, then));
        assert!(token.is_due(NOW + lifetime.soft(), then));
        assert!(!token.is_due(NOW - HOUR, then), "issued by a clock that is ahead");
        assert!(token.is_due(NOW, Rev(1005)), "the copy was further on ten minutes ago");
        assert!(lifetime.soft() < lifetime.hard());
    }
}

#[test]
fn clients_keep_the_token_with_the_higher_epoch_then_revision() {
    let newer_rev = Token {
        as_of: Rev(1005),
        ..token()
    };
    let newer_epoch = Token {
        epoch: Epoch::new(2, Rev(1001)),
        as_of: Rev(1001),
        ..token()
    };
    assert!(newer_rev.replaces(&token()) && newer_epoch.replaces(&newer_rev));
    assert!(!token().replaces(&token()) && !token().replaces(&newer_epoch));
}

// T3
#[test]
fn nothing_secret_is_shown() {
    let (ring, text) = (ring(), issue(&ring(), &token()));
    let shown = format!("{ring:?} {text:?} {:?}", secrets(&[(0x11, "")]));
    assert_eq!(shown, "Ring(geo 7, 1 keys) [token] [1 keys]");
}

// Labels of a counter: two reasons under one name would hide each other.
#[test]
fn each_reason_has_its_own_name() {
    let names: std::collections::BTreeSet<_> = Refused::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(names.len(), Refused::ALL.len());
}
