//! What can be said about a command or an answer without the queue: its permission, and its line in the audit log.

use std::fmt::{self, Write};

use super::operator::{Answer, Command, Filter, Line};
use super::record::Pausable;

impl Command {
    /// Whether it changes something; then it is in the audit log.
    pub fn changes(&self) -> bool {
        match self {
            Self::Audit | Self::Peek { .. } | Self::Redrives | Self::Status => false,
            Self::Purge { dry_run, .. } | Self::RemoveGroup { dry_run, .. } => !dry_run,
            Self::Redrive { request, .. } => !request.dry_run,
            Self::CancelRedrive { .. }
            | Self::Limits { .. }
            | Self::Pause { .. }
            | Self::Resume { .. }
            | Self::Unblock { .. } => true,
        }
    }

    /// Whether the answer has bodies of messages in it.
    pub fn shows_bodies(&self) -> bool {
        matches!(self, Self::Peek { bodies: true, .. })
    }

    /// Its name, as in the JSON.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Audit => "audit",
            Self::CancelRedrive { .. } => "cancel_redrive",
            Self::Limits { .. } => "limits",
            Self::Pause { .. } => "pause",
            Self::Peek { .. } => "peek",
            Self::Purge { .. } => "purge",
            Self::Redrive { .. } => "redrive",
            Self::Redrives => "redrives",
            Self::RemoveGroup { .. } => "remove_group",
            Self::Resume { .. } => "resume",
            Self::Status => "status",
            Self::Unblock { .. } => "unblock",
        }
    }

    /// Who asks, as he says himself.
    pub fn who(&self) -> &str {
        match self {
            Self::Audit | Self::Peek { .. } | Self::Redrives | Self::Status => "",
            Self::CancelRedrive { who, .. }
            | Self::Limits { who, .. }
            | Self::Pause { who, .. }
            | Self::Purge { who, .. }
            | Self::Redrive { who, .. }
            | Self::RemoveGroup { who, .. }
            | Self::Resume { who, .. }
            | Self::Unblock { who, .. } => who,
        }
    }

    /// What it is about, for logs: neither keys nor attributes nor ids of messages (O-S5).
    pub fn target(&self) -> String {
        match self {
            Self::Audit | Self::Redrives | Self::Status => String::new(),
            Self::CancelRedrive { task, .. } => format!("redrive {task}"),
            Self::Limits { unit, topic, .. } => match topic {
                Some(topic) => format!("unit {unit}, topic {topic}"),
                None => format!("unit {unit}"),
            },
            Self::Pause { what, .. } | Self::Resume { what, .. } => what.to_string(),
            Self::Peek { line, filter, .. } => format!("{line}{}", filter.outline()),
            Self::Purge { line, filter, all, .. } => {
                let all = if *all { ", all" } else { "" };
                format!("{line}{}{all}", filter.outline())
            }
            Self::Redrive { request, .. } => format!("dead letters{}", request.filter.outline()),
            Self::RemoveGroup { topic, group, .. } => format!("group {group} of topic {topic}"),
            Self::Unblock { topic, group, key, .. } => {
                let keys = if key.is_some() { "one key" } else { "all keys" };
                format!("group {group} of topic {topic}, {keys}")
            }
        }
    }
}

impl Answer {
    /// Whether no further answer comes.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Progress { .. })
    }

    /// How it went, for logs.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Progress { .. } => "under way",
            Self::Audit { .. }
            | Self::Done { .. }
            | Self::Messages { .. }
            | Self::Redrives { .. }
            | Self::Status(_) => "done",
        }
    }

    /// Messages it concerned, if it says so.
    pub fn messages(&self) -> Option<u64> {
        match self {
            Self::Done { messages } => Some(*messages),
            _ => None,
        }
    }
}

impl Filter {
    /// Whether all messages fit.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Which parts it has, with the values that name no customer.
    fn outline(&self) -> String {
        let shown = [
            ("topic", self.topic.as_ref().map(ToString::to_string)),
            ("from_seq", self.from_seq.map(|seq| seq.to_string())),
            ("to_seq", self.to_seq.map(|seq| seq.to_string())),
            ("since", self.since.map(|time| time.to_string())),
            ("before", self.before.map(|time| time.to_string())),
            ("reason", self.reason.clone()),
            ("place", self.place.clone()),
        ];
        let hidden = [
            ("key", self.key.is_some()),
            ("attribute", self.attribute.is_some()),
            ("id", self.id.is_some()),
        ];
        // Writing to a String cannot fail.
        let mut text = String::new();
        for (name, value) in shown {
            if let Some(value) = value {
                let _ = write!(text, ", {name} {value}");
            }
        }
        for (name, is_given) in hidden {
            if is_given {
                let _ = write!(text, ", by {name}");
            }
        }
        text
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("dead letters"),
            Self::Inbox { topic, group: None } => write!(f, "topic {topic}"),
            Self::Inbox {
                topic,
                group: Some(group),
            } => write!(f, "group {group} of topic {topic}"),
            Self::Mirror { topic } => write!(f, "mirror of topic {topic}"),
            Self::Outbox { unit } => write!(f, "unit {unit}"),
        }
    }
}

impl fmt::Display for Pausable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Calls { unit } => write!(f, "calls to unit {unit}"),
            Self::Group { topic, group } => write!(f, "group {group} of topic {topic}"),
            Self::Redrive { task } => write!(f, "redrive {task}"),
            Self::Topic { topic } => write!(f, "topic {topic}"),
            Self::Unit { unit } => write!(f, "unit {unit}"),
        }
    }
}
