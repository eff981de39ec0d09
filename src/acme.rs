//! Certificates from an authority that speaks ACME (RFC 8555): ordered when there is none, renewed in time.
//!
//! What the authority gave lies in a folder, so that a start needs no authority. A certificate is renewed when two
//! thirds of its life are over, or a little earlier, so that gateways that were started together do not all ask
//! together. A failure changes nothing that is served: the next try comes later each time, or with a reload.

mod cache;
mod client;
mod order;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::Clock;
use crate::config::AcmeConfig;
use crate::entropy::{Entropy, NoEntropy};
use crate::listen::{Certificate, Challenges, Tls};
use crate::metrics::{CertificateOrder, Metrics};
use crate::nano::UnixSeconds;
use crate::repeats::Repeats;
use crate::shutdown::{self, StopSignal};

pub use cache::{Cache, CacheError};
pub use order::{AcmeError, directory_answers};

/// The pause after the first failure; twice as long after each further one. Let's Encrypt allows five failures an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(120);
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// No new order comes sooner after one that went well, whatever the authority says of the life of its certificates.
const AFTER_SUCCESS: Duration = Duration::from_secs(3600);
/// The longest sleep. The time that a machine is suspended does not count, and clocks are set.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// Keeps the certificate of a listener.
#[derive(Debug)]
pub struct Keeper {
    tls: Tls,
    challenges: Challenges,
    metrics: Arc<Metrics>,
    clock: Clock,
    entropy: Entropy,
    /// What is said of failures, once and then at most once a minute.
    repeats: Repeats,
}

impl Keeper {
    /// A keeper for what `tls` shows, which answers through `challenges`.
    #[must_use]
    pub fn new(
        tls: Tls,
        challenges: Challenges,
        metrics: Arc<Metrics>,
        clock: Clock,
        entropy: Entropy,
    ) -> Self {
        Self { tls, challenges, metrics, clock, entropy, repeats: Repeats::new() }
    }

    /// Orders and renews as `wanted` says, until `shutdown`. Whenever that changes, and with every reload, it looks
    /// again at once.
    pub async fn keep(self, mut wanted: watch::Receiver<Option<AcmeConfig>>, mut shutdown: StopSignal) {
        let mut failures: u32 = 0;
        // Not before this time, by the runtime's clock.
        let mut pause = Duration::ZERO;
        loop {
            let config = wanted.borrow_and_update().clone();
            let is_due = config.as_ref().is_some_and(|it| self.is_due(it));
            let wait = if is_due { pause.min(LOOK_EVERY) } else { LOOK_EVERY };
            tokio::select! {
                () = shutdown::asked_for(&mut shutdown) => return,
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    (failures, pause) = (0, Duration::ZERO);
                    continue;
                }
                () = sleep(wait) => pause = pause.saturating_sub(wait),
            }
            let Some(config) = config.filter(|it| is_due && pause.is_zero() && self.is_due(it)) else {
                continue;
            };
            let ordered = tokio::select! {
                () = shutdown::asked_for(&mut shutdown) => return,
                ordered = order::order(&config, &self.challenges) => ordered,
            };
            self.challenges.clear();
            match ordered {
                Ok(ordered) => {
                    self.take(&config, ordered);
                    (failures, pause) = (0, AFTER_SUCCESS);
                }
                Err(error) => {
                    pause = self.with_jitter(pause_after(failures));
                    failures = failures.saturating_add(1);
                    self.report(&config, &error, pause);
                }
            }
        }
    }

    /// Serves what was ordered, and keeps it.
    fn take(&self, config: &AcmeConfig, ordered: order::Ordered) {
        if let Err(error) = Cache::of(config).keep_certificate(&ordered.pem) {
            tracing::error!(%error, "the new certificate is served, and lost with the next start");
        }
        let expires_at = ordered.certificate.expires_at();
        self.tls.manage(ordered.certificate);
        self.metrics.certificate_expires(self.tls.expires_at());
        self.metrics.certificate_order(CertificateOrder::Done);
        if let Some(spell) = self.repeats.over() {
            tracing::info!(failures = spell.times, "the authority gives a certificate again");
        }
        let days = expires_at.saturating_sub(seconds(self.clock.now())).div_euclid(24 * 3600);
        tracing::info!(domains = config.domains.join(", "), days, "a new certificate is in use");
    }

    fn report(&self, config: &AcmeConfig, error: &AcmeError, pause: Duration) {
        self.metrics.certificate_order(CertificateOrder::Failed);
        if let Some(others) = self.repeats.again() {
            let (directory, domains) = (&config.directory, config.domains.join(", "));
            let again_in_s = pause.as_secs();
            tracing::error!(%error, directory, domains, again_in_s, others, "no certificate from the authority");
        }
    }

    /// Whether a certificate is to be ordered now.
    fn is_due(&self, config: &AcmeConfig) -> bool {
        let Some(current) = self.tls.managed() else { return true };
        let is_for_all = config.domains.iter().all(|it| current.is_for(it));
        !is_for_all || seconds(self.clock.now()) >= renews_at(&current)
    }

    /// The pause, or up to a quarter longer.
    fn with_jitter(&self, pause: Duration) -> Duration {
        let drawn: Result<[u8; 1], NoEntropy> = self.entropy.bytes();
        let [part] = drawn.unwrap_or_default();
        let longer = pause.checked_div(4 * 256).unwrap_or_default().saturating_mul(u32::from(part));
        pause.saturating_add(longer)
    }
}

fn seconds(time: UnixSeconds) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE)
}

/// When a certificate is renewed, in seconds since 1970: with a third of its life left, and by its lot up to a thirtieth
/// more.
fn renews_at(certificate: &Certificate) -> i64 {
    let life = certificate.expires_at().saturating_sub(certificate.begins_at()).max(0);
    let earlier = life.div_euclid(30 * 256).saturating_mul(i64::from(certificate.lot()));
    certificate.expires_at().saturating_sub(life.div_euclid(3)).saturating_sub(earlier)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::PrivateKeyDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(from: i32, to: i32) -> Certificate {
        let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(from, 1, 1), rcgen::date_time_ymd(to, 1, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.self_signed(&key).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        Certificate::of(vec![made.der().clone()], key).unwrap()
    }

    #[test]
    fn a_certificate_is_renewed_before_a_third_of_its_life_is_left() {
        let certificate = certificate(2025, 2028);
        let life = certificate.expires_at() - certificate.begins_at();
        let left = certificate.expires_at() - renews_at(&certificate);
        assert!(left >= life / 3 && left <= life / 3 + life / 30 + 1, "{left} of {life}");
    }

    #[test]
    fn each_failure_has_a_longer_pause() {
        let pauses: Vec<_> = (0..10).map(|it| pause_after(it).as_secs()).collect();
        assert_eq!(pauses, [120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]);
        assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    }
}
