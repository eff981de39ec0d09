//! What currencies are worth in XNO: read from a file or a server again and again, judged, and kept.
//!
//! A rate is used until it is too old, and then nothing is sold by it. A rate that differs from the last one by
//! more than is allowed is held back until [`CONFIRMED_BY`] readings in a row, each with a time of its own, agree
//! on it: an error of one reading changes no price. Meanwhile the last rate is used, as long as it is not too old.

mod source;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::money::{Cost, Currency, Decimal, Exchange, Fiat};
use crate::nano::UnixSeconds;
use crate::repeats::Repeats;
use crate::routes::{Listed, Quoted, Terms};
use crate::shutdown::{self, StopSignal};
use crate::usage::Pointer;

pub use source::{MAX_ANSWER, RateFault, RateSource, ReadError, Reading, read};

/// How many readings must agree on a rate that is far from the last one.
pub const CONFIRMED_BY: u32 = 3;
/// How long a watch sleeps while no rates are configured.
const IDLE: Duration = Duration::from_secs(3600);

/// Where rates come from, and which are good.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RateSettings {
    pub source: RateSource,
    /// How often it is read.
    pub every: Duration,
    /// How long a rate may be used after it was true, in seconds.
    pub at_most_old: u64,
    /// How long one reading may take.
    pub timeout: Duration,
    /// By how much a rate may differ from the last one before other readings have to confirm it, in %.
    pub max_change: u8,
    /// Where the rate of each currency stands: units of it for one XNO.
    pub currencies: BTreeMap<Currency, Pointer>,
    /// Where the time stands at which the rates were true; `None`: the file's time, or that of the reading.
    pub time: Option<Pointer>,
    /// Authorities that are trusted beside those of browsers.
    pub authorities: Vec<CertificateDer<'static>>,
}

impl RateSettings {
    /// Whether a rate that was true `at` is used at `now`. One of the future is, as far as clocks may differ.
    fn is_fresh(&self, at: UnixSeconds, now: UnixSeconds) -> bool {
        now <= at.plus(self.at_most_old) && at <= now.plus(source::AHEAD)
    }
}

/// The rates of one gateway.
#[derive(Debug)]
pub struct Rates {
    clock: Clock,
    /// Held for a look-up or an insertion.
    kept: RwLock<Kept>,
    /// Wakes the watch when the settings have changed.
    changed: Notify,
    trouble: Repeats,
    /// The currencies of which the log says that they have no rate.
    missing: Mutex<BTreeSet<Currency>>,
}

#[derive(Debug, Default)]
struct Kept {
    settings: Option<Arc<RateSettings>>,
    known: BTreeMap<Currency, Known>,
}

/// What is known of one rate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Known {
    rate: Decimal,
    /// When it was true.
    at: UnixSeconds,
    held: Option<Held>,
}

/// A rate that is far from the one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Held {
    rate: Decimal,
    at: UnixSeconds,
    /// How many readings agree on it.
    readings: u32,
}

/// What is known of a rate, for the operator.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateStatus {
    pub currency: Currency,
    /// Units of the currency for one XNO, and how long ago that was true, in seconds; `None` before the first reading.
    pub rate: Option<(Decimal, u64)>,
    /// Whether it is used.
    pub fresh: bool,
    /// What the last reading said, if that is held back.
    pub held: Option<Decimal>,
}

impl Known {
    const fn first(rate: Decimal, at: UnixSeconds) -> Self {
        Self { rate, at, held: None }
    }

    /// The same if this machine's clock was set back to `now`: what seems to be of the future is as old as can be
    /// told, or it would be used for as long as the clock was ahead.
    fn not_after(self, now: UnixSeconds) -> Self {
        let held = self.held.map(|it| Held { at: it.at.min(now), ..it });
        Self { at: self.at.min(now), held, ..self }
    }

