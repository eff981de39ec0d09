//! Places in JSON, as RFC 6901 writes them, for upstreams of any kind.

use std::fmt;
use std::str::FromStr;

/// The most steps of a pointer.
pub const MAX_STEPS: usize = 8;
/// The longest step, in bytes.
pub(super) const MAX_STEP: usize = 128;

/// A place in a JSON value: `/usage/prompt_tokens`, `/choices/0/tokens`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pointer(Vec<String>);

/// Where an upstream says what was used. Each is the place of one value in the answer, in each event, or in each line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct JsonPointers {
    /// The name of the model, in the request and in the answer.
    pub model: Option<Pointer>,
    /// Tokens of input, those of the cache included.
    pub input: Option<Pointer>,
    /// Tokens of input from a cache.
    pub cached: Option<Pointer>,
    /// Tokens of output.
    pub output: Option<Pointer>,
    /// Tokens that are counted together.
    pub tokens: Option<Pointer>,
    /// An amount: text with a unit, or a whole number of raw.
    pub cost: Option<Pointer>,
}

/// Why a text is no pointer.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PointerFault {
    #[error("a pointer starts with `/`")]
    NoSlash,
    #[error("in a pointer, `~` is only in `~0` (for `~`) and `~1` (for `/`)")]
    Tilde,
    #[error("a pointer has at most {MAX_STEPS} steps of at most {MAX_STEP} bytes")]
    Long,
}

impl Pointer {
    /// The keys and indexes on the way, decoded.
    #[must_use]
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// Whether one is the place of the other, or above or below it.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(one, other)| one == other)
    }
}

impl FromStr for Pointer {
    type Err = PointerFault;

    fn from_str(text: &str) -> Result<Self, PointerFault> {
        let steps = text.strip_prefix('/').ok_or(PointerFault::NoSlash)?;
        let steps: Vec<_> = steps.split('/').map(step).collect::<Result<_, _>>()?;
        let fits = steps.len() <= MAX_STEPS && steps.iter().all(|it| it.len() <= MAX_STEP);
        if fits { Ok(Self(steps)) } else { Err(PointerFault::Long) }
    }
}

/// As it is written: `/usage/prompt_tokens`.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|it| write!(f, "/{}", it.replace('~', "~0").replace('/', "~1")))
    }
}

fn step(text: &str) -> Result<String, PointerFault> {
    let mut parts = text.split('~');
    let mut step = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (escaped, rest) = match (part.strip_prefix('0'), part.strip_prefix('1')) {
            (Some(rest), _) => ('~', rest),
            (_, Some(rest)) => ('/', rest),
            (None, None) => return Err(PointerFault::Tilde),
        };
        step.push(escaped);
        step.push_str(rest);
    }
    Ok(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_read_as_rfc_6901_says() {
        let steps = |text: &str| text.parse::<Pointer>().map(|it| it.0.join("|"));
        assert_eq!(steps("/usage/input"), Ok("usage|input".to_owned()));
        assert_eq!(steps("/a~1b/~01/0"), Ok("a/b|~1|0".to_owned()));
        assert_eq!(steps("/"), Ok(String::new()));
        for text in ["/usage/input", "/a~1b/~01/0", "/"] {
            assert_eq!(text.parse::<Pointer>().unwrap().to_string(), text);
        }
        for (text, fault) in [
            ("", PointerFault::NoSlash),
            ("usage", PointerFault::NoSlash),
            ("/a~", PointerFault::Tilde),
            ("/~2", PointerFault::Tilde),
            ("/1/2/3/4/5/6/7/8/9", PointerFault::Long),
        ] {
            assert_eq!(steps(text), Err(fault), "{text}");
        }
        assert_eq!(steps(&format!("/{}", "a".repeat(MAX_STEP + 1))), Err(PointerFault::Long));
    }

    #[test]
    fn a_place_overlaps_what_is_in_it() {
        let overlap = |one: &str, other: &str| {
            one.parse::<Pointer>().unwrap().overlaps(&other.parse::<Pointer>().unwrap())
        };
        assert!(overlap("/a", "/a") && overlap("/a", "/a/b") && overlap("/a/b", "/a"));
        assert!(!overlap("/a", "/b") && !overlap("/a/b", "/a/c"));
    }
}
