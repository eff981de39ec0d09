//! The admin API: who may ask, and what each operation does.
//!
//! The token comes first: nothing is read or looked up for a caller without it. What changes something is durable
//! before it is answered, and has a dry run that says what would happen.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, Method, Response, StatusCode, header};
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::arguments::Arguments;
use super::operations::{Operation, USUAL_ROWS};
use super::orders::Order;
use super::pool::LastPoolLook;
use super::problem::{Problem, ProblemKind};
use super::{Admin, ReadyFor, openapi, views};
use crate::cashier::{FreeGrant, FreeGrantError};
use crate::clock::Stopwatch;
use crate::config::Drain;
use crate::nano::{BlockHash, Raw};
use crate::payment::Mechanism;
use crate::rates::Rates;
use crate::repeats::Repeats;
use crate::routes::{Access, Grants, Route, RouteName, Terms};
use crate::store::operator::{CapabilityEntry, CapabilitySearch, OperatorJournal, PaymentSearch, Remark};
use crate::store::refunds::{RefundJournal, RefundSearch};
use crate::store::{CapabilityId, PaymentRecord, PaymentState, Store, StoreError, repeat_unknown};
use crate::vault::AdminToken;

/// The most bytes of a request's body.
const MAX_BODY: usize = 64 * 1024;
/// The most bytes that are read of a body that is too long, so that its sender sees the answer.
const DRAINED: usize = 1024 * 1024;
/// How long each part of a body may take to arrive.
const PART_TIMEOUT: Duration = Duration::from_secs(10);
/// Wrong tokens that are answered 401 within [`FAILURES_WITHIN`]; the next ones are answered 429. The right one is
/// let in all the same, so that nobody can lock the operator out.
const FAILURES: u32 = 20;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);
/// How long the process may take to read its configuration again.
const RELOAD_WITHIN: Duration = Duration::from_secs(60);
/// The longest that a free grant can be good, in seconds: as a route's.
const MAX_WITHIN: u64 = 366 * 24 * 3600;
/// Who does something, if nobody says.
const SOMEBODY: &str = "admin API";

type Outcome<T> = Result<T, Problem>;

/// What the admin API needs beside what the listener has.
#[derive(Debug)]
pub struct Api {
    token: AdminToken,
    orders: mpsc::Sender<Order>,
    look: LastPoolLook,
    drain: Drain,
    refused: Repeats,
    /// When the time began in which wrong tokens are counted, and how many there were. Held for an addition.
    failures: Mutex<Option<(Stopwatch, u32)>>,
}

impl Api {
    /// An API for callers with `token`. It gives `orders` to the process, knows what `look` saw of the pool, and says
    /// that the process ends as `drain` says.
    #[must_use]
    pub fn new(token: AdminToken, orders: mpsc::Sender<Order>, look: LastPoolLook, drain: Drain) -> Self {
        Self { token, orders, look, drain, refused: Repeats::new(), failures: Mutex::new(None) }
    }

    /// # Errors
    /// [`Problem`] for a caller without the token.
    fn admit(&self, session: &ServerSession) -> Outcome<()> {
        if bearer(&session.req_header().headers).is_some_and(|it| self.token.is(it)) {
            return Ok(());
        }
        if let Some(held_back) = self.refused.again() {
            let peer = session.client_addr().map(ToString::to_string).unwrap_or_default();
            tracing::warn!(peer, held_back, "a caller of the admin API has no token or a wrong one");
        }
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let (began, count) = failures
            .filter(|(began, _)| began.elapsed() < FAILURES_WITHIN)
            .unwrap_or_else(|| (Stopwatch::start(), 0));
        *failures = Some((began, count.saturating_add(1)));
        if count < FAILURES {
            let detail = "send `Authorization: Bearer …` with the content of the file `admin.token_file`";
            return Err(Problem::new(ProblemKind::TokenRefused, detail));
        }
        let seconds = FAILURES_WITHIN.saturating_sub(began.elapsed()).as_secs().saturating_add(1);
        let detail = format!("more than {FAILURES} within a minute; the right token is let in at any time");
        Err(Problem::new(ProblemKind::TooManyFailures, detail)
            .with_header(header::RETRY_AFTER, seconds.to_string()))
    }
}

/// The credential of the only `Authorization` header.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else { return None };
    let (scheme, credential) = shown.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

impl<S: Store + OperatorJournal + RefundJournal> Admin<S> {
    /// Answers a request below `/v1`.
    pub(super) async fn api(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        match self.ask(session).await {
            Ok(value) => super::answer(StatusCode::OK, "application/json", format!("{value}\n")),
            Err(problem) => problem.response(),
        }
    }

