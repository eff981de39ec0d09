//! A test double of an ACME server (RFC 8555), not a whole one: it checks nonces, URLs and the account, looks whether
//! challenges are answered, and signs what a CSR asks for. It does not verify signatures; Pebble does, see
//! `tests/acme/run`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream as Blocking};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SignatureAlgorithm, date_time_ymd,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::scripted::{Reply, Scripted, Seen};

/// The directory is at a fixed address, so that a gateway finds it again.
pub(super) struct Authority {
    pub(super) directory: String,
    /// Who vouches for the directory and for what is signed there.
    pub(super) root: String,
    pub(super) books: Arc<Mutex<Books>>,
    task: JoinHandle<()>,
    _behind: Scripted,
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What it knows.
pub(super) struct Books {
    base: String,
    issuer: Issuer<'static, KeyPair>,
    /// Where it looks for the answers to challenges.
    pub(super) looks_at: SocketAddr,
    /// From which year to which what it signs is valid.
    pub(super) valid: (i32, i32),
    /// Accounts by the thumbprints of their keys, with their contacts.
    pub(super) accounts: BTreeMap<String, Value>,
    pub(super) orders: Vec<Order>,
    nonces: BTreeSet<String>,
    given: usize,
}

pub(super) struct Order {
    names: Vec<String>,
    /// Of each name: the kind of challenge that was answered, or what is wrong with the answer.
    pub(super) answers: BTreeMap<String, Result<String, String>>,
    certificate: Option<String>,
}

impl Order {
    fn status(&self) -> &'static str {
        if self.certificate.is_some() {
            "valid"
        } else if self.answers.values().any(Result::is_err) {
            "invalid"
        } else if self.names.iter().all(|it| self.answers.contains_key(it)) {
            "ready"
        } else {
            "pending"
        }
    }
}

/// A key as a CSR has it.
struct Asked(Vec<u8>);

impl PublicKeyData for Asked {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// One that looks for answers at `looks_at`.
    pub(super) async fn start(looks_at: SocketAddr) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        let own = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = certificate.signed_by(&own, &issuer).unwrap().der().clone();
        let books = Arc::new(Mutex::new(Books {
            base: base.clone(),
            issuer,
            looks_at,
            valid: (2020, 4000),
            accounts: BTreeMap::new(),
            orders: Vec::new(),
            nonces: BTreeSet::new(),
            given: 0,
        }));
        let shared = Arc::clone(&books);
        let behind = Scripted::start(move |seen| shared.lock().unwrap().reply(seen)).await;
        let to = format!("{}:{}", behind.url.host_str().unwrap(), behind.url.port().unwrap());
        let task = tokio::spawn(over_tls(listener, certificate, own, to));
        Self { directory: format!("{base}/directory"), root, books, task, _behind: behind }
    }
}

/// Takes TLS off and hands on.
async fn over_tls(listener: TcpListener, certificate: CertificateDer<'static>, key: KeyPair, to: String) {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    while let Ok((outer, _)) = listener.accept().await {
        let (acceptor, to) = (acceptor.clone(), to.clone());
        tokio::spawn(async move {
            let Ok(mut outer) = acceptor.accept(outer).await else { return };
            let mut inner = TcpStream::connect(to).await.unwrap();
            let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
        });
    }
}

fn problem(status: u16, kind: &str, detail: &str) -> Reply {
    let body =
        json!({ "type": format!("urn:ietf:params:acme:error:{kind}"), "detail": detail, "status": status });
    let Reply::Http { headers, body, .. } = Reply::json(&body) else { unreachable!("it is one") };
    Reply::Http { status, headers, body }
}

fn part(body: &Value, name: &str) -> Value {
    let bytes = BASE64URL_NOPAD.decode(body[name].as_str().unwrap().as_bytes()).unwrap();
    if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() }
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    let suite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    suite.common.hash_provider.hash(bytes).as_ref().to_vec()
}

impl Books {
    fn reply(&mut self, seen: &Seen) -> Reply {
        self.given += 1;
        let nonce = BASE64URL_NOPAD.encode(format!("nonce {}", self.given).as_bytes());
        self.nonces.insert(nonce.clone());
        let reply = match (seen.method.as_str(), seen.path.as_str()) {
            ("GET", "/directory") => {
                let at = |path: &str| format!("{}/{path}", self.base);
                Reply::json(&json!({
                    "newNonce": at("nonce"), "newAccount": at("account"), "newOrder": at("order"),
                    "revokeCert": at("revoke"), "keyChange": at("key"),
                }))
            }
            ("HEAD", "/nonce") => Reply::text(200, ""),
            ("POST", path) => self.call(path, seen),
            other => panic!("{other:?} is no resource"),
        };
        reply.with("Replay-Nonce", &nonce)
    }