    /// What is known after another reading.
    fn after(self, rate: Decimal, at: UnixSeconds, max_change: u8) -> Self {
        if at < self.at {
            // An older answer, of another server or a cache.
            return self;
        }
        if !rate.is_far_from(self.rate, max_change) {
            return Self::first(rate, at);
        }
        let held = match self.held {
            Some(held) if !rate.is_far_from(held.rate, max_change) => {
                // The same reading again confirms nothing.
                let more = u32::from(at > held.at);
                Held { rate, at: at.max(held.at), readings: held.readings.saturating_add(more) }
            }
            Some(_) | None => Held { rate, at, readings: 1 },
        };
        if held.readings >= CONFIRMED_BY { Self::first(rate, at) } else { Self { held: Some(held), ..self } }
    }
}

impl Kept {
    /// Takes the rates of a reading that was made at `now`.
    fn take(&mut self, reading: &Reading, now: UnixSeconds) {
        let Some(settings) = &self.settings else { return };
        for (currency, rate) in &reading.rates {
            let Ok(rate) = *rate else { continue };
            let known = self.known.get(currency).map(|it| it.not_after(now));
            let next = known
                .map_or(Known::first(rate, reading.at), |it| it.after(rate, reading.at, settings.max_change));
            let (was_held, is_held) = (known.is_some_and(|it| it.held.is_some()), next.held.is_some());
            if is_held && !was_held {
                tracing::warn!(
                    %currency, %rate, last = %next.rate,
                    "the exchange rate jumped: it is used once {CONFIRMED_BY} readings agree on it"
                );
            } else if was_held && !is_held {
                tracing::info!(%currency, %rate, "the exchange rate is used: it was confirmed, or came back");
            }
            self.known.insert(*currency, next);
        }
    }
}

impl Rates {
    /// No rate is known before [`Rates::refresh`].
    #[must_use]
    pub fn new(settings: Option<RateSettings>, clock: Clock) -> Self {
        let kept = Kept { settings: settings.map(Arc::new), known: BTreeMap::new() };
        Self {
            clock,
            kept: RwLock::new(kept),
            changed: Notify::new(),
            trouble: Repeats::new(),
            missing: Mutex::new(BTreeSet::new()),
        }
    }

    /// Changes the settings, once the source was read by the new ones: until then the old ones sell. What another
    /// source said, or the same at another place, is forgotten.
    pub async fn configure(&self, settings: Option<RateSettings>) {
        let found = match &settings {
            Some(settings) => Some(read(settings, self.clock.now()).await),
            None => None,
        };
        let settings = settings.map(Arc::new);
        self.replace_settings(settings.clone(), found.as_ref().and_then(|it| it.as_ref().ok()));
        if let Some((settings, found)) = settings.zip(found) {
            self.say(&settings, &found);
        }
        self.changed.notify_one();
    }

