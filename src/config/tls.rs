//! The listener that speaks TLS: its certificates, from files or from an authority (ACME).

use std::path::PathBuf;

use rustls::pki_types::{CertificateDer, DnsName};
use serde_yaml::Value;

use super::document::item;
use super::judge::{Judge, Judged, all};
use super::mirror::{AcmeFile, CertificateFile, Piece, TlsFile};
use super::web_address::{self, HTTP};
use super::{listen_address, nodes};
use crate::listen::{ListenAddress, TlsRules, TlsVersion};

/// A listener that speaks TLS.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TlsListener {
    /// At least one.
    pub addresses: Vec<ListenAddress>,
    /// The first is for clients that ask for a name that none is for. Empty only if there is `acme`.
    pub certificates: Vec<CertificateFiles>,
    pub oldest: TlsVersion,
    pub acme: Option<AcmeConfig>,
}

impl TlsListener {
    /// How it speaks TLS.
    #[must_use]
    pub fn rules(&self) -> TlsRules {
        let shows = |it: &AcmeConfig| it.challenge == AcmeChallenge::TlsAlpn;
        TlsRules {
            oldest: self.oldest,
            is_managed: self.acme.is_some(),
            shows_challenges: self.acme.as_ref().is_some_and(shows),
        }
    }
}

/// The PEM files of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateFiles {
    /// The key of the configuration that has them: `listen.tls`, `listen.tls.certificates[1]`.
    pub place: String,
    /// The chain, its own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// A certificate from an authority that speaks ACME (RFC 8555).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AcmeConfig {
    /// The names, in lower case, at least one.
    pub domains: Vec<String>,
    /// The URL of the authority's directory.
    pub directory: String,
    /// The address for its mails.
    pub contact: Option<String>,
    /// The folder of the account's key and of the certificate.
    pub cache: PathBuf,
    pub challenge: AcmeChallenge,
    /// Who vouches for the directory, beside the authorities that browsers trust.
    pub authorities: Vec<CertificateDer<'static>>,
}

vocabulary! {
    /// How the authority sees that the gateway answers for a name.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum AcmeChallenge {
        /// By a handshake at port 443 of the name.
        #[default]
        TlsAlpn = "tls-alpn-01",
        /// By a request to port 80 of the name.
        Http = "http-01",
    }
    /// As the configuration writes it.
    pub fn as_str;
}

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const CACHE: &str = "acme";
/// The most names of one certificate. Let's Encrypt takes as many.
const MOST_DOMAINS: usize = 100;

const PEM_HINT: &str = "name a PEM file";
const LIST_HINT: &str =
    "write `certificates: [{ certificate: a.pem, key: a.key }, { certificate: b.pem, key: b.key }]`";
const DOMAINS_HINT: &str = "write `domains: [api.example.com]`";

/// `redirects`: whether there is a listener that answers http-01.
pub(super) fn tls(judge: &mut Judge<'_>, file: TlsFile, redirects: bool) -> Judged<TlsListener> {
    let acme = file.acme.is_given();
    let certificates =
        match (file.certificate.is_given() || file.key.is_given(), file.certificates.is_given()) {
            (true, true) => {
                let message = "both `certificate` and `certificates`";
                Err(judge.fault(
                    &file.certificates.path,
                    message,
                    "move the one into the list, at its beginning",
                ))
            }
            (false, true) => certificates(judge, file.certificates),
            (false, false) if acme => Ok(Vec::new()),
            (false, false) => {
                let message = "no certificate: `certificate` and `key`, `certificates`, or `acme` is needed";
                Err(judge.fault("listen.tls", message, "write `certificate: cert.pem, key: key.pem`"))
            }
            (true, false) => {
                certificate(judge, "listen.tls".to_owned(), file.certificate, file.key).map(|it| vec![it])
            }
        };
    all!(TlsListener {
        addresses: listen_address::needed(judge, file.address),
        certificates,
        oldest: oldest(judge, file.min_version),
        acme: judge.optional(file.acme, |judge, it| self::acme(judge, it, redirects)),
    })
}

