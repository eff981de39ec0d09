//! Prices in other currencies and their exchange into raw, compared with arithmetic that knows no bound.

use std::cmp::Ordering;

use faregate::money::{Cost, Decimal, Exchange, Fiat, MoneyError};
use faregate::nano::Raw;
use proptest::prelude::*;

/// The finest amount that common wallets show, in raw: 0.000001 XNO.
const SHOWN: u128 = 10_u128.pow(24);

fn exchange(price: &str, rate: &str) -> Exchange {
    Exchange { price: price.parse().unwrap(), rate: rate.parse().unwrap() }
}

fn amount(price: &str, rate: &str) -> Option<String> {
    exchange(price, rate).amount().map(|it| it.xno().to_string())
}

#[test]
fn a_price_becomes_an_amount_that_a_wallet_can_show() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(amount("0.02 USD", "0.8"), some("0.025 XNO"), "exact");
    assert_eq!(amount("0.02 USD", "0.83"), some("0.024097 XNO"), "0.02409638…, rounded up");
    assert_eq!(amount("1 USD", "0.8321"), some("1.201779 XNO"));
    assert_eq!(amount("5000 VND", "21000"), some("0.238096 XNO"));
    // Below 0.0001 XNO six decimals would add more than 1 %.
    assert_eq!(amount("0.00001 USD", "0.83"), some("0.0000121 XNO"), "0.00001204…");
    assert_eq!(amount("0.000000000000000001 USD", "3"), some("0.000000000000000000334 XNO"));
    assert_eq!(
        amount("0.000000000000000001 ZZZ", "100000000000000000"),
        some("0.000000000000000000000000000001 XNO"),
        "at least one raw"
    );
}

#[test]
fn what_no_ledger_has_is_no_amount() {
    assert_eq!(amount("1 USD", "0"), None);
    assert_eq!(amount("999999999 USD", "0.000000000000000001"), None);
    assert_eq!(amount("0 USD", "1"), Some("0 XNO".to_owned()));
}

#[test]
fn numbers_are_read_digit_by_digit() {
    let read = |text: &str| Decimal::scientific(text).map(|it| it.to_string());
    for (text, number) in [
        ("0.83", "0.83"),
        ("67187.3358936566", "67187.3358936566"),
        ("0.8320500000000000000000000000", "0.83205"),
        ("007.50", "7.5"),
        ("100", "100"),
        ("0", "0"),
        ("0.000", "0"),
        ("8.3e-06", "0.0000083"),
        ("8.3E2", "830"),
        ("1.25e1", "12.5"),
        ("1.2e+17", "120000000000000000"),
        ("0e999", "0"),
        ("999999999999999999", "999999999999999999"),
        ("0.000000000000000001", "0.000000000000000001"),
    ] {
        assert_eq!(read(text).as_deref(), Ok(number), "{text}");
    }
    for text in ["", ".5", "5.", "-1", "+1", "1,5", "0x1", "1e", "1e-", "e5", "1e5000", "NaN", "1 000", "١"]
    {
        assert!(matches!(read(text), Err(MoneyError::NotDecimal(_))), "{text}");
    }
    for text in ["1000000000000000000", "0.0000000000000000001", "1e18", "1e-19", "1.23456789012345678901"] {
        assert!(matches!(read(text), Err(MoneyError::TooLong(_))), "{text}");
    }
}

#[test]
fn a_unit_says_whether_a_price_is_in_nano() {
    let read = |text: &str| Cost::with_unit(text).map(|it| it.in_full());
    assert_eq!(read("0.02 USD").as_deref(), Ok("0.02 USD"));
    assert_eq!(read(" 1.50EUR ").as_deref(), Ok("1.5 EUR"));
    assert_eq!(read("0.001 XNO").as_deref(), Ok("0.001 XNO (1000000000000000000000000000 raw)"));
    assert_eq!(read("7 raw"), read("7 RAW"));
    assert_eq!(read("7 rai"), read("7 RAI"));
    let message = |text: &str| read(text).unwrap_err().to_string();
    assert!(message("1 usd").contains("unknown unit \"usd\""), "{}", message("1 usd"));
    assert!(message("1 DOLLARS").contains("unknown unit"));
    assert!(message("1").contains("no unit"));
    assert!(message("-1 USD").contains("not a decimal number"));
    assert!(message("0.0000000000000000001 USD").contains("more than 18 digits"));
}

#[test]
fn sums_and_comparisons_stay_within_one_money() {
    let cost = |text: &str| Cost::with_unit(text).unwrap();
    assert_eq!(cost("0.02 USD").checked_add(cost("0.005 USD")), Some(cost("0.025 USD")));
    assert_eq!(cost("0.02 USD").checked_add(cost("0.005 EUR")), None);
    assert_eq!(cost("0.02 USD").checked_add(cost("1 raw")), None);
    assert_eq!(cost("999999999999999999 USD").checked_add(cost("1 USD")), None);
    assert_eq!(cost("0.02 USD").compare(cost("0.1 USD")), Some(Ordering::Less));
    assert_eq!(cost("0.02 USD").compare(cost("0.1 EUR")), None);
    assert_eq!(cost("1 XNO").compare(cost("1 raw")), Some(Ordering::Greater));
}

#[test]
fn far_is_by_more_than_so_many_percent_either_way() {
    let far =
        |one: &str, other: &str| one.parse::<Decimal>().unwrap().is_far_from(other.parse().unwrap(), 30);
    assert!(!far("1.3", "1") && far("1.300001", "1"));
    assert!(!far("0.7", "1") && far("0.699999", "1"));
}

