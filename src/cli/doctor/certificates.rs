//! Certificates: whether they are good today, for how long still, and for which names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::Checkup;
use crate::acme::{Cache, directory_answers};
use crate::assemble::{listener_tls, shared_names};
use crate::config::{AcmeConfig, CertificateFiles, Config, TlsListener};
use crate::listen::{Certificate, Challenges};
use crate::nano::UnixSeconds;
use crate::routes::HostPattern;

/// So long before its end a certificate is warned of.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

const RENEW: &str = "renew it, then reload (SIGHUP)";

/// The certificates that clients are shown, if there is a listener for them, and the authority that gives one.
pub(super) async fn own(config: &Config, now: UnixSeconds) -> Vec<Checkup> {
    let Some(listener) = config.listen.tls.as_ref() else { return Vec::new() };
    let mut found: Vec<_> = listener.certificates.iter().map(|it| of_files(it, now)).collect();
    if let Some(acme) = &listener.acme {
        found.push(of_authority(acme, now));
        found.push(match directory_answers(acme).await {
            Ok(()) => Checkup::ok("listen.tls.acme.directory", format!("{} answers", acme.directory)),
            Err(error) => Checkup::broken(
                "listen.tls.acme.directory",
                format!("{}: {error}", acme.directory),
                "look at the network, and at `directory` and `ca_file`; no certificate is renewed meanwhile",
            ),
        });
    }
    found.extend(other_names(config, listener));
    if let Ok((tls, _)) = listener_tls(listener, &Challenges::default()) {
        let shared = shared_names(listener, &tls).into_iter();
        found.extend(shared.map(|it| Checkup::warning(NAMES, it, "have each name in one certificate")));
    }
    found
}

const NAMES: &str = "names of listen.tls";

fn of_files(files: &CertificateFiles, now: UnixSeconds) -> Checkup {
    if let Err(error) = Certificate::load(&files.certificate, &files.key) {
        let advice =
            "name a chain and the key that belongs to its first certificate, which only its owner may read";
        return Checkup::broken(format!("{}.{}", files.place, error.key()), error, advice);
    }
    let name = files.certificate.display();
    match chain(&files.certificate).and_then(|it| times(&it, now)) {
        Ok(Standing::Good { days }) => {
            Checkup::ok(&*files.place, format!("{name} and its key, for {days} more days"))
        }
        Ok(Standing::Ends { days }) => {
            Checkup::warning(&*files.place, format!("{name} expires in {days} days"), RENEW)
        }
        Ok(Standing::Over) => Checkup::broken(&*files.place, format!("{name} has expired"), RENEW),
        Ok(Standing::Early) => {
            Checkup::broken(&*files.place, format!("{name} is not valid yet"), "correct the clock, or wait")
        }
        Err(why) => Checkup::broken(&*files.place, format!("{name}: {why}"), "name a PEM file"),
    }
}

/// The certificate that an authority gave.
fn of_authority(acme: &AcmeConfig, now: UnixSeconds) -> Checkup {
    let (what, cache) = ("listen.tls.acme", Cache::of(acme));
    let path = cache.path().display();
    let certificate = match cache.certificate() {
        Ok(Some(certificate)) => certificate,
        Ok(None) => return Checkup::ok(what, format!("{path}: ordered by the first start")),
        Err(error) => {
            return Checkup::broken(
                what,
                error,
                "give it to the gateway's user alone, or remove it: a start orders another",
            );
        }
    };
    let missing: Vec<_> = acme.domains.iter().filter(|it| !certificate.is_for(it)).cloned().collect();
    let left = certificate.expires_at().saturating_sub(i64::try_from(now.0).unwrap_or(i64::MAX));
    let days = left.div_euclid(24 * 3600);
    let advice = "look into the gateway's log: it renews the certificate weeks before";
    if left < 0 {
        Checkup::broken(what, format!("{path} has expired"), advice)
    } else if u64::try_from(left).is_ok_and(|it| it < SOON.as_secs()) {
        Checkup::warning(what, format!("{path} expires in {days} days"), advice)
    } else if missing.is_empty() {
        Checkup::ok(what, format!("{path}, for {days} more days"))
    } else {
        let found = format!("{path} is not for {}", missing.join(", "));
        Checkup::warning(what, found, "start or reload the gateway: it orders one that is")
    }
}

