//! A client's identity: what the limits for each client count by, and how much each client has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use crate::sync::{Mutex, MutexGuard, PoisonError};

/// One client: an IPv4 address, or the 64-bit network of an IPv6 address, which one host commonly
/// owns as a whole.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Client {
    network: IpAddr,
    is_caller: bool,
}

impl Client {
    /// The client that connects from `address`. An IPv4 address in IPv6 form, as a listener for both
    /// sees it, is the IPv4 address.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            address @ IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, 0])
            }
        };
        Self { network, is_caller: false }
    }

    /// The processes of this machine that connect over Unix sockets. They have no addresses, and are one client.
    #[must_use]
    pub const fn local() -> Self {
        // Nobody connects from there.
        Self { network: IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), is_caller: false }
    }

    /// The same as a caller of the facilitator.
    #[must_use]
    pub const fn local_caller() -> Self {
        Self { is_caller: true, ..Self::local() }
    }

    /// The caller of the facilitator that connects from `address`. It speaks for many payers, and has
    /// limits of its own.
    #[must_use]
    pub fn calling(address: IpAddr) -> Self {
        Self { is_caller: true, ..Self::at(address) }
    }

    /// Its address; the first of its network for IPv6.
    #[must_use]
    pub const fn network(self) -> IpAddr {
        self.network
    }

    /// Whether it is a caller of the facilitator.
    #[must_use]
    pub const fn is_caller(self) -> bool {
        self.is_caller
    }
}

impl Hash for Client {
    /// One number, where the derived way hashes four: it is done several times for each request.
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.network {
            IpAddr::V4(address) => state.write_u32(address.to_bits()),
            IpAddr::V6(address) => state.write_u128(address.to_bits()),
        }
    }
}

/// How much of one thing each client has at this moment. Cheap to clone; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Shares(Arc<Mutex<HashMap<Client, usize>>>);

impl Shares {
    /// Takes `amount` for `client` until the share is dropped; `None` if the client would then have more
    /// than `limit`.
    #[must_use]
    pub fn take(&self, client: Client, amount: usize, limit: usize) -> Option<Share> {
        self.add(client, amount, limit).then(|| Share { of: self.clone(), client, amount })
    }

    fn add(&self, client: Client, amount: usize, limit: usize) -> bool {
        let mut held = self.lock();
        let before = held.get(&client).copied().unwrap_or(0);
        let Some(after) = before.checked_add(amount).filter(|after| *after <= limit) else { return false };
        let _before = held.insert(client, after);
        true
    }

    fn give_back(&self, client: Client, amount: usize) {
        if let Entry::Occupied(mut held) = self.lock().entry(client) {
            let left = held.get().saturating_sub(amount);
            if left == 0 {
                let _gone = held.remove();
            } else {
                let _before = held.insert(left);
            }
        }
    }

    /// A lock of the threads: it is held for a few instructions and never while something is awaited.
    fn lock(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a client has taken. It is given back when this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    client: Client,
    amount: usize,
}

impl Share {
    /// Takes `more` beside; false if the client would then have more than `limit`.
    #[must_use]
    pub fn grow(&mut self, more: usize, limit: usize) -> bool {
        let grown = self.of.add(self.client, more, limit);
        if grown {
            self.amount = self.amount.saturating_add(more);
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.give_back(self.client, self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Client {
        Client::at(text.parse().unwrap())
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_an_ipv4_client_its_address() {
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("2001:db8:1:2::1").network().to_string(), "2001:db8:1:2::");
    }

    #[test]
    fn ipv4_clients_of_a_listener_for_both_are_not_one_network() {
        assert_ne!(client("::ffff:192.0.2.1"), client("::ffff:192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
    }

    #[test]
    fn a_share_is_bounded_for_each_client_and_comes_back() {
        let shares = Shares::default();
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        let mut first = shares.take(one, 2, 3).unwrap();
        assert!(first.grow(1, 3));
        assert!(!first.grow(1, 3));
        assert!(shares.take(one, 1, 3).is_none());
        let second = shares.take(other, 3, 3).unwrap();
        drop(first);
        assert!(shares.take(one, 3, 3).is_some());
        drop(second);
        assert!(shares.lock().is_empty(), "nothing is kept of clients that have nothing");
    }

    #[test]
    fn a_caller_of_the_facilitator_is_not_the_client_at_its_address() {
        let address = "192.0.2.1".parse().unwrap();
        let (client, caller) = (Client::at(address), Client::calling(address));
        assert!(caller.is_caller() && !client.is_caller());
        assert_ne!(client, caller);
        assert_eq!(client.network(), caller.network());
    }

    /// Or a map of many clients would be a list.
    #[test]
    fn clients_of_different_addresses_hash_apart() {
        let hash = |text: &str| {
            let mut hasher = std::hash::DefaultHasher::new();
            client(text).hash(&mut hasher);
            hasher.finish()
        };
        assert_ne!(hash("192.0.2.1"), hash("192.0.2.2"));
        assert_ne!(hash("2001:db8:1:2::"), hash("2001:db8:1:3::"));
        assert_eq!(hash("2001:db8:1:2::1"), hash("2001:db8:1:2::2"), "one network");
    }
}