    async fn ask(&self, session: &mut ServerSession) -> Outcome<Value> {
        let Some(api) = &self.api else {
            let detail = "set `admin.token_file` and restart, to have it";
            return Err(Problem::new(ProblemKind::NoApi, detail));
        };
        api.admit(session)?;
        let body = body(session).await?;
        let request = session.req_header();
        let candidates = Operation::at(request.uri.path());
        if candidates.is_empty() {
            let detail = "no such operation; GET /v1/openapi.json lists them";
            return Err(Problem::new(ProblemKind::NotFound, detail));
        }
        let method = |it: Operation| if it.spec().changes { Method::POST } else { Method::GET };
        let allowed = candidates.iter().map(|(it, _)| method(*it).to_string()).collect::<Vec<_>>().join(", ");
        let chosen = candidates.into_iter().find(|(it, _)| method(*it) == request.method);
        let Some((operation, path)) = chosen else {
            let detail = format!("this path takes {allowed}");
            return Err(Problem::new(ProblemKind::WrongMethod, detail).with_header(header::ALLOW, allowed));
        };
        let named = |name: &str| {
            let value = request.headers.get(name)?;
            Some(value.to_str().map(str::to_owned).unwrap_or_default())
        };
        let arguments = Arguments::read(operation, path, request.uri.query(), &body, named)?;
        self.perform(api, operation, &arguments).await
    }

    async fn perform(&self, api: &Api, operation: Operation, told: &Arguments) -> Outcome<Value> {
        match operation {
            Operation::ListPayments => self.list_payments(told).await,
            Operation::ShowPayment => self.show_payment(told).await,
            Operation::ListCapabilities => self.list_capabilities(told).await,
            Operation::ShowCapability => {
                let entry = self.capability(told).await?;
                Ok(views::capability(&entry, self.cashier.now()))
            }
            Operation::GrantCapability => self.grant(told).await,
            Operation::RevokeCapability => self.revoke(told).await,
            Operation::ListRefunds => self.list_refunds(told).await,
            Operation::ListRoutes => Ok(self.list_routes()),
            Operation::ListNodes => {
                let (nodes, websockets) = self.nodes();
                Ok(json!({ "nodes": nodes, "websockets": websockets }))
            }
            Operation::ListUpstreams => Ok(self.list_upstreams()),
            Operation::ShowPool => Ok(self.pool(api)),
            Operation::ShowStatus => Ok(self.status()),
            Operation::Reload => api.reload(told.flag("dry_run")).await,
            Operation::Drain => self.drain(api, told.flag("dry_run")).await,
            Operation::ShowDocument => Ok(openapi::document(env!("FAREGATE_VERSION"))),
        }
    }

    async fn list_payments(&self, told: &Arguments) -> Outcome<Value> {
        let now = self.cashier.now();
        let search = PaymentSearch {
            route: told.text("route").map(RouteName::new),
            payer: told.parsed("payer")?,
            state: PaymentState::ALL.into_iter().find(|it| Some(it.as_str()) == told.text("state")),
            since: told.time("since", now)?,
            until: told.time("until", now)?,
            before: cursor(told)?,
            limit: limit(told)?,
        };
        let found = match told.parsed::<BlockHash>("block")? {
            Some(block) => {
                let found = self.store.payment(block).await?;
                found.into_iter().filter(|it| fits(it, &search)).collect()
            }
            None => self.store.search_payments(&search).await?,
        };
        let next = found.last().filter(|_| found.len() >= search.limit).map(|it| cursor_after(it.sequence));
        Ok(json!({ "payments": found.iter().map(views::payment).collect::<Vec<_>>(), "next": next }))
    }

    async fn show_payment(&self, told: &Arguments) -> Outcome<Value> {
        let block: BlockHash = told.parsed("id")?.unwrap_or(BlockHash::ZERO);
        let found = self.store.payment(block).await?.filter(|it| !it.intent.amount.is_zero());
        let found = found.ok_or_else(|| {
            Problem::new(ProblemKind::NotFound, format!("the journal has no payment by block {block}"))
        })?;
        Ok(views::payment(&found))
    }

    async fn list_capabilities(&self, told: &Arguments) -> Outcome<Value> {
        let now = self.cashier.now();
        let search = CapabilitySearch {
            route: told.text("route").map(RouteName::new),
            payer: told.parsed("payer")?,
            open: told.flag("open"),
            free: told.flag("free"),
            before: cursor(told)?,
            limit: limit(told)?,
        };
        let found = self.store.search_capabilities(&search, now).await?;
        let next = found.last().filter(|_| found.len() >= search.limit).map(|it| cursor_after(it.sequence));
        let all: Vec<_> = found.iter().map(|it| views::capability(it, now)).collect();
        Ok(json!({ "capabilities": all, "next": next }))
    }

