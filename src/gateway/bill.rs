//! A bill, the answer 402: the body says everything, and the head what there is room for.
//!
//! Many proxies take only so much of an answer's head from the server behind them; with its defaults nginx
//! answers 502 if there is more than 4,096 bytes of it. So the head of a bill stays below that, whatever is
//! configured and asked for. What does not fit is left out of `PAYMENT-REQUIRED` and `PAYMENT-RESPONSE` in
//! this order: the end of the URL, which the client decides; the refusal's message; the description; the
//! media type; the hint how to get XNO; the schema of the payment identifier; the last entries of `accepts`. The first entry always
//! stays, and the body has it all.

use http::StatusCode;
use serde_json::Value;

use super::bill_text::{BillParts, declared};
use super::context::Context;
use super::decision::Billed;
use super::rail_hint::RAIL_HINT;
use super::reply::{Reply, failed};
use super::request_id::X_REQUEST_ID;
use crate::config::RailHint;
use crate::nano::BlockHash;
use crate::routes::{CanonicalTarget, Route};
use crate::x402::payment_identifier::PAYMENT_IDENTIFIER;
use crate::x402::{self, PaymentRequired, PaymentRequirements, Resource};

/// The most bytes of a bill's head.
const MAX_HEAD: usize = 4095;
/// What the head holds beside the headers of this file and the request's id: the status line and what every answer
/// of the gateway's own has. It was 274 bytes, and there is some to spare.
const OTHERS: usize = 320;
/// The headers that let a page of another origin read it, without the origin. They were 264 bytes.
const EXPOSING: usize = 300;
/// Bytes that a header needs beside its name and value.
const AROUND: usize = ": \r\n".len();
/// A description is not cut shorter than this many bytes: then it is left out.
const SHORTEST_DESCRIPTION: usize = 16;
/// A bill without a refusal.
const UNPAID: &str = "PAYMENT_REQUIRED";
const HOW_TO_PAY: &str =
    "this resource is paid for per use: pay one of `accepts` and send the proof in PAYMENT-SIGNATURE";

/// The answer 402.
pub(super) fn payment_required(context: &Context, billed: Billed) -> Reply {
    let Billed { bill, route, target } = billed;
    let message = bill.refused.as_ref().map_or(HOW_TO_PAY, |it| it.message.as_str());
    let code = bill.refused.as_ref().map_or(UNPAID, |it| it.refusal.code());
    let (seconds, work) = (context.tariff.challenge_lifetime, context.tariff.work);
    let entries: Vec<_> = bill.challenges.iter().map(|it| it.requirements(seconds, work)).collect();
    let url = context.join(target.as_str());
    let (text, hint) = (&context.at_route.bills, context.tariff.rail_hint.as_ref());
    let whole = BillParts {
        accepts: &text.accepts(&entries, &context.tariff.addresses),
        code,
        extensions: text.extensions(&route, hint),
        description: &route.description,
        mime_type: &route.mime_type,
        url: &url,
    };
    let body = whole.json(Some(message));
    let session = entries.iter().filter_map(x402::session_headers).flatten().collect();
    let refused = bill.refused.as_ref().map(|it| Refused { block: it.block, code, message: Some(message) });
    let headers = headers(x402::encode_text(&whole.json(None)), &session, refused.as_ref());
    let room = room(context);
    let headers = if bytes(&headers) <= room {
        headers
    } else {
        let required = required((&route, hint), code, url, entries);
        let head = Head { required, target: Named::whole(&target), refused, session };
        head.within(room, |target| context.join(target))
    };
    let headers = headers.into_iter().map(|(name, text)| (name, text.into())).collect();
    let message = bill.refused.map_or(HOW_TO_PAY.into(), |it| it.message.into());
    Reply { status: StatusCode::PAYMENT_REQUIRED, headers, message, body: body.into() }
}

fn required(
    (route, hint): (&Route, Option<&RailHint>),
    code: &str,
    url: String,
    accepts: Vec<PaymentRequirements>,
) -> PaymentRequired {
    PaymentRequired {
        error: Some(code.to_owned()),
        resource: Resource {
            url,
            description: Some(route.description.clone()).filter(|it| !it.is_empty()),
            mime_type: Some(route.mime_type.clone()).filter(|it| !it.is_empty()),
        },
        accepts,
        extensions: declared(route, hint),
    }
}

