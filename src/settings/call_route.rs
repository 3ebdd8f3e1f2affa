//! `[calls.route]` in `config/relay.toml`: which key of a call routes it, which methods only read (S1), and what becomes of calls
//! whose unit is away (C-P1, C-P2).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{Problems, Settings, path};
use crate::ingress;
use crate::model::{AwayBy, Name, OnFailure, ParkedAs, RoutePolicy, WhileAway};
use crate::queue::{self, OnExpiry, Overflow, TopicRule, TopicSettings};

/// `[calls.route."<service>"]`: how calls of a service are routed, wherever it runs. The relay that a caller hands its call to goes
/// by its own settings, and the others go by what it has done; so have the same at all relays of the Geo.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CallRoute {
    /// Dimensions whose keys route the calls, in order of precedence; each one of `routing.dimensions`. A call with keys of other
    /// dimensions only is one without key. Default none: all, in the order of `routing.dimensions`.
    pub dimensions: Vec<Name>,
    /// Methods that only read, by name. While a key moves they go on at its owner, and the move waits for none of them; they claim no
    /// key, and that nobody has claimed it is answered as `NOT_FOUND`; they may be executed twice. Only where `reads` of the owner's
    /// relays says so too. Default none: all may write.
    pub reads: Vec<String>,
    /// What becomes of a unary call while the unit of its key is away. `fail`: it is refused with `unit_away`. `park`: it is stored on
    /// this relay's disk and goes to its unit when that is back. `local`: the service of this unit executes it, it is stored, answered
    /// as provisional, and executed by its unit too when that is back. Both need `idempotency-key` in the call's metadata and a body of
    /// at most 16 KiB, and do not concern methods that only read. Default `fail`.
    pub on_failure: OnFailure,
    /// How parked calls are answered. `unavailable`: with `UNAVAILABLE`, `strait-error: parked` and the ticket. `ok`: with `OK`, an
    /// empty message and the ticket, for callers that want to know only that it is stored. Default `unavailable`.
    pub parked_as: ParkedAs,
    /// By what a unit counts as away to which this relay has no link. `quorum`: more than half of the units that have a link to this
    /// relay, and this one, do not reach it; while others do, its calls are refused with `unit_away` as without `on_failure`. `own-links`:
    /// this relay has none, that is enough. What an operator or the route store says of a unit needs no quorum. Default `quorum`.
    pub away_by: AwayBy,
    /// Topic of this unit where its services are told if the owner refuses a call that was kept: a message with the call's key, its
    /// method (`subject`), `ticket`, idempotency-key (`callid`) and the answer's `code`, and what the owner said as a text. The topic is one
    /// of `[topics]`, here and at the owner, whose rule is not `owner`; with the rule `local` its `from` names the owners. Default none: the dead letter at the owner alone says so.
    pub rejected_to: Option<Name>,
    /// Topic of this unit where its services are told of each call that is kept, as soon as it is on disk: a message with the call's key and
    /// body, its method (`subject`), the unit it is kept for (`owner`), `ticket`, idempotency-key (`callid`), `onfailure` and `provisional`.
    /// Subscribers get it, and a local service by a group of the topic with `push`; whether they do changes nothing for the call. The topic is one of
    /// `[topics]` with the rule `local`. Default none: nobody is told.
    pub kept_to: Option<Name>,
    /// `[calls.route."<service>".methods."<method>"]`: what is different for one method.
    pub methods: BTreeMap<String, MethodRoute>,
}

/// What is different for one method.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MethodRoute {
    /// Dimensions whose keys route its calls, in order of precedence. Default none: those of the service.
    pub dimensions: Vec<Name>,
    /// What becomes of its calls while their unit is away. Default none: what is said of the service.
    pub on_failure: Option<OnFailure>,
    /// Topic where services of this unit are told of its calls that are kept. Default none: what is said of the service.
    pub kept_to: Option<Name>,
}

