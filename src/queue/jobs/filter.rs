//! Which messages an operator means.

use crate::model::{DeadPlace, Key, Message, MessageId, Seq, Topic};
use crate::queue::operator::Filter;
use crate::queue::record::DeadLetter;

/// A filter that was checked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matcher {
    topic: Option<Topic>,
    key: Option<(Vec<u8>, Vec<u8>)>,
    attribute: Option<(String, Vec<u8>)>,
    from_seq: Option<Seq>,
    to_seq: Option<Seq>,
    since: Option<u64>,
    before: Option<u64>,
    reason: Option<String>,
    place: Option<DeadPlace>,
    id: Option<MessageId>,
}

impl Matcher {
    /// Checks a filter; the error says what to write instead.
    pub(crate) fn new(filter: &Filter) -> Result<Self, String> {
        let key = filter.key.as_deref().map(key_of).transpose()?;
        let attribute = filter.attribute.as_deref().map(|text| {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| format!("an attribute is looked for as name=value, not {text:?}"))?;
            let name = name.strip_prefix("ce-").unwrap_or(name);
            Ok::<_, String>((name.to_owned(), value.as_bytes().to_vec()))
        });
        let place = filter.place.as_deref().map(|text| {
            let place = DeadPlace::ALL.into_iter().find(|place| place.as_str() == text);
            place.ok_or_else(|| format!("a place is delivery, link or policy, not {text:?}"))
        });
        let id = filter
            .id
            .as_deref()
            .map(|text| text.parse().map_err(|error| format!("{error}")));
        Ok(Self {
            topic: filter.topic.clone(),
            key,
            attribute: attribute.transpose()?,
            from_seq: filter.from_seq,
            to_seq: filter.to_seq,
            since: filter.since,
            before: filter.before,
            reason: filter.reason.clone(),
            place: place.transpose()?,
            id: id.transpose()?,
        })
    }

    /// The first number that can fit.
    pub(crate) fn first(&self) -> Seq {
        self.from_seq.unwrap_or(1).max(1)
    }

    /// The last number that can fit.
    pub(crate) fn last(&self) -> Option<Seq> {
        self.to_seq
    }

    /// Whether a message of a line fits.
    pub(crate) fn fits(&self, seq: Seq, message: &Message) -> bool {
        self.reason.is_none() && self.place.is_none() && self.fits_at(seq, message, message.accepted_at.0)
    }

    /// Whether a dead letter fits.
    pub(crate) fn fits_letter(&self, letter: &DeadLetter) -> bool {
        self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.place.is_none_or(|place| place == letter.place)
            && self.fits_at(letter.seq, &letter.message, letter.last_failure.0)
    }

    fn fits_at(&self, seq: Seq, message: &Message, at: u64) -> bool {
        let has_key = |(dimension, key): &(Vec<u8>, Vec<u8>)| {
            let of = message.key.as_ref();
            of.is_some_and(|of| of.dimension == *dimension && of.key == *key)
        };
        let has = |(name, value): &(String, Vec<u8>)| message.attributes.value(name) == Some(value);
        self.from_seq.is_none_or(|from| from <= seq)
            && self.to_seq.is_none_or(|to| seq <= to)
            && self.since.is_none_or(|since| since <= at)
            && self.before.is_none_or(|before| at < before)
            && self.topic.as_ref().is_none_or(|topic| *topic == message.topic)
            && self.id.as_ref().is_none_or(|id| *id == message.id)
            && self.key.as_ref().is_none_or(has_key)
            && self.attribute.as_ref().is_none_or(has)
    }
}

/// A key as operators write it.
pub(crate) fn key_of(text: &str) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (dimension, key) = text
        .split_once('=')
        .ok_or_else(|| format!("a key is looked for as dimension=key, not {text:?}"))?;
    Ok((dimension.as_bytes().to_vec(), key.as_bytes().to_vec()))
}

/// A key as operators see it.
pub(crate) fn key_text(key: &Key) -> String {
    let (dimension, key) = (
        String::from_utf8_lossy(&key.dimension),
        String::from_utf8_lossy(&key.key),
    );
    format!("{dimension}={key}")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{MetadataBuilder, Name, UnixMillis};

    fn message() -> Message {
        let mut attributes = MetadataBuilder::new();
        attributes.push(b"type", b"order").unwrap();
        Message {
            id: "cell-a/relay-1/00000000000000ff/17".parse().unwrap(),
            topic: Name::new("orders").unwrap(),
            key: Some(Key {
                dimension: Bytes::from_static(b"im.user"),
                key: Bytes::from_static(b"7=8"),
            }),
            accepted_at: UnixMillis(1000),
            deadline: None,
            visited: Vec::new(),
            redrives: 0,
            routed: 0,
            attributes: attributes.build(),
            body: Bytes::new(),
        }
    }

    fn fits(change: impl FnOnce(&mut Filter)) -> bool {
        let mut filter = Filter::default();
        change(&mut filter);
        Matcher::new(&filter).unwrap().fits(5, &message())
    }

    #[test]
    fn a_filter_fits_if_all_its_parts_do() {
        // M-H1
        let name = |text: &str| Some(text.to_owned());
        assert!(fits(|_| {}));
        assert!(fits(|filter| filter.key = name("im.user=7=8")));
        assert!(!fits(|filter| filter.key = name("im.user=7")));
        assert!(fits(|filter| filter.attribute = name("ce-type=order")));
        assert!(!fits(|filter| filter.attribute = name("type=bill")));
        assert!(fits(|filter| (filter.from_seq, filter.to_seq) = (Some(5), Some(5))));
        assert!(!fits(|filter| (filter.since, filter.before) = (Some(1000), Some(1000))));
        assert!(fits(|filter| (filter.since, filter.before) = (Some(1000), Some(1001))));
        assert!(fits(|filter| filter.id = name("cell-a/relay-1/00000000000000ff/17")));
        assert!(!fits(|filter| filter.reason = name("attempts")));
        assert!(!fits(
            |filter| (filter.key, filter.since) = (name("im.user=7=8"), Some(1001))
        ));
    }

    #[test]
    fn a_filter_that_cannot_be_read_says_how_it_should_be() {
        let filter = Filter {
            key: Some("no dimension".to_owned()),
            ..Filter::default()
        };
        assert!(Matcher::new(&filter).unwrap_err().contains("dimension=key"));
    }
}