fn certificates(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<Vec<CertificateFiles>> {
    let path = piece.path.clone();
    let items = judge.items::<Value>(piece, "the list is empty", LIST_HINT)?;
    let mut found = Vec::new();
    for (index, it) in items.into_iter().enumerate() {
        let file: Judged<CertificateFile> = judge.need_section(it, LIST_HINT);
        found.push(file.and_then(|it| certificate(judge, item(&path, index), it.certificate, it.key)));
    }
    found.into_iter().collect()
}

fn certificate(
    judge: &mut Judge<'_>,
    place: String,
    certificate: Piece<String>,
    key: Piece<String>,
) -> Judged<CertificateFiles> {
    all!(CertificateFiles {
        place: Ok(place),
        certificate: judge.need_file(certificate, PEM_HINT),
        key: judge.need_file(key, PEM_HINT),
    })
}

/// A version, in quotes or as the number that it looks like.
fn oldest(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<TlsVersion> {
    let (path, hint) = (piece.path.clone(), "write `\"1.2\"` or `\"1.3\"`");
    let Some(value) = judge.get(piece, hint)? else { return Ok(TlsVersion::default()) };
    let text = value.as_str().map(str::to_owned).or_else(|| value.as_f64().map(|it| it.to_string()));
    let known = text.and_then(|it| TlsVersion::ALL.into_iter().find(|version| version.as_str() == it));
    known.ok_or_else(|| judge.fault(&path, "not a version of TLS that is spoken here", hint))
}

fn acme(judge: &mut Judge<'_>, file: AcmeFile, redirects: bool) -> Judged<AcmeConfig> {
    let base = judge.base;
    let place = file.challenge.path.clone();
    let challenge = judge
        .choice(file.challenge, AcmeChallenge::ALL, AcmeChallenge::as_str)
        .map(Option::unwrap_or_default);
    if matches!(challenge, Ok(AcmeChallenge::Http)) && !redirects {
        let message = "nobody answers http-01: there is no `listen.redirect`";
        judge.fault(&place, message, "write `redirect: 0.0.0.0:80` under `listen`, or use tls-alpn-01");
    }
    let mail = "write a mail address: `contact: ops@example.com`";
    all!(AcmeConfig {
        domains: domains(judge, file.domains),
        directory: judge
            .text(file.directory, "write the https URL of the authority's directory", directory)
            .map(|it| it.unwrap_or_else(|| LETS_ENCRYPT.to_owned())),
        contact: judge.text(file.contact, mail, contact),
        cache: judge.file(file.cache).map(|it| it.unwrap_or_else(|| base.join(CACHE))),
        challenge,
        authorities: nodes::authorities(judge, file.ca_file),
    })
}

fn domains(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<Vec<String>> {
    let path = piece.path.clone();
    let items = judge.items(piece, "the list is empty", DOMAINS_HINT)?;
    if items.len() > MOST_DOMAINS {
        return Err(judge.fault(&path, "more than 100 names in one certificate", DOMAINS_HINT));
    }
    let domain = |judge: &mut Judge<'_>, it| judge.need_text(it, DOMAINS_HINT, domain);
    judge.each(items, "name", Clone::clone, domain)
}

fn domain(text: &str) -> Result<String, &'static str> {
    if text.starts_with("*.") {
        return Err("for a wildcard an authority looks into the DNS (dns-01), which is not spoken here");
    }
    if text.parse::<std::net::IpAddr>().is_ok() || DnsName::try_from(text).is_err() || text.ends_with('.') {
        return Err("not the name of a host");
    }
    Ok(text.to_ascii_lowercase())
}

fn directory(text: &str) -> Result<String, String> {
    let url = web_address::parse(text, HTTP)?;
    if url.scheme() == "https" {
        Ok(text.to_owned())
    } else {
        Err("an authority is asked over https only".to_owned())
    }
}

fn contact(text: &str) -> Result<String, &'static str> {
    let is_mail = |it: &str| {
        let (local, host) = it.split_once('@').unwrap_or_default();
        !local.is_empty()
            && host.contains('.')
            && it.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',')
    };
    let mail = text.strip_prefix("mailto:").unwrap_or(text);
    if is_mail(mail) { Ok(mail.to_owned()) } else { Err("not a mail address") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_asked_for_names_of_hosts() {
        assert_eq!(domain("API.example.com").as_deref(), Ok("api.example.com"));
        for wrong in ["*.example.com", "192.0.2.1", "::1", "a b", "", "a.example.", "https://a.example"] {
            assert!(domain(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_contact_is_a_mail_address() {
        assert_eq!(contact("ops@example.com"), Ok("ops@example.com".to_owned()));
        assert_eq!(contact("mailto:ops@example.com"), Ok("ops@example.com".to_owned()));
        for wrong in ["ops", "@example.com", "ops@example", "a@b.c,d@e.f", "a b@c.d", ""] {
            assert!(contact(wrong).is_err(), "{wrong}");
        }
    }
}
