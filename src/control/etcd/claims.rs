//! Who has which key.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::keys::{self, get, is_at, one, operation, put};
use super::{Etcd, TOGETHER_MAX, reads};
use crate::control::ledger::check_claims;
use crate::control::store::{CLAIMS_PAGE, ClaimKey, ClaimsPage, StoreError};
use crate::model::{Name, UnitId};
use crate::routing::record::{Book, Claim, KeyBytes, RecordId, Rev};
use crate::wire::etcd::{Operate, Operated, Outcome, Range, Txn};

impl Etcd {
    pub(super) async fn claim_all(&self, claims: Vec<Claim>) -> Result<Vec<Claim>, StoreError> {
        self.check_claimed(&claims).await?;
        let mut wanted: Vec<(Bytes, &Claim)> = Vec::with_capacity(claims.len());
        let mut owners: HashMap<Bytes, Claim> = HashMap::with_capacity(claims.len());
        for claim in &claims {
            let key = self.keys.claim(&claim.dimension, &claim.key);
            // Of two for the same key the first is asked for.
            if owners.insert(key.clone(), claim.clone()).is_none() {
                wanted.push((key, claim));
            }
        }
        for together in wanted.chunks(TOGETHER_MAX) {
            let parts = together
                .iter()
                .map(|(key, claim)| operation(Operate::Txn(first(key, claim))));
            let txn = Txn {
                success: parts.collect(),
                ..Txn::default()
            };
            let txned = self.api.txn(txn).await?;
            for ((key, claim), operated) in together.iter().zip(txned.responses) {
                let owner = owner_of(operated)?.unwrap_or_else(|| (*claim).clone());
                owners.insert(key.clone(), owner);
            }
        }
        let told = claims.iter().map(|claim| {
            let key = self.keys.claim(&claim.dimension, &claim.key);
            owners.get(&key).unwrap_or(claim).clone()
        });
        Ok(told.collect())
    }

    pub(super) async fn read_claims(
        &self,
        keys: Vec<(Name, KeyBytes)>,
    ) -> Result<(Rev, Vec<Option<Claim>>), StoreError> {
        let ranges = keys.iter().map(|(dimension, key)| one(self.keys.claim(dimension, key)));
        let found = self.read_ranges(ranges.collect()).await?;
        let claims = found
            .ranges
            .iter()
            .map(|kvs| kvs.first().map(|kv| keys::read(&kv.value)).transpose());
        let claims: Result<_, _> = claims.collect();
        Ok((found.head, claims?))
    }

    /// Claims in the order of their keys, those after one.
    pub(super) async fn read_claims_of(
        &self,
        unit: &UnitId,
        after: Option<ClaimKey>,
    ) -> Result<ClaimsPage, StoreError> {
        let all = self.keys.claims();
        let range = Range {
            range_end: keys::end_of(&all),
            key: after.map_or(all, |(dimension, key)| reads::after(&self.keys.claim(&dimension, &key))),
            limit: i64::try_from(CLAIMS_PAGE).unwrap_or(i64::MAX),
            ..Range::default()
        };
        let seen: Result<Vec<Claim>, _> = self
            .api
            .range(range)
            .await?
            .kvs
            .iter()
            .map(|kv| keys::read(&kv.value))
            .collect();
        Ok(ClaimsPage::of(unit, seen?, CLAIMS_PAGE))
    }

    /// By what was last seen published; if that does not fit, by what is.
    async fn check_claimed(&self, claims: &[Claim]) -> Result<(), StoreError> {
        let seen = self.book.lock().clone();
        if seen.is_some_and(|book| check_claims(Some(&book), claims).is_ok()) {
            return Ok(());
        }
        let found = self.read_ranges(vec![self.range_of(&RecordId::Book)]).await?;
        let book: Option<Book> = keys::book_of(found.ranges.first().map_or(&[], Vec::as_slice))?;
        let book = book.map(Arc::new);
        self.book.lock().clone_from(&book);
        check_claims(book.as_deref(), claims)
    }
}

/// Takes the key if nobody has it, else says who does.
fn first(key: &Bytes, claim: &Claim) -> Txn {
    Txn {
        compare: vec![is_at(key.clone(), Rev::ZERO)],
        success: vec![put(key.clone(), keys::write(claim), 0)],
        failure: vec![get(one(key.clone()))],
    }
}

/// Who had the key before; `None` if nobody had.
fn owner_of(operated: Operated) -> Result<Option<Claim>, StoreError> {
    let Some(Outcome::Txn(txned)) = operated.outcome else {
        return super::broken("etcd answered something else than was asked");
    };
    if txned.succeeded {
        return Ok(None);
    }
    let kvs = keys::ranged(txned.responses).flat_map(|ranged| ranged.kvs);
    kvs.map(|kv| keys::read(&kv.value)).next().transpose()
}
