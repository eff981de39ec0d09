//! Compares the journal with the ledger, and lists sends that nobody has claimed.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::print;
use super::selection::open;
use crate::assemble::{node_client, pool_accounts};
use crate::cli::arguments::ConfigArgs;
use crate::cli::failure::Failure;
use crate::cli::words::counted;
use crate::ledger::node::NodeLedger;
use crate::nano::{Account, BlockHash, Raw};
use crate::payment::BlockKind;
use crate::reconcile::{Arrival, Books, Discrepancy};
use crate::store::Engine;

async fn books(config: &ConfigArgs) -> Result<(Books<Engine>, Arc<Engine>), Failure> {
    let config = config.load()?;
    let ledger = NodeLedger::new(node_client(&config.nano)?);
    let pool = pool_accounts(&config.nano)?;
    let store = Arc::new(open(&config).await?);
    Ok((Books::new(ledger, Arc::clone(&store), pool), store))
}

pub(super) async fn list_unclaimed(
    config: &ConfigArgs,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<ExitCode, Failure> {
    let (books, store) = books(config).await?;
    let found = books.unclaimed().await?;
    if json {
        found.iter().try_for_each(|it| writeln!(out, "{}", arrival(it)))?;
    } else {
        found.iter().try_for_each(|it| row(&Discrepancy::Unclaimed(*it), out))?;
        let total = found.iter().fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX));
        writeln!(out, "{} unclaimed, {}", counted(found.len(), "send"), total.xno())?;
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn reconcile(
    config: &ConfigArgs,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<ExitCode, Failure> {
    let (books, store) = books(config).await?;
    let outcome = books.reconcile().await?;
    let agrees = outcome.discrepancies.is_empty();
    if json {
        let discrepancies: Vec<_> = outcome.discrepancies.iter().map(as_json).collect();
        let whole = json!({
            "agrees": agrees,
            "payments": outcome.payments,
            "revenue_raw": outcome.revenue,
            "revenue_xno": outcome.revenue.xno().number(),
            "arrivals": outcome.arrivals,
            "discrepancies": discrepancies,
        });
        writeln!(out, "{whole}")?;
    } else {
        outcome.discrepancies.iter().try_for_each(|it| row(it, out))?;
        writeln!(
            out,
            "{} of {} in the journal, {} to the pool on the ledger: {}",
            counted(outcome.payments, "granted payment"),
            outcome.revenue.xno(),
            counted(outcome.arrivals, "send"),
            match outcome.discrepancies.len() {
                0 => "all agree".to_owned(),
                1 => "1 does not agree".to_owned(),
                more => format!("{more} do not agree"),
            }
        )?;
    }
    store.close().await;
    Ok(ExitCode::from(u8::from(!agrees)))
}

/// The name of a discrepancy, and what it means.
const fn name(discrepancy: &Discrepancy) -> (&'static str, &'static str) {
    match discrepancy {
        Discrepancy::Missing(_) => ("missing", "granted, but no node knows the block"),
        Discrepancy::Unconfirmed(_) => ("unconfirmed", "granted, but the block is not confirmed"),
        Discrepancy::Unlisted(_) => {
            ("unlisted", "granted, but the nodes do not list it as a send to the pool")
        }
        Discrepancy::Different { .. } => ("different", "granted, but the block is not what the journal says"),
        Discrepancy::NotGranted { .. } => {
            ("not_granted", "paid, but the journal says that the payment failed")
        }
        Discrepancy::Unclaimed(_) => ("unclaimed", "paid, but no proof has claimed it"),
    }
}

/// Block, amount, sender and address of the pool: from the journal, or from the ledger if the journal
/// does not know the block.
fn facts(discrepancy: &Discrepancy) -> (BlockHash, Raw, Option<Account>, Account) {
    match discrepancy {
        Discrepancy::Missing(payment)
        | Discrepancy::Unconfirmed(payment)
        | Discrepancy::Unlisted(payment)
        | Discrepancy::Different { payment, .. }
        | Discrepancy::NotGranted { payment, .. } => {
            let intent = &payment.intent;
            (intent.block, intent.amount, Some(intent.payer), intent.pay_to)
        }
        Discrepancy::Unclaimed(it) => (it.send, it.amount, it.sender, it.account),
    }
}

fn row(discrepancy: &Discrepancy, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let (name, meaning) = name(discrepancy);
    let (block, amount, sender, account) = facts(discrepancy);
    let sender = sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    writeln!(out, "{name:<11}  {:>18}  {block}", amount.xno().to_string())?;
    writeln!(out, "             from {sender}\n             to   {account}")?;
    let found = match discrepancy {
        Discrepancy::Different { found, .. } => format!("; the ledger: {}", in_words(found)),
        Discrepancy::Missing(_)
        | Discrepancy::Unconfirmed(_)
        | Discrepancy::Unlisted(_)
        | Discrepancy::NotGranted { .. }
        | Discrepancy::Unclaimed(_) => String::new(),
    };
    writeln!(out, "             {meaning}{found}")
}

fn in_words(found: &BlockKind) -> String {
    match found {
        BlockKind::Send { account, destination, amount } => {
            format!("{} from {account} to {destination}", amount.xno())
        }
        BlockKind::Other => "not a send".to_owned(),
    }
}

fn arrival(it: &Arrival) -> Value {
    json!({
        "block": it.send,
        "amount_raw": it.amount,
        "amount_xno": it.amount.xno().number(),
        "sender": it.sender,
        "account": it.account,
        "received": it.received,
    })
}

fn as_json(discrepancy: &Discrepancy) -> Value {
    let kind = name(discrepancy).0;
    match discrepancy {
        Discrepancy::Missing(payment)
        | Discrepancy::Unconfirmed(payment)
        | Discrepancy::Unlisted(payment) => {
            json!({ "kind": kind, "payment": print::json(payment) })
        }
        Discrepancy::Different { payment, found } => {
            json!({ "kind": kind, "payment": print::json(payment), "found": in_words(found) })
        }
        Discrepancy::NotGranted { payment, arrival: it } => {
            json!({ "kind": kind, "payment": print::json(payment), "arrival": arrival(it) })
        }
        Discrepancy::Unclaimed(it) => json!({ "kind": kind, "arrival": arrival(it) }),
    }
}