/// Bytes that a bill's own headers may have in this answer.
fn room(context: &Context) -> usize {
    let origin = context.origin.as_ref().map_or(0, |it| it.len().saturating_add(EXPOSING));
    let varies_by = context.varies_by.len().saturating_add(AROUND);
    let id = X_REQUEST_ID.len().saturating_add(context.request_id.as_str().len()).saturating_add(AROUND);
    let others = [OTHERS, origin, varies_by, id];
    others.into_iter().fold(MAX_HEAD, usize::saturating_sub)
}

/// The headers of a bill.
type Headers = Vec<(&'static str, String)>;

/// What stands in the head of a bill.
struct Head<'a> {
    required: PaymentRequired,
    target: Named<'a>,
    refused: Option<Refused<'a>>,
    /// The headers of NanoSession's revision 5.
    session: Headers,
}

/// What `PAYMENT-RESPONSE` says about a refused payment.
struct Refused<'a> {
    block: Option<BlockHash>,
    code: &'a str,
    message: Option<&'a str>,
}

fn headers(required: String, session: &Headers, refused: Option<&Refused<'_>>) -> Headers {
    let mut headers = vec![("PAYMENT-REQUIRED", required)];
    headers.extend(session.iter().cloned());
    if let Some(Refused { block, code, message }) = refused {
        headers.push(("PAYMENT-RESPONSE", failed(*block, code, *message)));
    }
    headers
}

impl Head<'_> {
    /// The headers, in at most `room` bytes if the first entry alone fits. `url_of` gives the URL of a
    /// target.
    fn within(mut self, room: usize, url_of: impl Fn(&str) -> String) -> Headers {
        loop {
            let headers = self.headers();
            let excess = bytes(&headers).saturating_sub(room);
            if excess == 0 || !self.shorten(excess, &url_of) {
                return headers;
            }
        }
    }

    fn headers(&self) -> Headers {
        headers(self.required.to_header(), &self.session, self.refused.as_ref())
    }

    /// Leaves out what can be missed most, to save `excess` bytes. False if nothing can be missed.
    fn shorten(&mut self, excess: usize, url_of: impl Fn(&str) -> String) -> bool {
        // Four bytes of base64 hold three, and what is left is rounded up.
        let cut = excess.saturating_mul(3).div_ceil(4).saturating_add(3);
        let resource = &mut self.required.resource;
        if self.target.shorten(cut) {
            resource.url = url_of(self.target.0);
            return true;
        }
        if self.refused.as_mut().is_some_and(|it| it.message.take().is_some()) {
            return true;
        }
        if let Some(description) = resource.description.take() {
            resource.description = shortened(&description, cut);
            return true;
        }
        if resource.mime_type.take().is_some() {
            return true;
        }
        if self.required.extensions.remove(RAIL_HINT).is_some() {
            return true;
        }
        let declared = self.required.extensions.get_mut(PAYMENT_IDENTIFIER).and_then(Value::as_object_mut);
        if declared.is_some_and(|it| it.remove("schema").is_some()) {
            return true;
        }
        if self.required.accepts.len() > 1 {
            return self.required.accepts.pop().is_some();
        }
        !std::mem::take(&mut self.session).is_empty()
    }
}

/// As much of a target as there is room for. What is bought is the route; the URL is for people.
struct Named<'a>(&'a str);

impl<'a> Named<'a> {
    fn whole(target: &'a CanonicalTarget) -> Self {
        Self(target.as_str())
    }

    /// Cuts at least `cut` bytes off, if there are so many: the query as a whole, then folders. False if
    /// there is nothing more to cut.
    fn shorten(&mut self, cut: usize) -> bool {
        let shorter = match self.0.split_once('?') {
            Some((path, _)) => path,
            None => {
                // A canonical path is ASCII, so no character is cut.
                let fits = self.0.get(..self.0.len().saturating_sub(cut)).unwrap_or_default();
                fits.rfind('/').and_then(|end| fits.get(..=end)).unwrap_or("/")
            }
        };
        let is_shorter = shorter.len() < self.0.len();
        self.0 = shorter;
        is_shorter
    }
}

