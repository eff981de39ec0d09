//! An entry of `accepts` as text: what it always says is written once, and what changes from one bill to
//! the next is written into its places.
//!
//! [`PaymentRequirements::to_json`] alone says what an entry looks like. A template is made of one of its
//! texts, in which the values that change are replaced by others that stand out.

use std::fmt::Write as _;

use super::session::iso_8601;
use super::{Extra, PaymentRequirements, SessionTerms, Track};
use crate::nano::{Account, Raw, UnixSeconds};

/// The text of the entries that differ from one in nothing but the challenge, the address and the time, and
/// for nanoSession in what follows from these.
#[derive(Clone, Debug)]
pub struct EntryTemplate {
    /// An entry that it fits, with the values that stand out.
    sample: PaymentRequirements,
    /// Each slot, and the text before it.
    pieces: Vec<(String, Slot)>,
    end: String,
}

/// What changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Slot {
    Challenge,
    PayTo,
    ValidBefore,
    Amount,
    Session,
    Tag,
    TagAmount,
    ExpiresAt,
}

const SLOTS: [Slot; 8] = [
    Slot::Challenge,
    Slot::PayTo,
    Slot::ValidBefore,
    Slot::Amount,
    Slot::Session,
    Slot::Tag,
    Slot::TagAmount,
    Slot::ExpiresAt,
];

impl Slot {
    /// What stands before and after the value.
    const fn around(self) -> (&'static str, &'static str) {
        match self {
            Self::Challenge => ("", ""),
            Self::PayTo => ("\"payTo\":\"", "\""),
            Self::ValidBefore => ("\"validBefore\":", ""),
            Self::Amount => ("\"amount\":\"", "\""),
            Self::Session => ("\"id\":\"", "\""),
            Self::Tag => ("\"tag\":", ""),
            Self::TagAmount => ("\"tagAmountRaw\":\"", "\""),
            Self::ExpiresAt => ("\"expiresAt\":\"", "\""),
        }
    }

    /// Writes the value of `entry`. False if its mechanism has none.
    fn write(self, entry: &PaymentRequirements, pay_to: &str, out: &mut String) -> bool {
        let terms = match entry.extra.track {
            Track::NanoSession(terms) => Some(terms),
            Track::NanoTxn { .. } | Track::NanoSignature => None,
        };
        let valid_before = entry.extra.valid_before;
        let written = match (self, terms) {
            (Self::PayTo, _) => out.write_str(pay_to),
            (Self::ValidBefore, _) => out.write_str(itoa::Buffer::new().format(valid_before.0)),
            (Self::Challenge, None) => {
                let mut digits = [0; 64];
                let _always_fits = hex::encode_to_slice(entry.extra.challenge, &mut digits);
                out.push_str(std::str::from_utf8(&digits).unwrap_or_default());
                Ok(())
            }
            (Self::Amount, Some(_)) => write!(out, "{}", entry.amount),
            (Self::Session, Some(_)) => match entry.session() {
                Some(session) => write!(out, "{session}"),
                None => return false,
            },
            (Self::Tag, Some(terms)) => write!(out, "{}", terms.tag()),
            (Self::TagAmount, Some(terms)) => write!(out, "{}", terms.tag_amount),
            (Self::ExpiresAt, Some(_)) => write!(out, "{}", iso_8601(valid_before)),
            (Self::Challenge, Some(_))
            | (Self::Amount | Self::Session | Self::Tag | Self::TagAmount | Self::ExpiresAt, None) => {
                return false;
            }
        };
        written.is_ok()
    }
}

/// `entry` with values that stand out.
fn sample_of(entry: &PaymentRequirements) -> PaymentRequirements {
    let (mut track, mut amount) = (entry.extra.track, entry.amount);
    if let Track::NanoSession(SessionTerms { price, .. }) = track {
        let tag_amount = Raw::new(12_345_678_901_234_567_891);
        track = Track::NanoSession(SessionTerms { price, tag_amount });
        amount = price.checked_add(tag_amount).unwrap_or(Raw::MAX);
    }
    let extra = Extra {
        challenge: [0xc7; 32],
        valid_before: UnixSeconds(9_876_543_210),
        track,
        ..entry.extra.clone()
    };
    PaymentRequirements { amount, pay_to: Account([0x5a; 32]), extra, ..entry.clone() }
}

