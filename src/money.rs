//! Prices in the money that people know, and their exchange into raw.
//!
//! Pure, and exact: no number is ever a floating-point one. An amount of raw that comes out of an exchange is
//! rounded up, to digits that a wallet can show ([`Exchange::amount`]).

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::nano::{AmountError, Raw};

/// The code of a currency: three capital letters, as ISO 4217 has them.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Currency([u8; 3]);

/// A decimal number that is not negative, exact: at most [`Decimal::MAX_DIGITS`] digits that count, and as many
/// after the point.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Decimal {
    /// Below 10^18. It ends in no zero after the point.
    digits: u64,
    /// How many of the digits are after the point.
    scale: u8,
}

/// An amount of a currency.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Fiat {
    pub number: Decimal,
    pub currency: Currency,
}

/// A price as somebody writes it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cost {
    Raw(Raw),
    /// What it is in raw is known when it is billed.
    Fiat(Fiat),
}

/// How an amount of raw came about.
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Exchange {
    pub price: Fiat,
    /// Units of the currency for one XNO.
    pub rate: Decimal,
}

/// Why a text is not what it should be.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum MoneyError {
    #[error("{0:?} is not a decimal number")]
    NotDecimal(String),
    #[error("{0:?} has more than {max} digits", max = Decimal::MAX_DIGITS)]
    TooLong(String),
    #[error("{0:?} is no currency: write the three capital letters of its code")]
    NoCurrency(String),
    #[error("{0:?} is not an amount, its currency and a rate")]
    NoExchange(String),
    #[error(transparent)]
    Amount(#[from] AmountError),
}

impl Currency {
    /// The three letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let no_currency = || MoneyError::NoCurrency(excerpt(text));
        let letters: [u8; 3] = text.as_bytes().try_into().map_err(|_| no_currency())?;
        // XNO is Nano itself: it has no rate.
        let is_code = letters.iter().all(u8::is_ascii_uppercase) && text != "XNO";
        if is_code { Ok(Self(letters)) } else { Err(no_currency()) }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// 10 to the power of `exponent`; `None` if it is over 2^128 - 1.
fn ten_to(exponent: u32) -> Option<u128> {
    10_u128.checked_pow(exponent)
}

impl Decimal {
    /// The most digits, without zeros in front, and the most after the point.
    pub const MAX_DIGITS: u8 = 18;
    pub const ZERO: Self = Self { digits: 0, scale: 0 };

    /// `digits` × 10^-`scale`; `None` if it has too many digits.
    fn new(mut digits: u128, mut scale: u32) -> Option<Self> {
        while scale > 0 && digits.rem_euclid(10) == 0 {
            digits = digits.div_euclid(10);
            scale = scale.saturating_sub(1);
        }
        let scale = u8::try_from(scale).ok().filter(|it| *it <= Self::MAX_DIGITS)?;
        let digits = u64::try_from(digits).ok().filter(|it| u128::from(*it) < MOST)?;
        Some(Self { digits, scale })
    }

    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// Reads a number as JSON writes them, also with an exponent (`8.3e-06`), if it is not negative.
    ///
    /// # Errors
    /// [`MoneyError::NotDecimal`], [`MoneyError::TooLong`].
    pub fn scientific(text: &str) -> Result<Self, MoneyError> {
        let Some((number, exponent)) = text.split_once(['e', 'E']) else { return text.parse() };
        let not_decimal = || MoneyError::NotDecimal(excerpt(text));
        let number: Self = number.parse().map_err(|_| not_decimal())?;
        let (below, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => (true, exponent),
            None => (false, exponent.strip_prefix('+').unwrap_or(exponent)),
        };
        if exponent.is_empty() || exponent.len() > 3 || !exponent.bytes().all(|it| it.is_ascii_digit()) {
            return Err(not_decimal());
        }
        let exponent: u32 = exponent.parse().map_err(|_| not_decimal())?;
        let (digits, scale) = (u128::from(number.digits), u32::from(number.scale));
        let moved = if number.is_zero() {
            Some(Self::ZERO)
        } else if below {
            Self::new(digits, scale.saturating_add(exponent))
        } else {
            let more = exponent.saturating_sub(scale);
            let digits = ten_to(more).and_then(|it| digits.checked_mul(it));
            digits.and_then(|it| Self::new(it, scale.saturating_sub(exponent)))
        };
        moved.ok_or_else(|| MoneyError::TooLong(excerpt(text)))
    }

