//! The headers of x402: what is decoded is encoded again to the same meaning, within the limits.

use faregate::payment::payment_identifier::IdentifierKey;
use faregate::x402::payment_identifier::PaymentIdentifier;
use faregate::x402::{
    AcceptsRequest, Credential, Demanded, FacilitatorRequest, MAX_HEADER_BYTES, Malformed, NanoOffers,
    Payload, PaymentPayload, PaymentRequired, PaymentRequirements, SettlementOutcome, SettlementResponse,
    decode_header, encode_header, session_headers,
};
use jiter::JsonValue;
use serde_json::{Map, Value};

use crate::json;

/// The longest message about a fault. An author reads it in a header or in the body of an answer.
const LONGEST_MESSAGE: usize = 2000;

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 4 {
        0 => header(rest),
        1 => identifier(rest),
        _ => text(rest),
    }
}

/// JSON as a client may send it, in either alphabet.
fn text(data: &[u8]) {
    header(data_encoding::BASE64.encode(data).as_bytes());
    header(data_encoding::BASE64URL_NOPAD.encode(data).as_bytes());
}

fn header(value: &[u8]) {
    let object = match decode_header(value) {
        Ok(object) => object,
        Err(why) => {
            assert!(why.to_string().len() <= LONGEST_MESSAGE);
            return;
        }
    };
    assert!(value.len() <= MAX_HEADER_BYTES);
    check_decoded(value, &object);
    let whole = Value::Object(object);
    let again = encode_header(&whole);
    if again.len() <= MAX_HEADER_BYTES {
        let again = decode_header(&again).map(Value::Object).expect("its own header");
        assert!(json::is_same(&again, &whole), "{again} for {whole}");
    }
    check_payload(value, &whole);
    check_required(&whole);
    check_settlement(&whole);
    check_requests(&whole);
}

/// Two other libraries read the same.
fn check_decoded(value: &[u8], object: &Map<String, Value>) {
    let bare = value.trim_ascii();
    let bare = bare.strip_suffix(b"==").or_else(|| bare.strip_suffix(b"=")).unwrap_or(bare);
    let is_url_safe = bare.iter().any(|it| b"-_".contains(it));
    let encoding = if is_url_safe { data_encoding::BASE64URL_NOPAD } else { data_encoding::BASE64_NOPAD };
    let bytes = encoding.decode(bare).unwrap_or_else(|why| panic!("base64 to one library only: {why}"));
    // `jiter` has another limit for the length of numbers.
    if let Ok(read) = JsonValue::parse(&bytes, false) {
        assert!(json::is_read_as(&Value::Object(object.clone()), &read), "{read:?}");
    }
}

fn message(why: &impl ToString) {
    let text = why.to_string();
    assert!(text.len() <= LONGEST_MESSAGE, "{} bytes: {text}", text.len());
}

fn check_payload(value: &[u8], whole: &Value) {
    let payload = match PaymentPayload::from_header(value) {
        Ok(payload) => payload,
        Err(why) => {
            assert!(matches!(why, Malformed::Refused(_)), "it was decoded before");
            return message(&why);
        }
    };
    assert!(PaymentPayload::read(whole).is_ok());
    let again = PaymentPayload::read(&payload.to_json()).expect("its own JSON");
    assert_eq!((&again.resource, &again.presented), (&payload.resource, &payload.presented));
    let same = json::is_same(&Value::Object(again.extensions), &Value::Object(payload.extensions.clone()));
    assert!(same, "other extensions");
    assert_eq!(whole.get("x402Version"), Some(&Value::from(2)));
    let _id = PaymentIdentifier::read(&payload.extensions).map_err(|why| message(&why));
    match &payload.presented {
        Payload::Payment(payment) => {
            assert_eq!(payment.proof.mechanism(), payment.accepted.extra.track.as_str());
            check_entry(&payment.accepted);
        }
        Payload::Access { credential } => {
            assert!(!credential.expose().is_empty());
            let shown = format!("{payload:?}");
            let other = Payload::Access { credential: Credential::new("another".to_owned()) };
            assert_eq!(shown, format!("{:?}", PaymentPayload { presented: other, ..payload.clone() }));
        }
    }
}