impl CallRoute {
    /// How methods are routed that are not named, with what else is said of the service.
    pub fn policy(&self, of: &RoutePolicy) -> RoutePolicy {
        RoutePolicy {
            dimensions: self.dimensions.clone(),
            away: self.away(self.on_failure),
            rejected_to: self.rejected_to.clone(),
            kept_to: self.kept_to.clone(),
            ..of.clone()
        }
    }

    /// How those are routed that are named.
    pub fn methods_of(&self, of: &RoutePolicy) -> HashMap<String, RoutePolicy> {
        let named = self.methods.keys().chain(&self.reads);
        let policy = |method: &String| {
            let own = self.methods.get(method);
            let dimensions = own
                .map(|own| &own.dimensions)
                .filter(|dimensions| !dimensions.is_empty());
            let reads = self.reads.contains(method);
            let on_failure = own.and_then(|own| own.on_failure).unwrap_or(self.on_failure);
            RoutePolicy {
                dimensions: dimensions.unwrap_or(&self.dimensions).clone(),
                reads,
                // Nothing of a read is worth keeping.
                away: self.away(if reads { OnFailure::Fail } else { on_failure }),
                rejected_to: self.rejected_to.clone(),
                kept_to: own
                    .and_then(|own| own.kept_to.as_ref())
                    .or(self.kept_to.as_ref())
                    .cloned(),
                ..of.clone()
            }
        };
        named.map(|method| (method.clone(), policy(method))).collect()
    }

    fn away(&self, on_failure: OnFailure) -> WhileAway {
        WhileAway {
            on_failure,
            parked_as: self.parked_as,
            away_by: self.away_by,
        }
    }

    /// Where it says that calls are kept, and how.
    fn kept(&self) -> impl Iterator<Item = (Option<&str>, OnFailure)> {
        let methods = self.methods.iter();
        let methods = methods.filter_map(|(method, own)| Some((Some(method.as_str()), own.on_failure?)));
        let all = std::iter::once((None, self.on_failure)).chain(methods);
        all.filter(|(_, on_failure)| *on_failure != OnFailure::Fail)
    }
}

impl Settings {
    pub(super) fn check_call_routes(&self, problems: &mut Problems) {
        for (service, route) in &self.calls.route {
            let at = path::join("calls.route", service.as_str());
            self.check_precedence(&at, &route.dimensions, problems);
            for (index, method) in route.reads.iter().enumerate() {
                let key = path::element(&path::join(&at, "reads"), index);
                if route.reads.iter().take(index).any(|earlier| earlier == method) {
                    problems.add(None, key, format!("method {method:?} is listed twice; remove one"));
                } else if !is_method(method) {
                    problems.add(None, key, METHOD);
                }
            }
            for (method, own) in &route.methods {
                let at = path::join(&path::join(&at, "methods"), method);
                if !is_method(method) {
                    problems.add(None, at.clone(), METHOD);
                }
                if own.dimensions.is_empty() && own.on_failure.is_none() && own.kept_to.is_none() {
                    let text = "required: the dimensions that route this method, on_failure, or kept_to; without any, remove the table";
                    problems.add(None, path::join(&at, "dimensions"), text);
                }
                self.check_precedence(&at, &own.dimensions, problems);
            }
        }
    }

