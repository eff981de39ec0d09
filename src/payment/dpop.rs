//! Proofs that a client holds a key (DPoP, RFC 9449), for tokens that are bound to one.
//!
//! A proof is a signed JWT in the header `DPoP`, made for one request: it names the key, the method, the URL,
//! when it was made, an id of its own and a hash of the token. Keys are Ed25519 or P-256. Whether the id was
//! seen before is for the caller to say.

use ring::signature::{ECDSA_P256_SHA256_FIXED, ED25519, UnparsedPublicKey};
use serde::Deserialize;
use url::Url;

use super::derived::Thumbprint;
use crate::nano::UnixSeconds;
use crate::routes::CanonicalTarget;

/// The longest proof, in bytes.
pub const MAX_PROOF: usize = 4096;
/// How old a proof may be, in seconds.
pub const MAX_AGE: u64 = 60;
/// How far in the future it may have been made, by a clock that is ahead, in seconds.
pub const MAX_AHEAD: u64 = 10;
/// The longest id of a proof, in bytes.
const MAX_ID: usize = 256;

/// What a proof has to be for.
#[derive(Clone, Copy, Debug)]
pub struct ProofOf<'a> {
    pub method: &'a str,
    /// The URL as the client knows it, with or without a query.
    pub url: &'a str,
    /// Without what it was sent with.
    pub token: &'a str,
}

/// A proof that holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Proven {
    pub key: Thumbprint,
    /// Tells it from every other proof, of whatever key.
    pub id: [u8; 16],
    /// The last second at which it holds.
    pub until: UnixSeconds,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DpopError {
    #[error("a DPoP proof has at most {MAX_PROOF} bytes")]
    TooLong,
    #[error("the DPoP proof is no JWT: {0}")]
    Form(&'static str),
    #[error("the DPoP proof's header cannot be read: {0}")]
    Header(String),
    #[error("the DPoP proof's `typ` is not `dpop+jwt`")]
    Kind,
    #[error(
        "the DPoP proof's `alg` and `jwk` are not those of a key that is known here: EdDSA with Ed25519, or ES256 with P-256"
    )]
    Key,
    #[error("the DPoP proof has a private key in its `jwk`: make a new key, this one is no secret any more")]
    PrivateKey,
    #[error("the DPoP proof's signature does not hold")]
    Signature,
    #[error("the DPoP proof's claims cannot be read: {0}")]
    Claims(String),
    #[error("the DPoP proof is for another method (`htm`)")]
    Method,
    #[error("the DPoP proof is for another URL (`htu`) than {0}")]
    Url(String),
    #[error("the DPoP proof is for another token (`ath`)")]
    Token,
    #[error("the DPoP proof was made at {made} (`iat`), and it is {now} here: make one for each request")]
    Time { made: u64, now: u64 },
}