impl EntryTemplate {
    /// The template of entries like this one; `None` if what changes cannot be told from the rest, as when
    /// the route's name is a challenge.
    #[must_use]
    pub fn new(entry: &PaymentRequirements) -> Option<Self> {
        let sample = sample_of(entry);
        let text = sample.to_json().to_string();
        let (pay_to, mut places) = (sample.pay_to.to_string(), Vec::new());
        for slot in SLOTS {
            let mut value = String::new();
            if !slot.write(&sample, &pay_to, &mut value) {
                continue;
            }
            let (before, after) = slot.around();
            let value = format!("{before}{value}{after}");
            let mut found = text.match_indices(&value);
            let (Some((at, _)), None) = (found.next(), found.next()) else { return None };
            let end = at.checked_add(value.len())?.checked_sub(after.len())?;
            places.push((at.checked_add(before.len())?, end, slot));
        }
        places.sort_unstable_by_key(|(start, ..)| *start);
        let (mut pieces, mut end) = (Vec::new(), 0);
        for (start, after, slot) in places {
            pieces.push((text.get(end..start)?.to_owned(), slot));
            end = after;
        }
        Some(Self { end: text.get(end..)?.to_owned(), sample, pieces })
    }

    /// Writes `entry`, whose address reads `pay_to`, as its [`PaymentRequirements::to_json`] is written. False, and nothing is written, if
    /// the entry says something else than those that the template is of.
    #[must_use]
    pub fn write(&self, entry: &PaymentRequirements, pay_to: &str, out: &mut String) -> bool {
        if !self.fits(entry) {
            return false;
        }
        let before = out.len();
        for (text, slot) in &self.pieces {
            out.push_str(text);
            if !slot.write(entry, pay_to, out) {
                out.truncate(before);
                return false;
            }
        }
        out.push_str(&self.end);
        true
    }

    fn fits(&self, entry: &PaymentRequirements) -> bool {
        let PaymentRequirements { scheme, network, asset, amount, pay_to: _, max_timeout_seconds, extra } =
            &self.sample;
        let Extra { challenge: _, valid_before: _, route, grants, exchange, track } = &extra;
        let same_price = match (track, &entry.extra.track) {
            (Track::NanoSession(one), Track::NanoSession(other)) => one.price == other.price,
            (one, other) => one == other && *amount == entry.amount,
        };
        same_price
            && (scheme, network, asset) == (&entry.scheme, &entry.network, &entry.asset)
            && *max_timeout_seconds == entry.max_timeout_seconds
            && (route, grants, exchange) == (&entry.extra.route, &entry.extra.grants, &entry.extra.exchange)
    }