    /// What kept calls need (C-P1, C-P2).
    pub(super) fn check_kept_calls(&self, problems: &mut Problems, warnings: &mut Problems) {
        for (service, route) in &self.calls.route {
            let at = path::join("calls.route", service.as_str());
            let mut parks = false;
            if route.kept().next().is_some() && ingress::api::own_services(&self.services).any(|own| own == *service) {
                let text = format!("{service} is this relay itself, and none of its calls are kept; remove it");
                problems.add(None, path::join(&at, "on_failure"), text);
            }
            for (method, on_failure) in route.kept() {
                let at = method.map_or_else(|| at.clone(), |method| path::join(&path::join(&at, "methods"), method));
                parks |= on_failure == OnFailure::Park;
                self.check_kept((&path::join(&at, "on_failure"), on_failure), problems);
                if method.is_some_and(|method| route.reads.iter().any(|reads| reads == method)) {
                    let text =
                        "the method is in `reads`, and nothing of what only reads is kept; take it out of one of them";
                    problems.add(None, path::join(&at, "on_failure"), text);
                }
                if on_failure == OnFailure::Local && !self.services.contains_key(service) {
                    let text = format!(
                        "{service} is not in [services], so nothing can execute its calls here, and those whose unit is away fail; \
                         add it, or use \"park\""
                    );
                    warnings.add(None, path::join(&at, "on_failure"), text);
                }
            }
            if route.parked_as == ParkedAs::Ok && !parks {
                let text = "takes effect only with on_failure = \"park\", of the service or of a method";
                warnings.add(None, path::join(&at, "parked_as"), text);
            }
            if route.away_by == AwayBy::OwnLinks && route.kept().next().is_none() {
                warnings.add(None, path::join(&at, "away_by"), NOTHING_KEPT);
            }
        }
        for (service, route) in &self.calls.route {
            let at = path::join(&path::join("calls.route", service.as_str()), "rejected_to");
            if let Some(wrong) = route.rejected_to.as_ref().and_then(|topic| self.no_notice(topic)) {
                problems.add(None, at, wrong);
            } else if route.rejected_to.is_some() && route.kept().next().is_none() {
                warnings.add(None, at, NOTHING_KEPT);
            }
            self.check_news(service.as_str(), route, problems, warnings);
        }
        if let Some(topic) = self.topics.get(queue::CALLS_TOPIC) {
            check_journal(topic, problems);
        }
    }

    /// Where services of this unit are told of kept calls.
    fn check_news(&self, service: &str, route: &CallRoute, problems: &mut Problems, warnings: &mut Problems) {
        let at = path::join("calls.route", service);
        if let Some(topic) = &route.kept_to {
            let at = path::join(&at, "kept_to");
            if let Some(wrong) = self.no_news(topic) {
                problems.add(None, at, wrong);
            } else if route.kept().next().is_none() {
                warnings.add(None, at, NOTHING_KEPT);
            }
        }
        for (method, own) in &route.methods {
            let Some(topic) = &own.kept_to else { continue };
            let at = path::join(&path::join(&path::join(&at, "methods"), method), "kept_to");
            let is_kept =
                own.on_failure.unwrap_or(route.on_failure) != OnFailure::Fail && !route.reads.contains(method);
            if let Some(wrong) = self.no_news(topic) {
                problems.add(None, at, wrong);
            } else if !is_kept {
                warnings.add(None, at, NOTHING_KEPT);
            }
        }
    }

    /// Why a topic cannot tell of kept calls.
    fn no_news(&self, topic: &Name) -> Option<String> {
        if topic.as_str() == queue::CALLS_TOPIC {
            return Some(own_topic(topic));
        }
        match TopicSettings::of(&self.topics, topic) {
            None => Some(format!(
                "topic {topic} is not known; add [topics.\"{topic}\"] with rule = \"local\""
            )),
            Some(settings) if settings.rule != TopicRule::Local => Some(format!(
                "topic {topic} goes to other units, and what is kept here is told here only; give it rule = \"local\", or use another topic"
            )),
            Some(_) => None,
        }
    }

    /// Why a topic cannot tell of refused calls.
    fn no_notice(&self, topic: &Name) -> Option<String> {
        if topic.as_str() == queue::CALLS_TOPIC {
            return Some(own_topic(topic));
        }
        let Some(settings) = TopicSettings::of(&self.topics, topic) else {
            let text =
                format!("topic {topic} is not known; add [topics.\"{topic}\"], here and at the owners of the keys");
            return Some(text);
        };
        match settings.rule {
            TopicRule::Owner => Some(format!(
                "topic {topic} goes to the owner of the key, which is who refused the call; give it another rule"
            )),
            TopicRule::Local if settings.from.is_none() => Some(format!(
                "topic {topic} takes no messages of other units; name the owners of the keys in its `from`, or give it another rule"
            )),
            _ => None,
        }
    }