/// Whether some certificate is for each name that clients use. Behind a proxy clients are shown the proxy's.
fn other_names(config: &Config, listener: &TlsListener) -> Option<Checkup> {
    let chains: Vec<_> = listener.certificates.iter().filter_map(|it| chain(&it.certificate).ok()).collect();
    let own = chains.iter().filter_map(|it| ParsedCertificate::try_from(it.first()?).ok());
    let own: Vec<_> = own.collect();
    let of_authority = listener.acme.as_ref().map(|it| it.domains.as_slice()).unwrap_or_default();
    if own.is_empty() && of_authority.is_empty() {
        return None;
    }
    let public = config.public_url.is_secure().then(|| host_of(config.public_url.authority()));
    let of_routes = config.table.routes().iter().filter_map(|it| it.conditions.host());
    // A pattern stands for all names below it: any of them shows whether it is covered.
    let of_routes = of_routes.map(HostPattern::to_string).map(|it| it.replacen("*.", "any-name.", 1));
    let mut names: Vec<String> = public.map(str::to_owned).into_iter().chain(of_routes).collect();
    names.sort();
    names.dedup();
    let is_other = |name: &str| {
        let covers = |it: &ParsedCertificate<'_>| {
            let name = ServerName::try_from(name);
            name.is_ok_and(|name| rustls::client::verify_server_name(it, &name).is_ok())
        };
        !own.iter().any(covers)
            && !of_authority.iter().any(|it| it == name)
            && ServerName::try_from(name).is_ok()
    };
    let others: Vec<_> = names.iter().filter(|it| is_other(it)).cloned().collect();
    if others.is_empty() {
        return (!names.is_empty())
            .then(|| Checkup::ok(NAMES, format!("a certificate for {}", names.join(", "))));
    }
    let shown = match listener.certificates.as_slice() {
        [one] if listener.acme.is_none() => format!("{} is not", one.certificate.display()),
        _ => "none of the certificates is".to_owned(),
    };
    let found = format!("{shown} for {}", others.join(", "));
    let advice = "have one made for the hosts of `public_url` and of routes";
    Some(if config.listen.trusted_proxies.is_empty() {
        Checkup::broken(NAMES, found, advice)
    } else {
        Checkup::warning(
            NAMES,
            found,
            "nothing, if clients come through a proxy that has a certificate for them",
        )
    })
}

