//! Rates by model, and the exact price of what was counted.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::nano::Raw;

/// The name of the line for every model that has none of its own.
const ANY: &str = "*";
const NANOS: u128 = 1_000_000_000;

vocabulary! {
    /// For how many tokens, bytes or seconds a rate is.
    #[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
    pub enum Per {
        One = "1",
        Thousand = "1k",
        #[default]
        Million = "1M",
    }
    /// The name in the configuration.
    pub fn as_str;
}

impl Per {
    const fn units(self) -> u128 {
        match self {
            Self::One => 1,
            Self::Thousand => 1_000,
            Self::Million => 1_000_000,
        }
    }
}

/// What a model charges: amounts for each [`Rate::per`] of what is counted. What is not charged for is zero.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Rate {
    /// The model's name, or `*`.
    pub line: String,
    /// Tokens of the request that are not from a cache.
    pub input: Raw,
    /// Tokens of the request from a cache.
    pub cached: Raw,
    /// Tokens of the request that are written into a cache.
    pub cache_write: Raw,
    /// Tokens of the answer.
    pub output: Raw,
    /// Tokens that are counted together.
    pub tokens: Raw,
    /// Bytes of the answer's body.
    pub bytes: Raw,
    /// Seconds that the answer takes.
    pub seconds: Raw,
    pub per: Per,
}

/// What was counted of one answer; each at the rate of the same name. The parts of the input do not overlap.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counts {
    pub input: u64,
    pub cached: u64,
    pub cache_write: u64,
    pub output: u64,
    pub tokens: u64,
    pub bytes: u64,
}

impl Rate {
    /// What `counts` cost, rounded up once; `None` if that is more than 2^128 - 1 raw.
    #[must_use]
    pub fn price(&self, counts: &Counts) -> Option<Raw> {
        let parts = [
            (counts.input, self.input),
            (counts.cached, self.cached),
            (counts.cache_write, self.cache_write),
            (counts.output, self.output),
            (counts.tokens, self.tokens),
            (counts.bytes, self.bytes),
        ];
        priced(&parts, self.per.units())
    }

    /// What this time costs, to the nanosecond and rounded up; `None` if that is more than 2^128 - 1 raw.
    #[must_use]
    pub fn price_of_time(&self, elapsed: Duration) -> Option<Raw> {
        let nanos = u64::try_from(elapsed.as_nanos()).ok()?;
        priced(&[(nanos, self.seconds)], self.per.units().checked_mul(NANOS)?)
    }

    /// The most that so many tokens of input and output can cost, whatever of the input is cached; `None` if that is
    /// more than 2^128 - 1 raw.
    pub(super) fn at_most(&self, input: u64, output: u64) -> Option<Raw> {
        let dearest = self.input.max(self.cached).max(self.cache_write);
        priced(&[(input, dearest), (output, self.output)], self.per.units())
    }

    /// Whether nothing costs anything.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.amounts().iter().all(|(_, amount)| amount.is_zero())
    }

    fn amounts(&self) -> [(&'static str, Raw); 7] {
        [
            ("input", self.input),
            ("cached", self.cached),
            ("cache_write", self.cache_write),
            ("output", self.output),
            ("tokens", self.tokens),
            ("bytes", self.bytes),
            ("seconds", self.seconds),
        ]
    }
}

/// `gpt-4o-mini: input 0.15 XNO, cached 0.075 XNO, output 0.6 XNO per 1M`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.line)?;
        let is_told = |(name, amount): &(&str, Raw)| match *name {
            // If nothing else is said, they are input as any other.
            "cached" | "cache_write" => *amount != self.input,
            _ => !amount.is_zero(),
        };
        let charged = self.amounts().into_iter().filter(is_told);
        let mut separator = " ";
        for (name, amount) in charged {
            write!(f, "{separator}{name} {}", amount.xno())?;
            separator = ", ";
        }
        if self.is_free() { f.write_str(" free") } else { write!(f, " per {}", self.per.as_str()) }
    }
}

/// The sum of counts times rates, each rate for so many `units`, rounded up once.
///
/// A rate is split into whole raw for each unit and a rest below `units`, so that nothing is multiplied that could not
/// be represented if the sum can.
fn priced(parts: &[(u64, Raw)], units: u128) -> Option<Raw> {
    let (mut whole, mut rest) = (0_u128, 0_u128);
    for (count, rate) in parts {
        let count = u128::from(*count);
        let each = rate.get().checked_div(units)?;
        let over = rate.get().checked_rem(units)?;
        whole = whole.checked_add(count.checked_mul(each)?)?;
        rest = rest.checked_add(count.checked_mul(over)?)?;
    }
    let rest = rest.checked_add(units)?.checked_sub(1)?.checked_div(units)?;
    whole.checked_add(rest).map(Raw::new)
}