#[derive(Deserialize)]
struct Header {
    typ: String,
    alg: String,
    jwk: Jwk,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

/// A public key as JSON (RFC 7517), of a kind that proofs can have.
#[derive(Deserialize)]
pub struct Jwk {
    kty: String,
    crv: String,
    x: String,
    #[serde(default)]
    y: Option<String>,
    /// Part of a private key alone.
    #[serde(default)]
    d: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    ath: String,
}

/// A public key.
enum Key {
    Ed25519([u8; 32]),
    P256 { x: [u8; 32], y: [u8; 32] },
}

/// Verifies the value of a `DPoP` header.
///
/// # Errors
/// [`DpopError`].
pub fn verify(proof: &str, of: ProofOf<'_>, now: UnixSeconds) -> Result<Proven, DpopError> {
    if proof.len() > MAX_PROOF {
        return Err(DpopError::TooLong);
    }
    let (signed, signature) = proof.rsplit_once('.').ok_or(DpopError::Form("it has not three parts"))?;
    let (header, claims) = signed.split_once('.').ok_or(DpopError::Form("it has not three parts"))?;
    let header: Header =
        serde_json::from_slice(&decode(header)?).map_err(|why| DpopError::Header(why.to_string()))?;
    if header.typ != "dpop+jwt" {
        return Err(DpopError::Kind);
    }
    if header.crit.is_some() {
        return Err(DpopError::Header("`crit` names what is not known here".to_owned()));
    }
    let key = header.jwk.key()?;
    if !key.is_used_by(&header.alg) {
        return Err(DpopError::Key);
    }
    key.verify(signed.as_bytes(), &decode(signature)?)?;
    let claims: Claims =
        serde_json::from_slice(&decode(claims)?).map_err(|why| DpopError::Claims(why.to_string()))?;
    let thumbprint = key.thumbprint();
    claims.check(of, now)?;
    let id = digest(&[&thumbprint.0, claims.jti.as_bytes()].concat());
    let (id, _) = id.split_first_chunk::<16>().ok_or(DpopError::Form("no id"))?;
    Ok(Proven { key: thumbprint, id: *id, until: UnixSeconds(claims.iat).plus(MAX_AGE) })
}

impl Claims {
    fn check(&self, of: ProofOf<'_>, now: UnixSeconds) -> Result<(), DpopError> {
        if self.jti.is_empty() || self.jti.len() > MAX_ID {
            return Err(DpopError::Claims(format!("`jti` has 1 to {MAX_ID} bytes")));
        }
        if self.htm != of.method {
            return Err(DpopError::Method);
        }
        if !is_same_url(&self.htu, of.url) {
            let (url, _query) = of.url.split_once('?').unwrap_or((of.url, ""));
            return Err(DpopError::Url(url.to_owned()));
        }
        if self.ath != base64_simd::URL_SAFE_NO_PAD.encode_to_string(digest(of.token.as_bytes())) {
            return Err(DpopError::Token);
        }
        let is_new = self.iat <= now.plus(MAX_AHEAD).0 && now.0 <= UnixSeconds(self.iat).plus(MAX_AGE).0;
        if is_new { Ok(()) } else { Err(DpopError::Time { made: self.iat, now: now.0 }) }
    }
}

/// Whether two URLs are the same without query and fragment, after normalisation (RFC 9449 section 4.3).
fn is_same_url(claimed: &str, own: &str) -> bool {
    let read = |text: &str| {
        let url = Url::parse(text).ok().filter(|it| it.username().is_empty() && it.password().is_none())?;
        let path = CanonicalTarget::parse(url.path()).ok()?.path().to_owned();
        Some((url.origin().ascii_serialization(), path))
    };
    // An origin that is opaque has no text but `null`.
    read(claimed).is_some_and(|it| it.0 != "null" && Some(it) == read(own))
}

impl Jwk {
    /// The thumbprint of a public key as JSON.
    ///
    /// # Errors
    /// [`DpopError::Header`], [`DpopError::Key`], [`DpopError::PrivateKey`].
    pub fn thumbprint_of(json: &[u8]) -> Result<Thumbprint, DpopError> {
        let jwk: Self = serde_json::from_slice(json).map_err(|why| DpopError::Header(why.to_string()))?;
        Ok(jwk.key()?.thumbprint())
    }

    fn key(&self) -> Result<Key, DpopError> {
        if self.d.is_some() {
            return Err(DpopError::PrivateKey);
        }
        let number = |text: &str| {
            let bytes = decode(text).map_err(|_| DpopError::Key)?;
            <[u8; 32]>::try_from(bytes).map_err(|_| DpopError::Key)
        };
        match (self.kty.as_str(), self.crv.as_str(), &self.y) {
            ("OKP", "Ed25519", None) => Ok(Key::Ed25519(number(&self.x)?)),
            ("EC", "P-256", Some(y)) => Ok(Key::P256 { x: number(&self.x)?, y: number(y)? }),
            _ => Err(DpopError::Key),
        }
    }
}

impl Key {
    /// `Ed25519` is the newer name of that algorithm (RFC 9864).
    fn is_used_by(&self, algorithm: &str) -> bool {
        match self {
            Self::Ed25519(_) => matches!(algorithm, "EdDSA" | "Ed25519"),
            Self::P256 { .. } => algorithm == "ES256",
        }
    }

    fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), DpopError> {
        let verified = match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key.as_slice()).verify(signed, signature),
            Self::P256 { x, y } => {
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
            }
        };
        verified.map_err(|_| DpopError::Signature)
    }

    /// RFC 7638, with the members of RFC 8037 for Ed25519.
    fn thumbprint(&self) -> Thumbprint {
        let text = |it: &[u8; 32]| base64_simd::URL_SAFE_NO_PAD.encode_to_string(it);
        let json = match self {
            Self::Ed25519(x) => format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, text(x)),
            Self::P256 { x, y } => {
                format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text(x), text(y))
            }
        };
        Thumbprint(digest(json.as_bytes()))
    }
}

fn decode(text: &str) -> Result<Vec<u8>, DpopError> {
    base64_simd::URL_SAFE_NO_PAD
        .decode_to_vec(text)
        .map_err(|_| DpopError::Form("a part is not base64url without padding"))
}