    /// The capability that the path names.
    async fn capability(&self, told: &Arguments) -> Outcome<CapabilityEntry> {
        let id = capability_id(told)?;
        let found = self.store.capability_entry(id, self.cashier.now()).await?;
        found.ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no capability {id}")))
    }

    async fn revoke(&self, told: &Arguments) -> Outcome<Value> {
        let dry_run = told.flag("dry_run");
        let mut entry = self.capability(told).await?;
        let id = entry.record.id;
        if !dry_run {
            let (remark, now) = (remark(told, "reason"), self.cashier.now());
            repeat_unknown(|| self.store.revoke_by(id, &remark, now)).await?;
            self.cashier.capabilities().end_here(id);
            tracing::info!(capability = %id, by = remark.who, reason = remark.why, "capability revoked");
            entry = self.capability(told).await?;
        }
        let mut shown = views::capability(&entry, self.cashier.now());
        if let Value::Object(shown) = &mut shown {
            shown.insert("dry_run".to_owned(), dry_run.into());
        }
        Ok(shown)
    }

    async fn grant(&self, told: &Arguments) -> Outcome<Value> {
        let name = told.text("route").unwrap_or_default();
        let tariff = self.tariff.load();
        let route = tariff.table.routes().iter().find(|it| it.name.as_str() == name);
        let Some(route) = route.map(Arc::clone) else {
            let detail = format!("no route has the name {name:?}; GET /v1/routes lists them");
            return Err(Problem::new(ProblemKind::NotFound, detail));
        };
        let rates = Arc::clone(&tariff.rates);
        drop(tariff);
        let gift = gift(&route, &rates, told)?;
        let terms = gift.terms.grants;
        if told.flag("dry_run") {
            return Ok(json!({
                "id": null, "token": null, "route": gift.route.as_str(), "uses": terms.requests(),
                "expires_at": views::time(self.cashier.now().plus(terms.seconds)), "fresh": true, "dry_run": true,
            }));
        }
        let given = self.cashier.give(&gift).await?;
        let (remark, now) = (remark(told, "note"), self.cashier.now());
        repeat_unknown(|| self.store.note_given(given.record.id, &remark, now)).await?;
        let record = &given.record;
        tracing::info!(
            capability = %record.id, route = record.route.as_str(), uses = record.uses(), by = remark.who, note = remark.why,
            fresh = given.fresh, "capability given away"
        );
        Ok(json!({
            "id": record.id.to_string(), "token": given.token.expose(), "route": record.route.as_str(),
            "uses": record.uses(), "expires_at": views::time(record.expires_at), "fresh": given.fresh,
            "dry_run": false,
        }))
    }

    async fn list_refunds(&self, told: &Arguments) -> Outcome<Value> {
        let search = RefundSearch {
            state: None,
            unfinished: told.flag("open"),
            after: cursor(told)?,
            limit: limit(told)?,
        };
        let found = self.store.refunds(&search).await?;
        let next = found.last().filter(|_| found.len() >= search.limit).map(|it| cursor_after(it.sequence));
        Ok(json!({ "refunds": found.iter().map(views::refund).collect::<Vec<_>>(), "next": next }))
    }

    fn list_routes(&self) -> Value {
        let tariff = self.tariff.load();
        let all = tariff.table.routes().iter().map(|route| {
            let mut shown = views::route(route);
            let offered = if route.access.is_free() { Vec::new() } else { self.cashier.offered(&route.name) };
            if let Value::Object(shown) = &mut shown {
                let offered: Vec<_> = offered.into_iter().map(Mechanism::as_str).collect();
                shown.insert("mechanisms".to_owned(), json!(offered));
                shown.insert("metering".to_owned(), route.metering.as_str().into());
            }
            shown
        });
        json!({ "routes": all.collect::<Vec<_>>() })
    }

    fn list_upstreams(&self) -> Value {
        let tariff = self.tariff.load();
        let all = tariff.upstreams.iter().map(|(name, upstream)| {
            let server = |(address, up)| json!({ "address": address, "up": up });
            let servers: Vec<_> = upstream.servers().into_iter().map(server).collect();
            let down = upstream.down();
            json!({ "name": name.as_str(), "up": down.is_none(), "down_for_seconds": down, "servers": servers })
        });
        json!({ "upstreams": all.collect::<Vec<_>>() })
    }

