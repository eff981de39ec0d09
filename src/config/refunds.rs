//! How what is left goes back to those who paid.

use super::judge::{Judge, Judged, all};
use super::mirror::RefundsFile;
use super::nano::Nano;
use super::pool::PoolSource;
use crate::nano::Raw;

vocabulary! {
    /// Who sends refunds.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum RefundPayer {
        /// This gateway, which holds the pool's seed.
        Gateway = "gateway",
        /// `faregate refunds pay`, where the seed is.
        Queue = "queue",
    }
    /// The name in the configuration.
    pub fn as_str;
}

/// How refunds are paid.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refunds {
    pub pay: RefundPayer,
    /// If less is left, it is not sent back.
    pub at_least: Raw,
    /// What sweeps leave in the pool to pay refunds with.
    pub keep: Raw,
}

/// 0.001 XNO: a send costs the gateway work.
const AT_LEAST: Raw = Raw::new(1_000_000_000_000_000_000_000_000_000);

const AMOUNT_HINT: &str = "write an amount with its unit: `0.001 XNO`";

/// `nano` is `None` if a fault was found in it.
pub(super) fn refunds(judge: &mut Judge<'_>, file: RefundsFile, nano: Option<&Nano>) -> Judged<Refunds> {
    let has_seed = nano.is_none_or(|it| matches!(it.pool, PoolSource::Seed { .. }));
    let usual = if has_seed { RefundPayer::Gateway } else { RefundPayer::Queue };
    let place = file.pay.path.clone();
    let mut pay = judge.choice(file.pay, RefundPayer::ALL, RefundPayer::as_str);
    if matches!(pay, Ok(Some(RefundPayer::Gateway))) && !has_seed {
        let message = "this gateway holds no key of its pool: it cannot send";
        let hint = "write `pay: queue`, and run `faregate refunds pay` where the seed is";
        pay = Err(judge.fault(&place, message, hint));
    }
    let at_least = judge.text(file.at_least, AMOUNT_HINT, Raw::with_unit);
    let keep = judge.text(file.keep, AMOUNT_HINT, Raw::with_unit);
    all!(Refunds {
        pay: pay.map(|it| it.unwrap_or(usual)),
        at_least: at_least.map(|it| it.unwrap_or(AT_LEAST)),
        keep: keep.map(Option::unwrap_or_default),
    })
}