    /// A call that an account has signed.
    fn call(&mut self, path: &str, seen: &Seen) -> Reply {
        assert_eq!(seen.header("content-type"), Some("application/jose+json"));
        let body = seen.json();
        let (protected, payload) = (part(&body, "protected"), part(&body, "payload"));
        assert_eq!(protected["url"].as_str(), Some(&*format!("{}{path}", self.base)));
        assert_eq!(protected["alg"], "ES256");
        if !self.nonces.remove(protected["nonce"].as_str().unwrap()) {
            return problem(400, "badNonce", "not a nonce, or one that was used");
        }
        if path == "/account" {
            return self.account(&protected["jwk"], &payload);
        }
        let own = protected["kid"].as_str().and_then(|it| it.rsplit_once('/')).map(|(_, it)| it.to_owned());
        let Some(thumb) = own.filter(|it| self.accounts.contains_key(it)) else {
            return problem(400, "accountDoesNotExist", "nobody knows this account");
        };
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let number = |text: &str| text.parse::<usize>().unwrap();
        match parts.as_slice() {
            ["account", _] => {
                self.accounts.insert(thumb, payload["contact"].clone());
                Reply::json(&json!({ "status": "valid" }))
            }
            ["order"] => {
                let names = payload["identifiers"].as_array().unwrap().iter();
                let names = names.map(|it| it["value"].as_str().unwrap().to_owned()).collect();
                self.orders.push(Order { names, answers: BTreeMap::new(), certificate: None });
                let number = self.orders.len() - 1;
                let Reply::Http { headers, body, .. } = self.order(number) else { unreachable!("it is one") };
                let order = Reply::Http { status: 201, headers, body };
                order.with("Location", &format!("{}/order/{number}", self.base))
            }
            ["order", order] => self.order(number(order)),
            ["authorization", order, name] => self.authorization(number(order), name),
            ["challenge", order, name, kind] => self.look(number(order), name, kind, &thumb),
            ["finalize", order] => self.finalize(number(order), payload["csr"].as_str().unwrap()),
            ["certificate", order] => {
                let chain = self.orders[number(order)].certificate.as_ref().unwrap();
                Reply::text(200, chain).with("Content-Type", "application/pem-certificate-chain")
            }
            other => panic!("{other:?} is no resource"),
        }
    }

    fn account(&mut self, key: &Value, payload: &Value) -> Reply {
        // RFC 7638: these fields, in this order, without spaces.
        let canonical = format!(
            "{{\"crv\":{},\"kty\":{},\"x\":{},\"y\":{}}}",
            key["crv"], key["kty"], key["x"], key["y"]
        );
        let thumb = BASE64URL_NOPAD.encode(&sha256(canonical.as_bytes()));
        let is_known = self.accounts.contains_key(&thumb);
        if !is_known && payload["onlyReturnExisting"] == true {
            return problem(400, "accountDoesNotExist", "nobody knows this key");
        }
        if !is_known {
            assert_eq!(payload["termsOfServiceAgreed"], true);
            self.accounts.insert(thumb.clone(), payload["contact"].clone());
        }
        let Reply::Http { headers, body, .. } = Reply::json(&json!({ "status": "valid" })) else {
            unreachable!("it is one")
        };
        let account = Reply::Http { status: if is_known { 200 } else { 201 }, headers, body };
        account.with("Location", &format!("{}/account/{thumb}", self.base))
    }

    fn order(&self, number: usize) -> Reply {
        let (order, base) = (&self.orders[number], &self.base);
        let identifiers: Vec<_> =
            order.names.iter().map(|it| json!({ "type": "dns", "value": it })).collect();
        let authorizations: Vec<_> =
            order.names.iter().map(|it| format!("{base}/authorization/{number}/{it}")).collect();
        let mut body = json!({
            "status": order.status(), "identifiers": identifiers, "authorizations": authorizations,
            "finalize": format!("{base}/finalize/{number}"),
        });
        if order.certificate.is_some() {
            body["certificate"] = format!("{base}/certificate/{number}").into();
        }
        Reply::json(&body)
    }