    fn pool(&self, api: &Api) -> Value {
        let pool = self.cashier.pool();
        let of = |it: Mechanism| json!({ "mechanism": it.as_str(), "addresses": pool.of(it).len() });
        let look = api.look.load();
        let look = look.as_ref().map(|it| {
            json!({
                "at": views::time(it.at),
                "receivable_xno": it.receivable.xno().number(),
                "receivable_raw": it.receivable.to_string(),
                "unclaimed": it.unclaimed,
            })
        });
        json!({ "pool": Mechanism::ALL.map(of), "last_look": look })
    }

    fn status(&self) -> Value {
        let (health, reason) = (self.store.health(), self.unready(ReadyFor::Sales));
        let fault = self.cashier.store_readiness().err().map(|why| why.to_string());
        json!({
            "version": env!("FAREGATE_VERSION"),
            "time": views::time(self.cashier.now()),
            "ready": reason.is_none(),
            "reason": reason,
            "draining": *self.drains.borrow(),
            "settling": self.cashier.settling(),
            "capabilities_cached": self.cashier.capabilities().counts().0,
            "store": { "writable": health.writable, "free_bytes": health.free_bytes, "fault": fault },
            "rates": self.rates(),
        })
    }

    async fn drain(&self, api: &Api, dry_run: bool) -> Outcome<Value> {
        if !dry_run {
            tracing::info!("drained by the admin API");
            api.order(Order::Drain).await?;
        }
        Ok(json!({
            "draining": !dry_run || *self.drains.borrow(),
            "dry_run": dry_run,
            "delay_seconds": api.drain.delay.as_secs(),
            "grace_seconds": api.drain.grace.as_secs(),
            "settling": self.cashier.settling(),
        }))
    }
}

impl Api {
    async fn order(&self, order: Order) -> Outcome<()> {
        let given = tokio::time::timeout(RELOAD_WITHIN, self.orders.send(order)).await;
        match given {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => {
                Err(Problem::new(ProblemKind::Unavailable, "the process takes no orders now: is it ending?"))
            }
        }
    }

    async fn reload(&self, dry_run: bool) -> Outcome<Value> {
        let (outcome, answer) = oneshot::channel();
        self.order(Order::Reload { dry_run, outcome }).await?;
        let Ok(Ok(outcome)) = tokio::time::timeout(RELOAD_WITHIN, answer).await else {
            let detail = "the process does not say what became of it: look at its log";
            return Err(Problem::new(ProblemKind::Unavailable, detail));
        };
        match outcome {
            Ok(reloaded) => Ok(json!({
                "applied": !dry_run,
                "dry_run": dry_run,
                "changed": reloaded.changed,
                "needs_restart": reloaded.needs_restart,
            })),
            Err(refused) => {
                let detail = format!("nothing was changed. {}", refused.reason);
                Err(Problem::faulty(detail, refused.faults))
            }
        }
    }
}

/// What is to be given away of a route.
fn gift(route: &Route, rates: &Rates, told: &Arguments) -> Outcome<FreeGrant> {
    let sold = match &route.access {
        Access::Priced(listed) => rates.quote(*listed).map(|it| it.terms).ok_or_else(|| {
            let detail = format!("what {} is in XNO is not known now: there is no rate for it", listed.price);
            Problem::new(ProblemKind::Unavailable, detail)
        })?,
        Access::Free => return Err(Problem::bad("the route is free already")),
        Access::Calls(_) => {
            let detail =
                "the route is priced by call: what is bought of it depends on the calls, and cannot be given";
            return Err(Problem::bad(detail));
        }
    };
    let (Some(each), Some(bought)) = (sold.each(), sold.grants.requests()) else {
        return Err(Problem::bad(
            "the route is metered: what is bought of it is a balance, and cannot be given",
        ));
    };
    let requests = told.parsed::<NonZeroU32>("uses")?.unwrap_or(bought);
    let seconds = match told.text("within") {
        None => sold.grants.seconds,
        Some(text) => {
            let within = humantime::parse_duration(text);
            let within =
                within.map_err(|error| Problem::bad(format!("`within`: {error}: write `1h` or `7d`")))?;
            within.as_secs()
        }
    };
    if !(1..=MAX_WITHIN).contains(&seconds) {
        return Err(Problem::bad("`within`: from 1s to 366d"));
    }
    // As much for each use as a payment, so that it is none the worse if the route is moved.
    let amount = Raw::new(each.get().saturating_mul(u128::from(requests.get())));
    Ok(FreeGrant {
        route: route.name.clone(),
        place: route.standing.place(),
        terms: Terms { amount, grants: Grants::of_requests(requests, seconds) },
        key: told.text("Idempotency-Key").map(str::to_owned),
    })
}