    /// Whether `entry` has the price of those that the template is of, by another rate. Then a new template is
    /// worth its making: many entries have that rate.
    #[must_use]
    pub fn is_of_another_rate(&self, entry: &PaymentRequirements) -> bool {
        let (own, other) = (&self.sample.extra, &entry.extra);
        own.exchange.zip(other.exchange).is_some_and(|(this, that)| {
            this.rate != that.rate && this.price == that.price && own.route == other.route
        })
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::super::{Asset, Scheme, WorkPolicy, WorkTerms};
    use super::*;
    use crate::nano::{Network, Threshold};
    use crate::routes::Grants;

    fn track() -> impl Strategy<Value = Track> {
        let work = WorkTerms { policy: WorkPolicy::Optional, threshold: Threshold(7) };
        prop_oneof![
            Just(Track::NanoTxn { work: None }),
            Just(Track::NanoTxn { work: Some(work) }),
            Just(Track::NanoSignature),
            (1_u128..u128::from(u64::MAX), any::<u64>()).prop_map(|(price, tag)| {
                let (price, tag_amount) = (Raw::new(price), Raw::new(tag.into()));
                Track::NanoSession(SessionTerms { price, tag_amount })
            }),
        ]
    }

    prop_compose! {
        fn entry()(
            track in track(), price in 1_u64.., challenge: [u8; 32], pay_to: [u8; 32], at in 0_u64..20_000_000_000,
            route in ".{0,40}", requests in 1_u32.., seconds: u64, max_timeout_seconds: u64,
            exchange in prop::option::of(prop::sample::select(vec!["0.02 USD at 0.83", "0.02 USD at 0.84"])),
        ) -> PaymentRequirements {
            let amount = match track {
                Track::NanoSession(terms) => terms.amount().unwrap(),
                Track::NanoTxn { .. } | Track::NanoSignature => Raw::new(price.into()),
            };
            PaymentRequirements {
                scheme: Scheme::Exact, network: Network::Mainnet, asset: Asset::Xno, amount,
                pay_to: Account(pay_to), max_timeout_seconds,
                extra: Extra {
                    challenge, valid_before: UnixSeconds(at), route,
                    grants: Grants::of_count(requests, seconds), track,
                    exchange: exchange.map(|it| it.parse().unwrap()),
                },
            }
        }
    }

    proptest! {
        #[test]
        fn a_template_writes_what_the_entry_itself_would(first in entry(), other in entry()) {
            let template = EntryTemplate::new(&first).unwrap();
            let (mut next, mut text) = (first.clone(), String::new());
            (next.pay_to, next.extra.challenge) = (other.pay_to, other.extra.challenge);
            next.extra.valid_before = other.extra.valid_before;
            if let (Track::NanoSession(terms), Track::NanoSession(others)) = (&mut next.extra.track, other.extra.track) {
                terms.tag_amount = others.tag_amount;
                next.amount = terms.amount().unwrap();
            }
            for entry in [&first, &next] {
                text.clear();
                prop_assert!(template.write(entry, &entry.pay_to.to_string(), &mut text));
                prop_assert_eq!(&text, &entry.to_json().to_string());
            }
            // Another one is written only if it differs in nothing else.
            text.clear();
            if template.write(&other, &other.pay_to.to_string(), &mut text) {
                prop_assert_eq!(&text, &other.to_json().to_string());
            } else {
                prop_assert_eq!(&text, "");
            }
        }

        #[test]
        fn any_other_difference_is_noticed(first in entry(), other in entry()) {
            let template = EntryTemplate::new(&first).unwrap();
            let mut changed = vec![first.clone(); 4];
            changed[0].max_timeout_seconds = other.max_timeout_seconds;
            changed[1].extra.route.clone_from(&other.extra.route);
            changed[2].extra.grants = other.extra.grants;
            changed[3].extra.track = other.extra.track;
            for entry in changed {
                let mut text = String::new();
                if template.write(&entry, &entry.pay_to.to_string(), &mut text) {
                    prop_assert_eq!(text, entry.to_json().to_string());
                }
            }
        }
    }

    /// The bills of a price in another currency are rendered once for each rate, not once for each bill.
    #[test]
    fn another_rate_is_worth_another_template_and_another_price_is_not() {
        let entry = |route: &str, exchange: Option<&str>| PaymentRequirements {
            scheme: Scheme::Exact,
            network: Network::Mainnet,
            asset: Asset::Xno,
            amount: Raw::new(1),
            pay_to: Account([2; 32]),
            max_timeout_seconds: 1,
            extra: Extra {
                challenge: [1; 32],
                valid_before: UnixSeconds(1),
                route: route.to_owned(),
                grants: Grants::of_requests(NonZeroU32::MIN, 1),
                exchange: exchange.map(|it| it.parse().unwrap()),
                track: Track::NanoSignature,
            },
        };
        let template = EntryTemplate::new(&entry("a", Some("0.02 USD at 0.83"))).unwrap();
        let is_worth = |route, exchange| template.is_of_another_rate(&entry(route, exchange));
        assert!(is_worth("a", Some("0.02 USD at 0.84")));
        assert!(!is_worth("a", Some("0.02 USD at 0.83")));
        assert!(!is_worth("a", Some("0.03 USD at 0.84")) && !is_worth("b", Some("0.02 USD at 0.84")));
        assert!(!is_worth("a", None));
    }

    #[test]
    fn a_name_that_looks_like_what_changes_has_no_template() {
        let name = "c7".repeat(32);
        let extra = Extra {
            challenge: [1; 32],
            valid_before: UnixSeconds(1),
            route: name,
            grants: Grants::of_requests(NonZeroU32::MIN, 1),
            exchange: None,
            track: Track::NanoSignature,
        };
        let entry = PaymentRequirements {
            scheme: Scheme::Exact,
            network: Network::Mainnet,
            asset: Asset::Xno,
            amount: Raw::new(1),
            pay_to: Account([2; 32]),
            max_timeout_seconds: 1,
            extra,
        };
        assert!(EntryTemplate::new(&entry).is_none());
    }
}
