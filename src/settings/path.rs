//! Paths of values in the settings, as text: `routing.rules[2].prefix`, `services."im.Echo".timeout`.

/// The path of a key in a table.
pub(super) fn join(parent: &str, key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    let dot = if parent.is_empty() { "" } else { "." };
    if bare {
        format!("{parent}{dot}{key}")
    } else {
        format!("{parent}{dot}{key:?}")
    }
}

/// The path of an element of a list.
pub(super) fn element(parent: &str, index: usize) -> String {
    format!("{parent}[{index}]")
}

/// The path of the table or list a value is in; `None` for the root.
pub(super) fn parent(path: &str) -> Option<&str> {
    let mut quoted = false;
    let mut end = None;
    for (index, character) in path.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '.' | '[' if !quoted => end = Some(index),
            _ => {}
        }
    }
    end.and_then(|end| path.get(..end))
}

/// The path of an error that serde reported.
pub(super) fn render(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    path.iter().fold(String::new(), |parent, segment| match segment {
        Segment::Seq { index } => element(&parent, *index),
        Segment::Map { key } => join(&parent, key),
        Segment::Enum { .. } | Segment::Unknown => parent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_read_like_toml() {
        let path = join(&join("services", "im.Echo"), "timeout");
        assert_eq!(path, "services.\"im.Echo\".timeout");
        assert_eq!(parent(&path), Some("services.\"im.Echo\""));
        assert_eq!(parent("services.\"im.Echo\""), Some("services"));
        assert_eq!(parent("routing.rules[2]"), Some("routing.rules"));
        assert_eq!(parent("routing"), None);
    }
}
