//! Rules of a route beside its price: who may ask, how often, what is free, and whether a bill is sent at all.

use std::num::NonZeroU32;
use std::time::Duration;

use ipnet::IpNet;

use crate::nano::Account;

/// The rules of one route. By default there are none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rules {
    pub clients: Guests<IpNet>,
    pub payers: Guests<Account>,
    pub limit: Option<RateLimit>,
    /// Requests of each client that are free on one day (UTC).
    pub free_per_day: Option<NonZeroU32>,
    pub enforcement: Enforcement,
}

/// Who may ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Guests<T> {
    /// Only these, if there are any.
    pub allow: Vec<T>,
    /// Not these, even if they are allowed.
    pub deny: Vec<T>,
}

impl<T> Default for Guests<T> {
    fn default() -> Self {
        Self { allow: Vec::new(), deny: Vec::new() }
    }
}

impl<T> Guests<T> {
    /// Whether everybody may ask.
    #[must_use]
    pub const fn is_everybody(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }

    fn admits(&self, is: impl Fn(&T) -> bool) -> bool {
        (self.allow.is_empty() || self.allow.iter().any(&is)) && !self.deny.iter().any(is)
    }
}

impl Rules {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a client at `address`, a network of one, may ask. One whose address is not known may if everybody may.
    #[must_use]
    pub fn admits_client(&self, address: Option<IpNet>) -> bool {
        match address {
            Some(address) => self.clients.admits(|it| it.contains(&address)),
            None => self.clients.is_everybody(),
        }
    }

    /// Whether what `payer` has paid opens the route.
    #[must_use]
    pub fn admits_payer(&self, payer: Account) -> bool {
        self.payers.admits(|it| *it == payer)
    }
}

/// How often one may ask.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    pub requests: NonZeroU32,
    pub per: Duration,
    /// Requests at once, after a pause. At least 1.
    pub burst: NonZeroU32,
    pub by: CountedBy,
}

impl RateLimit {
    /// The time that one request takes up.
    #[must_use]
    pub fn each(&self) -> Duration {
        self.per.checked_div(self.requests.get()).unwrap_or(self.per)
    }
}

vocabulary! {
    /// Whose requests a limit counts together.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum CountedBy {
        /// Those of one client: an IPv4 address, or an IPv6 network of 64 bits.
        #[default]
        Client = "client",
        /// Those made with what one account has paid.
        Payer = "payer",
    }
    /// The name in the configuration.
    pub fn as_str;
}

/// Which clients are billed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Enforcement {
    /// All.
    #[default]
    All,
    /// So many of a hundred, always the same ones: 1 to 99. The others are forwarded free.
    Percent(u8),
    /// None: all are forwarded free, and marked with what they would have paid.
    Shadow,
}

impl Enforcement {
    /// Whether a client is billed whose place among all clients is `place` of 100.
    #[must_use]
    pub const fn bills(self, place: u8) -> bool {
        match self {
            Self::All => true,
            Self::Percent(share) => place < share,
            Self::Shadow => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let networks = |list: &[&str]| list.iter().map(|it| it.parse().unwrap()).collect();
        Rules { clients: Guests { allow: networks(allow), deny: networks(deny) }, ..Rules::default() }
    }

    fn admits(rules: &Rules, address: &str) -> bool {
        let length = if address.contains(':') { 128 } else { 32 };
        rules.admits_client(Some(format!("{address}/{length}").parse().unwrap()))
    }

    #[test]
    fn who_is_denied_may_not_ask_even_if_allowed() {
        let rules = rules(&["10.0.0.0/8", "2001:db8::/32"], &["10.1.0.0/16"]);
        for (address, may) in [
            ("10.2.3.4", true),
            ("10.1.2.3", false),
            ("192.0.2.1", false),
            ("2001:db8::1", true),
            ("2001:db9::1", false),
        ] {
            assert_eq!(admits(&rules, address), may, "{address}");
        }
    }

    #[test]
    fn without_a_list_everybody_may_ask_and_with_one_nobody_whose_address_is_not_known() {
        assert!(admits(&Rules::default(), "192.0.2.1") && Rules::default().admits_client(None));
        assert!(admits(&rules(&[], &["10.0.0.0/8"]), "192.0.2.1"));
        for rules in [rules(&["0.0.0.0/0"], &[]), rules(&[], &["10.0.0.0/8"])] {
            assert!(!rules.admits_client(None));
        }
    }

    #[test]
    fn accounts_and_networks_are_lists_of_their_own() {
        let [one, other] = [1, 2].map(|it| Account([it; 32]));
        let payers = Guests { allow: vec![one], deny: Vec::new() };
        let rules = Rules { payers, ..rules(&["10.0.0.0/8"], &[]) };
        assert!(rules.admits_payer(one) && !rules.admits_payer(other));
        assert!(admits(&rules, "10.0.0.1") && !admits(&rules, "192.0.2.1"));
    }

    #[test]
    fn a_share_of_the_clients_is_billed() {
        let billed = |it: Enforcement| (0..100).filter(|place| it.bills(*place)).count();
        assert_eq!(
            [Enforcement::All, Enforcement::Percent(10), Enforcement::Shadow].map(billed),
            [100, 10, 0]
        );
    }
}