fn check_entry(entry: &PaymentRequirements) {
    let read = PaymentRequirements::read(&entry.to_json()).expect("its own JSON");
    assert_eq!(read.to_json(), entry.to_json());
    assert_eq!(PaymentRequirements::read(&read.to_json()).as_ref(), Ok(&read));
    if let Some(headers) = session_headers(entry) {
        let all = headers.iter().all(|(_, value)| value.bytes().all(|it| it.is_ascii_graphic()));
        assert!(all, "{headers:?}");
        let number = |at: usize| headers[at].1.parse::<u128>().expect("a number");
        assert_eq!(number(1) + number(2), entry.amount.get());
    }
}

fn check_required(whole: &Value) {
    match PaymentRequired::read(whole) {
        Ok(required) => {
            let again = PaymentRequired::read(&required.to_json()).expect("its own JSON");
            assert!(json::is_same(&again.to_json(), &required.to_json()));
            required.accepts.iter().for_each(check_entry);
            // A client that also pays other servers can pay every entry.
            let offers = NanoOffers::read(whole).expect("a reader that asks for less");
            assert_eq!(offers.offers.len(), required.accepts.len(), "{:?}", offers.passed_over);
            for (offer, entry) in offers.offers.iter().zip(&required.accepts) {
                assert_eq!((offer.amount, offer.pay_to), (entry.amount, entry.pay_to));
                assert_eq!(offer.valid_before, entry.extra.valid_before);
            }
        }
        Err(why) => message(&why),
    }
    if let Ok(offers) = NanoOffers::read(whole) {
        let entries = whole.get("accepts").and_then(Value::as_array).expect("a list");
        assert_eq!(offers.offers.len() + offers.passed_over.len(), entries.len());
        offers.passed_over.iter().for_each(message);
    }
}

fn check_settlement(whole: &Value) {
    match SettlementResponse::read(whole) {
        Ok(response) => {
            let again = SettlementResponse::read(&response.to_json()).expect("its own JSON");
            assert_eq!(again.outcome, response.outcome);
            let (again, response) =
                (Value::Object(again.extensions), Value::Object(response.extensions.clone()));
            assert!(json::is_same(&again, &response), "{again} for {response}");
        }
        Err(why) => message(&why),
    }
    if let Ok(SettlementResponse { outcome: SettlementOutcome::Settled { .. }, .. }) =
        SettlementResponse::read(whole)
    {
        assert_eq!(whole.get("success"), Some(&Value::Bool(true)));
    }
}

fn check_requests(whole: &Value) {
    if let Err(why) = FacilitatorRequest::read(whole) {
        message(&why);
    }
    match AcceptsRequest::read(whole) {
        Ok(request) => {
            let entries = whole.get("accepts").and_then(Value::as_array).expect("a list");
            assert!(request.entries.len() <= entries.len());
        }
        Err(why) => message(&why),
    }
    match Demanded::read(whole) {
        Ok(demanded) => {
            let amount = whole.get("amount").and_then(Value::as_str).and_then(|it| it.parse().ok());
            assert_eq!(amount, Some(demanded.amount.get()));
        }
        Err(why) => message(&why),
    }
}

/// An id of a client is one of few characters, and two ids have two keys.
fn identifier(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match PaymentIdentifier::parse(text) {
        Ok(id) => {
            assert_eq!(id.as_str(), text);
            assert!(text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it)));
            assert!((16..=128).contains(&text.len()));
            let extensions = Map::from_iter([("payment-identifier".to_owned(), id.extension(true))]);
            assert_eq!(PaymentIdentifier::read(&extensions), Ok(Some(id)));
            assert_ne!(IdentifierKey::of(text), IdentifierKey::of(&text[1..]));
        }
        Err(why) => message(&why),
    }
}
