//! The text of bills. What all bills of a route say is written once.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use arc_swap::ArcSwapOption;
use serde_json::{Map, Value};

use super::rail_hint::{self, RAIL_HINT};
use crate::config::RailHint;
use crate::nano::Account;
use crate::routes::{PaymentIdentifiers, Route};
use crate::x402::payment_identifier::{PAYMENT_IDENTIFIER, declaration};
use crate::x402::{EntryTemplate, PaymentRequirements, Track, X402_VERSION, push_text};

/// What one route's bills say each time. Written with the first bill of each mechanism, and again when the price
/// has another rate.
#[derive(Debug, Default)]
pub struct BillText {
    nano_txn: ArcSwapOption<Option<EntryTemplate>>,
    nano_signature: ArcSwapOption<Option<EntryTemplate>>,
    nano_session: ArcSwapOption<Option<EntryTemplate>>,
    extensions: OnceLock<String>,
}

/// The most addresses whose text is kept.
const ADDRESSES: usize = 4096;

/// The texts of the pool's addresses, as far as there is room: a checksum is computed for each.
#[derive(Debug, Default)]
pub struct AddressTexts(RwLock<HashMap<Account, Arc<str>>>);

impl AddressTexts {
    // The locks are held for a look-up or an insertion.
    fn of(&self, account: Account) -> Arc<str> {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner).get(&account).map(Arc::clone);
        known.unwrap_or_else(|| {
            let text: Arc<str> = account.to_string().into();
            let mut texts = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if texts.len() < ADDRESSES {
                drop(texts.insert(account, Arc::clone(&text)));
            }
            text
        })
    }
}

/// About the most bytes of one entry, of a route with a name of usual length.
const ENTRY: usize = 768;
/// About the most bytes of the rest of a bill, without its texts of any length.
const REST: usize = 256;

/// One bill: its entries as text, and what stands beside them.
pub(super) struct BillParts<'a> {
    pub(super) accepts: &'a str,
    pub(super) code: &'a str,
    /// The extensions as an object; empty if there are none.
    pub(super) extensions: &'a str,
    pub(super) description: &'a str,
    pub(super) mime_type: &'a str,
    pub(super) url: &'a str,
}

impl BillText {
    /// The list of entries, as JSON.
    pub(super) fn accepts(&self, entries: &[PaymentRequirements], addresses: &AddressTexts) -> String {
        let mut text = String::with_capacity(entries.len().saturating_mul(ENTRY));
        text.push('[');
        for (index, entry) in entries.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            let template = match entry.extra.track {
                Track::NanoTxn { .. } => &self.nano_txn,
                Track::NanoSignature => &self.nano_signature,
                Track::NanoSession(_) => &self.nano_session,
            };
            let is_current = |it: &Arc<Option<EntryTemplate>>| {
                !(**it).as_ref().is_some_and(|it| it.is_of_another_rate(entry))
            };
            let mut written_by = template.load();
            if !written_by.as_ref().is_some_and(is_current) {
                template.store(Some(Arc::new(EntryTemplate::new(entry))));
                written_by = template.load();
            }
            // A call of an MCP server has a price and a name of its own.
            let written = written_by
                .as_ref()
                .and_then(|it| (**it).as_ref())
                .is_some_and(|it| it.write(entry, &addresses.of(entry.pay_to), &mut text));
            if !written {
                text.push_str(&entry.to_json().to_string());
            }
        }
        text.push(']');
        text
    }

    /// The extensions that the bills of `route` declare, as JSON; empty if there are none.
    pub(super) fn extensions(&self, route: &Route, hint: Option<&RailHint>) -> &str {
        self.extensions.get_or_init(|| match declared(route, hint) {
            declared if declared.is_empty() => String::new(),
            declared => Value::Object(declared).to_string(),
        })
    }
}

/// What a bill says beside its challenges.
pub(super) fn declared(route: &Route, hint: Option<&RailHint>) -> Map<String, Value> {
    let policy = route.payment_identifier;
    let identifier = policy.map(|it| (PAYMENT_IDENTIFIER, declaration(it == PaymentIdentifiers::Required)));
    let hint = hint.map(|it| (RAIL_HINT, rail_hint::extension(it)));
    identifier.into_iter().chain(hint).map(|(key, it)| (key.to_owned(), it)).collect()
}

impl BillParts<'_> {
    /// The bill as JSON: with a `message` for people in the body, without one in the header. It reads as
    /// [`PaymentRequired::to_json`](crate::x402::PaymentRequired::to_json) is written.
    pub(super) fn json(&self, message: Option<&str>) -> String {
        let texts = [self.accepts, self.extensions, self.description, self.url, message.unwrap_or_default()];
        let room = texts.iter().map(|it| it.len()).fold(REST, usize::saturating_add);
        let mut json = String::with_capacity(room);
        for part in ["{\"accepts\":", self.accepts, ",\"error\":\"", self.code, "\""] {
            json.push_str(part);
        }
        if !self.extensions.is_empty() {
            json.push_str(",\"extensions\":");
            json.push_str(self.extensions);
        }
        if let Some(message) = message {
            json.push_str(",\"message\":");
            push_text(&mut json, message);
        }
        json.push_str(",\"resource\":{");
        for (name, text) in [("\"description\":", self.description), ("\"mimeType\":", self.mime_type)] {
            if !text.is_empty() {
                json.push_str(name);
                push_text(&mut json, text);
                json.push(',');
            }
        }
        json.push_str("\"url\":");
        push_text(&mut json, self.url);
        json.push_str("},\"x402Version\":");
        json.push_str(itoa::Buffer::new().format(X402_VERSION));
        json.push('}');
        json
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenes::config;
    use super::*;

    fn account(number: usize) -> Account {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Account(bytes)
    }

    /// A pool may be larger than what is worth its memory.
    #[test]
    fn the_text_of_an_address_is_made_once_as_long_as_there_is_room() {
        let texts = AddressTexts::default();
        let is_kept = |number| Arc::ptr_eq(&texts.of(account(number)), &texts.of(account(number)));
        assert!((0..ADDRESSES).all(is_kept));
        assert!(!is_kept(ADDRESSES));
        assert!(is_kept(0), "what is known stays");
        for number in [0, ADDRESSES] {
            assert_eq!(*texts.of(account(number)), account(number).to_string());
        }
    }

    #[test]
    fn a_bill_of_a_route_without_payment_identifiers_has_no_extensions() {
        let config = config("url: http://a");
        let route = Route { payment_identifier: None, ..Route::clone(&config.table.routes()[0]) };
        assert_eq!(BillText::default().extensions(&route, None), "");
        let route = Route { payment_identifier: Some(PaymentIdentifiers::Optional), ..route };
        let text = BillText::default();
        assert!(text.extensions(&route, None).starts_with(&format!("{{\"{PAYMENT_IDENTIFIER}\":{{")));
    }
}
