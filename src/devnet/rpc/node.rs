//! Answers about the node itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::devnet::lattice::{Lattice, Now};
use crate::nano::Raw;

/// The signature in the telemetry: there is no peer to check it.
const UNSIGNED: &str = "0000000000000000000000000000000000000000000000000000000000000000\
                        0000000000000000000000000000000000000000000000000000000000000000";

/// The share of the online weight that confirms a block, in percent.
const QUORUM_PERCENT: u128 = 67;

pub(super) fn version(ledger: &Lattice) -> Value {
    json!({
        "rpc_version": "1",
        "store_version": "24",
        "protocol_version": "21",
        "node_vendor": concat!("Faregate devnet ", env!("CARGO_PKG_VERSION")),
        "store_vendor": "memory",
        "network": "dev",
        "network_identifier": ledger.genesis(),
        "build_info": env!("CARGO_PKG_VERSION"),
    })
}

pub(super) fn block_count(ledger: &Lattice) -> Value {
    json!({
        "count": ledger.block_count().to_string(),
        "unchecked": ledger.unchecked_count().to_string(),
        "cemented": ledger.confirmed_count().to_string(),
    })
}

pub(super) fn uptime(now: Now) -> Value {
    json!({ "seconds": now.elapsed.as_secs().to_string() })
}

pub(super) fn telemetry(ledger: &Lattice, now: Now) -> Value {
    let milliseconds = Duration::from_secs(now.wall.0).as_millis();
    json!({
        "block_count": ledger.block_count().to_string(),
        "cemented_count": ledger.confirmed_count().to_string(),
        "unchecked_count": ledger.unchecked_count().to_string(),
        "account_count": ledger.account_count().to_string(),
        "bandwidth_cap": "0",
        "peer_count": "0",
        "protocol_version": "21",
        "uptime": now.elapsed.as_secs().to_string(),
        "genesis_block": ledger.genesis(),
        "major_version": env!("CARGO_PKG_VERSION_MAJOR"),
        "minor_version": env!("CARGO_PKG_VERSION_MINOR"),
        "patch_version": env!("CARGO_PKG_VERSION_PATCH"),
        "pre_release_version": "0",
        "maker": "0",
        "timestamp": milliseconds.to_string(),
        "active_difficulty": ledger.thresholds().send,
        "node_id": node_id(ledger),
        "signature": UNSIGNED,
    })
}

/// A node's identity, which depends on the genesis only.
fn node_id(ledger: &Lattice) -> String {
    let account = crate::nano::Account(ledger.genesis().0).to_string();
    account.replacen("nano_", "node_", 1)
}

pub(super) fn active_difficulty(ledger: &Lattice) -> Value {
    let thresholds = ledger.thresholds();
    json!({
        "deprecated": "1",
        "network_minimum": thresholds.send,
        "network_receive_minimum": thresholds.receive,
        "network_current": thresholds.send,
        "network_receive_current": thresholds.receive,
        "multiplier": "1",
    })
}

/// The answer of a network whose whole supply is online.
pub(super) fn confirmation_quorum(ledger: &Lattice) -> Value {
    let online = ledger.entry(ledger.genesis()).map_or(Raw::ZERO, |genesis| genesis.block.balance);
    // In two parts, because 67 times the supply overflows.
    let part = |amount: u128| amount.saturating_mul(QUORUM_PERCENT);
    let (hundredth, rest) = (online.get() / 100, online.get() % 100);
    let delta = part(hundredth).saturating_add(part(rest) / 100);
    json!({
        "quorum_delta": delta.to_string(),
        "online_weight_quorum_percent": QUORUM_PERCENT.to_string(),
        "online_weight_minimum": "0",
        "online_stake_total": online,
        "trended_stake_total": online,
        "peers_stake_total": "0",
    })
}
