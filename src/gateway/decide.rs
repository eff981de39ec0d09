//! The one place where a request's admission is decided: it is read, its route is found, and the
//! cashier is asked if it has a price.

use std::sync::Arc;

use http::Method;
use http::header::ORIGIN;
use pingora::prelude::Session;
use tracing::Instrument;

use super::calls::{self, Sale};
use super::context::Context;
use super::decision::{Billed, Decision, Destination, forward};
use super::idempotency::{self, PaidRequest};
use super::presented::{self, header};
use super::rejection::Rejection;
use super::rulebook::Rulebook;
use super::tariff::{Tariff, Unmatched};
use super::{closing, framing, holding, hop, preflight, target};
use crate::admission::{Admission, HeldUse};
use crate::cashier::{Ask, Cashier, Presented, Verdict};
use crate::ledger::Ledger;
use crate::payment::derived::may_be as may_be_derived;
use crate::routes::{Access, BodyRule, CanonicalTarget, Found, RequestHead, RequestHost, Route};
use crate::store::Store;
use crate::store::refunds::RefundJournal;

/// Decides a request. Notes its route and origin in the context.
pub(super) async fn decide<L: Ledger, S: Store + RefundJournal>(
    cashier: &Cashier<L, S>,
    rulebook: &Rulebook,
    session: &mut Session,
    context: &mut Context,
) -> Decision {
    let decided = find_and_price(cashier, rulebook, session, context).await;
    decided.unwrap_or_else(Decision::Reject)
}

async fn find_and_price<L: Ledger, S: Store + RefundJournal>(
    cashier: &Cashier<L, S>,
    rulebook: &Rulebook,
    session: &mut Session,
    context: &mut Context,
) -> Result<Decision, Rejection> {
    let tariff = Arc::clone(&context.tariff);
    let allowed = |origin: &String| tariff.cors.as_ref().is_some_and(|cors| cors.allows(origin));
    let headers = &session.req_header().headers;
    context.origin = header(headers, &ORIGIN).ok().flatten().filter(allowed);
    context.has_body = framing::check(session)?;
    let (target, host) = target::canonical(session).map_err(Rejection::Unreadable)?;
    let method = session.req_header().method.clone();
    let is_undue = context.has_body && framing::takes_no_body(&method);
    let preflight = preflight::method_asked_for(session);
    let head = RequestHead {
        method: preflight.as_deref().unwrap_or(method.as_str()),
        host: host.as_ref(),
        target: &target,
        // A preflight has none of the headers of the request that it prepares.
        headers: preflight.is_none().then_some(&session.req_header().headers),
    };
    if let Some(document) = tariff.documents.find(&head, &tariff.table).filter(|_| preflight.is_none()) {
        context.at_route = tariff.at(&tariff.documents.label);
        return if is_undue { Err(Rejection::UndueBody) } else { Ok(Decision::Document(document)) };
    }
    let (holding, closing) =
        (holding::is_asked_for(&head, &tariff.table), closing::is_asked(&head, &tariff.table));
    if holding || closing {
        context.at_route = tariff.at(&tariff.documents.label);
        return match () {
            () if preflight.is_some() => Ok(Decision::Preflight),
            () if holding && is_undue => Err(Rejection::UndueBody),
            () => Box::pin(of_token(cashier, session, &tariff, closing)).await,
        };
    }
    context.varies_by = tariff.table.headers_that_decide(&head).join(", ");
    let route = match tariff.table.find(&head) {
        Found::Route(route) => Some(Arc::clone(route)),
        Found::Unmatched => None,
        Found::Unclear(why) => return Err(Rejection::Unreadable(why.to_string())),
    };
    if let Some(route) = &route {
        context.at_route = tariff.at(&route.name);
    }
    let has_host = route.as_ref().is_some_and(|it| it.conditions.host().is_some());
    context.host = host.as_ref().and_then(RequestHost::name).filter(|_| has_host).map(ToOwned::to_owned);
    let takes_any = route.as_ref().is_some_and(|it| it.body == BodyRule::Allow) && preflight.is_none();
    check_method(&method, is_undue && !takes_any)?;
    if hop::ends_here(session.req_header()) {
        return Ok(Decision::Preflight);
    }
    if preflight.is_some() {
        let has_price = tariff.table.has_price(&head);
        return answer_preflight(rulebook, context, route, target, has_price);
    }
    let Some(route) = route else {
        return match &tariff.unmatched {
            Unmatched::NotFound => Err(Rejection::NotFound),
            Unmatched::Free(upstream) => {
                forward(context, Destination::unmatched(upstream), target, Admission::free(), false)
            }
        };
    };
    let (sale, may_pay) = priced(rulebook, session, context, &route).await?;
    match sale {
        Some(sale) => sell((cashier, rulebook), session, context, route, (sale, may_pay), target).await,
        None => {
            if may_pay {
                // What it calls is free: it pays nothing.
                admit_client(rulebook, context, &route, false)?;
            }
            forward(context, Destination::of(&route), target, Admission::free(), false)
        }
    }
}

