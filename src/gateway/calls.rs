//! Finds out what a request to an MCP server's endpoint calls, and so what it costs.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName, UPGRADE};
use pingora::prelude::{Error, Session};

use super::Context;
use super::body::Unread;
use crate::routes::{CallFault, CallPrices, ClaimedCall, Quote, RouteName, Terms};

/// What a request is to be sold.
#[derive(Debug)]
pub(super) struct Ware {
    /// The identity that payments for it are bound to.
    pub(super) route: RouteName,
    pub(super) terms: Terms,
    /// The request's body, where it was read to find out.
    pub(super) body: Option<Vec<u8>>,
}

/// Why a call is neither sold nor given away.
#[derive(Debug)]
pub(super) enum Turned {
    /// It cannot be read, or not by everybody in one way.
    Unreadable(String),
    /// Its body is of a kind that is not looked into.
    Unsupported(&'static str),
    NotOffered(CallFault),
    TooLong(usize),
    TooSlow,
    NoRoom,
    Lost(Box<Error>),
}

/// What is sold to a request to `route`, and for how much; nothing where its calls are free.
pub(super) async fn price(
    session: &mut Session,
    context: &mut Context,
    route: &RouteName,
    prices: &CallPrices,
) -> Result<Option<Ware>, Turned> {
    let headers = &session.req_header().headers;
    plain_json(headers)?;
    let [method, name] = [claim(headers, "mcp-method")?, claim(headers, "mcp-name")?];
    let body = context.tariff.room.read(session, prices.bound).await?;
    context.body = Some(body.held);
    let claimed = ClaimedCall { method: method.as_deref(), name: name.as_deref() };
    match prices.quote_claimed(&body.bytes, &claimed) {
        Ok(Quote::Free) => Ok(None),
        Ok(Quote::Costs { part, amount }) => {
            let terms = Terms { amount, grants: prices.grants };
            Ok(Some(Ware { route: route.part(&part), terms, body: Some(body.bytes) }))
        }
        Err(fault) if fault.is_not_offered() => Err(Turned::NotOffered(fault)),
        Err(fault) => Err(Turned::Unreadable(fault.to_string())),
    }
}

/// Whether the upstream will see the very text that is priced.
fn plain_json(headers: &HeaderMap) -> Result<(), Turned> {
    if headers.contains_key(UPGRADE) {
        // In a tunnel nobody would count the calls.
        return Err(Turned::Unreadable("an upgrade cannot be priced by call: leave it out".to_owned()));
    }
    match one(headers, &CONTENT_ENCODING) {
        One::None => {}
        One::Text(encoding) if encoding.eq_ignore_ascii_case("identity") => {}
        One::Text(_) | One::Other => {
            return Err(Turned::Unsupported("send the body without a Content-Encoding"));
        }
    }
    let is_json = match one(headers, &CONTENT_TYPE) {
        One::Text(kind) => is_json_in_utf8(kind),
        One::None | One::Other => false,
    };
    if is_json { Ok(()) } else { Err(Turned::Unsupported("send `Content-Type: application/json`, in UTF-8")) }
}

/// What a header claims of the body, if it is there.
fn claim(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, Turned> {
    match one(headers, &HeaderName::from_static(name)) {
        One::None => Ok(None),
        One::Text(text) => Ok(Some(text.to_owned())),
        One::Other => Err(Turned::Unreadable(format!("send {name} once, in ASCII"))),
    }
}

/// A header that should occur once.
enum One<'a> {
    None,
    Text(&'a str),
    /// Several of it, or not ASCII.
    Other,
}

fn one<'a>(headers: &'a HeaderMap, name: &HeaderName) -> One<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => One::None,
        (Some(value), None) => value.to_str().map_or(One::Other, |it| One::Text(it.trim())),
        (Some(_), Some(_)) => One::Other,
    }
}

fn is_json_in_utf8(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|it| it.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.filter(|it| !it.is_empty()).all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("charset")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}

impl From<Unread> for Turned {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::TooLong(bound) => Self::TooLong(bound),
            Unread::TooSlow => Self::TooSlow,
            Unread::NoRoom => Self::NoRoom,
            Unread::Lost(error) => Self::Lost(error),
        }
    }
}
