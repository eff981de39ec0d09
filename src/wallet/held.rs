//! The capabilities that a wallet has bought and not used up.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderValue, Method};
use reqwest::Request;

use crate::nano::{Raw, UnixSeconds};
use crate::payment::capability::Token;
use crate::payment::derived::{self, DeriveError, Restriction};

/// The most capabilities that are kept; one more replaces the oldest.
const MAX_HELD: usize = 1024;

/// What a request asks for. A capability is only sent to the origin that sold it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct RequestTarget {
    origin: String,
    method: Method,
    path: String,
}

impl RequestTarget {
    pub(super) fn of(request: &Request) -> Self {
        let url = request.url();
        Self {
            origin: url.origin().ascii_serialization(),
            method: request.method().clone(),
            path: url.path().to_owned(),
        }
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }
}

/// A capability and what is left of it, according to the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capability {
    /// Whoever has it can use up what is left.
    token: HeaderValue,
    /// Uses; of a capability that has some.
    pub remaining: Option<u64>,
    /// Of a purse.
    pub balance: Option<Raw>,
    pub expires_at: Option<UnixSeconds>,
}

impl Capability {
    /// The value of `PAYMENT-CAPABILITY` in further requests. It is as good as money.
    #[must_use]
    pub fn token(&self) -> &str {
        // It was made of text.
        self.token.to_str().unwrap_or_default()
    }

    /// A token to hand on that may do less, for the value of `PAYMENT-CAPABILITY`. It spends from this capability. The
    /// gateway is not asked ([clients guide](crate::guide::clients), "Handing on less").
    ///
    /// # Errors
    /// [`DeriveError`].
    pub fn derive(&self, restrictions: &[Restriction]) -> Result<Token, DeriveError> {
        derived::derive(self.token(), restrictions)
    }
}

struct HeldCapability {
    place: RequestTarget,
    /// The route's name, if the bill gave it.
    route: Option<String>,
    token: HeaderValue,
}

/// All capabilities of a wallet.
#[derive(Default)]
pub(super) struct HeldCapabilities {
    // Locked while a short list is searched, never across an await.
    held: Mutex<Vec<HeldCapability>>,
}

impl fmt::Debug for HeldCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldCapabilities({})", self.list().len())
    }
}

impl HeldCapabilities {
    fn list(&self) -> MutexGuard<'_, Vec<HeldCapability>> {
        // No operation leaves the list half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token that was bought for this target.
    pub(super) fn for_place(&self, place: &RequestTarget) -> Option<HeaderValue> {
        self.list().iter().find(|held| held.place == *place).map(|held| held.token.clone())
    }

    /// A token that was bought for another path of the same route.
    pub(super) fn for_route(&self, place: &RequestTarget, route: &str) -> Option<HeaderValue> {
        let fits = |held: &&HeldCapability| {
            held.place.origin == place.origin && held.route.as_deref() == Some(route)
        };
        self.list().iter().find(fits).map(|held| held.token.clone())
    }

    /// Removes a token that is no longer valid, for every target.
    pub(super) fn forget(&self, token: &HeaderValue) {
        self.list().retain(|held| held.token != token);
    }

    /// Keeps the token in the answer's `PAYMENT-CAPABILITY`, or removes it if it is used up.
    pub(super) fn note(
        &self,
        place: &RequestTarget,
        route: Option<String>,
        headers: &HeaderMap,
    ) -> Option<Capability> {
        let capability = read(headers)?;
        if capability.remaining == Some(0) || capability.balance == Some(Raw::ZERO) {
            self.forget(&capability.token);
            return Some(capability);
        }
        let token = capability.token.clone();
        let mut list = self.list();
        let known = list.iter().find(|held| held.token == token).and_then(|held| held.route.clone());
        list.retain(|held| held.place != *place);
        if list.len() >= MAX_HELD {
            list.remove(0);
        }
        list.push(HeldCapability { place: place.clone(), route: route.or(known), token });
        Some(capability)
    }
}

