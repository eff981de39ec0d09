//! What `faregate explain` says of a route that charges for what is used.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::usage::{MeterPlan, NoRate};

/// The status of the answer to a request that has no rate.
const fn refused_with(why: &NoRate) -> u16 {
    if why.is_not_offered() { 403 } else { 400 }
}

/// What is paid before, and what is held for a request with this body; without a body, every rate.
pub(super) fn write(plan: &MeterPlan, body: Option<&str>, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "deposit   {} ({} raw)", plan.deposit.xno(), plan.deposit)?;
    writeln!(out, "costs     what it uses ({})", plan.source.as_str())?;
    if body.is_none() && plan.reads_request() {
        plan.rates.lines().try_for_each(|rate| writeln!(out, "rate      {rate}"))?;
        return writeln!(
            out,
            "hold      {} ({} raw), or what it bounds itself to",
            plan.hold.xno(),
            plan.hold
        );
    }
    match plan.admit(body.map(str::as_bytes)) {
        Err(why) => writeln!(out, "answer    {}: {why}", refused_with(&why)),
        Ok(admitted) => {
            if !plan.source.says_amount() {
                writeln!(out, "rate      {}", admitted.rate)?;
            }
            writeln!(out, "hold      {} ({} raw)", admitted.hold.xno(), admitted.hold)
        }
    }
}

/// The same as JSON: what is held for a request with this body.
pub(super) fn json(plan: &MeterPlan, body: &str) -> Value {
    match plan.admit(Some(body.as_bytes())) {
        Err(why) => json!({ "answer": refused_with(&why), "error": why.to_string() }),
        Ok(admitted) => json!({
            "usage": plan.source.as_str(),
            "hold": admitted.hold,
            "xno": admitted.hold.xno().to_string(),
            "rate": admitted.rate.line,
        }),
    }
}
