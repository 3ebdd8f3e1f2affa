use super::*;

fn check(values: &[&str], expected: &[Result<(&str, &str), Refused>]) {
    let found = presented(values.iter().map(|value| value.as_bytes()));
    let found: Vec<_> = found
        .map(|entry| entry.map(|entry| (entry.dimension, std::str::from_utf8(entry.text).unwrap())))
        .collect();
    assert_eq!(found, expected, "{values:?}");
}

#[test]
fn fields_are_repeated_or_separated_by_commas() {
    check(&[], &[]);
    check(&["a;x"], &[Ok(("a", "x"))]);
    check(
        &["a;x, b ; y ,", "c;z"],
        &[Ok(("a", "x")), Ok(("b", "y")), Ok(("c", "z"))],
    );
    check(&["x", "a;y"], &[Err(Refused::Field), Ok(("a", "y"))]);
    check(&[";x"], &[Err(Refused::Field)]);
    check(&["a;"], &[Ok(("a", ""))]);
    check(&[&format!("{};x", "d".repeat(256))], &[Err(Refused::Field)]);
    let bytes: &[u8] = b"\xff;x";
    assert_eq!(presented([bytes]).collect::<Vec<_>>(), [Err(Refused::Field)]);
}

// T2: a call costs no more than so many look-ups.
#[test]
fn of_many_tokens_the_rest_is_not_looked_at() {
    let many = vec!["a;x"; 1000].join(",");
    let found: Vec<_> = presented([many.as_bytes()]).collect();
    assert_eq!(found.len(), PRESENTED_MAX + 1);
    assert!(found[..PRESENTED_MAX].iter().all(Result::is_ok));
    assert_eq!(found[PRESENTED_MAX], Err(Refused::Many));
    check(&["a;x"; PRESENTED_MAX], &[Ok(("a", "x")); PRESENTED_MAX]);
}

#[test]
fn what_is_written_is_read() {
    let value = field(&dimension(), &issue(&ring(), &token()));
    let entry = presented([value.as_bytes()]).next().unwrap().unwrap();
    assert_eq!(entry.dimension, "im.conversation");
    assert_eq!(ring().open(entry.text, &dimension(), KEY, NOW), Ok(token()));
}
