//! One reading of a source of rates: a JSON text, from a file or over HTTP, and what stands in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::redirect::Policy;
use serde::de::IgnoredAny;
use tokio::io::AsyncReadExt;
use url::Url;

use super::RateSettings;
use crate::money::{Currency, Decimal, MoneyError};
use crate::nano::UnixSeconds;
use crate::outbound;
use crate::routes::{ObjectText, array_items};
use crate::usage::Pointer;

/// The longest text that is read, in bytes.
pub const MAX_ANSWER: usize = 256 * 1024;
/// How far ahead of this machine's clock the source's may be, in seconds.
pub(super) const AHEAD: u64 = 300;
/// A rate is at most this, and at least one divided by it.
const HUGE: &str = "1000000000000";
const TINY: &str = "0.000000000001";
/// A number of seconds since 1970 from here on is one of milliseconds. As seconds it would be the year 5138.
const MILLISECONDS_FROM: u64 = 100_000_000_000;

/// Where rates are read.
#[derive(Clone, Eq, PartialEq)]
pub enum RateSource {
    File(PathBuf),
    Url(Url),
}

/// Without path and query of a URL: they may contain keys.
impl fmt::Display for RateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(url) => {
                write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or("?"))?;
                url.port().map_or(Ok(()), |port| write!(f, ":{port}"))
            }
        }
    }
}

impl fmt::Debug for RateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateSource({self})")
    }
}

/// What stands at `pointer` in the JSON text, as it is written; `None` if there is nothing, or if there are several: a
/// name that stands twice in an object means either, depending on who reads it (RFC 8259, section 4).
fn find<'t>(text: &'t str, pointer: &Pointer) -> Option<&'t str> {
    pointer.steps().iter().try_fold(text, |here, step| {
        let place = match ObjectText::at(here, 0) {
            Some(object) => object.only(step)?.value.clone(),
            None => {
                let is_index = step == "0" || !step.starts_with('0');
                let index: usize = step.parse().ok().filter(|_| is_index)?;
                array_items(here, 0)?.get(index)?.clone()
            }
        };
        here.get(place)
    })
}

/// What a source said.
#[derive(Debug)]
pub struct Reading {
    /// When it was true; not after the time of the reading.
    pub at: UnixSeconds,
    pub rates: BTreeMap<Currency, Result<Decimal, RateFault>>,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}")]
    Failed(String),
    #[error("the answer has status {0}")]
    Status(u16),
    #[error("more than {MAX_ANSWER} bytes")]
    TooLong,
    #[error("not JSON: {0}")]
    NotJson(String),
    #[error("{0}")]
    Time(String),
}

/// Why a source has no rate for a currency.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RateFault {
    #[error("there is nothing at {0}, or there are several")]
    Missing(String),
    #[error(transparent)]
    NotDecimal(#[from] MoneyError),
    #[error("a rate of {0}: it must be from {TINY} to {HUGE}")]
    OutOfRange(Decimal),
}

/// Reads the source once, at the time `now`.
///
/// # Errors
/// [`ReadError`]. A currency that is missing there is no error of the whole.
pub async fn read(settings: &RateSettings, now: UnixSeconds) -> Result<Reading, ReadError> {
    let reading = async {
        match &settings.source {
            RateSource::File(path) => file(path).await,
            RateSource::Url(url) => Ok((answer(settings, url).await?, now)),
        }
    };
    let (text, time) = tokio::time::timeout(settings.timeout, reading)
        .await
        .map_err(|_| ReadError::Failed(format!("no answer within {:?}", settings.timeout)))??;
    judged(settings, &text, time, now)
}

/// What is in a file, and when it was written.
async fn file(path: &Path) -> Result<(Vec<u8>, UnixSeconds), ReadError> {
    let failed = |error: std::io::Error| ReadError::Failed(error.to_string());
    // To open a pipe would wait for a writer, and nothing could end that.
    if !tokio::fs::metadata(path).await.map_err(failed)?.is_file() {
        return Err(ReadError::Failed("not a file".to_owned()));
    }
    let file = tokio::fs::File::open(path).await.map_err(failed)?;
    let written = file.metadata().await.and_then(|it| it.modified()).map_err(failed)?;
    let mut text = Vec::new();
    let most = u64::try_from(MAX_ANSWER).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut text).await.map_err(failed)?;
    if text.len() > MAX_ANSWER { Err(ReadError::TooLong) } else { Ok((text, unix(written))) }
}