/// Decides a request to a place of the gateway's own that is about the token that comes with it: to close what it
/// opens, or to say what it is worth. Boxed where it is called, as all that few requests come to: what a future may hold
/// is copied with each request.
async fn of_token<L: Ledger, S: Store + RefundJournal>(
    cashier: &Cashier<L, S>,
    session: &Session,
    tariff: &Tariff,
    closes: bool,
) -> Result<Decision, Rejection> {
    if !closes {
        return holding::decide(cashier, session).await;
    }
    let closed = closing::close(cashier, session, (&tariff.table, tariff.refunds_at_least)).await?;
    Ok(Decision::Close(Box::new(closed)))
}

/// What a request to `route` is to be sold, `None` if that is free; and whether it may pay, so that it was not counted.
async fn priced(
    rulebook: &Rulebook,
    session: &mut Session,
    context: &mut Context,
    route: &Route,
) -> Result<(Option<Sale>, bool), Rejection> {
    let has_proof = !route.access.is_free() && presented::has_proof(session);
    let (prices, may_enclose) = match &route.access {
        Access::Calls(prices) => (prices, prices.bills.takes_enclosed()),
        Access::Priced(listed) => {
            admit_client(rulebook, context, route, has_proof)?;
            let sale = match &route.meter {
                None => Sale::of(route.name.clone(), *listed),
                Some(plan) => {
                    Box::pin(calls::price_metered(session, context, &route.name, *listed, plan)).await?
                }
            };
            return Ok((Some(sale), has_proof));
        }
        Access::Free => return admit_client(rulebook, context, route, false).map(|()| (None, false)),
    };
    let may_pay = has_proof || may_enclose;
    admit_client(rulebook, context, route, may_pay)?;
    // Boxed, as all that few requests come to: what a future may hold is copied with each request.
    let sale = Box::pin(calls::price(session, context, &route.name, prices)).await;
    if sale.is_err() && !has_proof && may_enclose {
        // It carries no payment that can be read.
        admit_client(rulebook, context, route, false)?;
    }
    Ok((sale?, may_pay))
}

/// Refuses a body where none is due, and a method that no route takes.
fn check_method(method: &Method, has_undue_body: bool) -> Result<(), Rejection> {
    if has_undue_body {
        return Err(Rejection::UndueBody);
    }
    if method.as_str().eq_ignore_ascii_case("TRACE") {
        return Err(Rejection::Untraceable);
    }
    Ok(())
}

/// Answers a preflight, or sends it on. To an upstream it is a request like any other.
fn answer_preflight(
    rulebook: &Rulebook,
    context: &mut Context,
    route: Option<Arc<Route>>,
    target: CanonicalTarget,
    has_price: bool,
) -> Result<Decision, Rejection> {
    let decision = preflight::decide(context, route.as_ref(), target, has_price)?;
    if let Some(route) = route.filter(|_| decision.sells()) {
        admit_client(rulebook, context, &route, false)?;
    }
    Ok(decision)
}

