//! Which messages, on the command line.

use std::time::{Duration, SystemTime};

use super::super::CliError;
use crate::model::{GroupName, MessageId, Topic, UnitId};
use crate::queue::operator::{Filter, Line};

/// Where messages are.
#[derive(Debug, clap::Args)]
pub(super) struct Where {
    /// Messages that go to this unit
    #[arg(long, value_name = "UNIT", value_parser = super::super::name)]
    unit: Option<UnitId>,
    /// Messages of this topic: those that came in here for its groups, or with --unit those that go there
    #[arg(long, value_name = "TOPIC", value_parser = super::super::name)]
    topic: Option<Topic>,
    /// Only what this group of the topic is not done with
    #[arg(long, value_name = "GROUP", value_parser = super::super::name, requires = "topic", conflicts_with = "unit")]
    group: Option<GroupName>,
    /// The copies that were kept because the topic crosses the border of a Geo
    #[arg(long, requires = "topic", conflicts_with_all = ["unit", "group"])]
    mirror: bool,
    #[command(flatten)]
    which: Which,
}

/// Which messages; all that is given must fit.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// With this key
    #[arg(long, value_name = "DIMENSION=KEY", value_parser = pair)]
    key: Option<String>,
    /// With this attribute
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    attribute: Option<String>,
    /// With this number, or these numbers
    #[arg(long, value_name = "N|FROM-TO", value_parser = seqs)]
    seq: Option<(u64, u64)>,
    /// Accepted (dead letters: given up) then or later; a moment, or a time before now
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<u64>,
    /// Accepted (dead letters: given up) before that
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<u64>,
    /// The message with this id
    #[arg(long, value_name = "ID", value_parser = id)]
    id: Option<String>,
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
pub(super) struct Dead {
    /// Of this topic
    #[arg(long, value_name = "TOPIC", value_parser = super::super::name)]
    topic: Option<Topic>,
    /// Given up for this reason
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// Given up there
    #[arg(long, value_parser = ["delivery", "link", "policy"])]
    place: Option<String>,
    #[command(flatten)]
    which: Which,
}

impl Where {
    /// Where, and which of them.
    pub(super) fn line(&self) -> Result<(Line, Filter), CliError> {
        let mut filter = self.which.filter();
        let line = match (&self.unit, &self.topic) {
            (Some(unit), topic) => {
                filter.topic.clone_from(topic);
                Line::Outbox { unit: unit.clone() }
            }
            (None, Some(topic)) if self.mirror => Line::Mirror { topic: topic.clone() },
            (None, Some(topic)) => Line::Inbox {
                topic: topic.clone(),
                group: self.group.clone(),
            },
            (None, None) => return Err(CliError::Usage("where? give --unit or --topic".to_owned())),
        };
        Ok((line, filter))
    }
}

impl Which {
    fn filter(&self) -> Filter {
        Filter {
            key: self.key.clone(),
            attribute: self.attribute.clone(),
            from_seq: self.seq.map(|(from, _)| from),
            to_seq: self.seq.map(|(_, to)| to),
            since: self.since,
            before: self.before,
            id: self.id.clone(),
            ..Filter::default()
        }
    }
}

impl Dead {
    pub(super) fn filter(&self) -> Filter {
        Filter {
            topic: self.topic.clone(),
            reason: self.reason.clone(),
            place: self.place.clone(),
            ..self.which.filter()
        }
    }
}

pub(super) fn pair(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("expected NAME=VALUE, such as uid=1500".to_owned()),
    }
}

fn seqs(text: &str) -> Result<(u64, u64), String> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    match (from.trim().parse(), to.trim().parse()) {
        (Ok(from), Ok(to)) if from <= to => Ok((from, to)),
        _ => Err("expected a number, or two as in 10-20".to_owned()),
    }
}

fn id(text: &str) -> Result<String, String> {
    let id: Result<MessageId, _> = text.parse();
    id.map(|id| id.to_string()).map_err(|error| error.to_string())
}

/// Milliseconds since 1970: a moment such as `2026-11-25T10:00:00Z`, or so long ago, such as `2h`.
fn moment(text: &str) -> Result<u64, String> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(super::now().saturating_sub(millis(ago)));
    }
    let moment = humantime::parse_rfc3339_weak(text);
    let since = moment
        .ok()
        .and_then(|moment| moment.duration_since(SystemTime::UNIX_EPOCH).ok());
    since
        .map(millis)
        .ok_or_else(|| "expected a time before now such as 2h, or a moment such as 2026-11-25T10:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused_with_what_was_expected() {
        assert_eq!(seqs("7"), Ok((7, 7)));
        assert_eq!(seqs("7-9"), Ok((7, 9)));
        assert!(seqs("9-7").is_err() && seqs("x").is_err());
        assert_eq!(moment("1970-01-01T00:00:02Z"), Ok(2000));
        let ago = super::super::now() - moment("2h").unwrap();
        assert!((7_200_000..7_300_000).contains(&ago), "{ago}");
        assert!(moment("soon").unwrap_err().contains("such as 2h"));
        assert!(id("a/a-1/00000000000000ff/17").is_ok() && id("17").is_err());
        assert!(pair("uid=").is_ok() && pair("uid").is_err());
    }
}