    /// The digits of both, with as many after the point, and how many that are.
    fn aligned(self, other: Self) -> (u128, u128, u32) {
        let scale = u32::from(self.scale.max(other.scale));
        let digits = |it: Self| {
            let more = ten_to(scale.saturating_sub(it.scale.into())).unwrap_or(u128::MAX);
            // Below 10^18 × 10^18.
            u128::from(it.digits).saturating_mul(more)
        };
        (digits(self), digits(other), scale)
    }

    /// The sum; `None` if it has too many digits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let (one, other, scale) = self.aligned(other);
        Self::new(one.checked_add(other)?, scale)
    }

    /// Whether this differs from `other` by more than `percent` % of `other`.
    #[must_use]
    pub fn is_far_from(self, other: Self, percent: u8) -> bool {
        let (one, other, _) = self.aligned(other);
        one.abs_diff(other).saturating_mul(100) > other.saturating_mul(percent.into())
    }

    fn to_bytes(self) -> [u8; 9] {
        let [a, b, c, d, e, f, g, h] = self.digits.to_be_bytes();
        [a, b, c, d, e, f, g, h, self.scale]
    }

    fn from_bytes(bytes: [u8; 9]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, scale] = bytes;
        let read = Self::new(u64::from_be_bytes([a, b, c, d, e, f, g, h]).into(), scale.into())?;
        (read.to_bytes() == bytes).then_some(read)
    }
}

/// One more than the largest digits.
const MOST: u128 = 10_u128.pow(18);

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other, _) = self.aligned(*other);
        one.cmp(&other)
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Decimal {
    type Err = MoneyError;

    /// Digits, perhaps with a point between them.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let pointed = text.contains('.');
        if whole.is_empty() || (pointed && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return Err(MoneyError::NotDecimal(excerpt(text)));
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let most = usize::from(Self::MAX_DIGITS);
        if whole.len() > most || fraction.len() > most {
            return Err(MoneyError::TooLong(excerpt(text)));
        }
        let digits = format!("0{whole}{fraction}").parse().map_err(|_| MoneyError::TooLong(excerpt(text)))?;
        let scale = u32::try_from(fraction.len()).unwrap_or(u32::MAX);
        Self::new(digits, scale).ok_or_else(|| MoneyError::TooLong(excerpt(text)))
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scale = usize::from(self.scale);
        let digits = format!("{:0>width$}", self.digits, width = scale.saturating_add(1));
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(scale));
        if fraction.is_empty() { f.write_str(whole) } else { write!(f, "{whole}.{fraction}") }
    }
}

impl Fiat {
    /// Both as whole numbers of one part of their currency, of which they are less than 10^36; `None` if they are not
    /// in the same one.
    #[must_use]
    pub fn in_parts_with(self, other: Self) -> Option<(u128, u128)> {
        let (one, other_parts, _) = self.number.aligned(other.number);
        (self.currency == other.currency).then_some((one, other_parts))
    }
}

impl fmt::Display for Fiat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.currency)
    }
}

impl fmt::Debug for Fiat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fiat {
    type Err = MoneyError;

    /// `0.02 USD`.
    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let split = text.find(|it: char| it.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, currency) = text.split_at(split);
        let currency = currency.parse()?;
        Ok(Self { number: number.trim_end().parse()?, currency })
    }
}

