//! Where spans of requests are sent.

use std::fmt;

use serde_yaml::Value;
use url::Url;

use super::judge::{Judge, Judged, all};
use super::mirror::{Piece, TracingFile};
use super::web_address;

/// Where a collector takes traces, if its address has no path: OTLP 1.x, "OTLP/HTTP Request".
const PATH: &str = "/v1/traces";

/// Where spans are sent, and of how many requests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tracing {
    /// Takes OTLP by HTTP.
    pub otlp: Url,
    /// Of the requests with which a trace begins.
    pub sample: Sample,
}

/// A share of requests, from 0 to 1. It keeps the number's bits, so that it can be compared.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Sample(u64);

impl Sample {
    /// `None` for a number that is no share.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then(|| Self(share.to_bits()))
    }

    #[must_use]
    pub const fn share(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl Default for Sample {
    /// One request in ten.
    fn default() -> Self {
        Self(0.1_f64.to_bits())
    }
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sample({})", self.share())
    }
}

pub(super) fn tracing(judge: &mut Judge<'_>, file: TracingFile) -> Judged<Tracing> {
    let hint = "write `otlp: http://127.0.0.1:4318`: a collector that takes OTLP by HTTP";
    all!(Tracing { otlp: judge.need_text(file.otlp, hint, collector), sample: sample(judge, file.sample) })
}

fn collector(text: &str) -> Result<Url, String> {
    let mut url = web_address::parse(text, web_address::HTTP)?;
    if url.query().is_some() {
        return Err("a query has no meaning here".to_owned());
    }
    if url.path() == "/" {
        url.set_path(PATH);
    }
    Ok(url)
}

fn sample(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Sample> {
    let path = piece.path.clone();
    let hint = "write a number from 0 (none) to 1 (all), such as `sample: 0.1`";
    let Some(value) = judge.get(piece, hint)? else { return Ok(Sample::default()) };
    // Text is read too, since a variable's value is text.
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.and_then(Sample::new).ok_or_else(|| judge.refuse(&path, "not a share of requests", hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_asked_at_the_path_of_the_specification_unless_another_is_named() {
        for (text, url) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://collector.example/", "https://collector.example/v1/traces"),
            ("https://collector.example/otlp/v1/traces", "https://collector.example/otlp/v1/traces"),
        ] {
            assert_eq!(collector(text).unwrap().as_str(), url, "{text}");
        }
        for text in ["grpc://127.0.0.1:4317", "http://a:b@127.0.0.1", "http://127.0.0.1?key=1", "here"] {
            assert!(collector(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_share_is_a_number_from_0_to_1() {
        for share in [0.0, 0.1, 1.0] {
            assert_eq!(Sample::new(share).unwrap().share().to_bits(), share.to_bits());
        }
        for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Sample::new(share), None, "{share}");
        }
        assert_eq!(format!("{:?}", Sample::default()), "Sample(0.1)");
    }
}
