//! `GET /.well-known/x402/capability`: what the holder of a token has. It takes no use, and is no bill.

use http::StatusCode;
use pingora::prelude::Session;
use serde_json::json;

use super::decision::Decision;
use super::places::HOLDING;
use super::presented;
use super::rejection::Rejection;
use super::reply::Reply;
use crate::cashier::{Cashier, Holding, NotHeld, Wait};
use crate::ledger::Ledger;
use crate::payment::derived::Restriction;
use crate::routes::{Found, PriceTable, RequestHead};
use crate::store::Store;

/// Whether a request asks for it. A route that names the path letter for letter has it.
pub(super) fn is_asked_for(request: &RequestHead<'_>, table: &PriceTable) -> bool {
    request.target.path() == HOLDING
        && ["GET", "HEAD"].contains(&request.method)
        && match table.find(request) {
            Found::Route(route) => !route.pattern.is_one_path(),
            Found::Unclear(_) => false,
            Found::Unmatched => true,
        }
}

/// Says what the token in `PAYMENT-CAPABILITY` is worth.
pub(super) async fn decide<L: Ledger, S: Store>(
    cashier: &Cashier<L, S>,
    session: &Session,
) -> Result<Decision, Rejection> {
    let Some(token) = presented::token(session)? else {
        return Err(Rejection::UnreadablePayment(
            "send a capability's token in PAYMENT-CAPABILITY".to_owned(),
        ));
    };
    Ok(match cashier.holding(&token).await {
        Ok(holding) => Decision::Holding(Box::new(holding)),
        Err(NotHeld::NoStore) => Decision::Wait(Wait::NoStore),
        Err(NotHeld::Token(why)) => return Err(Rejection::NotHeld(why)),
    })
}

pub(super) fn reply(holding: &Holding) -> Reply {
    let Holding { held, restrictions, expires_at, now } = holding;
    let (record, left) = (held.record(), held.left());
    let state = if held.is_revoked() {
        "revoked"
    } else if expires_at <= now {
        "expired"
    } else if held.remaining() == 0 {
        "used_up"
    } else {
        "open"
    };
    let body = json!({
        "capability": record.id.to_string(),
        "state": state,
        "route": record.route.configured(),
        (left.name()): left,
        "expires": expires_at,
        "restrictions": restrictions.iter().map(Restriction::to_json).collect::<Vec<_>>(),
    });
    Reply {
        status: StatusCode::OK,
        headers: Vec::new(),
        message: state.into(),
        body: body.to_string().into(),
    }
}