/// SHA-256.
fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    // It has 32 bytes.
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The proof of RFC 9449, section 7.1, with its token and the thumbprint of section 6.1.
    const PROOF: &str = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19.eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA";
    const OF: ProofOf<'static> = ProofOf {
        method: "GET",
        url: "https://resource.example.org/protectedresource?a=b",
        token: "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU",
    };
    const MADE: UnixSeconds = UnixSeconds(1_562_262_618);

    #[test]
    fn the_proof_of_the_rfc_holds_for_its_request_alone() {
        let proven = verify(PROOF, OF, MADE).unwrap();
        assert_eq!(proven.key.to_string(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        assert_eq!(proven.until, MADE.plus(60));
        let refused = |of, now| verify(PROOF, of, now).unwrap_err();
        assert_eq!(refused(ProofOf { method: "POST", ..OF }, MADE), DpopError::Method);
        for url in [
            "https://resource.example.org/protectedresource/a",
            "https://resource.example.org/",
            "https://resource.example.org:444/protectedresource",
            "http://resource.example.org/protectedresource",
            "https://example.org/protectedresource",
        ] {
            assert_eq!(refused(ProofOf { url, ..OF }, MADE), DpopError::Url(url.to_owned()));
        }
        assert_eq!(refused(ProofOf { token: "Kz", ..OF }, MADE), DpopError::Token);
        let at = |now: u64| verify(PROOF, OF, UnixSeconds(now)).is_ok();
        assert_eq!([MADE.0 - 11, MADE.0 - 10, MADE.0 + 60, MADE.0 + 61].map(at), [false, true, true, false]);
    }

    #[test]
    fn one_url_has_several_spellings() {
        let own = "https://a.example/v1/x?q=1";
        for same in ["https://a.example/v1/x", "HTTPS://A.EXAMPLE:443/v1/%78?other=2#f"] {
            assert!(is_same_url(same, own), "{same}");
        }
        for other in [
            "https://a.example/v1/X",
            "https://u@a.example/v1/x",
            "/v1/x",
            "data:x",
            "https://a.example/v1/x/",
        ] {
            assert!(!is_same_url(other, own), "{other}");
        }
    }

    #[test]
    fn every_byte_that_is_changed_is_noticed() {
        for at in 0..PROOF.len() {
            let mut bytes = PROOF.as_bytes().to_vec();
            bytes[at] ^= 1;
            let bent = String::from_utf8(bytes).unwrap();
            assert!(verify(&bent, OF, MADE).is_err(), "{at}");
        }
        assert_eq!(verify(&"a".repeat(MAX_PROOF + 1), OF, MADE), Err(DpopError::TooLong));
    }

    #[test]
    fn a_key_has_the_thumbprint_of_the_rfcs_and_a_private_one_is_refused() {
        // RFC 8037, appendix A.
        let jwk = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let thumbprint = Jwk::thumbprint_of(jwk.as_bytes()).unwrap();
        assert_eq!(thumbprint.to_string(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!("kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".parse(), Ok(thumbprint));
        let private = jwk.replace('}', r#","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}"#);
        assert_eq!(Jwk::thumbprint_of(private.as_bytes()), Err(DpopError::PrivateKey));
        for other in [r#"{"kty":"OKP","crv":"X25519","x":"AA"}"#, r#"{"kty":"EC","crv":"P-256","x":"AA"}"#] {
            assert_eq!(Jwk::thumbprint_of(other.as_bytes()), Err(DpopError::Key));
        }
    }

    #[test]
    fn a_proof_without_a_signature_or_of_another_kind_is_refused() {
        let encode = |text: &str| base64_simd::URL_SAFE_NO_PAD.encode_to_string(text);
        let (signed, signature) = PROOF.rsplit_once('.').unwrap();
        let (header, claims) = signed.split_once('.').unwrap();
        let header = String::from_utf8(decode(header).unwrap()).unwrap();
        let with = |header: &str| format!("{}.{claims}.{signature}", encode(header));
        for (header, error) in [
            (header.replace("ES256", "none"), DpopError::Key),
            (header.replace("ES256", "EdDSA"), DpopError::Key),
            (header.replace("dpop+jwt", "jwt"), DpopError::Kind),
            (header.replace("dpop+jwt", "dpop+jwt\",\"b\":\""), DpopError::Signature),
        ] {
            assert_eq!(verify(&with(&header), OF, MADE), Err(error), "{header}");
        }
        let crit = with(&header.replace("\"alg\"", "\"crit\":[\"x\"],\"alg\""));
        assert!(matches!(verify(&crit, OF, MADE), Err(DpopError::Header(_))));
        assert_eq!(verify(&format!("{signed}."), OF, MADE), Err(DpopError::Signature));
        assert!(matches!(verify("a.b", OF, MADE), Err(DpopError::Form(_) | DpopError::Header(_))));
    }
}
