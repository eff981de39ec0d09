//! The capabilities that a wallet has bought, until they are used up.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderValue, Method};
use reqwest::Request;

use crate::nano::UnixSeconds;

/// As many capabilities are kept; beyond it the oldest goes.
const MAX_HELD: usize = 1024;

/// Where a request goes. A capability never leaves its origin.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    origin: String,
    method: Method,
    path: String,
}

impl Place {
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

/// What a gateway says is left of a capability.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Capability {
    pub remaining: Option<u64>,
    pub expires_at: Option<UnixSeconds>,
}

struct Held {
    place: Place,
    /// The route's name, where the bill said it.
    route: Option<String>,
    token: HeaderValue,
}

/// The store of them.
#[derive(Default)]
pub(super) struct HeldCapabilities {
    // Held for a look through a short list, never across an await.
    held: Mutex<Vec<Held>>,
}

impl fmt::Debug for HeldCapabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldCapabilities({})", self.list().len())
    }
}

impl HeldCapabilities {
    fn list(&self) -> MutexGuard<'_, Vec<Held>> {
        // No operation leaves the list half changed.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token bought at this very place.
    pub(super) fn for_place(&self, place: &Place) -> Option<HeaderValue> {
        self.list().iter().find(|held| held.place == *place).map(|held| held.token.clone())
    }

    /// A token bought at another path of the same route.
    pub(super) fn for_route(&self, place: &Place, route: &str) -> Option<HeaderValue> {
        let fits = |held: &&Held| held.place.origin == place.origin && held.route.as_deref() == Some(route);
        self.list().iter().find(fits).map(|held| held.token.clone())
    }

    /// Drops a token that is no longer good, wherever it was used.
    pub(super) fn forget(&self, token: &HeaderValue) {
        self.list().retain(|held| held.token != token);
    }

    /// Keeps what the answer's `PAYMENT-CAPABILITY` says, or drops the token when it is used up.
    pub(super) fn note(
        &self,
        place: &Place,
        route: Option<String>,
        headers: &HeaderMap,
    ) -> Option<Capability> {
        let (token, capability) = read(headers)?;
        if capability.remaining == Some(0) {
            self.forget(&token);
            return Some(capability);
        }
        let mut list = self.list();
        let known = list.iter().find(|held| held.token == token).and_then(|held| held.route.clone());
        list.retain(|held| held.place != *place);
        if list.len() >= MAX_HELD {
            list.remove(0);
        }
        list.push(Held { place: place.clone(), route: route.or(known), token });
        Some(capability)
    }
}

/// `<token>; remaining=<uses>; expires=<Unix seconds>`.
fn read(headers: &HeaderMap) -> Option<(HeaderValue, Capability)> {
    let text = headers.get(super::CAPABILITY)?.to_str().ok()?;
    let mut parts = text.split(';').map(str::trim);
    let token = parts.next().filter(|token| !token.is_empty())?;
    let mut token = HeaderValue::from_str(token).ok()?;
    token.set_sensitive(true);
    let mut capability = Capability::default();
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name {
            "remaining" => capability.remaining = value.parse().ok(),
            "expires" => capability.expires_at = value.parse().ok().map(UnixSeconds),
            _ => {}
        }
    }
    Some((token, capability))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        Place { origin: "http://a".to_owned(), method: Method::GET, path: path.to_owned() }
    }

    fn headers(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(super::super::CAPABILITY, HeaderValue::from_static(value))])
    }

    #[test]
    fn a_capability_is_kept_for_its_place_and_route_until_it_is_used_up() {
        let held = HeldCapabilities::default();
        let left = held.note(&place("/x"), Some("r".to_owned()), &headers("T; remaining=2; expires=77"));
        assert_eq!(left, Some(Capability { remaining: Some(2), expires_at: Some(UnixSeconds(77)) }));
        assert_eq!(held.for_place(&place("/x")).unwrap(), "T");
        assert!(held.for_place(&place("/y")).is_none());
        assert_eq!(held.for_route(&place("/y"), "r").unwrap(), "T");
        let elsewhere = Place { origin: "http://b".to_owned(), ..place("/y") };
        assert!(held.for_route(&elsewhere, "r").is_none());
        held.note(&place("/y"), None, &headers("T; remaining=1"));
        assert_eq!(held.for_place(&place("/y")).unwrap(), "T");
        held.note(&place("/y"), None, &headers("T; remaining=0"));
        assert!(held.for_place(&place("/x")).is_none() && held.for_place(&place("/y")).is_none());
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