impl Cost {
    /// Reads a price with its unit, as in the configuration: `0.001 XNO`, `25 rai`, `7 raw`, `0.02 USD`. The code
    /// of a currency is in capital letters; the units of Nano may be in any letter case.
    ///
    /// # Errors
    /// [`MoneyError`].
    pub fn with_unit(text: &str) -> Result<Self, MoneyError> {
        let text = text.trim();
        let unit = text.trim_start_matches(|it: char| !it.is_ascii_alphabetic());
        match unit.parse::<Currency>() {
            Ok(_) if !unit.eq_ignore_ascii_case("raw") && !unit.eq_ignore_ascii_case("rai") => {
                text.parse().map(Self::Fiat)
            }
            Ok(_) | Err(_) => Ok(Self::Raw(Raw::with_unit(text)?)),
        }
    }

    #[must_use]
    pub const fn is_zero(self) -> bool {
        match self {
            Self::Raw(amount) => amount.is_zero(),
            Self::Fiat(Fiat { number, .. }) => number.is_zero(),
        }
    }

    /// The amount in raw, if that is what it is in.
    #[must_use]
    pub const fn raw(self) -> Option<Raw> {
        match self {
            Self::Raw(amount) => Some(amount),
            Self::Fiat(_) => None,
        }
    }

    /// The currency; `None` if it is Nano.
    #[must_use]
    pub const fn currency(self) -> Option<Currency> {
        match self {
            Self::Raw(_) => None,
            Self::Fiat(Fiat { currency, .. }) => Some(currency),
        }
    }

    /// Nothing, in the same money.
    #[must_use]
    pub const fn nothing(self) -> Self {
        match self {
            Self::Raw(_) => Self::Raw(Raw::ZERO),
            Self::Fiat(Fiat { currency, .. }) => Self::Fiat(Fiat { number: Decimal::ZERO, currency }),
        }
    }

    /// The sum; `None` if it is too large, or if the two are not in the same money.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        match (self, other) {
            (Self::Raw(one), Self::Raw(other)) => one.checked_add(other).map(Self::Raw),
            (Self::Fiat(one), Self::Fiat(other)) if one.currency == other.currency => {
                let number = one.number.checked_add(other.number)?;
                Some(Self::Fiat(Fiat { number, currency: one.currency }))
            }
            (Self::Raw(_) | Self::Fiat(_), Self::Raw(_) | Self::Fiat(_)) => None,
        }
    }

    /// The number without its unit: of XNO, or of the currency.
    #[must_use]
    pub fn number(self) -> String {
        match self {
            Self::Raw(amount) => amount.xno().number(),
            Self::Fiat(Fiat { number, .. }) => number.to_string(),
        }
    }

    /// The unit of [`Cost::number`].
    #[must_use]
    pub fn unit(&self) -> &str {
        match self {
            Self::Raw(_) => "XNO",
            Self::Fiat(Fiat { currency, .. }) => currency.as_str(),
        }
    }

    /// The order of two amounts; `None` if they are not in the same money.
    #[must_use]
    pub fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Raw(one), Self::Raw(other)) => Some(one.cmp(&other)),
            (Self::Fiat(one), Self::Fiat(other)) if one.currency == other.currency => {
                Some(one.number.cmp(&other.number))
            }
            (Self::Raw(_) | Self::Fiat(_), Self::Raw(_) | Self::Fiat(_)) => None,
        }
    }

    /// The price in full, for people: `0.001 XNO (1000000000000000000000000000 raw)`, `0.02 USD`.
    #[must_use]
    pub fn in_full(self) -> String {
        match self {
            Self::Raw(amount) => format!("{} ({amount} raw)", amount.xno()),
            Self::Fiat(fiat) => fiat.to_string(),
        }
    }
}

/// `0.001 XNO`, `0.02 USD`.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(amount) => amount.xno().fmt(f),
            Self::Fiat(fiat) => fiat.fmt(f),
        }
    }
}

impl From<Raw> for Cost {
    fn from(amount: Raw) -> Self {
        Self::Raw(amount)
    }
}

