//! Publishes what is new in the configuration.

use std::collections::BTreeMap;

use super::{Answer, Operator, OperatorError, Published, READ_AT_ONCE};
use crate::control::book::{Decided, changes, merge_book_with};
use crate::routing::record::{
    Book, Change, Commit, Committed, NodeId, OpId, Placement, Record, RecordId, Rev, State, Target,
};

/// What was read about rules and buckets.
type Read = BTreeMap<NodeId, (Rev, Decided)>;

impl Operator {
    /// Publishes what is new in the configuration, or says what that is. With `previous`, where new keys went before what was
    /// published last.
    pub(super) async fn publish(&self, previous: bool, dry_run: bool, op: OpId) -> Result<Answer, OperatorError> {
        let configured = (self.0.configured)();
        // Without what is in the file when somebody wants back what was published before.
        let unread = (self.0.view)().unread.filter(|_| !previous);
        let told = |rev, changes| {
            let unread = unread.clone();
            Answer::Published(Published {
                rev,
                changes,
                unread,
                dry_run,
            })
        };
        for _ in 0..ATTEMPTS_MAX {
            let published = self.read_book().await?;
            let (book, rev) = published.map_or((None, Rev::ZERO), |(book, rev)| (Some(book), rev));
            let configured = match &book {
                Some(book) if previous => with_placements(book, &self.book_before(rev).await?),
                _ => configured.clone(),
            };
            let (merged, read) = self.merge(book.as_ref(), &configured).await?;
            let Some(merged) = merged else {
                return Ok(told(None, Vec::new()));
            };
            let lines = changes(book.as_ref(), &merged);
            if dry_run {
                return Ok(told(None, lines));
            }
            let commit = Commit {
                op,
                compares: compares(rev, &read)?,
                puts: vec![Record::Book(merged)],
                removes: Vec::new(),
            };
            // Somebody else may have published, or moved keys of these rules, meanwhile.
            if let Committed::Done(rev) = self.store().commit(commit).await? {
                return Ok(told(Some(rev), lines));
            }
        }
        let text = "others publish or move keys of the same rules all the time; ask again";
        Err(OperatorError::Refused(text.to_owned()))
    }

    /// What was published before this revision.
    async fn book_before(&self, rev: Rev) -> Result<Book, OperatorError> {
        let changes = self.store().history(RecordId::Book, LOOK_BACK).await?;
        let mut older = changes.into_iter().filter(|change| change.rev < rev);
        let found = older.find_map(|change| match change.record {
            Some(Record::Book(book)) => Some(book),
            _ => None,
        });
        found.ok_or_else(|| {
            let text = "nothing was published before, or the store does not remember it; write the rules for new keys into \
                        the configuration and publish them";
            OperatorError::Refused(text.to_owned())
        })
    }

    /// Merges, reading what the outcome depends on until nothing more is asked for.
    pub(super) async fn merge(
        &self,
        published: Option<&Book>,
        configured: &Book,
    ) -> Result<(Option<Book>, Read), OperatorError> {
        let mut read = Read::new();
        loop {
            let mut missing = Vec::new();
            let merged = merge_book_with(published, configured, &mut |id| {
                if let Some((_, decided)) = read.get(id) {
                    return decided.clone();
                }
                missing.push(id.clone());
                Decided::Unclear
            });
            if missing.is_empty() {
                return Ok((merged.map_err(OperatorError::Refused)?, read));
            }
            // All buckets of a rule, say: a merge stops at the first that it does not know.
            let missing = whole(missing, published);
            for some in missing.chunks(READ_AT_ONCE) {
                let ids = some.iter().cloned().map(RecordId::Node).collect();
                let reading = self.store().read(ids).await?;
                read.extend(some.iter().cloned().zip(reading.found.into_iter().map(decided)));
            }
        }
    }
}

/// What is published, with the rules for new keys of another book.
fn with_placements(book: &Book, earlier: &Book) -> Book {
    let mut book = book.clone();
    for spec in &mut book.dimensions {
        let then = earlier.dimensions.iter().find(|then| then.name == spec.name);
        if let Some((then, true)) = then.map(|then| (then, matches!(then.placement, Placement::Claim(_)))) {
            spec.placement = then.placement.clone();
        }
    }
    book
}

/// With a bucket, all of those that its rule has.
fn whole(missing: Vec<NodeId>, published: Option<&Book>) -> Vec<NodeId> {
    let mut all = Vec::new();
    for id in missing {
        if let NodeId::Bucket { dimension, bucket } = &id {
            let rules = published.map_or(&[][..], |book| &book.rules).iter();
            let mut ranges = rules
                .filter(|(_, rule)| rule.dimension == *dimension)
                .filter_map(|(_, rule)| rule.buckets());
            if let Some(range) = ranges.find(|range| range.contains(bucket)) {
                let of = |bucket| NodeId::Bucket {
                    dimension: dimension.clone(),
                    bucket,
                };
                all.extend(range.map(of));
                continue;
            }
        }
        all.push(id);
    }
    all
}

fn decided(found: Option<Change>) -> (Rev, Decided) {
    let Some(change) = found else {
        return (Rev::ZERO, Decided::Nothing(Rev::ZERO));
    };
    let decided = match change.record {
        Some(Record::Node(node)) => match (&node.state, &node.target) {
            (State::Tombstone, _) => Decided::Nothing(node.since()),
            (State::Active, Target::Unit(unit)) => Decided::Unit(unit.clone(), node.since()),
            _ => Decided::Unclear,
        },
        _ => Decided::Unclear,
    };
    (change.rev, decided)
}

/// The book, and the rules whose owners the new book relies on. What was read about buckets lets nothing new into the book.
pub(super) fn compares(book: Rev, read: &Read) -> Result<Vec<(RecordId, Rev)>, OperatorError> {
    let mut compares = vec![(RecordId::Book, book)];
    let rules = read.iter().filter(|(id, _)| matches!(id, NodeId::Rule { .. }));
    compares.extend(rules.map(|(id, (rev, _))| (RecordId::Node(id.clone()), *rev)));
    if compares.len() > READ_AT_ONCE {
        let text = format!("the new rules rely on more than {READ_AT_ONCE} others; publish a part of them first");
        return Err(OperatorError::Refused(text));
    }
    Ok(compares)
}

/// Others that publish at the same time.
const ATTEMPTS_MAX: usize = 10;
/// Books that are looked through for the one before.
const LOOK_BACK: usize = 2;
