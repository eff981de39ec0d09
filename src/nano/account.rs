//! Accounts: a public key, and its `nano_` spelling.

use std::fmt;
use std::str::FromStr;

use blake2::digest::consts::U5;
use blake2::{Blake2b, Digest};

use super::serde_text;

/// An account: the 32 bytes of its public key. Reads `nano_` and `xrb_`, prints `nano_`.
#[derive(Clone, Copy, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Account(pub [u8; 32]);

/// Why a text is not an account.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AccountError {
    #[error("an account starts with `nano_`")]
    Prefix,
    #[error("an account has 60 characters after `nano_`, this one has {0}")]
    Length(usize),
    #[error("{0:?} is not a character of the account alphabet")]
    Character(char),
    #[error("the first character after `nano_` must be 1 or 3")]
    Padding,
    #[error("the checksum does not match: a character is wrong")]
    Checksum,
}

const ALPHABET: &[u8; 32] = b"13456789abcdefghijkmnopqrstuwxyz";
const KEY_CHARACTERS: usize = 52;
const CHARACTERS: usize = 60;

impl Account {
    /// The account for which nobody has the key: money sent to it is lost.
    pub const BURN: Self = Self([0; 32]);

    /// BLAKE2b-40 of the key, in the reversed byte order of an address.
    fn checksum(&self) -> [u8; 5] {
        let mut checksum: [u8; 5] = Blake2b::<U5>::digest(self.0).into();
        checksum.reverse();
        checksum
    }
}

impl FromStr for Account {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let body =
            text.strip_prefix("nano_").or_else(|| text.strip_prefix("xrb_")).ok_or(AccountError::Prefix)?;
        let length = body.chars().count();
        if length != CHARACTERS {
            return Err(AccountError::Length(length));
        }
        let mut values = Vec::with_capacity(CHARACTERS);
        for character in body.chars() {
            let value = ALPHABET
                .iter()
                .position(|&it| char::from(it) == character)
                .and_then(|position| u8::try_from(position).ok())
                .ok_or(AccountError::Character(character))?;
            values.push(value);
        }
        let (key, checksum) = values.split_at(KEY_CHARACTERS);
        // 52 characters hold 260 bits; the four before the 256 of the key are padding and must be zero.
        if key.first().is_some_and(|&first| first > 1) {
            return Err(AccountError::Padding);
        }
        let account = Self(bits_to_bytes(key));
        if bits_to_bytes::<5>(checksum) == account.checksum() {
            Ok(account)
        } else {
            Err(AccountError::Checksum)
        }
    }
}

/// The lowest `N` bytes of a big-endian number that is given as 5-bit digits.
fn bits_to_bytes<const N: usize>(digits: &[u8]) -> [u8; N] {
    let mut bytes = [0_u8; N];
    let mut places = bytes.iter_mut().rev();
    let (mut pending, mut held) = (0_u16, 0_u32);
    for &digit in digits.iter().rev() {
        pending |= u16::from(digit).wrapping_shl(held);
        held = held.saturating_add(5);
        if held >= 8 {
            if let Some(place) = places.next() {
                *place = pending.to_le_bytes()[0];
            }
            pending = pending.wrapping_shr(8);
            held = held.saturating_sub(8);
        }
    }
    bytes
}

/// Appends the big-endian number `bytes` as `count` 5-bit digits in the account alphabet.
fn push_digits(text: &mut String, bytes: &[u8], count: usize) {
    let mut digits = Vec::with_capacity(count);
    let (mut pending, mut held) = (0_u16, 0_u32);
    let mut rest = bytes.iter().rev();
    while digits.len() < count {
        if held < 5 {
            pending |= u16::from(rest.next().copied().unwrap_or(0)).wrapping_shl(held);
            held = held.saturating_add(8);
        }
        digits.push(ALPHABET.get(usize::from(pending & 31)).copied().unwrap_or(b'1'));
        pending = pending.wrapping_shr(5);
        held = held.saturating_sub(5);
    }
    text.extend(digits.iter().rev().map(|&digit| char::from(digit)));
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::with_capacity(65);
        text.push_str("nano_");
        push_digits(&mut text, &self.0, KEY_CHARACTERS);
        push_digits(&mut text, &self.checksum(), CHARACTERS.saturating_sub(KEY_CHARACTERS));
        f.write_str(&text)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_text!(Account);
