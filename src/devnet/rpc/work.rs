//! Computes and checks work on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::request::{RpcRequest, WORK_DIGITS};
use super::{RpcError, flag, lenient_hex};
use crate::devnet::lattice::Lattice;
use crate::nano::{BlockHash, Threshold, Work};

/// The hardest work that can be asked for, as a multiple of the network's; the reference node's
/// default.
const MAX_MULTIPLIER: u128 = 64;

/// How many nonces are tried between two checks for cancellation.
const BATCH: u32 = 4096;

/// The number of possible values of [`Work::value`]: 2^64.
const VALUES: u128 = 1 << 64;

/// Work to compute.
pub(in crate::devnet) struct WorkJob {
    hash: BlockHash,
    difficulty: Threshold,
    base: Threshold,
}

/// Cancels a computation when it is dropped.
pub(in crate::devnet) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub(in crate::devnet) fn new() -> (Self, Arc<AtomicBool>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        (Self(Arc::clone(&cancelled)), cancelled)
    }
}

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The first nonce that reaches `threshold` on `root`; `None` after a cancellation. Blocks its thread:
/// expect 2^64 / (2^64 − threshold) tries of a tenth of a microsecond each.
pub(in crate::devnet) fn generate(
    root: &[u8; 32],
    threshold: Threshold,
    cancelled: &AtomicBool,
) -> Option<Work> {
    let mut nonce = 0_u64;
    while !cancelled.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            let work = Work(nonce);
            if work.reaches(root, threshold) {
                return Some(work);
            }
            nonce = nonce.wrapping_add(1);
        }
    }
    None
}

pub(super) fn job(request: &RpcRequest, ledger: &Lattice) -> Result<WorkJob, RpcError> {
    let hash = request.hash()?;
    let thresholds = ledger.thresholds();
    let difficulty = wanted(request, thresholds.send)?;
    if difficulty > hardest(thresholds.send) || difficulty < thresholds.receive.min(thresholds.send) {
        return Err(RpcError::DifficultyLimit);
    }
    Ok(WorkJob { hash, difficulty, base: thresholds.send })
}

impl WorkJob {
    /// Computes the work; blocks its thread.
    pub(in crate::devnet) fn run(&self, cancelled: &AtomicBool) -> Result<Value, RpcError> {
        let work = generate(&self.hash.0, self.difficulty, cancelled).ok_or(RpcError::WorkFailed)?;
        let mut answer = judged(&self.hash, work, self.base);
        answer.insert("hash".to_owned(), json!(self.hash));
        answer.insert("work".to_owned(), json!(work));
        Ok(Value::Object(answer))
    }
}

pub(super) fn validate(request: &RpcRequest, ledger: &Lattice) -> Result<Value, RpcError> {
    let hash = request.hash()?;
    let work = request.text("work").map_or(Some(Work(0)), |work| lenient_hex(&work, WORK_DIGITS));
    let work = work.ok_or(RpcError::BadWork)?;
    let thresholds = ledger.thresholds();
    let wanted = wanted(request, thresholds.send)?;
    let mut answer = judged(&hash, work, thresholds.send);
    let mut put = |name: &str, threshold| {
        answer.insert(name.to_owned(), flag(work.reaches(&hash.0, threshold)));
    };
    if request.text("difficulty").is_some() {
        put("valid", wanted);
    }
    put("valid_all", thresholds.send);
    put("valid_receive", thresholds.receive);
    Ok(Value::Object(answer))
}

/// The work's value, and how much harder than `base` it is.
fn judged(hash: &BlockHash, work: Work, base: Threshold) -> Map<String, Value> {
    let value = Threshold(work.value(&hash.0));
    let mut answer = Map::new();
    answer.insert("difficulty".to_owned(), json!(value));
    answer.insert("multiplier".to_owned(), Value::from(format!("{:.15}", multiplier(value, base))));
    answer
}

/// The threshold that the request names, directly or as a multiple of `base`.
fn wanted(request: &RpcRequest, base: Threshold) -> Result<Threshold, RpcError> {
    let difficulty = request.difficulty()?;
    let Some(multiplier) = request.text("multiplier") else { return Ok(difficulty.unwrap_or(base)) };
    match multiplier.parse::<f64>() {
        Ok(multiplier) if multiplier > 0.0 => Ok(multiplied(base, multiplier)),
        Ok(_) | Err(_) => Err(RpcError::BadMultiplier),
    }
}

/// The number of values that reach the threshold.
fn reaching(threshold: Threshold) -> u128 {
    VALUES.saturating_sub(u128::from(threshold.0))
}

/// The threshold that this many values reach.
fn reached_by(values: u128) -> Threshold {
    Threshold(u64::try_from(VALUES.saturating_sub(values.max(1))).unwrap_or(0))
}

fn hardest(base: Threshold) -> Threshold {
    reached_by(reaching(base).checked_div(MAX_MULTIPLIER).unwrap_or(1))
}

#[expect(
    clippy::float_arithmetic,
    clippy::as_conversions,
    reason = "the RPC gives difficulties in floating point; this is not money"
)]
fn multiplier(difficulty: Threshold, base: Threshold) -> f64 {
    reaching(base) as f64 / reaching(difficulty) as f64
}

#[expect(
    clippy::float_arithmetic,
    clippy::as_conversions,
    reason = "the RPC gives difficulties in floating point; this is not money"
)]
fn multiplied(base: Threshold, multiplier: f64) -> Threshold {
    reached_by((reaching(base) as f64 / multiplier) as u128)
}