/// A text that is `cut` bytes shorter, and says so; `None` if too little would be left of it.
fn shortened(text: &str, cut: usize) -> Option<String> {
    let most = text.len().checked_sub(cut.saturating_add('…'.len_utf8()))?;
    let end = (0..=most).rev().find(|it| text.is_char_boundary(*it))?;
    let kept = text.get(..end).filter(|it| it.len() >= SHORTEST_DESCRIPTION)?;
    Some(format!("{kept}…"))
}

/// Bytes of these headers on the wire.
fn bytes(headers: &Headers) -> usize {
    let each = |(name, value): &(&str, String)| name.len().saturating_add(value.len()).saturating_add(AROUND);
    headers.iter().map(each).fold(0, usize::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::super::scenes::config;
    use super::*;
    use crate::nano::{Account, Network, Raw, UnixSeconds};
    use crate::routes::Grants;
    use crate::x402::payment_identifier::declaration;
    use crate::x402::{Asset, Extra, Scheme, Track, decode_header};

    /// A head with everything that can be left out.
    fn head<'a>(target: &'a str, url: &str) -> Head<'a> {
        let declared = [(PAYMENT_IDENTIFIER.to_owned(), declaration(true))];
        Head {
            required: PaymentRequired {
                error: Some("PAYMENT_EXPIRED".to_owned()),
                resource: Resource {
                    url: url.to_owned(),
                    description: Some("What it is about, at some length.".to_owned()),
                    mime_type: Some("application/json".to_owned()),
                },
                accepts: Vec::new(),
                extensions: declared.into_iter().collect(),
            },
            target: Named(target),
            refused: Some(Refused { block: None, code: "PAYMENT_EXPIRED", message: Some("Too late.") }),
            session: vec![("X-Payment-Session", "x".to_owned())],
        }
    }

    /// What is left in a head of at most `room` bytes, in the order in which it is left out.
    fn left(room: usize) -> (usize, Vec<bool>) {
        let target = "/a/b?query=1";
        let url_of = |target: &str| format!("https://shop.example{target}");
        let headers = head(target, &url_of(target)).within(room, url_of);
        let size = bytes(&headers);
        let read = |wanted: &str| {
            let found = headers.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| Value::Object(decode_header(value).unwrap()))
        };
        let (required, response) = (read("PAYMENT-REQUIRED").unwrap(), read("PAYMENT-RESPONSE").unwrap());
        let resource = &required["resource"];
        assert!(resource["url"].as_str().unwrap().starts_with("https://shop.example/"));
        assert_eq!(response["errorReason"], "PAYMENT_EXPIRED", "the code always stays");
        let declared = required["extensions"][PAYMENT_IDENTIFIER].as_object().unwrap();
        assert!(declared.contains_key("info"));
        let whole = vec![
            resource["url"].as_str().unwrap().len() > "https://shop.example/".len(),
            response.to_string().contains("Too late."),
            resource["description"].is_string(),
            resource["mimeType"].is_string(),
            declared.contains_key("schema"),
            headers.iter().any(|(name, _)| *name == "X-Payment-Session"),
        ];
        (size, whole)
    }

    #[test]
    fn what_can_be_missed_most_is_left_out_first() {
        let (all, whole) = left(usize::MAX);
        assert_eq!(whole, [true; 6]);
        let mut gone = 0;
        for room in (0..all).rev() {
            let (size, whole) = left(room);
            let missing = whole.iter().take_while(|it| !**it).count();
            assert!(whole.iter().skip(missing).all(|it| *it), "{room}: out of order: {whole:?}");
            assert!(missing >= gone, "{room}: {whole:?}");
            assert!(size <= room || missing == whole.len(), "{room}: there was more to leave out");
            gone = missing;
        }
        assert_eq!(gone, 6);
    }

    #[test]
    fn a_target_loses_its_query_and_then_folders() {
        let cut = |target, cut| {
            let mut named = Named(target);
            (named.shorten(cut), named.0)
        };
        assert_eq!(cut("/a/b?query=1", 100), (true, "/a/b"));
        assert_eq!(cut("/a/bb/cccc", 2), (true, "/a/bb/"));
        assert_eq!(cut("/a/bb/cccc", 6), (true, "/a/"));
        assert_eq!(cut("/a/bb/cccc", 100), (true, "/"));
        assert_eq!(cut("/", 1), (false, "/"));
    }

    #[test]
    fn a_description_is_cut_at_a_character_or_left_out() {
        let text = "Prices of the day, für alle";
        assert_eq!(shortened(text, 2).as_deref(), Some("Prices of the day, für…"));
        assert_eq!(shortened(text, 4).as_deref(), Some("Prices of the day, f…"), "within the `ü`");
        assert_eq!(shortened("0123456789abcdefghi", 0).as_deref(), Some("0123456789abcdef…"));
        assert_eq!(shortened("0123456789abcdefgh", 0), None, "15 bytes would be left");
        assert_eq!(shortened("short", 100), None);
        let headers = vec![("A", "bc".to_owned()), ("DE", String::new())];
        assert_eq!(bytes(&headers), "A: bc\r\nDE: \r\n".len());
    }

    proptest! {
        #[test]
        fn a_bill_reads_as_its_json_form_is_written(
            code in "[A-Z_]{1,20}", url in ".{0,60}", message in ".{0,60}", description in ".{0,40}", mime_type in ".{0,20}",
            extended: bool,
        ) {
            let some = |it: &String| Some(it.clone()).filter(|it| !it.is_empty());
            let mut extensions = serde_json::Map::new();
            if extended {
                extensions.insert("a".to_owned(), serde_json::json!({ "b": 1 }));
            }
            let resource =
                Resource { url: url.clone(), description: some(&description), mime_type: some(&mime_type) };
            let required = PaymentRequired { error: Some(code.clone()), resource, accepts: Vec::new(), extensions };
            let extensions = if extended { "{\"a\":{\"b\":1}}" } else { "" };
            let bill = BillParts {
                accepts: "[]", code: &code, extensions, description: &description, mime_type: &mime_type, url: &url,
            };
            prop_assert_eq!(bill.json(None), required.to_json().to_string());
            let mut with_message = required.to_json();
            with_message.as_object_mut().unwrap().insert("message".to_owned(), message.clone().into());
            prop_assert_eq!(bill.json(Some(&message)), with_message.to_string());
        }
    }

    fn entry() -> PaymentRequirements {
        PaymentRequirements {
            scheme: Scheme::Exact,
            network: Network::Mainnet,
            asset: Asset::Xno,
            amount: Raw::new(1),
            pay_to: Account([2; 32]),
            max_timeout_seconds: 60,
            extra: Extra {
                challenge: [1; 32],
                valid_before: UnixSeconds(1),
                route: "GET /".to_owned(),
                grants: Grants::of_requests(NonZeroU32::MIN, 60),
                exchange: None,
                track: Track::NanoSignature,
            },
        }
    }

    #[test]
    fn the_first_entry_always_stays() {
        let mut head = head("/", "https://shop.example/");
        head.required.accepts = vec![entry(), entry(), entry()];
        let headers = head.within(0, |_| "https://shop.example/".to_owned());
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["PAYMENT-REQUIRED", "PAYMENT-RESPONSE"]);
        let required = Value::Object(decode_header(&headers[0].1).unwrap());
        assert_eq!(required["accepts"], Value::Array(vec![entry().to_json()]));
    }

    /// What the shorter head of a bill says of its resource is what the route says.
    #[test]
    fn a_resource_has_the_words_that_its_route_has() {
        let config = config("url: http://a");
        let said = |description: &str, mime_type: &str| {
            let (description, mime_type) = (description.to_owned(), mime_type.to_owned());
            let route = Route { description, mime_type, ..Route::clone(&config.table.routes()[0]) };
            let resource = required((&route, None), UNPAID, "https://a".to_owned(), vec![entry()]).resource;
            (resource.description, resource.mime_type)
        };
        assert_eq!(said("", ""), (None, None));
        assert_eq!(said("Quotes", ""), (Some("Quotes".to_owned()), None));
        assert_eq!(said("", "text/csv"), (None, Some("text/csv".to_owned())));
    }
}