/// `digits` × 10^-`scale`.
type Parts = (u64, u32);

/// Numbers of any length, the short ones as often as the long ones.
fn parts() -> impl Strategy<Value = Parts> {
    (0_u64..10_u64.pow(18), 0_u32..18, 0_u32..=18)
        .prop_map(|(digits, few, scale)| (digits / 10_u64.pow(few), scale))
}

fn decimal((digits, scale): Parts) -> Decimal {
    let scale = scale as usize;
    let digits = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let text = if scale == 0 { whole.to_owned() } else { format!("{whole}.{fraction}") };
    text.parse().unwrap()
}

fn exchanged(price: Parts, rate: Parts) -> Exchange {
    Exchange { price: Fiat { number: decimal(price), currency: "USD".parse().unwrap() }, rate: decimal(rate) }
}

/// `number` × 10^`zeros`.
fn big(number: u128, zeros: u32) -> num::Big {
    num::Big::of(number).times_ten_to(zeros)
}

/// Whole numbers of any size, for comparison: digits of base 10^9, the lowest first.
mod num {
    use std::cmp::Ordering;

    #[derive(Clone, Debug, Eq, PartialEq)]
    pub(super) struct Big(Vec<u64>);

    impl Big {
        pub(super) fn of(mut number: u128) -> Self {
            let mut digits = Vec::new();
            while number > 0 {
                digits.push(u64::try_from(number % 1_000_000_000).unwrap());
                number /= 1_000_000_000;
            }
            Self(digits)
        }

        pub(super) fn times(&self, factor: u64) -> Self {
            let (mut digits, mut carry) = (Vec::new(), 0_u128);
            for digit in &self.0 {
                let whole = u128::from(*digit) * u128::from(factor) + carry;
                digits.push(u64::try_from(whole % 1_000_000_000).unwrap());
                carry = whole / 1_000_000_000;
            }
            digits.extend(Self::of(carry).0);
            Self(digits)
        }

        pub(super) fn times_ten_to(&self, zeros: u32) -> Self {
            (0..zeros).fold(self.clone(), |it, _| it.times(10))
        }
    }

    impl Ord for Big {
        fn cmp(&self, other: &Self) -> Ordering {
            let length = |it: &Self| it.0.iter().rposition(|digit| *digit > 0).map_or(0, |last| last + 1);
            length(self)
                .cmp(&length(other))
                .then_with(|| self.0[..length(self)].iter().rev().cmp(other.0[..length(other)].iter().rev()))
        }
    }

    impl PartialOrd for Big {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }
}

/// What a step is at an amount: see [`Exchange::amount`].
fn step(amount: u128) -> u128 {
    // An amount that was rounded up to a power of ten came from below it.
    if amount > 100 * SHOWN {
        SHOWN
    } else {
        10_u128.pow((amount - 1).checked_ilog10().unwrap_or(0).saturating_sub(2))
    }
}

proptest! {
    #[test]
    fn the_amount_is_the_price_rounded_up_by_less_than_a_step(price in parts(), rate in parts()) {
        // amount / 10^30 × rate against price, without a division.
        let worth = |raw: u128| big(raw, 0).times(rate.0).times_ten_to(price.1);
        let due = big(price.0.into(), 30 + rate.1);
        let Some(amount) = exchanged(price, rate).amount().map(Raw::get) else {
            // Nothing else is refused than what is too much.
            prop_assert!(rate.0 == 0 || due > worth(u128::MAX - SHOWN));
            return Ok(());
        };
        prop_assert!(worth(amount) >= due, "less than the price");
        if amount > 0 {
            let step = step(amount);
            prop_assert!(amount % step == 0, "no whole steps");
            prop_assert!(worth(amount - step) < due, "a step too much");
            prop_assert!(step == 1 || step * 100 <= amount, "more than 1 %");
        }
    }

    #[test]
    fn a_higher_price_is_no_lower_amount_and_a_higher_rate_no_higher_one(
        price in parts(), other_price in parts(), rate in parts(), other_rate in parts(),
    ) {
        // `None` is more than any amount, as it is for a rate of zero.
        let amount = |it: Exchange| it.amount().map_or(u128::MAX, Raw::get);
        let one = exchanged(price, rate);
        let number = decimal(other_price).max(one.price.number);
        let dearer = Exchange { price: Fiat { number, ..one.price }, ..one };
        prop_assert!(amount(dearer) >= amount(one));
        let stronger = Exchange { rate: decimal(other_rate).max(one.rate), ..one };
        prop_assert!(amount(stronger) <= amount(one));
    }

    #[test]
    fn an_exchange_is_read_as_it_was_written(price in parts(), rate in parts()) {
        let exchange = exchanged(price, rate);
        prop_assert_eq!(exchange.to_string().parse(), Ok(exchange));
        prop_assert_eq!(Exchange::from_bytes(exchange.to_bytes()), Some(exchange));
        prop_assert_eq!(Decimal::scientific(&exchange.rate.to_string()), Ok(exchange.rate));
        prop_assert_eq!(Decimal::scientific(&format!("{}e-{}", rate.0, rate.1)), Ok(exchange.rate));
    }

    #[test]
    fn bytes_are_no_exchange_or_are_written_again(bytes: [u8; Exchange::BYTES]) {
        if let Some(exchange) = Exchange::from_bytes(bytes) {
            prop_assert_eq!(exchange.to_bytes(), bytes);
        }
    }
}
