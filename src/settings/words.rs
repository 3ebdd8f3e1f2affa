//! What the parser says about a value, in words for people.

/// What was found and what is expected, with an example; `words` are those that the value may be, if it is one of some. What is no
/// complaint about a type stays as it is.
pub(super) fn plain(text: &str, words: &[&str]) -> String {
    let said = text
        .strip_prefix("invalid type: ")
        .or_else(|| text.strip_prefix("invalid value: "));
    let parts = said.and_then(|said| said.rsplit_once(", expected "));
    match parts {
        Some((found, "string or map")) if !words.is_empty() => {
            format!("expected one of {words:?}, found {}", named(found))
        }
        Some((found, wanted)) => format!("expected {}, found {}", expected(wanted), named(found)),
        None => text.to_owned(),
    }
}

fn expected(wanted: &str) -> &str {
    match wanted {
        "a duration" => "a time with its unit, in quotes, such as \"30s\", \"500ms\" or \"5m\"",
        "a string" | "a borrowed string" | "str" => "a text in quotes, such as \"text\"",
        "a boolean" => "true or false, without quotes",
        "usize" | "u64" | "u32" => "a whole number from 0 on, without quotes, such as 10",
        "u16" => "a whole number from 0 to 65535, without quotes, such as 10",
        "u8" => "a whole number from 0 to 255, without quotes, such as 10",
        "i64" | "i32" => "a whole number, without quotes, such as 10",
        "f64" | "f32" => "a number, without quotes, such as 0.5",
        "a sequence" => "a list in brackets, such as [\"one\", \"two\"]",
        "a map" => "a table of its own, such as { name = \"value\" }",
        "string or map" => "a word in quotes; config/relay.toml says which there are",
        // A table that is read into a struct: its name says nothing to people.
        other if other.starts_with("struct ") => "a table of its own, such as { name = \"value\" }",
        other => other,
    }
}

/// What was found, without the parser's names of types.
fn named(found: &str) -> String {
    let quoted = |kind: &str| found.strip_prefix(kind).map(|rest| rest.trim_matches('`'));
    if let Some(number) = quoted("integer ").or_else(|| quoted("floating point ")) {
        return format!("the number {number}");
    }
    if let Some(value) = quoted("boolean ") {
        return value.to_owned();
    }
    if let Some(text) = found.strip_prefix("string ") {
        return format!("the text {text}");
    }
    match found {
        "map" => "a table".to_owned(),
        "sequence" => "a list".to_owned(),
        "null" | "unit value" => "nothing".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // O-C1
    #[test]
    fn complaints_about_types_say_what_to_write() {
        for (said, words) in [
            (
                "invalid type: integer `15`, expected a duration",
                "expected a time with its unit, in quotes, such as \"30s\", \"500ms\" or \"5m\", found the number 15",
            ),
            (
                "invalid type: string \"two\", expected usize",
                "expected a whole number from 0 on, without quotes, such as 10, found the text \"two\"",
            ),
            (
                "invalid value: integer `-1`, expected u16",
                "expected a whole number from 0 to 65535, without quotes, such as 10, found the number -1",
            ),
            (
                "invalid type: integer `3`, expected string or map",
                "expected one of [\"deny\", \"deterministic\"], found the number 3",
            ),
            (
                "invalid type: string \"x\", expected struct Retry",
                "expected a table of its own, such as { name = \"value\" }, found the text \"x\"",
            ),
            ("expected host:port", "expected host:port"),
            (
                "unknown variant `x`, expected `a` or `b`",
                "unknown variant `x`, expected `a` or `b`",
            ),
        ] {
            assert_eq!(plain(said, &["deny", "deterministic"]), words);
        }
    }
}
