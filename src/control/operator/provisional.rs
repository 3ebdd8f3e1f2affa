//! Keys that this relay has put somewhere while the store was away: list them, and forget conflicts that a person has settled.

use super::{Answer, Operator, OperatorError, ProvisionalRow, ProvisionalRows};
use crate::control::store::ClaimKey;

impl Operator {
    pub(super) async fn provisional(&self, limit: usize) -> Answer {
        let listed = self.0.claims.list(limit.min(ROWS_MAX)).await;
        Answer::Provisional(ProvisionalRows {
            in_force: listed.in_force,
            pending: listed.counts.pending,
            conflicts: listed.counts.conflicts,
            rows: listed.choices.into_iter().map(ProvisionalRow::from).collect(),
        })
    }

    pub(super) async fn dismiss(&self, key: ClaimKey) -> Result<Answer, OperatorError> {
        let dismissed = self.0.claims.dismiss(key).await;
        dismissed.map_err(|why| OperatorError::Refused(why.to_string()))?;
        Ok(Answer::Done)
    }
}

/// Rows of one answer.
const ROWS_MAX: usize = 1000;
