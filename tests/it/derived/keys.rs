//! Tokens that are bound to a key: each request needs a proof of it (DPoP, RFC 9449).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use faregate::payment::derived::{self, Restriction};
use faregate::payment::dpop::Jwk;
use reqwest::Response;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::rig::{PLENTY, Plan, Rig, capability, manual_clock};

const NOW: u64 = 1_800_000_000;
const PATH: &str = "/v1/search/a";

enum Key {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

impl Key {
    fn ed25519(seed: u8) -> Self {
        Self::Ed25519(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn p256() -> Self {
        let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let document = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(kind, document.as_ref(), &random).unwrap())
    }

    fn jwk(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": text(key.public_key().as_ref()) })
            }
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
        }
    }

    fn bind(&self, token: &str) -> String {
        let thumbprint = Jwk::thumbprint_of(self.jwk().to_string().as_bytes()).unwrap();
        derived::derive(token, &[Restriction::Key(thumbprint)]).unwrap().expose().to_owned()
    }

    fn sign(&self, claims: &Value) -> String {
        let algorithm = if matches!(self, Self::Ed25519(_)) { "EdDSA" } else { "ES256" };
        let header = json!({ "typ": "dpop+jwt", "alg": algorithm, "jwk": self.jwk() });
        let [header, claims] = [&header, claims].map(|it| URL_SAFE_NO_PAD.encode(it.to_string()));
        let signed = format!("{header}.{claims}");
        let signature = match self {
            Self::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
            Self::P256(key) => key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn claims(rig: &Rig, id: &str, token: &str) -> Value {
    let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, token.as_bytes()));
    json!({ "jti": id, "htm": "GET", "htu": format!("{}{PATH}", rig.url), "iat": NOW, "ath": hash })
}

async fn bought() -> (Rig, String) {
    let (clock, _) = manual_clock();
    let rig = Rig::with(Plan { clock, ..Plan::default() }).await;
    let (token, _) = capability(&rig.pay(&rig.payer(1, PLENTY), PATH).await);
    (rig, token)
}

async fn ask(rig: &Rig, path: &str, token: &str, proof: &str) -> Response {
    rig.get(path, &[("PAYMENT-CAPABILITY", token), ("DPoP", proof)]).await
}

async fn refused(answer: Response, words: &str) {
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    assert_eq!((status, body["error"].as_str()), (402, Some("INVALID_SIGNATURE")), "{body}");
    assert!(body["message"].as_str().unwrap().contains(words), "{words}: {body}");
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_key_opens_nothing_without_a_new_proof_of_it() {
    let (rig, token) = bought().await;
    for (number, key) in [Key::ed25519(7), Key::p256()].iter().enumerate() {
        let bound = key.bind(&token);
        let own = |id: &str| claims(&rig, &format!("{number}{id}"), &bound);
        refused(rig.get(PATH, &[("PAYMENT-CAPABILITY", &bound)]).await, "send a DPoP proof").await;
        let proof = key.sign(&own("a"));
        let served = ask(&rig, &format!("{PATH}?q=1"), &bound, &proof).await;
        assert_eq!((served.status().as_u16(), capability(&served).0), (200, bound.clone()));
        let seen = rig.upstream.seen().pop().unwrap();
        assert!(seen.header("dpop").is_none() && seen.header("payment-capability").is_none());
        refused(ask(&rig, PATH, &bound, &proof).await, "used before").await;
        let other = Key::ed25519(8);
        refused(ask(&rig, PATH, &bound, &other.sign(&own("b"))).await, "another key").await;
        let changed = |name: &str, value: Value| {
            let mut changed = own("c");
            changed[name] = value;
            key.sign(&changed)
        };
        for (proof, words) in [
            (changed("htm", json!("POST")), "another method"),
            (changed("htu", json!(format!("{}/v1/search/b", rig.url))), "another URL"),
            (changed("htu", json!("http://other.example/v1/search/a")), "another URL"),
            (changed("ath", claims(&rig, "", &token)["ath"].clone()), "another token"),
            (changed("ath", json!(null)), "claims cannot be read"),
            (changed("iat", json!(NOW - 61)), "was made at"),
            (changed("iat", json!(NOW + 11)), "was made at"),
            (changed("jti", json!("")), "jti"),
            (format!("{proof}A"), "DPoP proof"),
            ("made-up".to_owned(), "DPoP proof"),
        ] {
            refused(ask(&rig, PATH, &bound, &proof).await, words).await;
        }
        refused(ask(&rig, "/v1/search/b", &bound, &key.sign(&own("d"))).await, "another URL").await;
        // None of these was remembered: what is refused uses up no proof.
        assert_eq!(ask(&rig, PATH, &bound, &key.sign(&own("c"))).await.status(), 200);
    }
    assert_eq!(rig.upstream.seen().len(), 5);
    rig.end().await;
}

#[tokio::test]
async fn a_token_that_is_bound_to_two_keys_opens_nothing_and_an_unbound_one_needs_no_proof() {
    let (rig, token) = bought().await;
    let (one, other) = (Key::ed25519(7), Key::ed25519(8));
    let both = other.bind(&one.bind(&token));
    for (id, key) in [("a", &one), ("b", &other)] {
        refused(ask(&rig, PATH, &both, &key.sign(&claims(&rig, id, &both))).await, "another key").await;
    }
    // A proof of something else is the upstream's, if it is anybody's.
    assert_eq!(ask(&rig, PATH, &token, "made-up").await.status(), 200);
    assert_eq!(rig.upstream.seen().pop().unwrap().header("dpop"), Some("made-up"));
    rig.end().await;
}
