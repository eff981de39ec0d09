//! The id of a request, by which its lines in the logs of several servers are found.
//!
//! A trusted proxy may have given one in `X-Request-Id`. Otherwise one is made: 32 hexadecimal digits, of which the
//! first half is the process's and the second a number that it gives once. Both halves are random to whoever does not
//! know the process's key, so that an id tells nobody how many requests there were. An id is no secret.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora::prelude::Session;
use tracing::Span;

use super::client::{Caller, one};

/// The header's name, as it is written.
pub(super) const X_REQUEST_ID: &str = "X-Request-Id";
const NAME: HeaderName = HeaderName::from_static("x-request-id");

/// The longest id that is taken from a proxy, in bytes.
const LONGEST: usize = 128;
/// The hexadecimal digits of each half of an id.
const HALF: usize = 16;

/// Makes ids. No two of one process are alike.
#[derive(Debug)]
pub struct RequestIds {
    process: [u8; HALF],
    key: u64,
    next: AtomicU64,
}

/// The id of one request. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct RequestId(HeaderValue);

impl RequestIds {
    /// Ids of a process that drew these `random` bytes.
    #[must_use]
    pub fn new(random: [u8; 24]) -> Self {
        let [process, key, first] = [0, 8, 16].map(|from| {
            let mut half = [0; 8];
            half.iter_mut().zip(random.iter().skip(from)).for_each(|(to, byte)| *to = *byte);
            u64::from_be_bytes(half)
        });
        Self { process: digits(process), key, next: AtomicU64::new(first) }
    }

    /// The id of a request: what a trusted proxy says, or a new one.
    pub(super) fn of(&self, session: &Session, caller: &Caller) -> RequestId {
        let said = caller.believed(session.req_header()).and_then(|it| one(it, &NAME));
        // Copied, or it would keep the whole head in memory as long as it is logged.
        let said = said.filter(|it| is_safe(it)).map(|it| Bytes::copy_from_slice(it.as_bytes()));
        RequestId::written(said.unwrap_or_else(|| self.make()))
    }

    fn make(&self) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 2 * HALF];
        let (process, own) = text.split_at_mut(HALF);
        process.copy_from_slice(&self.process);
        own.copy_from_slice(&digits(shuffled(number ^ self.key) ^ self.key));
        // One piece of memory, whoever shares it.
        Bytes::from_owner(text)
    }
}

impl RequestId {
    /// Of a request that is not read yet.
    pub(super) const fn none() -> Self {
        Self(HeaderValue::from_static("-"))
    }

    fn written(text: Bytes) -> Self {
        HeaderValue::from_maybe_shared(text).map_or(Self::none(), Self)
    }

    pub(super) const fn value(&self) -> &HeaderValue {
        &self.0
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The span of what is logged elsewhere while the request is carried out. Making one takes longer than the hot
    /// path may.
    pub(super) fn span(&self) -> Span {
        tracing::info_span!("request", request_id = self.as_str())
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether an id may stand in headers, in JSON and in a line of a log as it is.
fn is_safe(id: &str) -> bool {
    let may = |it: u8| it.is_ascii_alphanumeric() || b"-_.:=+/@".contains(&it);
    (1..=LONGEST).contains(&id.len()) && id.bytes().all(may)
}

/// Another number for each number (the finalizer of SplitMix64, which can be undone).
const fn shuffled(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

fn digits(number: u64) -> [u8; HALF] {
    let mut text = [b'0'; HALF];
    let _fits = hex::encode_to_slice(number.to_be_bytes(), &mut text).is_ok();
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_ids_of_a_process_are_alike_and_none_tells_how_many_there_were() {
        let ids = RequestIds::new(std::array::from_fn(|it| u8::try_from(it).unwrap()));
        let made: Vec<_> = (0..1000).map(|_| RequestId::written(ids.make()).to_string()).collect();
        let different: BTreeSet<_> = made.iter().collect();
        assert_eq!(different.len(), made.len());
        for id in &made {
            assert!(id.len() == 32 && id.starts_with("0001020304050607"), "{id}");
            assert!(id.bytes().all(|it| it.is_ascii_digit() || (b'a'..=b'f').contains(&it)), "{id}");
        }
        // A counter would leave most digits of the next id as they are.
        let alike = made.windows(2).map(|two| {
            let [one, other] = two else { unreachable!() };
            one.bytes().zip(other.bytes()).skip(16).filter(|(one, other)| one == other).count()
        });
        assert!(alike.max().unwrap() < 10);
    }

    #[test]
    fn an_id_is_taken_if_it_can_stand_anywhere() {
        let longest = "a".repeat(LONGEST);
        for id in ["a", "Root=1-67891233-abcdef01", "0197f3a2-6f1e-7c00-8000-000000000000", &longest] {
            assert!(is_safe(id), "{id}");
        }
        for id in ["", "a b", "a\"b", "a\\b", "a,b", "ä", "a\tb", &format!("{longest}a")] {
            assert!(!is_safe(id), "{id}");
        }
    }
}
