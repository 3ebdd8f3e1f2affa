use super::*;

fn check(text: &str, expected: Result<usize, (usize, SecretsProblem)>) {
    let parsed = Secrets::parse(Zeroizing::new(text.to_owned()));
    let found = parsed
        .map(|secrets| secrets.0.len())
        .map_err(|error| (error.line, error.problem));
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn the_file_of_secrets_is_read_and_mistakes_are_named() {
    let (a, b) = ("0a".repeat(32), "0B".repeat(32));
    check(&a, Ok(1));
    check(&format!("# new\n\n  {a} sign # since May\r\n{b}\tverify\n"), Ok(2));
    check("", Err((1, SecretsProblem::NoneSigns)));
    check(&format!("{a} verify\n"), Err((1, SecretsProblem::NoneSigns)));
    check(&format!("{a}\n{b} sign\n"), Err((2, SecretsProblem::SeveralSign)));
    check(&format!("{a}\n{a} verify\n"), Err((2, SecretsProblem::Double)));
    check(&format!("\n{a} sing\n"), Err((2, SecretsProblem::Word)));
    check(&format!("{a} sign verify\n"), Err((1, SecretsProblem::Word)));
    check(&a[1..], Err((1, SecretsProblem::Digits)));
    check(&a[2..], Err((1, SecretsProblem::Digits)));
    check(&format!("{a}00"), Err((1, SecretsProblem::Digits)));
    check(&a.replacen('0', "g", 1), Err((1, SecretsProblem::Digits)));
    check(&a.replacen("0a", "\u{e9}", 1), Err((1, SecretsProblem::Digits)));
    let many: Vec<String> = (0..5)
        .map(|byte| format!("{} verify", format!("{byte:02x}").repeat(32)))
        .collect();
    check(
        &many.join(
            "
",
        ),
        Err((5, SecretsProblem::Many)),
    );
}

// T3
#[test]
fn complaints_do_not_repeat_the_secret() {
    let text = format!("{} sing", "5c".repeat(32));
    let error = Secrets::parse(Zeroizing::new(text)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1 of the file of token keys: after the key there may be \"sign\" or \"verify\" only"
    );
}