/// Decimals of XNO.
const XNO_DECIMALS: u32 = 30;
/// The finest amount that Natrium and wallets like it show and take: six decimals of XNO.
const SHOWN: u128 = 10_u128.pow(24);
/// From so many of [`SHOWN`] on, rounding up to one adds at most 1 %.
const COARSE_ENOUGH: u128 = 100;

/// Rounds up to what a wallet can show. That has six decimals of XNO, unless rounding to these would add more than
/// 1 %: a smaller amount has three digits that count, which only programs pay.
fn shown(raw: u128) -> Option<u128> {
    if raw >= SHOWN.saturating_mul(COARSE_ENOUGH) {
        return raw.checked_next_multiple_of(SHOWN);
    }
    let finer = raw.checked_ilog10().unwrap_or(0).saturating_sub(2);
    raw.checked_next_multiple_of(ten_to(finer)?)
}

impl Exchange {
    /// What the price is in raw, rounded up: never less than the price, and by less than one step more. A step is
    /// 10^24 raw (0.000001 XNO, the finest that common wallets show), or finer for less than 0.0001 XNO, so that it
    /// is at most 1 % of the amount. `None` if the rate is zero, or the amount over 2^128 - 1 raw.
    #[must_use]
    pub fn amount(&self) -> Option<Raw> {
        // As many digits at once as cannot overflow: what is left is below the rate's 10^18.
        const AT_ONCE: u32 = 20;
        let (price, rate) = (u128::from(self.price.number.digits), u128::from(self.rate.digits));
        let mut quotient = price.checked_div(rate)?;
        let mut rest = price.checked_rem(rate)?;
        // Both scales are at most 18, so this is from 12 to 48.
        let scales = XNO_DECIMALS.saturating_add(self.rate.scale.into());
        let mut places = scales.saturating_sub(self.price.number.scale.into());
        while places > 0 {
            let at_once = places.min(AT_ONCE);
            let factor = ten_to(at_once)?;
            let next = rest.checked_mul(factor)?;
            quotient = quotient.checked_mul(factor)?.checked_add(next.checked_div(rate)?)?;
            rest = next.checked_rem(rate)?;
            places = places.saturating_sub(at_once);
        }
        shown(quotient.checked_add(u128::from(rest > 0))?).map(Raw::new)
    }

    /// Whether `due` is what the price is in raw, or that and the tag of a session.
    #[must_use]
    pub fn explains(&self, due: Raw) -> bool {
        let more = self.amount().and_then(|it| due.get().checked_sub(it.get()));
        more.is_some_and(|it| it <= u64::MAX.into())
    }

    /// Bytes in [`Exchange::to_bytes`].
    pub const BYTES: usize = 21;

    /// The exchange in bytes, the same each time.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (number, rate) = (self.price.number.to_bytes(), self.rate.to_bytes());
        let all = number.iter().chain(&self.price.currency.0).chain(&rate);
        for (place, byte) in bytes.iter_mut().zip(all) {
            *place = *byte;
        }
        bytes
    }

    /// The inverse of [`Exchange::to_bytes`]; `None` for bytes that it does not write.
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let (number, rest) = bytes.split_first_chunk::<9>()?;
        let (currency, rate) = rest.split_first_chunk::<3>()?;
        let currency = std::str::from_utf8(currency).ok()?.parse().ok()?;
        let price = Fiat { number: Decimal::from_bytes(*number)?, currency };
        Some(Self { price, rate: Decimal::from_bytes(rate.try_into().ok()?)? })
    }
}

/// Between the price and the rate.
const AT: &str = " at ";

/// `0.02 USD at 0.83`.
impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{AT}{}", self.price, self.rate)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Exchange {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let (price, rate) = text.split_once(AT).ok_or_else(|| MoneyError::NoExchange(excerpt(text)))?;
        Ok(Self { price: price.parse()?, rate: rate.parse()? })
    }
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}