/// The rates of a route, by the names of models.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rates(Arc<BTreeMap<String, Arc<Rate>>>);

impl Rates {
    /// The rates on these lines; `*` is for every model that has no line.
    #[must_use]
    pub fn new(lines: impl IntoIterator<Item = Rate>) -> Self {
        Self(Arc::new(lines.into_iter().map(|it| (it.line.clone(), Arc::new(it))).collect()))
    }

    /// No rates, for an upstream that says amounts.
    #[must_use]
    pub fn none() -> Self {
        Self::new([Rate { line: ANY.to_owned(), ..Rate::default() }])
    }

    /// Every line, by name.
    pub fn lines(&self) -> impl Iterator<Item = &Rate> {
        self.0.values().map(|it| &**it)
    }

    /// Whether a line is for a model by its name.
    #[must_use]
    pub fn names_models(&self) -> bool {
        self.0.keys().any(|it| it != ANY)
    }

    /// The rate of a request that names this model, or none; `None` if there is no line for it.
    pub(super) fn of_request(&self, model: Option<&str>) -> Option<Arc<Rate>> {
        model.and_then(|it| self.named(it)).or_else(|| self.0.get(ANY)).cloned()
    }

    /// The line of that very model. An answer often names a model by a longer name than the request, which has no
    /// line: that does not make it any other model.
    pub(super) fn named(&self, model: &str) -> Option<&Arc<Rate>> {
        self.0.get(model).filter(|_| model != ANY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(input: u128, output: u128, per: Per) -> Rate {
        Rate { input: Raw::new(input), output: Raw::new(output), per, ..Rate::default() }
    }

    #[test]
    fn a_price_is_rounded_up_once() {
        let rate = rate(1, 2, Per::Million);
        let price = |input, output| rate.price(&Counts { input, output, ..Counts::default() });
        assert_eq!(price(0, 0), Some(Raw::ZERO));
        assert_eq!(price(1, 0), Some(Raw::new(1)));
        assert_eq!(price(1, 1), Some(Raw::new(1)));
        assert_eq!(price(1_000_000, 0), Some(Raw::new(1)));
        assert_eq!(price(600_000, 200_000), Some(Raw::new(1)));
        assert_eq!(price(600_000, 200_001), Some(Raw::new(2)));
    }

    #[test]
    fn a_price_that_cannot_be_paid_is_none_and_nothing_overflows() {
        let all = rate(u128::MAX, u128::MAX, Per::Million);
        let price = |input, output| all.price(&Counts { input, output, ..Counts::default() });
        assert_eq!(price(1_000_000, 0), Some(Raw::MAX));
        assert_eq!(price(500_000, 500_000), Some(Raw::MAX));
        assert_eq!(price(1_000_000, 1), None);
        assert_eq!(price(u64::MAX, u64::MAX), None);
        let time = Rate { seconds: Raw::MAX, per: Per::One, ..Rate::default() };
        assert_eq!(time.price_of_time(Duration::from_secs(1)), Some(Raw::MAX));
        assert_eq!(time.price_of_time(Duration::from_nanos(1_000_000_001)), None);
        assert_eq!(time.price_of_time(Duration::MAX), None);
    }

    #[test]
    fn time_is_priced_to_the_nanosecond() {
        let hour = Rate { seconds: Raw::new(7), per: Per::One, ..Rate::default() };
        assert_eq!(hour.price_of_time(Duration::ZERO), Some(Raw::ZERO));
        assert_eq!(hour.price_of_time(Duration::from_nanos(1)), Some(Raw::new(1)));
        assert_eq!(hour.price_of_time(Duration::from_secs(3600)), Some(Raw::new(25_200)));
        assert_eq!(hour.price_of_time(Duration::from_millis(1500)), Some(Raw::new(11)));
    }

    #[test]
    fn a_rate_says_what_it_charges_for() {
        let mini = Rate {
            line: "mini".to_owned(),
            input: Raw::with_unit("0.15 XNO").unwrap(),
            cache_write: Raw::with_unit("0.15 XNO").unwrap(),
            output: Raw::with_unit("0.6 XNO").unwrap(),
            ..Rate::default()
        };
        assert_eq!(mini.to_string(), "mini: input 0.15 XNO, cached 0 XNO, output 0.6 XNO per 1M");
        assert_eq!(Rates::none().of_request(None).unwrap().to_string(), "*: free");
    }
}