    fn check_kept(&self, (at, on_failure): (&str, OnFailure), problems: &mut Problems) {
        let what = on_failure.as_str();
        if self.routing.dimensions.is_empty() {
            let text =
                format!("\"{what}\" needs routing.dimensions: only a call with a key has a unit that may be away");
            problems.add(None, at, text);
        }
        if self.queue.sync == queue::Sync::Buffered {
            let text = format!(
                "\"{what}\" needs queue.sync = \"group\": a call is answered when it is on disk, and with \"buffered\" a power \
                 cut loses it"
            );
            problems.add(None, at, text);
        }
    }

    fn check_precedence(&self, at: &str, dimensions: &[Name], problems: &mut Problems) {
        for (index, name) in dimensions.iter().enumerate() {
            let key = path::element(&path::join(at, "dimensions"), index);
            if !self.routing.dimensions.contains(name) {
                let text = format!("dimension {name} is not in routing.dimensions; add it there, or take it out here");
                problems.add(None, key, text);
            } else if dimensions.iter().take(index).any(|earlier| earlier == name) {
                problems.add(None, key, format!("dimension {name} is listed twice; remove one"));
            }
        }
    }
}

/// The settings of the journal, which are those of a topic, may lose no call that was answered (I16).
fn check_journal(topic: &TopicSettings, problems: &mut Problems) {
    let at = |name: &str| format!("topics.\"{}\".{name}", queue::CALLS_TOPIC);
    let mut wrong = |name: &str, text: &str| problems.add(None, at(name), text);
    if topic.rule != TopicRule::Owner {
        wrong(
            "rule",
            "calls that are kept go to the owner of their key; leave it out, or use \"owner\"",
        );
    }
    if !topic.ordered {
        wrong(
            "ordered",
            "calls of a key are replayed in their order; leave it out, or use true",
        );
    }
    if topic.overflow != Overflow::RejectNew {
        wrong(
            "overflow",
            "a call that was answered is not dropped; leave it out, or use \"reject-new\"",
        );
    }
    if topic.on_expiry != OnExpiry::DeadLetter {
        wrong(
            "on_expiry",
            "a call that was answered is not dropped; use \"dead-letter\"",
        );
    }
    if !topic.groups.is_empty() {
        wrong("groups", "the relay itself takes these calls; remove the groups");
    }
}

fn own_topic(topic: &Name) -> String {
    format!("topic {topic} is for calls that relays keep; use one of your own")
}

/// The last part of a gRPC path.
fn is_method(text: &str) -> bool {
    !text.is_empty() && !text.contains('/')
}

