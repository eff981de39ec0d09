//! Reads what came with a request: a proof of payment, a capability, or nothing.

use std::fmt;

use http::{HeaderMap, HeaderName};
use pingora::prelude::Session;
use serde_json::{Map, Value};

use super::context::Context;
use super::rejection::Rejection;
use super::session_headers::{self, BLOCK_HEADER, SESSION_HEADER};
use crate::cashier::{Cashier, HandedOn, Presented, Proof};
use crate::ledger::Ledger;
use crate::routes::{CAPABILITY_KEY, CanonicalTarget, Enclosed, PAYMENT_KEY, RouteName, Standing};
use crate::store::Store;
use crate::x402::{self, PaymentPayload, PlainPayment};

/// The header with the proof. The second name is that of x402's first version.
static PROOF_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("payment-signature"), HeaderName::from_static("x-payment")];
const CAPABILITY_HEADER: HeaderName = HeaderName::from_static("payment-capability");
const PROOF_OF_KEY: HeaderName = HeaderName::from_static("dpop");

/// What came with a request to `route`, which may have had other names, in its headers or `enclosed` in its body, and
/// the extensions of its envelope.
pub(super) fn read(
    session: &Session,
    enclosed: Option<&Enclosed>,
    route: &RouteName,
    standing: &Standing,
) -> Result<(Presented, Map<String, Value>), Rejection> {
    let (payment, capability) =
        enclosed.map_or((None, None), |it| (it.payment.as_deref(), it.capability.as_deref()));
    let read = match (payment, capability) {
        (Some(_), _) if has_proof(session) => Err(Rejection::Unreadable(format!(
            "one payment came in a header and one in _meta[\"{PAYMENT_KEY}\"]: send one of them; nothing was charged"
        ))),
        (Some(payment), _) => read_enclosed(payment),
        (None, Some(token)) if !has_proof(session) => read_token(token).map(|it| (it, Map::new())),
        (None, _) => read_headers(session, route, standing),
    };
    read.map_err(|rejection| {
        if let Rejection::Unreadable(why) = rejection { Rejection::UnreadablePayment(why) } else { rejection }
    })
}

/// A payment in the body, as JSON. What is in a header is the same in base64.
fn read_enclosed(json: &str) -> Result<(Presented, Map<String, Value>), Rejection> {
    let why = |why: &dyn fmt::Display| format!("_meta[\"{PAYMENT_KEY}\"]: {why}");
    if json.len() > x402::MAX_HEADER_BYTES {
        return Err(Rejection::Unreadable(why(&"too long")));
    }
    let value: Value = serde_json::from_str(json).map_err(|error| Rejection::Unreadable(why(&error)))?;
    Ok(match PaymentPayload::read(&value) {
        Ok(payload) => of_payload(payload),
        Err(fault) => (Presented::Malformed(why(&fault)), Map::new()),
    })
}

/// A capability in the body, as JSON: its token, or the object of a result that has it.
fn read_token(json: &str) -> Result<Presented, Rejection> {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let token = value.get("token").unwrap_or(&value).as_str();
    match token.filter(|it| it.len() <= x402::MAX_HEADER_BYTES) {
        Some(token) => Ok(Presented::Token(token.trim().to_owned())),
        None => Err(Rejection::Unreadable(format!("_meta[\"{CAPABILITY_KEY}\"]: expected a token"))),
    }
}

fn of_payload(payload: PaymentPayload) -> (Presented, Map<String, Value>) {
    let PaymentPayload { presented, extensions, .. } = payload;
    let presented = match presented {
        x402::Payload::Payment(payment) => Presented::Proof(Box::new(Proof::from(*payment))),
        x402::Payload::Access { credential } => Presented::Token(credential.expose().trim().to_owned()),
    };
    (presented, extensions)
}

/// Adds the token that came beside a proof: the payment may be for the purse that it opens.
fn beside(
    (mut presented, extensions): (Presented, Map<String, Value>),
    headers: &HeaderMap,
) -> (Presented, Map<String, Value>) {
    if let Presented::Proof(proof) = &mut presented {
        let token = header(headers, &CAPABILITY_HEADER).ok().flatten();
        proof.beside = token.filter(|it| it.len() <= x402::MAX_HEADER_BYTES);
    }
    (presented, extensions)
}

fn read_headers(
    session: &Session,
    route: &RouteName,
    standing: &Standing,
) -> Result<(Presented, Map<String, Value>), Rejection> {
    let headers = &session.req_header().headers;
    for name in &PROOF_HEADERS {
        if let Some(value) = header(headers, name)? {
            return match PaymentPayload::from_header(&value) {
                Ok(payload) => Ok(beside(of_payload(payload), headers)),
                Err(x402::Malformed::Refused(x402::FieldFault::NotEchoed { .. }))
                    if let Ok(plain) = PlainPayment::from_header(&value) =>
                {
                    let extensions = plain.extensions.clone();
                    Ok((Presented::Plain(Box::new(plain)), extensions))
                }
                Err(x402::Malformed::Refused(why)) => {
                    Ok((Presented::Malformed(format!("{name}: {why}")), Map::new()))
                }
                Err(x402::Malformed::Unreadable(why)) => Err(Rejection::Unreadable(format!("{name}: {why}"))),
            };
        }
    }
    if let Some(block) = header(headers, &BLOCK_HEADER)? {
        let id = header(headers, &SESSION_HEADER)?;
        let read = session_headers::read(&block, id.as_deref(), standing.names(route));
        return Ok(beside((read.unwrap_or_else(Presented::Malformed), Map::new()), headers));
    }
    Ok((token(session)?.map_or(Presented::Nothing, Presented::Token), Map::new()))
}

