//! How payments may be proven: everywhere, and on routes that say so themselves.

use std::collections::{BTreeMap, BTreeSet};

use serde_yaml::Value;

use super::document::item;
use super::judge::Judge;
use super::mirror::Piece;
use super::nano::{Nano, PoolSource};
use crate::payment::Mechanism;
use crate::routes::RouteName;

const HINT: &str = "known are `nanoTxn`, `nanoSignature` and `nanoSession`";

/// What single routes offer, and where in the file each says so.
pub(super) type ByRoute = BTreeMap<RouteName, Offered>;

/// The mechanisms of one route.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) mechanisms: Vec<Mechanism>,
    /// The key's path.
    pub(super) path: String,
}

/// `nano.mechanisms`, for every route that does not say otherwise.
pub(super) fn everywhere(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Option<Vec<Mechanism>> {
    if piece.is_given() { list(judge, "nano.mechanisms", piece) } else { Some(Mechanism::DEFAULT.to_vec()) }
}

/// A list of mechanisms: at least one, none twice.
pub(super) fn list(judge: &mut Judge<'_>, path: &str, piece: Piece<Vec<Value>>) -> Option<Vec<Mechanism>> {
    let items = judge.get(path, piece, HINT)?;
    if items.is_empty() {
        judge.fault(path, "no mechanism: nothing could be paid", HINT);
        return None;
    }
    let mut seen = BTreeSet::new();
    let mut mechanisms = Vec::new();
    for (index, value) in items.iter().enumerate() {
        let path = item(path, index);
        let text = value.as_str().unwrap_or_default();
        if let Some(mechanism) = judge.read(&path, text, HINT, str::parse::<Mechanism>) {
            if seen.insert(mechanism) {
                mechanisms.push(mechanism);
            } else {
                judge.fault(&path, "this mechanism is named twice", "name each once");
            }
        }
    }
    (mechanisms.len() == items.len()).then_some(mechanisms)
}

/// Notes in `nano` what is in use anywhere and holds it against the pool: a block sent to an address
/// of one mechanism must be of no use for another, so each has its own.
pub(super) fn share_pool(judge: &mut Judge<'_>, nano: &mut Nano, by_route: &ByRoute) {
    let default_place = if judge.line("nano.mechanisms") > 0 { "nano.mechanisms" } else { "nano.pool" };
    let mut place = default_place;
    for Offered { mechanisms, path } in by_route.values() {
        for mechanism in mechanisms {
            if !nano.in_use.contains(mechanism) {
                nano.in_use.push(*mechanism);
                // What is too much is what the route adds, where the file as it is without it is good.
                place = if nano.mechanisms.len() > 1 { default_place } else { path };
            }
        }
    }
    let count = nano.in_use.len();
    match &nano.pool {
        PoolSource::Address(_) if count > 1 => judge.fault(
            place,
            "with one address only one mechanism can be on",
            "write `nano: { mechanisms: [nanoTxn] }` and none of a route's own, or give the pool a `seed_file` or \
             an `addresses_file`",
        ),
        PoolSource::Addresses(accounts) if accounts.len() < count => judge.fault(
            "nano.pool.addresses_file",
            format_args!("{} address(es) for {count} mechanisms: each needs its own", accounts.len()),
            "add addresses to the file, or turn a mechanism off",
        ),
        PoolSource::Address(_) | PoolSource::Addresses(_) | PoolSource::Seed { .. } => {}
    }
}
