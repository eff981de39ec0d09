//! What a certificate authority is shown to see that this gateway answers for a name: ACME's challenges http-01 (RFC 8555
//! section 8.3) and tls-alpn-01 (RFC 8737).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::sign::CertifiedKey;

/// The protocol by which a handshake asks for a challenge's certificate (RFC 8737 section 3).
pub(super) const ACME_TLS: &[u8] = b"acme-tls/1";

/// Below this path an answer of http-01 is asked for by its token.
pub const CHALLENGE_PATH: &str = "/.well-known/acme-challenge/";

/// The challenges that are under way. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Challenges(Arc<Mutex<UnderWay>>);

#[derive(Default)]
struct UnderWay {
    /// By token: what http-01 is answered.
    texts: BTreeMap<String, String>,
    /// By name: what tls-alpn-01 is shown.
    certificates: BTreeMap<String, Arc<CertifiedKey>>,
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges(****)")
    }
}

impl Challenges {
    /// Answers the token of an http-01 challenge with `text`.
    pub fn answer(&self, token: &str, text: &str) {
        let _before = self.under_way().texts.insert(token.to_owned(), text.to_owned());
    }

    /// Shows `certificate` to whoever asks for the tls-alpn-01 challenge of `name`.
    pub fn show(&self, name: &str, certificate: Arc<CertifiedKey>) {
        let _before = self.under_way().certificates.insert(name.to_ascii_lowercase(), certificate);
    }

    /// The answer for a token; `None` if no such challenge is under way.
    #[must_use]
    pub fn text(&self, token: &str) -> Option<String> {
        self.under_way().texts.get(token).cloned()
    }

    pub(super) fn certificate(&self, name: &str) -> Option<Arc<CertifiedKey>> {
        self.under_way().certificates.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        *self.under_way() = UnderWay::default();
    }

    /// Held for a look into a map of a few entries.
    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