    /// Changes the settings and takes what was read by the new ones, in one step.
    fn replace_settings(&self, settings: Option<Arc<RateSettings>>, reading: Option<&Reading>) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let place = |it: &RateSettings, currency: &Currency| {
            (it.source.clone(), it.time.clone(), it.currencies.get(currency).cloned())
        };
        let before = kept.settings.take();
        kept.known.retain(|currency, _| {
            let (Some(before), Some(now)) = (&before, &settings) else { return false };
            place(before, currency) == place(now, currency)
        });
        kept.settings = settings;
        if let Some(reading) = reading {
            kept.take(reading, self.clock.now());
        }
    }

    fn settings(&self) -> Option<Arc<RateSettings>> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).settings.clone()
    }

    /// Units of `currency` for one XNO; `None` if no rate is known that is not too old.
    #[must_use]
    pub fn rate(&self, currency: Currency) -> Option<Decimal> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let (settings, known) = (kept.settings.as_ref()?, kept.known.get(&currency)?);
        settings.is_fresh(known.at, self.clock.now()).then_some(known.rate)
    }

    /// What a payment of a price buys at this moment; `None` if no rate is known for it, or if it is more than there
    /// can be.
    #[must_use]
    pub fn quote(&self, listed: Listed) -> Option<Quoted> {
        let Listed { price, grants } = listed;
        let price = match price {
            Cost::Raw(amount) => return Some(Terms { amount, grants }.into()),
            Cost::Fiat(price) => price,
        };
        let exchange = self.exchange(price)?;
        let amount = exchange.amount()?;
        Some(Quoted { terms: Terms { amount, grants }, exchange: Some(exchange) })
    }

    /// The exchange of a price at this moment; `None` if no rate is known for it.
    #[must_use]
    pub fn exchange(&self, price: Fiat) -> Option<Exchange> {
        Some(Exchange { price, rate: self.rate(price.currency)? })
    }

    /// Whether the rate of `currency` is read.
    #[must_use]
    pub fn has(&self, currency: Currency) -> bool {
        self.settings().is_some_and(|it| it.currencies.contains_key(&currency))
    }

    /// What is known of each currency that is configured.
    #[must_use]
    pub fn status(&self) -> Vec<RateStatus> {
        let now = self.clock.now();
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let Some(settings) = &kept.settings else { return Vec::new() };
        let status = |currency: &Currency| {
            let known = kept.known.get(currency);
            RateStatus {
                currency: *currency,
                rate: known.map(|it| (it.rate, now.since(it.at))),
                fresh: known.is_some_and(|it| settings.is_fresh(it.at, now)),
                held: known.and_then(|it| it.held).map(|it| it.rate),
            }
        };
        settings.currencies.keys().map(status).collect()
    }

    /// A currency of which no rate is known that is not too old; `None` if there is none.
    #[must_use]
    pub fn missing(&self) -> Option<Currency> {
        self.status().into_iter().find(|it| !it.fresh).map(|it| it.currency)
    }

    /// Reads the source once. What goes wrong is logged.
    pub async fn refresh(&self) {
        let Some(settings) = self.settings() else { return };
        let found = read(&settings, self.clock.now()).await;
        if let Ok(reading) = &found {
            let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
            if kept.settings.as_ref() != Some(&settings) {
                // They changed while the source was read.
                return;
            }
            kept.take(reading, self.clock.now());
        }
        self.say(&settings, &found);
    }

    /// Logs what became of a reading, if that is news.
    fn say(&self, settings: &RateSettings, found: &Result<Reading, ReadError>) {
        let fault = match found {
            Ok(reading) => reading
                .rates
                .iter()
                .find_map(|(currency, rate)| rate.as_ref().err().map(|why| format!("{currency}: {why}"))),
            Err(error) => Some(error.to_string()),
        };
        match fault {
            Some(error) => {
                if let Some(unsaid) = self.trouble.again() {
                    let source = &settings.source;
                    tracing::warn!(%error, %source, unsaid, "the exchange rates cannot be read");
                }
            }
            None => {
                if let Some(spell) = self.trouble.over() {
                    let seconds = spell.lasted.as_secs();
                    tracing::info!(times = spell.times, seconds, "the exchange rates are read again");
                }
            }
        }
        self.say_what_is_missing();
    }

    fn say_what_is_missing(&self) {
        let status = self.status();
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        missing.retain(|it| status.iter().any(|status| status.currency == *it));
        for RateStatus { currency, fresh, rate, .. } in status {
            if fresh && missing.remove(&currency) {
                tracing::info!(%currency, "an exchange rate is known again: what is priced in the currency is sold");
            } else if !fresh && missing.insert(currency) {
                let age = rate.map(|(_, age)| age);
                tracing::error!(%currency, age, "no exchange rate, or too old a one: nothing priced in the currency is sold");
            }
        }
    }

    /// Reads the source again and again, until the `shutdown`.
    pub async fn watch(self: Arc<Self>, mut shutdown: StopSignal) {
        loop {
            let every = self.settings().map_or(IDLE, |it| it.every);
            let next = async {
                tokio::time::sleep(every).await;
                self.refresh().await;
            };
            tokio::select! {
                () = next => {}
                () = self.changed.notified() => {}
                () = shutdown::asked_for(&mut shutdown) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn known(rate: &str, at: u64) -> Known {
        Known::first(rate.parse().unwrap(), UnixSeconds(at))
    }

    fn after(readings: &[(&str, u64)]) -> String {
        let (first, rest) = readings.split_first().unwrap();
        let next =
            |it: Known, (rate, at): &(&str, u64)| it.after(rate.parse().unwrap(), UnixSeconds(*at), 30);
        rest.iter().fold(known(first.0, first.1), next).rate.to_string()
    }

    #[test]
    fn a_rate_may_move_by_so_much_and_a_jump_needs_three_readings_that_agree() {
        assert_eq!(after(&[("1", 0), ("1.3", 1)]), "1.3");
        assert_eq!(after(&[("1", 0), ("1.31", 1)]), "1");
        assert_eq!(after(&[("1", 0), ("0.69", 1)]), "1");
        assert_eq!(after(&[("1", 0), ("10", 1), ("10.5", 2)]), "1");
        assert_eq!(after(&[("1", 0), ("10", 1), ("10.5", 2), ("11", 3)]), "11");
        assert_eq!(after(&[("1", 0), ("10", 1), ("1.1", 2), ("10", 3), ("10", 4)]), "1.1", "it begins again");
        assert_eq!(
            after(&[("1", 0), ("10", 1), ("100", 2), ("10", 3), ("100", 4)]),
            "1",
            "they do not agree"
        );
        assert_eq!(
            after(&[("1", 0), ("10", 1), ("10", 1), ("10", 1), ("10", 1)]),
            "1",
            "one reading, four times"
        );
    }

    /// Before: what was read before the clock was set back was used until it was ahead again, and nothing read
    /// meanwhile counted.
    #[test]
    fn a_clock_that_is_set_back_makes_no_rate_last() {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let at = Arc::clone(&now);
        let usd: Currency = "USD".parse().unwrap();
        let settings = RateSettings {
            source: RateSource::File("rates.json".into()),
            every: Duration::from_secs(60),
            at_most_old: 600,
            timeout: Duration::from_secs(5),
            max_change: 30,
            currencies: BTreeMap::from([(usd, "/XNO/USD".parse().unwrap())]),
            time: None,
            authorities: Vec::new(),
        };
        let rates =
            Rates::new(Some(settings), Clock::from_fn(move || UnixSeconds(at.load(Ordering::Relaxed))));
        let read = |rate: &str| {
            let at = rates.clock.now();
            let reading = Reading { at, rates: BTreeMap::from([(usd, Ok(rate.parse().unwrap()))]) };
            rates.kept.write().unwrap().take(&reading, at);
        };
        let rate = || rates.rate(usd).map(|it| it.to_string());
        read("1");
        assert_eq!(rate().as_deref(), Some("1"));
        now.store(1_000_000 - 300, Ordering::Relaxed);
        assert_eq!(rate().as_deref(), Some("1"), "clocks are set right by so much");
        now.store(1_000_000 - 301, Ordering::Relaxed);
        assert_eq!((rate(), rates.status()[0].fresh), (None, false));
        now.store(500_000, Ordering::Relaxed);
        read("1.1");
        assert_eq!(rate().as_deref(), Some("1.1"));
        now.store(500_601, Ordering::Relaxed);
        assert_eq!(rate(), None);
    }

    #[test]
    fn an_older_reading_changes_nothing() {
        let now = known("1", 100);
        assert_eq!(now.after("1.1".parse().unwrap(), UnixSeconds(99), 30), now);
        assert_eq!(
            now.after("1.1".parse().unwrap(), UnixSeconds(100), 30),
            known("1.1", 100),
            "it was corrected"
        );
    }
}