const NOTHING_KEPT: &str = "takes effect only with on_failure = \"park\" or \"local\", of the service or of a method";
const METHOD: &str = "expected the name of a method as in /package.Service/Method, without service and slash";

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Checked;
    use super::*;

    const BASICS: &str = "[relay]\ngeo = \"cn\"\nunit = \"a\"\nname = \"a-1\"\n[services.\"im.Room\"]\nendpoints = [\"http://127.0.0.1:1\"]\n";
    const DIMENSIONS: &str = "[routing]\ndimensions = [\"uid\"]\n";

    fn checked(text: &str) -> Result<Checked, String> {
        let settings: Settings = toml::from_str(text).map_err(|error| error.to_string())?;
        settings.check(Path::new(".")).map_err(|problems| problems.to_string())
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = checked(&format!("{BASICS}{text}")).map(drop).unwrap_err();
        assert!(
            found.contains(expected),
            "{text}\nexpected {expected}\nfound    {found}"
        );
    }

    // C-P1, C-P2: by service and by method; what only reads is never kept.
    #[test]
    fn a_method_says_what_becomes_of_its_calls_while_their_unit_is_away() {
        let text = "[topics.told]\nrule = \"all\"\n[calls.route.\"im.Room\"]\non_failure = \"park\"\nparked_as = \"ok\"\nreads = [\"History\"]\n\
                    away_by = \"own-links\"\nrejected_to = \"told\"\nkept_to = \"here\"\n[topics.here]\nrule = \"local\"\n[topics.posts]\nrule = \"local\"\n\
                    [calls.route.\"im.Room\".methods.Post]\non_failure = \"local\"\nkept_to = \"posts\"\n\
                    [calls.route.\"im.Room\".methods.Invite]\ndimensions = [\"uid\"]\non_failure = \"fail\"\n";
        let checked = checked(&format!("{BASICS}{DIMENSIONS}{text}")).unwrap();
        assert!(checked.warnings.0.is_empty(), "{:?}", checked.warnings);
        for (method, on_failure) in [
            ("Leave", OnFailure::Park),
            ("Post", OnFailure::Local),
            ("Invite", OnFailure::Fail),
            ("History", OnFailure::Fail),
        ] {
            let policy = checked.route_policy(Some("im.Room"), Some(method));
            assert_eq!(policy.away.on_failure, on_failure, "{method}");
            assert_eq!(policy.away.parked_as, ParkedAs::Ok, "{method}");
            assert_eq!(policy.away.away_by, AwayBy::OwnLinks, "{method}");
            assert_eq!(policy.rejected_to, Some(Name::new("told").unwrap()), "{method}");
            let topic = if method == "Post" { "posts" } else { "here" };
            assert_eq!(policy.kept_to, Some(Name::new(topic).unwrap()), "{method}");
        }
        let other = checked.route_policy(Some("im.Chat"), Some("Post"));
        assert_eq!(other.away, WhileAway::default());
        assert_eq!(other.away.away_by, AwayBy::Quorum);
    }

    // I16: the journal is there wherever keys are, and loses nothing.
    #[test]
    fn the_journal_is_a_topic_that_loses_nothing() {
        let with = |text: &str| checked(&format!("{BASICS}{DIMENSIONS}{text}")).unwrap().settings.topics;
        let topic = &with("")[queue::CALLS_TOPIC];
        assert_eq!((topic.rule, topic.ordered), (TopicRule::Owner, true));
        assert_eq!(
            (topic.on_expiry, topic.overflow),
            (OnExpiry::DeadLetter, Overflow::RejectNew)
        );
        assert_eq!(topic.ttl, std::time::Duration::from_secs(24 * 3600));
        assert!(topic.groups.contains_key(&queue::calls_group()));
        let own = "[topics.\"strait.calls\"]\non_expiry = \"dead-letter\"\nmessages_max = 7\n";
        let topic = &with(own)[queue::CALLS_TOPIC];
        assert_eq!(topic.messages_max, 7);
        assert!(topic.groups.contains_key(&queue::calls_group()));
        assert!(
            !checked(BASICS)
                .unwrap()
                .settings
                .topics
                .contains_key(queue::CALLS_TOPIC)
        );
    }

    // O-C1
    #[test]
    fn what_keeps_calls_from_being_kept_is_said_with_what_to_do() {
        let route = "[calls.route.\"im.Room\"]\non_failure = \"local\"\n";
        check(
            route,
            "calls.route.\"im.Room\".on_failure: \"local\" needs routing.dimensions",
        );
        let buffered = format!("{DIMENSIONS}[queue]\nsync = \"buffered\"\n{route}");
        check(&buffered, "on_failure: \"local\" needs queue.sync = \"group\"");
        let reads = format!("{DIMENSIONS}{route}reads = [\"Get\"]\nmethods.Get.on_failure = \"park\"\n");
        check(&reads, "methods.Get.on_failure: the method is in `reads`");
        let own = format!("{DIMENSIONS}[calls.route.\"strait.v1.Messages\"]\non_failure = \"park\"\n");
        check(&own, "on_failure: strait.v1.Messages is this relay itself");
        let told = |topic: &str| format!("{DIMENSIONS}{route}rejected_to = \"told\"\n{topic}");
        check(&told(""), "rejected_to: topic told is not known");
        check(
            &told("[topics.told]\n"),
            "rejected_to: topic told goes to the owner of the key",
        );
        let local = told("[topics.told]\nrule = \"local\"\n");
        check(&local, "rejected_to: topic told takes no messages of other units");
        let here = |topic: &str| format!("{DIMENSIONS}{route}kept_to = \"here\"\n{topic}");
        check(&here(""), "kept_to: topic here is not known");
        for rule in ["all", "owner"] {
            let text = here(&format!("[topics.here]\nrule = \"{rule}\"\n"));
            check(&text, "kept_to: topic here goes to other units");
        }
        let method = format!("{DIMENSIONS}{route}methods.Post.kept_to = \"strait.calls\"\n");
        check(
            &method,
            "methods.Post.kept_to: topic strait.calls is for calls that relays keep",
        );
        let empty = format!("{DIMENSIONS}[calls.route.\"im.Room\"]\nmethods.Get = {{}}\n");
        check(
            &empty,
            "methods.Get.dimensions: required: the dimensions that route this method, on_failure, or kept_to",
        );
        check(
            &format!("{DIMENSIONS}[calls.route.\"im.Room\"]\non_failure = \"later\"\n"),
            "unknown variant `later`",
        );
        for (setting, expected) in [
            ("rule = \"all\"", "rule: calls that are kept go to the owner"),
            ("ordered = false", "ordered: calls of a key are replayed in their order"),
            (
                "overflow = \"drop-oldest\"",
                "overflow: a call that was answered is not dropped",
            ),
            ("groups.other = {}", "groups: the relay itself takes these calls"),
        ] {
            let topic = format!("{DIMENSIONS}[topics.\"strait.calls\"]\non_expiry = \"dead-letter\"\n{setting}\n");
            check(&topic, &format!("topics.\"strait.calls\".{expected}"));
        }
        check(
            &format!("{DIMENSIONS}[topics.\"strait.calls\"]\nttl = \"1h\"\n"),
            "topics.\"strait.calls\".on_expiry: a call that was answered is not dropped; use \"dead-letter\"",
        );
    }

    #[test]
    fn what_takes_no_effect_is_warned_of() {
        let text =
            format!("{BASICS}{DIMENSIONS}[calls.route.\"im.Chat\"]\non_failure = \"local\"\nparked_as = \"ok\"\n");
        let warnings = checked(&text).unwrap().warnings.to_string();
        assert!(warnings.contains("im.Chat is not in [services]"), "{warnings}");
        assert!(
            warnings.contains("parked_as: takes effect only with on_failure = \"park\""),
            "{warnings}"
        );
        let text = format!("{BASICS}{DIMENSIONS}[calls.route.\"im.Room\"]\naway_by = \"own-links\"\n");
        let warnings = checked(&text).unwrap().warnings.to_string();
        assert!(
            warnings.contains("away_by: takes effect only with on_failure"),
            "{warnings}"
        );
        let text = format!(
            "{BASICS}{DIMENSIONS}[topics.here]\nrule = \"local\"\n[calls.route.\"im.Room\"]\nreads = [\"Get\"]\non_failure = \"park\"\n\
             methods.Plain = {{ on_failure = \"fail\", kept_to = \"here\" }}\nmethods.Get.kept_to = \"here\"\nmethods.Post.kept_to = \"here\"\n"
        );
        let warnings = checked(&text).unwrap().warnings.to_string();
        for (method, expected) in [("Plain", true), ("Get", true), ("Post", false)] {
            let warned = warnings.contains(&format!("methods.{method}.kept_to: takes effect only with on_failure"));
            assert_eq!(warned, expected, "{method}: {warnings}");
        }
    }
}