/// What a server answers. It is not followed elsewhere.
async fn answer(settings: &RateSettings, url: &Url) -> Result<Vec<u8>, ReadError> {
    // The error's own text would show the URL.
    let failed = |error: reqwest::Error| ReadError::Failed(outbound::chain(&error.without_url()));
    let builder =
        outbound::http(&settings.authorities).map_err(|error| ReadError::Failed(outbound::chain(&error)))?;
    let client = builder
        .redirect(Policy::none())
        .timeout(settings.timeout)
        .user_agent(concat!("faregate/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(failed)?;
    let asked = client.get(url.clone()).header("Accept", "application/json");
    let mut response = asked.send().await.map_err(failed)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(ReadError::Status(response.status().as_u16()));
    }
    let mut text = Vec::new();
    while let Some(part) = response.chunk().await.map_err(failed)? {
        text.extend_from_slice(&part);
        if text.len() > MAX_ANSWER {
            return Err(ReadError::TooLong);
        }
    }
    Ok(text)
}

/// What a text says that was read at `now` and is of the time `time` if it says nothing else.
fn judged(
    settings: &RateSettings,
    text: &[u8],
    time: UnixSeconds,
    now: UnixSeconds,
) -> Result<Reading, ReadError> {
    let text = std::str::from_utf8(text).map_err(|error| ReadError::NotJson(error.to_string()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| ReadError::NotJson(error.to_string()))?;
    let at = match &settings.time {
        None => time,
        Some(pointer) => {
            let found = find(text, pointer).and_then(when);
            found.ok_or_else(|| {
                ReadError::Time(format!(
                    "there is no time at {pointer}: neither RFC 3339 in UTC nor seconds since 1970"
                ))
            })?
        }
    };
    if at > now.plus(AHEAD) {
        return Err(ReadError::Time(format!(
            "the rates are of a time {} s ahead of this clock",
            at.since(now)
        )));
    }
    let rates = settings.currencies.iter().map(|(currency, pointer)| {
        let found = find(text, pointer).ok_or_else(|| RateFault::Missing(pointer.to_string()));
        (*currency, found.and_then(rate))
    });
    Ok(Reading { at: at.min(now), rates: rates.collect() })
}

/// A rate: a number, or a text of one.
fn rate(json: &str) -> Result<Decimal, RateFault> {
    let rate = match serde_json::from_str::<String>(json) {
        Ok(text) => Decimal::scientific(&text)?,
        Err(_) => Decimal::scientific(json)?,
    };
    let bounds = (TINY.parse::<Decimal>(), HUGE.parse::<Decimal>());
    match bounds {
        (Ok(least), Ok(most)) if (least..=most).contains(&rate) => Ok(rate),
        _ => Err(RateFault::OutOfRange(rate)),
    }
}

/// A time: RFC 3339 in UTC, or seconds or milliseconds since 1970.
fn when(json: &str) -> Option<UnixSeconds> {
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    let whole = text.split_once('.').map_or(text.as_str(), |(whole, _)| whole);
    if let Ok(number) = whole.parse::<u64>() {
        let seconds = if number >= MILLISECONDS_FROM { number.div_euclid(1000) } else { number };
        return Some(UnixSeconds(seconds));
    }
    let text = text.strip_suffix("+00:00").map_or_else(|| text.clone(), |it| format!("{it}Z"));
    humantime::parse_rfc3339(&text).ok().map(unix)
}

fn unix(time: SystemTime) -> UnixSeconds {
    UnixSeconds(time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixSeconds = UnixSeconds(1_790_000_000);

    fn settings(currencies: &[(&str, &str)], time: Option<&str>) -> RateSettings {
        RateSettings {
            source: RateSource::File(PathBuf::new()),
            every: Duration::from_secs(60),
            at_most_old: 600,
            timeout: Duration::from_secs(5),
            max_change: 30,
            currencies: currencies
                .iter()
                .map(|(currency, at)| (currency.parse().unwrap(), at.parse().unwrap()))
                .collect(),
            time: time.map(|it| it.parse().unwrap()),
            authorities: Vec::new(),
        }
    }

    fn usd(text: &str) -> Result<String, String> {
        let reading = judged(&settings(&[("USD", "/XNO/USD")], None), text.as_bytes(), NOW, NOW);
        let rate = reading.map_err(|it| it.to_string())?.rates.into_values().next().unwrap();
        rate.map(|it| it.to_string()).map_err(|it| it.to_string())
    }

    #[test]
    fn a_rate_is_a_number_or_its_text_to_the_last_digit() {
        for (written, read) in [
            ("0.83", "0.83"),
            ("\"0.83\"", "0.83"),
            // As a floating-point number this is 0.83205000000000007.
            ("0.832050000000000068", "0.832050000000000068"),
            ("8.45e-06", "0.00000845"),
            ("\"25000\"", "25000"),
        ] {
            assert_eq!(
                usd(&format!("{{\"XNO\": {{\"EUR\": 1, \"USD\": {written} }}}}")).as_deref(),
                Ok(read)
            );
        }
    }

    #[test]
    fn what_is_no_sound_rate_is_none() {
        for (written, why) in [
            ("0", "a rate of 0"),
            ("\"0.0\"", "a rate of 0"),
            ("1e13", "must be from"),
            ("1e-13", "must be from"),
            ("-0.83", "not a decimal number"),
            ("null", "not a decimal number"),
            ("true", "not a decimal number"),
            ("\"\"", "not a decimal number"),
            ("\"NaN\"", "not a decimal number"),
            ("\" 0.83\"", "not a decimal number"),
            ("[0.83]", "not a decimal number"),
            ("0.8300000000000000001", "more than 18 digits"),
        ] {
            let found = usd(&format!("{{\"XNO\":{{\"USD\":{written}}}}}")).unwrap_err();
            assert!(found.contains(why), "{written}: {found}");
        }
        let twice = "{\"XNO\":{\"USD\":0.83,\"U\\u0053D\":0.1}}";
        for text in [
            twice,
            "{\"XNO\":{\"USD\":0.83},\"XNO\":{\"USD\":0.1}}",
            "{}",
            "[]",
            "{\"XNO\":{}}",
            "{\"XNO\":0.83}",
            "\"XNO\"",
            "{\"XNO\":{\"usd\":1}}",
        ] {
            assert_eq!(
                usd(text).unwrap_err(),
                "there is nothing at /XNO/USD, or there are several",
                "{text}"
            );
        }
        assert!(usd("{\"XNO\":{\"USD\":0.83}").unwrap_err().contains("not JSON"), "cut off");
        assert!(usd("").unwrap_err().contains("not JSON"));
    }

    /// What CoinGecko's `simple/price` answers with `include_last_updated_at`.
    #[test]
    fn the_answer_of_a_service_is_read_by_pointers() {
        let text = br#"{"nano":{"usd":0.832145,"eur":0.7654,"last_updated_at":1789999940}}"#;
        let settings = settings(&[("USD", "/nano/usd"), ("EUR", "/nano/eur")], Some("/nano/last_updated_at"));
        let reading = judged(&settings, text, NOW, NOW).unwrap();
        assert_eq!(reading.at, UnixSeconds(1_789_999_940));
        let rates: Vec<_> = reading.rates.into_values().map(|it| it.unwrap().to_string()).collect();
        assert_eq!(rates, ["0.7654", "0.832145"]);
        let found = |pointer: &str, text: &str| {
            let pointer: Pointer = pointer.parse().unwrap();
            find(text, &pointer).map(str::to_owned)
        };
        assert_eq!(found("/a/1/b~1c", r#"{"a":[0,{"b/c": 7 }]}"#).as_deref(), Some("7"));
        assert_eq!(found("/~01", r#"{"~1": 7}"#).as_deref(), Some("7"));
        assert_eq!(found("/a/01", r#"{"a":[0,1]}"#), None);
        assert_eq!(found("/a/2", r#"{"a":[0,1]}"#), None);
        assert_eq!(found("/a/0", r#"{"a":[]}"#), None);
        assert_eq!(found("/a/-1", r#"{"a":[0,1]}"#), None);
        assert_eq!(found("/a/b", r#"{"a":"b"}"#), None);
    }

    #[test]
    fn the_time_of_a_reading_is_said_in_several_ways_and_is_not_in_the_future() {
        let at = |time: &str| {
            let text = format!("{{\"XNO\":{{}},\"at\":{time}}}");
            judged(&settings(&[], Some("/at")), text.as_bytes(), UnixSeconds(7), NOW).map(|it| it.at.0)
        };
        for time in [
            "1789999000",
            "1789999000123",
            "\"1789999000\"",
            "1789999000.5",
            "\"2026-09-21T13:56:40Z\"",
            "\"2026-09-21T13:56:40.25+00:00\"",
        ] {
            assert_eq!(at(time).unwrap(), 1_789_999_000, "{time}");
        }
        assert_eq!(at("1790000300").unwrap(), NOW.0, "a clock that is a little ahead");
        assert!(at("1790000301").unwrap_err().to_string().contains("301 s ahead"));
        for time in ["null", "\"yesterday\"", "-5", "\"2026-09-21T13:56:40+02:00\""] {
            assert!(at(time).unwrap_err().to_string().contains("there is no time at /at"), "{time}");
        }
        let no_time = judged(&settings(&[], None), b"{}", UnixSeconds(7), NOW).unwrap();
        assert_eq!(no_time.at, UnixSeconds(7));
    }
}