fn remark(told: &Arguments, why: &str) -> Remark {
    Remark {
        who: told.text("by").unwrap_or(SOMEBODY).to_owned(),
        why: told.text(why).unwrap_or_default().to_owned(),
    }
}

fn capability_id(told: &Arguments) -> Outcome<CapabilityId> {
    let mut id = [0; 16];
    let text = told.text("id").unwrap_or_default();
    hex::decode_to_slice(text, &mut id).map_err(|error| Problem::bad(format!("`id`: {error}")))?;
    Ok(CapabilityId(id))
}

/// Whether a payment is one of those that are searched for.
fn fits(it: &PaymentRecord, search: &PaymentSearch) -> bool {
    let route = search.route.as_ref();
    !it.intent.amount.is_zero()
        && route.is_none_or(|wanted| {
            *wanted == it.intent.route || wanted.as_str() == it.intent.route.configured()
        })
        && search.payer.is_none_or(|payer| payer == it.intent.payer)
        && search.state.is_none_or(|state| state == it.state)
        && search.since.is_none_or(|since| it.created_at >= since)
        && search.until.is_none_or(|until| it.created_at < until)
        && search.before.is_none_or(|before| it.sequence < before)
}

fn limit(told: &Arguments) -> Outcome<usize> {
    let limit = told.parsed::<u64>("limit")?.unwrap_or(USUAL_ROWS);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What tells where the next page begins: a place in the journal.
fn cursor_after(sequence: u64) -> String {
    URL_SAFE_NO_PAD.encode(sequence.to_be_bytes())
}

fn cursor(told: &Arguments) -> Outcome<Option<u64>> {
    let Some(text) = told.text("cursor") else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|it| it.try_into().ok());
    let bytes =
        bytes.ok_or_else(|| Problem::bad("`cursor`: send the `next` of the page before, unchanged"))?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

/// The request's body.
async fn body(session: &mut ServerSession) -> Outcome<Vec<u8>> {
    session.set_read_timeout(Some(PART_TIMEOUT));
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.write_continue_response().await.map_err(gone)?;
    }
    let (mut body, mut length) = (Vec::new(), 0_usize);
    while let Some(part) = session.read_request_body().await.map_err(gone)? {
        length = length.saturating_add(part.len());
        if length <= MAX_BODY {
            body.extend_from_slice(&part);
        } else if length > DRAINED {
            break;
        }
    }
    if length > MAX_BODY {
        return Err(Problem::new(ProblemKind::TooLong, format!("send at most {MAX_BODY} bytes")));
    }
    let kind = session.req_header().headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let is_json =
        kind.is_some_and(|it| it.split(';').next().unwrap_or_default().trim() == "application/json");
    if body.is_empty() || is_json {
        Ok(body)
    } else {
        Err(Problem::new(ProblemKind::NotJson, "send it with `Content-Type: application/json`"))
    }
}

/// The caller closed the connection, or its body came too slowly.
fn gone(_: Box<pingora::prelude::Error>) -> Problem {
    Problem::bad("the body did not arrive whole and in time")
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let detail = match &error {
            StoreError::NotApplied(_) => return Self::new(ProblemKind::Failed, error.to_string()),
            StoreError::Unknown(_) => "it may have been done: ask again to find out",
            StoreError::Unavailable(_) => "nothing was done: try again later",
        };
        Self::new(ProblemKind::Unavailable, format!("{error}; {detail}"))
    }
}

impl From<FreeGrantError> for Problem {
    fn from(error: FreeGrantError) -> Self {
        match error {
            FreeGrantError::Store(error) => error.into(),
            FreeGrantError::KeyUsed => Self::new(
                ProblemKind::KeyUsed,
                "another route, number or time was given under it: use a new key",
            ),
            FreeGrantError::Unready(_) | FreeGrantError::Entropy(_) => {
                Self::new(ProblemKind::Unavailable, format!("{error}; nothing was given: try again later"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_authorization_counts_if_it_is_a_bearer_token() {
        let said = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, value.parse().unwrap());
            }
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(said(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(said(&["bearer  abc "]).as_deref(), Some("abc"));
        for wrong in [&[][..], &["abc"], &["Basic abc"], &["Bearer a", "Bearer a"]] {
            assert_eq!(said(wrong), None, "{wrong:?}");
        }
    }
}
