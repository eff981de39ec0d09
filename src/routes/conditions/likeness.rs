//! Whether some server could take one spelling for another.
//!
//! Servers decode, trim, fold letter case, split lists and cut texts off in different ways. Two texts that
//! are alike here are one text to some of them. Nothing is allocated: every request may ask.

/// How the text of a request is encoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Encoding {
    /// Percent-encoded, with `+` for a space.
    Query,
    /// As it is.
    Header,
}

/// One character as the most liberal server would see it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Seen {
    /// An ASCII letter in lower case, a digit, or a printable character.
    Plain(u8),
    /// A character that is not ASCII; some are folded into an ASCII letter.
    Foreign,
    /// A control character, or an escape that servers decode differently. What follows it may be cut off,
    /// or be anything.
    Anything,
}

/// Whether a name of a request is `wanted` to a server that ignores letter case and punctuation, or that
/// takes `name[…]` for a list of that name. `wanted` is ASCII.
pub(super) fn names_alike(given: &[u8], wanted: &str, encoding: Encoding) -> bool {
    let mut wanted = letters(wanted);
    for seen in seen(given, encoding) {
        match seen {
            Seen::Plain(b'[') => break,
            Seen::Plain(byte) if !byte.is_ascii_alphanumeric() => {}
            Seen::Plain(byte) if wanted.next() != Some(byte) => return false,
            Seen::Foreign if wanted.next().is_none() => return false,
            Seen::Plain(_) | Seen::Foreign => {}
            Seen::Anything => return true,
        }
    }
    wanted.next().is_none()
}

/// Whether two names of a configuration are alike.
pub(super) fn same_letters(one: &str, other: &str) -> bool {
    letters(one).eq(letters(other))
}

/// Whether a value of a request, or an item of it if it is a list, is `wanted` to a server that ignores
/// letter case and what is around a value. `wanted` is ASCII and has no character of those.
pub(super) fn values_alike(given: &[u8], wanted: &str, encoding: Encoding) -> bool {
    let mut rest = seen(given, encoding).peekable();
    loop {
        while rest.next_if(|it| is_around(*it)).is_some() {}
        let mut left = wanted.bytes().map(|it| it.to_ascii_lowercase()).peekable();
        while let Some(next) = left.peek()
            && rest.next_if_eq(&Seen::Plain(*next)).is_some()
        {
            left.next();
        }
        if rest.peek().is_some_and(|it| !is_plain(*it)) {
            return true;
        }
        if left.peek().is_none() {
            while rest.next_if(|it| is_around(*it)).is_some() {}
            if rest.peek().is_none_or(|it| is_separator(*it) || !is_plain(*it)) {
                return true;
            }
        }
        // On to the next item.
        while rest.next_if(|it| is_plain(*it) && !is_separator(*it)).is_some() {}
        if rest.next().is_none() {
            return false;
        }
    }
}

/// The letters and digits of a name, in lower case.
fn letters(name: &str) -> impl Iterator<Item = u8> {
    name.bytes().filter(u8::is_ascii_alphanumeric).map(|it| it.to_ascii_lowercase())
}

/// What some servers remove around a value.
const fn is_around(seen: Seen) -> bool {
    matches!(seen, Seen::Plain(b' ' | b'"' | b'\'' | b'[' | b']' | b'(' | b')' | b'{' | b'}'))
}

/// What may stand between the items of a list, or before a parameter of a value.
const fn is_separator(seen: Seen) -> bool {
    matches!(seen, Seen::Plain(b',' | b';' | b'|' | b'&'))
}

const fn is_plain(seen: Seen) -> bool {
    matches!(seen, Seen::Plain(_))
}

/// The characters of a text.
fn seen(text: &[u8], encoding: Encoding) -> impl Iterator<Item = Seen> {
    let mut bytes = text.iter().copied();
    std::iter::from_fn(move || {
        loop {
            let first = bytes.next()?;
            let byte = match (encoding, first) {
                (Encoding::Query, b'+') => b' ',
                (Encoding::Query, b'%') => match hex_pair(bytes.next(), bytes.next()) {
                    // An encoded `%` may be decoded once more.
                    None | Some(b'%') => return Some(Seen::Anything),
                    Some(byte) => byte,
                },
                (Encoding::Query | Encoding::Header, byte) => byte,
            };
            match byte {
                b'\t' => return Some(Seen::Plain(b' ')),
                0..=0x1f | 0x7f => return Some(Seen::Anything),
                0x20..=0x7e => return Some(Seen::Plain(byte.to_ascii_lowercase())),
                // The further bytes of a character.
                0x80..=0xbf => {}
                0xc0.. => return Some(Seen::Foreign),
            }
        }
    })
}

fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    digit(high?)?.checked_mul(16)?.checked_add(digit(low?)?)
}
