//! Amounts: whole numbers of raw, read and written without rounding.

use std::fmt;
use std::str::FromStr;

use super::serde_text;

/// An amount in raw, the smallest unit of the ledger; 1 XNO is 10^30 raw.
///
/// Its text form is the one on the wire: base 10, without sign, point, exponent or leading zero
/// (ORIS-012).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Raw(u128);

/// Why a text is not an amount.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AmountError {
    #[error("an amount is missing")]
    Empty,
    #[error("{0:?} is not a whole number of raw without sign, point, exponent or leading zero")]
    NotInteger(String),
    #[error("{0:?} is more raw than can exist (2^128 - 1)")]
    TooLarge(String),
    #[error("{0:?} is not a decimal number")]
    NotDecimal(String),
    #[error("{0:?} is finer than 1 raw, the smallest amount (10^-30 XNO)")]
    TooFine(String),
    #[error("{0:?} has no unit: write `XNO`, `rai` or `raw` after the number")]
    NoUnit(String),
    #[error("unknown unit {0:?}: use `XNO`, `rai` (10^24 raw) or `raw`")]
    UnknownUnit(String),
}

const XNO_DECIMALS: usize = 30;
const RAI_DECIMALS: usize = 24;

impl Raw {
    pub const ZERO: Self = Self(0);
    pub const MAX: Self = Self(u128::MAX);

    /// An amount of `raw` raw.
    #[must_use]
    pub const fn new(raw: u128) -> Self {
        Self(raw)
    }

    /// The number of raw.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }

    #[must_use]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// `self + other`; `None` if the sum is over 2^128 - 1 raw.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// `self - other`; `None` if `other` is larger.
    #[must_use]
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// The amount as big-endian bytes, as it enters the hash of a block. They sort as the amounts do.
    #[must_use]
    pub const fn to_be_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The inverse of [`Raw::to_be_bytes`].
    #[must_use]
    pub const fn from_be_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// The amount in XNO, for people: prints as `0.001 XNO`, exact to the last raw.
    #[must_use]
    pub const fn xno(self) -> Xno {
        Xno(self)
    }

    /// Reads an amount with its unit, as in the configuration: `0.001 XNO`, `25 rai`, `7 raw`. The
    /// unit may be in any letter case. Nothing is rounded.
    ///
    /// # Errors
    /// [`AmountError`] if the unit is missing or unknown, if the number is not decimal, or if the
    /// amount is finer than one raw or over 2^128 - 1 raw.
    pub fn with_unit(text: &str) -> Result<Self, AmountError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AmountError::Empty);
        }
        let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let decimals = match unit.to_ascii_lowercase().as_str() {
            "" => return Err(AmountError::NoUnit(excerpt(text))),
            "xno" => XNO_DECIMALS,
            "rai" => RAI_DECIMALS,
            "raw" => 0,
            _ => return Err(AmountError::UnknownUnit(excerpt(unit))),
        };
        decimal(number.trim_end(), decimals)
    }
}

/// `number` × 10^`decimals`, computed in integers only.
fn decimal(number: &str, decimals: usize) -> Result<Raw, AmountError> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let pointed = number.contains('.');
    if whole.is_empty() || (pointed && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return Err(AmountError::NotDecimal(excerpt(number)));
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > decimals {
        return Err(AmountError::TooFine(excerpt(number)));
    }
    let mut digits = String::with_capacity(whole.len().saturating_add(decimals));
    digits.push_str(whole);
    digits.push_str(fraction);
    digits.extend(std::iter::repeat_n('0', decimals.saturating_sub(fraction.len())));
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(Raw::ZERO);
    }
    digits.parse().map(Raw).map_err(|_| AmountError::TooLarge(excerpt(number)))
}

fn excerpt(text: &str) -> String {
    text.chars().take(80).collect()
}

impl FromStr for Raw {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        if text.is_empty() {
            return Err(AmountError::Empty);
        }
        let leading_zero = text.len() > 1 && text.starts_with('0');
        if leading_zero || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AmountError::NotInteger(excerpt(text)));
        }
        text.parse().map(Self).map_err(|_| AmountError::TooLarge(excerpt(text)))
    }
}

impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_text!(Raw);

/// An amount that prints in XNO. [`Raw::with_unit`] reads the same amount back.
#[derive(Clone, Copy, Debug)]
pub struct Xno(Raw);

impl Xno {
    /// The number without its unit.
    #[must_use]
    pub fn number(self) -> String {
        let digits = format!("{:0>width$}", self.0.0, width = XNO_DECIMALS.saturating_add(1));
        let (whole, fraction) = digits.split_at(digits.len().saturating_sub(XNO_DECIMALS));
        let fraction = fraction.trim_end_matches('0');
        if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
    }
}

impl fmt::Display for Xno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} XNO", self.number())
    }
}