    fn authorization(&self, number: usize, name: &str) -> Reply {
        let status = match self.orders[number].answers.get(name) {
            None => "pending",
            Some(Ok(_)) => "valid",
            Some(Err(_)) => "invalid",
        };
        let challenges: Vec<_> =
            ["http-01", "tls-alpn-01"].iter().map(|it| self.challenge(number, name, it)).collect();
        let identifier = json!({ "type": "dns", "value": name });
        Reply::json(&json!({ "status": status, "identifier": identifier, "challenges": challenges }))
    }

    fn challenge(&self, number: usize, name: &str, kind: &str) -> Value {
        let token = BASE64URL_NOPAD.encode(format!("{number} {name} {kind}").as_bytes());
        let mut challenge = json!({
            "type": kind, "url": format!("{}/challenge/{number}/{name}/{kind}", self.base), "token": token,
            "status": "pending",
        });
        if let Some(Err(why)) = self.orders[number].answers.get(name) {
            challenge["status"] = "invalid".into();
            challenge["error"] =
                json!({ "type": "urn:ietf:params:acme:error:connection", "detail": why, "status": 400 });
        }
        challenge
    }

    /// Looks at once whether a challenge is answered.
    fn look(&mut self, number: usize, name: &str, kind: &str, thumb: &str) -> Reply {
        let token = self.challenge(number, name, kind)["token"].as_str().unwrap().to_owned();
        let proof = format!("{token}.{thumb}");
        let looked = match kind {
            "http-01" => over_http(self.looks_at, name, &token, &proof),
            _ => over_tls_alpn(self.looks_at, name, &proof),
        };
        let answer = looked.map(|()| kind.to_owned()).map_err(|error| error.to_string());
        self.orders[number].answers.insert(name.to_owned(), answer);
        let mut challenge = self.challenge(number, name, kind);
        // It is said of the authorization, as a server does that looks later.
        challenge.as_object_mut().unwrap().remove("error");
        Reply::json(&challenge)
    }

    fn finalize(&mut self, number: usize, csr: &str) -> Reply {
        if self.orders[number].status() != "ready" {
            return problem(403, "orderNotReady", "not every challenge is answered");
        }
        let csr = BASE64URL_NOPAD.decode(csr.as_bytes()).unwrap();
        let (_, csr) = X509CertificationRequest::from_der(&csr).unwrap();
        let mut asked: Vec<String> = Vec::new();
        for extension in csr.requested_extensions().unwrap() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                let GeneralName::DNSName(name) = name else { panic!("{name:?}") };
                asked.push((*name).to_owned());
            }
        }
        assert_eq!(asked, self.orders[number].names);
        let mut params = CertificateParams::new(asked).unwrap();
        let (from, to) = self.valid;
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        let key = Asked(csr.certification_request_info.subject_pki.subject_public_key.data.to_vec());
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.orders[number].certificate = Some(certificate.pem());
        self.order(number)
    }
}

fn connect(to: SocketAddr) -> std::io::Result<Blocking> {
    let stream = Blocking::connect_timeout(&to, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    Ok(stream)
}

/// RFC 8555 section 8.3.
fn over_http(to: SocketAddr, name: &str, token: &str, proof: &str) -> std::io::Result<()> {
    let mut stream = connect(to)?;
    let path = format!("/.well-known/acme-challenge/{token}");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{proof}")) {
        return Ok(());
    }
    Err(std::io::Error::other(format!("this is no answer: {answer}")))
}

/// RFC 8737 section 3.
fn over_tls_alpn(to: SocketAddr, name: &str, proof: &str) -> std::io::Result<()> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    let name_asked = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    let mut session = ClientConnection::new(Arc::new(config), name_asked).map_err(std::io::Error::other)?;
    let mut stream = connect(to)?;
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    if session.alpn_protocol() != Some(b"acme-tls/1") {
        return Err(std::io::Error::other("acme-tls/1 is not spoken"));
    }
    let shown = session.peer_certificates().unwrap()[0].to_vec();
    let (_, shown) = x509_parser::parse_x509_certificate(&shown)
        .map_err(|error| std::io::Error::other(error.to_string()))?;
    let names = shown.subject_alternative_name().unwrap().unwrap().value;
    assert!(matches!(names.general_names.as_slice(), [GeneralName::DNSName(it)] if *it == name));
    let extension = shown.extensions().iter().find(|it| it.oid.to_id_string() == "1.3.6.1.5.5.7.1.31");
    let digest = [&[0x04, 0x20], sha256(proof.as_bytes()).as_slice()].concat();
    match extension {
        Some(it) if it.critical && it.value == digest => Ok(()),
        other => Err(std::io::Error::other(format!("this is no answer: {other:?}"))),
    }
}

/// The certificate of a challenge is nobody's.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