/// The host of an authority, without the port and without brackets.
fn host_of(authority: &str) -> &str {
    let is_port = |it: &str| it.bytes().all(|byte| byte.is_ascii_digit());
    let host =
        authority.rsplit_once(':').filter(|(_, port)| is_port(port)).map_or(authority, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

/// The certificates that are shown to upstreams and believed of them and of nodes: only those that end soon or are over.
pub(super) fn others(config: &Config, now: UnixSeconds) -> Vec<Checkup> {
    let mut found = Vec::new();
    found.extend(ending("nano.ca_file", &config.nano.authorities, now));
    for (name, upstream) in &config.upstreams {
        found.extend(ending(&format!("upstreams.{name}.ca_file"), &upstream.authorities, now));
        // One that cannot be read is told of with the others of upstreams.
        if let Some(Ok(chain)) = upstream.identity.as_ref().map(|it| chain(&it.certificate)) {
            found.extend(ending(&format!("upstreams.{name}.certificate"), &chain, now));
        }
    }
    found
}

/// How long a certificate is good that is good today.
#[derive(Clone, Copy, Debug)]
pub(super) enum Left {
    Long {
        days: u64,
    },
    /// Less than [`SOON`].
    Little {
        days: u64,
    },
}

/// How long the certificates are good that a server shows who asks for `name`. Whether they are to be believed is not
/// asked here: the gateway's own connection was tried before.
///
/// # Errors
/// Why they are not seen or not good, in words for people.
pub(super) async fn of_server(
    address: SocketAddr,
    name: &str,
    within: Duration,
    now: UnixSeconds,
) -> Result<Left, String> {
    let chain = tokio::time::timeout(within, shown(address, name));
    let chain = chain.await.map_err(|_| "no answer in time".to_owned())??;
    match times(&chain, now)? {
        Standing::Good { days } => Ok(Left::Long { days }),
        Standing::Ends { days } => Ok(Left::Little { days }),
        Standing::Over => Err("it has expired".to_owned()),
        Standing::Early => Err("it is not valid yet".to_owned()),
    }
}

/// The certificates that a server shows.
async fn shown(address: SocketAddr, name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let witness = Arc::new(Witness { provider: Arc::clone(&provider), seen: Mutex::default() });
    let verifier: Arc<dyn ServerCertVerifier> = Arc::<Witness>::clone(&witness);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    let name = ServerName::try_from(name.trim_matches(['[', ']']).to_owned()).map_err(|it| it.to_string())?;
    let tcp = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let ended = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let seen = std::mem::take(&mut *witness.seen.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        // A server that wants a certificate of its client shows its own first.
        _ if !seen.is_empty() => Ok(seen),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("none was shown".to_owned()),
    }
}

/// Looks at certificates and believes all of them. Nothing is sent over such a connection.
#[derive(Debug)]
struct Witness {
    provider: Arc<CryptoProvider>,
    /// No await while it is held.
    seen: Mutex<Vec<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain =
            std::iter::once(end_entity).chain(intermediates).map(|it| it.clone().into_owned()).collect();
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn ending(what: &str, chain: &[CertificateDer<'static>], now: UnixSeconds) -> Option<Checkup> {
    match times(chain, now) {
        Ok(Standing::Good { .. }) => None,
        Ok(Standing::Ends { days }) => Some(Checkup::warning(what, format!("expires in {days} days"), RENEW)),
        Ok(Standing::Over) => Some(Checkup::broken(what, "has expired", RENEW)),
        Ok(Standing::Early) => Some(Checkup::broken(what, "is not valid yet", "correct the clock, or wait")),
        Err(why) => Some(Checkup::broken(what, why, "name a PEM file")),
    }
}

/// How certificates stand together at one time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Standing {
    Good {
        days: u64,
    },
    /// At least one ends within [`SOON`].
    Ends {
        days: u64,
    },
    Over,
    Early,
}

/// What the first of the certificates to end, or the last to begin, says. A certificate that is there for no connection
/// at all cannot be told from the others.
fn times(chain: &[CertificateDer<'static>], now: UnixSeconds) -> Result<Standing, String> {
    let (mut begin, mut end) = (i64::MIN, i64::MAX);
    for certificate in chain {
        let (_rest, read) =
            X509Certificate::from_der(certificate).map_err(|error| format!("not a certificate: {error}"))?;
        begin = begin.max(read.validity().not_before.timestamp());
        end = end.min(read.validity().not_after.timestamp());
    }
    let now = i64::try_from(now.0).unwrap_or(i64::MAX);
    let left = u64::try_from(end.saturating_sub(now)).ok();
    Ok(match left {
        _ if now < begin => Standing::Early,
        None => Standing::Over,
        Some(left) => {
            let days = left.div_euclid(24 * 3600);
            if left < SOON.as_secs() { Standing::Ends { days } } else { Standing::Good { days } }
        }
    })
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_an_authority_without_its_port() {
        for (authority, host) in [
            ("api.example.com", "api.example.com"),
            ("api.example.com:8443", "api.example.com"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(host_of(authority), host, "{authority}");
        }
    }

    #[test]
    fn the_chain_ends_with_its_first_certificate_to_end() {
        let made = |from: i32, to: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            (params.not_before, params.not_after) =
                (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().clone()
        };
        let chain = [made(2020, 2040), made(2021, 2031)];
        // 2031-01-01.
        let end = 1_924_992_000;
        let day = 24 * 3600;
        for (now, standing) in [
            (1_600_000_000, Standing::Early),
            (end - 14 * day, Standing::Good { days: 14 }),
            (end - 14 * day + 1, Standing::Ends { days: 13 }),
            (end, Standing::Ends { days: 0 }),
            (end + 1, Standing::Over),
        ] {
            assert_eq!(times(&chain, UnixSeconds(now)), Ok(standing), "{now}");
        }
    }
}
