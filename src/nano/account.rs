//! Accounts: a public key, and its `nano_` spelling.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use blake2::digest::consts::U5;
use blake2::{Blake2b, Digest};
use data_encoding::{Encoding, Specification};

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

const PREFIX: &str = "nano_";
const ALPHABET: &str = "13456789abcdefghijkmnopqrstuwxyz";
const KEY_CHARACTERS: usize = 52;
const CHARACTERS: usize = 60;
/// Bytes of zeros before the key: with it they are whole digits.
const LEADING: usize = 3;

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
            text.strip_prefix(PREFIX).or_else(|| text.strip_prefix("xrb_")).ok_or(AccountError::Prefix)?;
        let length = body.chars().count();
        if length != CHARACTERS {
            return Err(AccountError::Length(length));
        }
        let mut values = Vec::with_capacity(CHARACTERS);
        for character in body.chars() {
            let value = ALPHABET
                .find(character)
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

/// The digits of an account: five bits each, the highest first.
static DIGITS: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str(ALPHABET);
    #[expect(clippy::expect_used, reason = "32 different characters are an alphabet")]
    specification.encoding().expect("the alphabet is constant")
});

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four digits of zeros stand before the 260 bits of the key. The prefix takes their place.
        let mut bytes = [0; LEADING + 32 + 5];
        let (key, checksum) = bytes.split_at_mut(LEADING + 32);
        key.iter_mut().skip(LEADING).zip(self.0).for_each(|(place, byte)| *place = byte);
        checksum.copy_from_slice(&self.checksum());
        let mut text = [0; 1 + 4 + CHARACTERS];
        let (_, digits) = text.split_at_mut(1);
        DIGITS.encode_mut(&bytes, digits);
        let (prefix, _) = text.split_at_mut(PREFIX.len());
        prefix.copy_from_slice(PREFIX.as_bytes());
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

serde_text!(Account);
