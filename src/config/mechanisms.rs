//! How payments may be proven: on every route, and on routes that have a list of their own.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::judge::{Judge, Judged};
use super::mirror::Piece;
use crate::payment::Mechanism;
use crate::routes::RouteName;

const HINT: &str = "known are `nanoTxn`, `nanoSignature` and `nanoSession`";

/// What single routes offer, and the path of the key that says so.
pub(super) type ByRoute = BTreeMap<RouteName, Offered>;

/// The mechanisms of one route.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) mechanisms: Vec<Mechanism>,
    pub(super) path: String,
}

/// A list of mechanisms: at least one, none twice; `None` if it is missing.
pub(super) fn list(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<Option<Vec<Mechanism>>> {
    if !piece.is_given() {
        return Ok(None);
    }
    let items = judge.items(piece, "no mechanism: nobody could pay", HINT)?;
    let mechanism = |judge: &mut Judge<'_>, it| judge.need_text(it, HINT, str::parse::<Mechanism>);
    judge.each(items, "mechanism", |it| *it, mechanism).map(Some)
}