/// The token in the header for it.
pub(super) fn token(session: &Session) -> Result<Option<String>, Rejection> {
    match header(&session.req_header().headers, &CAPABILITY_HEADER)? {
        Some(token) if token.len() > x402::MAX_HEADER_BYTES => {
            Err(Rejection::Unreadable(format!("{CAPABILITY_HEADER}: too long")))
        }
        token => Ok(token),
    }
}

/// The derived token that was presented, or why it does not open the request. A proof of a key goes no further than
/// here: it was made for the gateway.
pub(super) fn derived<L: Ledger, S: Store>(
    cashier: &Cashier<L, S>,
    session: &mut Session,
    context: &Context,
    target: &CanonicalTarget,
    presented: &str,
) -> Presented {
    let request = session.req_header();
    let proof = || -> Result<(String, String), String> {
        let missing = "send a DPoP proof of it (RFC 9449) in the header DPoP";
        let proof = header(&request.headers, &PROOF_OF_KEY)
            .map_err(|_| "more than one DPoP header, or not ASCII: send one".to_owned())?;
        Ok((proof.ok_or(missing)?, context.join(target.as_str())))
    };
    let method = request.method.as_str();
    let derived = cashier.recognise_derived(&HandedOn { presented, method, target, proof: &proof });
    if derived.as_ref().is_ok_and(|it| it.keys().next().is_some()) {
        let _proof = session.req_header_mut().remove_header(&PROOF_OF_KEY);
    }
    Presented::Derived(Box::new(derived))
}

/// Whether a proof of payment came with a request, valid or not.
pub(super) fn has_proof(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    PROOF_HEADERS.iter().chain([&BLOCK_HEADER]).any(|it| headers.contains_key(it))
}

/// Whether a capability came with a request, valid or not.
pub(super) fn has_token(session: &Session) -> bool {
    let headers = &session.req_header().headers;
    let mut proofs = PROOF_HEADERS.iter().filter_map(|it| header(headers, it).ok().flatten());
    let is_access = |it: String| {
        let payload = PaymentPayload::from_header(&it);
        matches!(payload, Ok(PaymentPayload { presented: x402::Payload::Access { .. }, .. }))
    };
    headers.contains_key(&CAPABILITY_HEADER) || proofs.any(is_access)
}

/// The one value of a header, if it is there.
pub(super) fn header(headers: &HeaderMap, name: &HeaderName) -> Result<Option<String>, Rejection> {
    if !headers.contains_key(name) {
        return Ok(None);
    }
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(|it| Some(it.to_owned()))
            .map_err(|_| Rejection::Unreadable(format!("the {name} header is not ASCII"))),
        (Some(_), Some(_)) => Err(Rejection::Unreadable(format!("more than one {name} header: send one"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    fn with(field: &str) -> Session {
        session(&format!("GET / HTTP/1.1\r\nHost: a\r\n{field}\r\n"))
    }

    #[test]
    fn a_capability_has_at_most_the_length_of_a_header() {
        let presented = |length: usize| {
            let session = with(&format!("PAYMENT-CAPABILITY: {}\r\n", "a".repeat(length)));
            read(&session, None, &RouteName::new("GET /"), &Standing::default())
        };
        let (token, _) = presented(x402::MAX_HEADER_BYTES).unwrap();
        assert!(matches!(token, Presented::Token(it) if it.len() == x402::MAX_HEADER_BYTES));
        let too_long = presented(x402::MAX_HEADER_BYTES.saturating_add(1));
        assert!(matches!(too_long, Err(Rejection::UnreadablePayment(_))));
    }

    #[test]
    fn a_token_is_told_from_nothing_and_from_a_proof() {
        assert!(has_token(&with("PAYMENT-CAPABILITY: a\r\n")));
        assert!(!has_token(&with("PAYMENT-SIGNATURE: a\r\n")));
        assert!(!has_token(&with("")));
    }

    #[test]
    fn a_proof_is_told_from_nothing_and_from_a_token() {
        for name in ["PAYMENT-SIGNATURE", "X-PAYMENT", BLOCK_HEADER.as_str()] {
            assert!(has_proof(&with(&format!("{name}: a\r\n"))), "{name}");
        }
        assert!(!has_proof(&with("PAYMENT-CAPABILITY: a\r\n")));
        assert!(!has_proof(&with("")));
    }
}