/// Whether the sender may ask for `route`, and so often. One who `pays` is not counted.
fn admit_client(rulebook: &Rulebook, context: &Context, route: &Route, pays: bool) -> Result<(), Rejection> {
    let address = context.caller.certain_address(&context.tariff.proxies);
    rulebook.admit_client(route, (address, context.caller.client()), pays)
}

async fn sell<L: Ledger, S: Store>(
    (cashier, rulebook): (&Cashier<L, S>, &Rulebook),
    session: &mut Session,
    context: &mut Context,
    route: Arc<Route>,
    (sale, may_pay): (Sale, bool),
    target: CanonicalTarget,
) -> Result<Decision, Rejection> {
    let enclosed = sale.enclosed.as_ref();
    let (mut presented, extensions) = presented::read(session, enclosed, &sale.route, &route.standing)?;
    if let Presented::Token(token) = &presented
        && may_be_derived(token)
    {
        presented = presented::derived(cashier, session, context, &target, token);
    }
    // One rate for all challenges of a bill, and for whatever else is decided of the request.
    let quoted = context.tariff.rates.quote(sale.listed);
    let (mut identified, mut url, mut span) = (None, None, None);
    let payer = match &presented {
        Presented::Proof(proof) => Some(proof.payer()),
        Presented::Plain(plain) => Some(Some(plain.block.account)),
        Presented::Nothing
        | Presented::Token(_)
        | Presented::Derived(_)
        | Presented::Malformed(_)
        | Presented::Refused(_) => None,
    };
    if let Some(payer) = payer {
        rulebook.admit_payment(&route, payer)?;
    } else if may_pay {
        // Where a proof may be is something else, such as a capability, or nothing: it was not counted yet.
        admit_client(rulebook, context, &route, false)?;
    }
    if matches!(presented, Presented::Nothing) {
        let (client, terms) = (context.caller.client(), quoted.map(|it| it.terms));
        if let Some(unbilled) = rulebook.unbilled(&route, client, (terms, sale.calls)) {
            let decision = forward(context, Destination::of(&route), target, Admission::free(), false)?;
            // What goes no further takes nothing of what is free.
            context.unbilled = Some(unbilled).filter(|_| decision.sells());
            return Ok(decision);
        }
    }
    // A capability is not a payment: an id beside it has nothing to make idempotent.
    if payer.is_some() {
        let request = PaidRequest { route: &route, target: &target, body: sale.body };
        identified = Box::pin(idempotency::read(session, context, request, &extensions)).await?;
        url = Some(context.public_url().join(target.as_str()));
        // What is logged of a payment is found by its request.
        span = Some(context.request_id.span());
    }
    let ask = Ask {
        hold: sale.hold,
        route: sale.route,
        standing: Arc::clone(&route.standing),
        listed: sale.listed,
        quoted,
        metering: route.metering,
        presented,
        identified,
        client: context.caller.client(),
        down: context.tariff.upstreams.get(&route.upstream).and_then(|it| it.down()),
        url,
    };
    let deciding = cashier.decide(ask);
    let verdict = match span {
        Some(span) => Box::pin(deciding.instrument(span)).await,
        None => deciding.await,
    };
    Ok(match verdict {
        Verdict::Admit(admitted) => {
            // A use that goes no further is given back where it is dropped.
            rulebook.admit_use(&route, context.caller.client(), &admitted)?;
            let admission = Admission::held(HeldUse::new(admitted, route.charge_on));
            return forward(context, Destination::of(&route), target, admission, false);
        }
        Verdict::Bill(bill) => Decision::Bill(Box::new(Billed { bill, route, target })),
        Verdict::Wait(wait) => Decision::Wait(wait),
        Verdict::Replay(replay) => Decision::Replay(replay),
        Verdict::Conflict(refusal) => Decision::Conflict(refusal),
        Verdict::Moved(moved) => Decision::Moved(moved),
    })
}
