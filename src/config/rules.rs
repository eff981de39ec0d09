//! The rules of a route beside its price: who may ask, how often, and who is billed.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde_yaml::Value;

use super::judge::{Judge, Judged, all};
use super::listen;
use super::mirror::{Count, LimitFile, Piece};
use crate::nano::Account;
use crate::routes::{CountedBy, Enforcement, Guests, RateLimit, Rules};

const MIN_PER: Duration = Duration::from_millis(1);
const MAX_PER: Duration = Duration::from_secs(24 * 3600);
const PER: Duration = Duration::from_secs(1);
/// The most requests in the time of a limit, and at once.
const MOST: u32 = 1_000_000;

const GUEST_HINT: &str =
    "write a network (`10.0.0.0/8`, `2001:db8::/32`), an address, or an account (`nano_…`)";

/// The keys of a route's rules.
pub(super) struct RulePieces {
    pub(super) allow: Piece<Vec<Value>>,
    pub(super) deny: Piece<Vec<Value>>,
    pub(super) limit: Piece<Value>,
    pub(super) free_per_day: Piece<Count>,
    pub(super) mode: Piece<String>,
    pub(super) enforce: Piece<String>,
}

impl RulePieces {
    /// The keys that say something of a price, and are given.
    pub(super) fn of_a_price(&self) -> [Option<String>; 3] {
        [self.free_per_day.given_path(), self.mode.given_path(), self.enforce.given_path()]
    }
}

vocabulary! {
    /// Whether a route's price is asked for.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    enum Mode {
        #[default]
        Enforce = "enforce",
        Shadow = "shadow",
    }
    fn as_str;
}

#[derive(Clone, Copy)]
enum Guest {
    Network(IpNet),
    Account(Account),
}

/// The rules; `None` if there are none. `names_payers`: whether every way to pay names the account before
/// anything is settled.
pub(super) fn rules(
    judge: &mut Judge<'_>,
    file: RulePieces,
    is_free: bool,
    names_payers: bool,
) -> Judged<Option<Arc<Rules>>> {
    let places = [file.allow.path.clone(), file.deny.path.clone()];
    let lists = [guests(judge, file.allow), guests(judge, file.deny)];
    for (place, list) in places.iter().zip(&lists) {
        let Ok((_, accounts)) = list else { continue };
        if accounts.is_empty() {
            continue;
        }
        if is_free {
            judge.fault(
                place,
                "an account on a route that is free",
                "name networks, or give the route a price",
            );
        } else if !names_payers {
            judge.fault(
                place,
                "with nanoSession it is known who has paid only once the payment is taken",
                "write `mechanisms: [nanoTxn, nanoSignature]` on this route",
            );
        }
    }
    let by = file.limit.path.clone();
    let limit = judge.optional(file.limit, limit);
    if let Ok(Some(RateLimit { by: CountedBy::Payer, .. })) = limit
        && is_free
    {
        judge.fault(&by, "nobody pays on a route that is free", "write `by: client`");
    }
    let free_per_day = file.free_per_day.is_given().then_some(file.free_per_day);
    let free_per_day = free_per_day.map(|it| judge.count(it, 1..=MOST, 1)).transpose();
    let enforcement = enforcement(judge, file.mode, file.enforce);
    let [allow, deny] = lists;
    let ((allowed, allowed_payers), (denied, denied_payers)) = (allow?, deny?);
    let rules = all!(Rules {
        clients: Judged::Ok(Guests { allow: allowed, deny: denied }),
        payers: Judged::Ok(Guests { allow: allowed_payers, deny: denied_payers }),
        limit,
        free_per_day: free_per_day.map(|it| it.and_then(NonZeroU32::new)),
        enforcement,
    })?;
    Ok((!rules.is_empty()).then(|| Arc::new(rules)))
}

fn guests(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<(Vec<IpNet>, Vec<Account>)> {
    if !piece.is_given() {
        return Ok((Vec::new(), Vec::new()));
    }
    let items = judge.items(piece, "an empty list", GUEST_HINT)?;
    let guest = |judge: &mut Judge<'_>, it| judge.need_text(it, GUEST_HINT, guest);
    let key = |it: &Guest| match it {
        Guest::Network(network) => (Some(*network), None),
        Guest::Account(account) => (None, Some(account.0)),
    };
    let (mut networks, mut accounts) = (Vec::new(), Vec::new());
    for guest in judge.each(items, "client or account", key, guest)? {
        match guest {
            Guest::Network(network) => networks.push(network),
            Guest::Account(account) => accounts.push(account),
        }
    }
    Ok((networks, accounts))
}

fn guest(text: &str) -> Result<Guest, String> {
    if text.starts_with("nano_") || text.starts_with("xrb_") {
        return text.parse().map(Guest::Account).map_err(|error| format!("{text:?}: {error}"));
    }
    listen::network(text).map(Guest::Network)
}

fn limit(judge: &mut Judge<'_>, file: LimitFile) -> Judged<RateLimit> {
    let is_given = file.requests.is_given();
    let place = file.requests.path.trim_end_matches(".requests").to_owned();
    let requests = judge.count(file.requests, 1..=MOST, 1);
    if !is_given {
        let hint = "write `limit: { requests: 10, per: 1s }`";
        return Err(judge.fault(&place, "how many requests is not said", hint));
    }
    let at_least_one = |it: u32| NonZeroU32::new(it).unwrap_or(NonZeroU32::MIN);
    let burst = judge.count(file.burst, 1..=MOST, requests.unwrap_or(1));
    all!(RateLimit {
        requests: requests.map(at_least_one),
        per: judge.duration(file.per, MIN_PER..=MAX_PER, PER),
        burst: burst.map(at_least_one),
        by: judge.choice(file.by, CountedBy::ALL, CountedBy::as_str).map(Option::unwrap_or_default),
    })
}

fn enforcement(judge: &mut Judge<'_>, mode: Piece<String>, enforce: Piece<String>) -> Judged<Enforcement> {
    let (mode_given, place) = (mode.is_given(), enforce.path.clone());
    let mode = judge.choice(mode, Mode::ALL, Mode::as_str).map(Option::unwrap_or_default);
    let share = judge.text(enforce, "write a share of the clients, from `1%` to `100%`", share)?;
    if mode_given && share.is_some() {
        let hint = "keep one of the two: `mode: shadow` bills nobody, `enforce: 10%` some";
        return Err(judge.fault(&place, "both `mode` and `enforce`", hint));
    }
    Ok(match (mode?, share) {
        (_, Some(share)) => share,
        (Mode::Shadow, None) => Enforcement::Shadow,
        (Mode::Enforce, None) => Enforcement::All,
    })
}

fn share(text: &str) -> Result<Enforcement, String> {
    let number = text.strip_suffix('%').and_then(|it| it.trim_end().parse::<u8>().ok());
    match number {
        Some(100) => Ok(Enforcement::All),
        Some(share @ 1..=99) => Ok(Enforcement::Percent(share)),
        Some(_) | None => Err(format!("{text:?} is not a share")),
    }
}