/// `<token>; remaining=<uses>; expires=<Unix seconds>`, with `balance=<raw>` for a purse.
fn read(headers: &HeaderMap) -> Option<Capability> {
    let text = headers.get(super::CAPABILITY)?.to_str().ok()?;
    let mut parts = text.split(';').map(str::trim);
    let token = parts.next().filter(|token| !token.is_empty())?;
    let mut token = HeaderValue::from_str(token).ok()?;
    token.set_sensitive(true);
    let mut capability = Capability { token, remaining: None, balance: None, expires_at: None };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name {
            "remaining" => capability.remaining = value.parse().ok(),
            "balance" => capability.balance = value.parse().ok(),
            "expires" => capability.expires_at = value.parse().ok().map(UnixSeconds),
            _ => {}
        }
    }
    Some(capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> RequestTarget {
        RequestTarget { origin: "http://a".to_owned(), method: Method::GET, path: path.to_owned() }
    }

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(super::super::CAPABILITY, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_capability_is_kept_for_its_place_and_route_until_it_is_used_up() {
        let held = HeldCapabilities::default();
        let left = held.note(&place("/x"), Some("r".to_owned()), &headers("T; remaining=2; expires=77"));
        let token = HeaderValue::from_static("T");
        assert_eq!(
            left,
            Some(Capability { token, remaining: Some(2), balance: None, expires_at: Some(UnixSeconds(77)) })
        );
        assert_eq!(held.for_place(&place("/x")).unwrap(), "T");
        assert!(held.for_place(&place("/y")).is_none());
        assert_eq!(held.for_route(&place("/y"), "r").unwrap(), "T");
        let elsewhere = RequestTarget { origin: "http://b".to_owned(), ..place("/y") };
        assert!(held.for_route(&elsewhere, "r").is_none());
        held.note(&place("/y"), None, &headers("T; remaining=1"));
        assert_eq!(held.for_place(&place("/y")).unwrap(), "T");
        held.note(&place("/y"), None, &headers("T; remaining=0"));
        assert!(held.for_place(&place("/x")).is_none() && held.for_place(&place("/y")).is_none());
    }

    #[test]
    fn less_than_a_capability_can_be_handed_on() {
        let text = "AQABAgMEBQYHCAkKCwwNDg8gISIjJCUmJwAAAAUAAAAAa0ngEPDx8vP09fb3-Pn6-_z9_v8";
        let token = HeaderValue::from_static(text);
        let capability = Capability { token, remaining: None, balance: None, expires_at: None };
        let until = [Restriction::Until(UnixSeconds(7))];
        let handed_on = capability.derive(&until).unwrap();
        assert_eq!(Ok(&handed_on), derived::derive(text, &until).as_ref());
        assert_eq!(capability.derive(&[]), Err(DeriveError::NoRestriction));
        let foreign = Capability { token: HeaderValue::from_static("T"), ..capability };
        assert_eq!(foreign.derive(&until), Err(DeriveError::NoToken));
    }

    /// An answer to a capability names no route.
    #[test]
    fn the_route_of_a_capability_stays_known() {
        let held = HeldCapabilities::default();
        held.note(&place("/x"), Some("r".to_owned()), &headers("T; remaining=3"));
        held.note(&place("/x"), None, &headers("T; remaining=2"));
        assert_eq!(held.for_route(&place("/y"), "r").unwrap(), "T");
        held.note(&place("/x"), None, &headers("another; remaining=2"));
        assert!(held.for_route(&place("/y"), "r").is_none(), "it was bought for another route");
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let held = HeldCapabilities::default();
        for number in 0..=MAX_HELD {
            held.note(&place(&number.to_string()), None, &headers("T"));
        }
        assert_eq!(held.list().len(), MAX_HELD);
        assert!(held.for_place(&place("0")).is_none());
    }
}
