//! One order: the account, the challenges, the certificate.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AccountBuilder, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewAccount,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::cache::{self, Cache, CacheError, KeptAccount};
use super::client::Client;
use crate::config::{AcmeChallenge, AcmeConfig};
use crate::listen::{Certificate, Challenges};
use crate::outbound;

/// How long an order may take, from the first call to the certificate.
const ORDER: Duration = Duration::from_secs(300);
/// How the authority is asked whether it has looked at the challenges, and made the certificate.
const ASKS: RetryPolicy = RetryPolicy::new()
    .initial_delay(Duration::from_millis(250))
    .backoff(1.5)
    .timeout(Duration::from_secs(120));

/// The authority does not know the account (RFC 8555 section 6.7).
const NO_ACCOUNT: &str = "urn:ietf:params:acme:error:accountDoesNotExist";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AcmeError {
    #[error("{}", outbound::chain(.0))]
    Authority(#[from] Error),
    #[error("{0} is not answered: {1}")]
    Challenge(String, String),
    #[error("the authority has no {0} challenge for {1}")]
    NoChallenge(&'static str, String),
    #[error("the order is {0:?}")]
    Order(OrderStatus),
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the authority cannot be called: {0}")]
    Client(String),
    #[error("the certificate of a challenge cannot be made: {0}")]
    Made(String),
    #[error("it took longer than {} s", ORDER.as_secs())]
    TooLong,
}

/// A certificate that was just ordered.
#[derive(Debug)]
pub(super) struct Ordered {
    pub(super) certificate: Certificate,
    /// The chain and the key.
    pub(super) pem: Zeroizing<String>,
}

/// Orders a certificate for the names of `config`.
pub(super) async fn order(config: &AcmeConfig, challenges: &Challenges) -> Result<Ordered, AcmeError> {
    timeout(ORDER, Box::pin(order_in_time(config, challenges))).await.map_err(|_| AcmeError::TooLong)?
}

async fn order_in_time(config: &AcmeConfig, challenges: &Challenges) -> Result<Ordered, AcmeError> {
    let cache = Cache::of(config);
    let account = account(config, &cache).await?;
    let names: Vec<_> = config.domains.iter().cloned().map(Identifier::Dns).collect();
    let mut order = account.new_order(&NewOrder::new(&names)).await?;
    answer(&mut order, config.challenge, challenges).await?;
    let status = order.poll_ready(&ASKS).await;
    if !matches!(status, Ok(OrderStatus::Ready)) {
        // The authorizations know why, and the order may not.
        unanswered(&mut order).await?;
    }
    let status = status?;
    if status != OrderStatus::Ready {
        return Err(AcmeError::Order(status));
    }
    let key = Zeroizing::new(order.finalize().await?);
    let chain = order.poll_certificate(&ASKS).await?;
    let pem = Zeroizing::new(format!("{chain}\n{}", *key));
    let certificate = cache::certificate(cache.path(), pem.as_bytes())?;
    Ok(Ordered { certificate, pem })
}

/// The account whose key is kept. It is made if there is none, and again, by the same key, if the authority has
/// forgotten it.
async fn account(config: &AcmeConfig, cache: &Cache) -> Result<Account, AcmeError> {
    let contact = config.contact.as_ref().map(|it| format!("mailto:{it}"));
    let contacts: Vec<_> = contact.iter().map(String::as_str).collect();
    let Some(kept) = cache.account()? else {
        let terms =
            NewAccount { contact: &contacts, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder(config)?.create(&terms, config.directory.clone(), None).await?;
        cache.keep_account(&KeptAccount { contact: config.contact.clone(), credentials })?;
        return Ok(account);
    };
    let key = PrivatePkcs8KeyDer::from(kept.credentials.private_key().secret_pkcs8_der().to_vec());
    let known = builder(config)?.from_key(own(&key)?, config.directory.clone()).await;
    let (account, credentials) = match known {
        Err(Error::Api(Problem { r#type: Some(kind), .. })) if kind == NO_ACCOUNT => {
            builder(config)?.create_from_key(own(&key)?, config.directory.clone()).await?
        }
        known => {
            let known = known?;
            if kept.contact == config.contact {
                return Ok(known.0);
            }
            known
        }
    };
    account.update_contacts(&contacts).await?;
    cache.keep_account(&KeptAccount { contact: config.contact.clone(), credentials })?;
    Ok(account)
}

fn own(key: &PrivatePkcs8KeyDer<'static>) -> Result<(Key, PrivateKeyDer<'static>), Error> {
    Ok((Key::from_pkcs8_der(key.clone_key())?, PrivateKeyDer::Pkcs8(key.clone_key())))
}

fn builder(config: &AcmeConfig) -> Result<AccountBuilder, AcmeError> {
    let client = Client::new(&config.authorities).map_err(|error| AcmeError::Client(error.to_string()))?;
    Ok(Account::builder_with_http(Box::new(client)))
}

/// Has the authority look at a challenge of each name that it does not believe already.
async fn answer(order: &mut Order, kind: AcmeChallenge, challenges: &Challenges) -> Result<(), AcmeError> {
    let wanted = match kind {
        AcmeChallenge::TlsAlpn => ChallengeType::TlsAlpn01,
        AcmeChallenge::Http => ChallengeType::Http01,
    };
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        if authorization.status != AuthorizationStatus::Pending {
            continue;
        }
        let name = authorization.identifier().to_string();
        let Some(mut challenge) = authorization.challenge(wanted.clone()) else {
            return Err(AcmeError::NoChallenge(kind.as_str(), name));
        };
        let proof = challenge.key_authorization();
        match kind {
            AcmeChallenge::TlsAlpn => challenges.show(&name, shown(&name, proof.digest().as_ref())?),
            AcmeChallenge::Http => challenges.answer(&challenge.token, proof.as_str()),
        }
        challenge.set_ready().await?;
    }
    Ok(())
}

/// The certificate that a handshake for the challenge of `name` is shown (RFC 8737 section 3).
fn shown(name: &str, digest: &[u8]) -> Result<Arc<CertifiedKey>, AcmeError> {
    let failed = |error: rcgen::Error| AcmeError::Made(error.to_string());
    let key = KeyPair::generate().map_err(failed)?;
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(failed)?;
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not by what compares certificate and key: it cannot read the critical extension. They were made together.
    let key = ring::sign::any_supported_type(&key).map_err(|error| AcmeError::Made(error.to_string()))?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key)))
}

/// # Errors
/// [`AcmeError::Challenge`]: what the authority says of the first challenge that it found not to be answered.
async fn unanswered(order: &mut Order) -> Result<(), AcmeError> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let state = authorization.refresh().await?;
        if let Some(problem) = state.challenges.iter().find_map(|it| it.error.as_ref()) {
            return Err(AcmeError::Challenge(state.identifier().to_string(), problem.to_string()));
        }
    }
    Ok(())
}

/// Says whether the authority's directory can be read, for a look at what a gateway depends on.
///
/// # Errors
/// Why not.
pub async fn directory_answers(config: &AcmeConfig) -> Result<(), String> {
    let client = outbound::http(&config.authorities).map_err(|error| error.to_string())?;
    let client = client.timeout(Duration::from_secs(10)).build().map_err(|error| error.to_string())?;
    let asked = async {
        let answer = client.get(&config.directory).send().await?.error_for_status()?;
        answer.json::<serde_json::Value>().await
    };
    let directory = asked.await.map_err(|error| outbound::chain(&error))?;
    if directory.get("newOrder").is_some() {
        Ok(())
    } else {
        Err("not the directory of an ACME server".to_owned())
    }
}
