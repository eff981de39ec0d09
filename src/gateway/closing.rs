//! `POST /.well-known/x402/close`: the holder of a token has what is left sent back to the account that paid.
//!
//! The answer says how far the refund has come: 202 until the ledger has confirmed it, then 200. The same request
//! may be sent as often as one likes.

use http::header::RETRY_AFTER;
use http::{HeaderName, StatusCode};
use pingora::prelude::Session;
use serde_json::json;

use super::places::CLOSE;
use super::presented::header;
use super::rejection::Rejection;
use super::reply::{Reply, come_again, plain};
use crate::cashier::{Cashier, Closed};
use crate::ledger::Ledger;
use crate::metrics::Outcome;
use crate::nano::Raw;
use crate::routes::{Found, PriceTable, RefundRule, RequestHead, RouteName};
use crate::store::Store;
use crate::store::refunds::{RefundJournal, RefundRecord, RefundState};
use crate::x402;

const CAPABILITY_HEADER: HeaderName = HeaderName::from_static("payment-capability");

/// Seconds after which the state of a refund may be another.
const LOOK_AGAIN: u64 = 2;

/// Whether a request asks to close a capability. A route that names the path letter for letter has it.
pub(super) fn is_asked(request: &RequestHead<'_>, table: &PriceTable) -> bool {
    request.method == "POST" && request.target.path() == CLOSE && !is_a_routes(request, table)
}

fn is_a_routes(request: &RequestHead<'_>, table: &PriceTable) -> bool {
    match table.find(request) {
        Found::Route(route) => route.pattern.is_one_path(),
        Found::Unclear(_) => true,
        Found::Unmatched => false,
    }
}

/// Whether the route under whose name something was bought gives back what is left of it.
#[must_use]
pub fn gives_back(table: &PriceTable, bought: &RouteName) -> bool {
    table.routes().iter().any(|route| {
        let name = route.name.with_part_of(bought);
        route.refund == RefundRule::OnClose && route.standing.names(&name).any(|it| it == *bought)
    })
}

/// Closes what the request's token opens, if a route of `table` gives back what is left of it.
pub(super) async fn close<L: Ledger, S: Store + RefundJournal>(
    cashier: &Cashier<L, S>,
    session: &Session,
    (table, at_least): (&PriceTable, Raw),
) -> Result<Closed, Rejection> {
    let token = header(&session.req_header().headers, &CAPABILITY_HEADER)?;
    let token = token.filter(|it| it.len() <= x402::MAX_HEADER_BYTES);
    let token = token.ok_or_else(|| {
        let why = "send the token of what is to be closed in the PAYMENT-CAPABILITY header";
        Rejection::UnreadablePayment(why.to_owned())
    })?;
    Ok(cashier.close(&token, at_least, |it| gives_back(table, it)).await)
}

/// How the request ends.
pub(super) const fn outcome(closed: &Closed) -> Outcome {
    match closed {
        Closed::Refund(_) => Outcome::Free,
        Closed::Unknown | Closed::Revoked | Closed::NotOffered | Closed::NotProven => Outcome::Refused,
        Closed::Wait(_) => Outcome::Unavailable,
    }
}

pub(super) fn reply(closed: &Closed) -> Reply {
    match closed {
        Closed::Refund(refund) => state(refund),
        Closed::Unknown => plain(
            StatusCode::FORBIDDEN,
            "CAPABILITY_UNKNOWN",
            "this gateway knows no such capability: nothing was closed",
        ),
        Closed::Revoked => plain(
            StatusCode::GONE,
            "CAPABILITY_REVOKED",
            "the operator has revoked the capability, and nothing is sent back: ask the operator why",
        ),
        Closed::NotOffered => plain(
            StatusCode::FORBIDDEN,
            "refund_not_offered",
            "what was bought there is not sent back: nothing was closed, what is left can still be used",
        ),
        Closed::NotProven => plain(
            StatusCode::FORBIDDEN,
            "payer_not_proven",
            "the payment does not show who holds the key of the account that paid, which may be an exchange's: nothing \
             was closed, what is left can still be used",
        ),
        Closed::Wait(wait) => come_again(wait),
    }
}

fn state(refund: &RefundRecord) -> Reply {
    let message = match refund.state {
        RefundState::Closing => {
            "closed; requests under way may still cost something, then the rest is sent back"
        }
        RefundState::Owed => "closed; what is left will be sent back to the account that paid",
        RefundState::Signed => "closed; what is left is on its way to the account that paid",
        RefundState::Confirmed => {
            "closed; what was left is sent back to the account that paid, and confirmed"
        }
        RefundState::Nothing => "closed; less is left than is sent back",
    };
    let amount = (refund.state != RefundState::Closing).then(|| refund.amount.to_string());
    let body = json!({
        "state": refund.state.as_str(),
        "amount_raw": amount,
        "account": refund.account,
        "block": refund.block.map(|it| it.hash().lower_hex()),
        "message": message,
    });
    let is_final = refund.state.is_final();
    let status = if is_final { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut headers = Vec::new();
    if !is_final {
        headers.push((RETRY_AFTER.as_str(), LOOK_AGAIN.to_string().into()));
    }
    Reply { status, headers, message: message.into(), body: body.to_string().into() }
}
