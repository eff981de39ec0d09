//! Reads one answer as it passes, and says what it costs.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::events::{Events, Lines};
use super::pointer::{JsonPointers, Pointer};
use super::rates::{Counts, Rate, Rates};
use super::scan::{Extent, Place, Places, Role, Scanner, Step};
use super::tally::{Format, Report, Tally, amount};
use super::{Admitted, MeterPlan, UsageSource};
use crate::nano::Raw;

/// How many bytes of a text are taken for a token where an answer broke off and reported nothing. English has four,
/// Chinese less than three: whoever leaves early should not gain by it, nor pay for four tokens where there was one.
const BYTES_PER_TOKEN: u64 = 3;

/// What is known of an answer when it begins.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct AnswerHead<'a> {
    pub status: u16,
    /// The value of `Content-Type`.
    pub content_type: Option<&'a [u8]>,
    /// Whether it has a `Content-Encoding`: then nothing can be read of its body.
    pub is_encoded: bool,
    /// The value of `Faregate-Cost`.
    pub cost_header: Option<&'a [u8]>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// All of it was handed on.
    Whole,
    /// The client or the upstream left in the middle.
    BrokenOff,
}

/// Reads one answer as it passes.
#[derive(Clone, Debug)]
pub struct Gauge {
    by: By,
    rates: Rates,
    /// The rate of the model that the request names.
    rate: Arc<Rate>,
    hold: Raw,
    /// Whether the upstream says amounts, so that nothing can be estimated.
    says_amount: bool,
    request_bytes: u64,
    /// Whether the upstream said that it did what was asked (2xx).
    is_success: bool,
    /// The bytes of the body so far.
    sent: u64,
}

/// What is gone by.
#[derive(Clone, Debug)]
enum By {
    Reports(Reader, Tally),
    /// The last value of `Faregate-Cost`; the inner is `None` if it is no amount.
    Header(Option<Option<Raw>>),
    Bytes,
    Seconds,
}

/// How a body is read.
#[derive(Clone, Debug)]
enum Reader {
    Document(Box<Scanner>),
    Events(Box<Events>),
    Lines(Box<Lines>),
    /// It cannot be read.
    Opaque,
}

/// What is known of the cost.
enum Known {
    Nothing,
    Cost(Raw),
    /// What was reported cannot be.
    Faulty,
}

impl Gauge {
    pub(super) fn new(plan: &MeterPlan, admitted: &Admitted, head: AnswerHead<'_>) -> Self {
        let by = match &plan.source {
            UsageSource::OpenAi => By::Reports(Reader::new(head, &openai_places), Tally::new(Format::OpenAi)),
            UsageSource::Anthropic => {
                By::Reports(Reader::new(head, &anthropic_places), Tally::new(Format::Anthropic))
            }
            UsageSource::Json(pointers) => {
                By::Reports(Reader::new(head, &|_| places(pointers)), Tally::new(Format::Json))
            }
            UsageSource::Header => By::Header(head.cost_header.map(amount)),
            UsageSource::Bytes => By::Bytes,
            UsageSource::Seconds => By::Seconds,
        };
        Self {
            by,
            rates: plan.rates.clone(),
            rate: Arc::clone(&admitted.rate),
            hold: admitted.hold,
            says_amount: plan.source.says_amount(),
            request_bytes: admitted.request_bytes,
            is_success: (200..300).contains(&head.status),
            sent: 0,
        }
    }

    /// A part of the body passes.
    pub fn feed(&mut self, part: &[u8]) {
        self.sent = self.sent.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        if let By::Reports(reader, tally) = &mut self.by {
            reader.feed(part, tally);
        }
    }

    /// The value of a trailer `Faregate-Cost`. It counts instead of the header.
    pub fn trailer(&mut self, value: &[u8]) {
        if let By::Header(cost) = &mut self.by {
            *cost = Some(amount(value));
        }
    }

    /// The cost of what the upstream has reported so far; `None` if it has reported nothing, or what cannot be.
    #[must_use]
    pub fn reported(&self) -> Option<Raw> {
        match self.known() {
            Known::Cost(cost) => Some(cost),
            Known::Nothing | Known::Faulty => None,
        }
    }

    /// The cost so far, after so much time since the answer began. Where nothing was reported, it is estimated by the
    /// bytes that have passed, and at most the hold.
    #[must_use]
    pub fn cost(&self, elapsed: Duration) -> Raw {
        match (&self.by, self.known()) {
            (By::Bytes | By::Seconds, _) => self.measured(elapsed),
            (_, Known::Cost(cost)) => cost,
            (_, Known::Faulty) => self.hold,
            (By::Reports(..), Known::Nothing) if self.is_success && !self.has_failed() => self.estimate(),
            (By::Reports(..) | By::Header(_), Known::Nothing) => Raw::ZERO,
        }
    }

    /// What the answer costs, which took so much time since it began.
    ///
    /// That is what was reported or measured; it can be more than was held. The hold is what it costs if
    ///
    /// * what was reported cannot be: counts that are no whole numbers from 0 to [`MAX_COUNT`](super::MAX_COUNT), that
    ///   contradict each other, or that are there twice; an amount that is none or over 2^128 - 1 raw;
    /// * a successful answer (2xx) ended, and nothing was reported.
    ///
    /// Any other answer that reports nothing costs nothing, and so does a stream that ended in an error. A successful one that broke off before anything was
    /// reported costs what its bytes and those of the request come to, each three of them a token, and at most the
    /// hold; where the upstream says amounts, the hold.
    #[must_use]
    pub fn finish(mut self, ending: Ending, elapsed: Duration) -> Raw {
        if let (By::Reports(Reader::Lines(lines), tally), Ending::Whole) = (&mut self.by, ending) {
            lines.end(|it| tally.read(it));
        }
        match (&self.by, self.known()) {
            (By::Bytes | By::Seconds, _) => self.measured(elapsed),
            (_, Known::Cost(cost)) => cost,
            (_, Known::Faulty) => self.hold,
            (_, Known::Nothing) if !self.is_success || self.has_failed() => Raw::ZERO,
            (By::Reports(..) | By::Header(_), Known::Nothing) => match ending {
                Ending::BrokenOff if !self.says_amount => self.estimate(),
                Ending::BrokenOff | Ending::Whole => self.hold,
            },
        }
    }

    /// Whether an event has said that the answer failed, of which the status could say nothing.
    const fn has_failed(&self) -> bool {
        matches!(&self.by, By::Reports(_, tally) if tally.has_failed())
    }

    /// The memory that is kept of the answer, in bytes.
    #[must_use]
    pub fn held(&self) -> usize {
        match &self.by {
            By::Reports(reader, _) => reader.scanner().map_or(0, Scanner::held),
            By::Header(_) | By::Bytes | By::Seconds => 0,
        }
    }

    fn known(&self) -> Known {
        let cost = match &self.by {
            By::Bytes | By::Seconds | By::Header(None) => return Known::Nothing,
            By::Header(Some(cost)) => *cost,
            By::Reports(_, tally) => match tally.report() {
                Report::Nothing => return Known::Nothing,
                Report::Faulty => None,
                Report::Amount(cost) => Some(cost),
                Report::Counts(counts) => {
                    let named = tally.model().and_then(|it| self.rates.named(it));
                    named.unwrap_or(&self.rate).price(&counts)
                }
            },
        };
        cost.map_or(Known::Faulty, Known::Cost)
    }

    /// The cost by bytes and by time, of which a rate has at most one. What cannot be represented costs the hold.
    fn measured(&self, elapsed: Duration) -> Raw {
        let measured = match &self.by {
            By::Seconds => self.rate.price_of_time(elapsed),
            By::Bytes => self.rate.price(&Counts { bytes: self.sent, ..Counts::default() }),
            By::Reports(..) | By::Header(_) => None,
        };
        measured.unwrap_or(self.hold)
    }

    /// What the text that has passed may have cost; at most the hold.
    fn estimate(&self) -> Raw {
        let text = match &self.by {
            By::Reports(reader, _) => reader.text().unwrap_or(self.sent),
            By::Header(_) | By::Bytes | By::Seconds => self.sent,
        };
        let input = self.request_bytes.div_ceil(BYTES_PER_TOKEN);
        let output = text.div_ceil(BYTES_PER_TOKEN);
        let is_together = self.rate.input.is_zero() && self.rate.output.is_zero();
        let tokens = if is_together { input.saturating_add(output) } else { 0 };
        let counts = Counts { input, output, tokens, ..Counts::default() };
        self.rate.price(&counts).map_or(self.hold, |it| it.min(self.hold))
    }
}

impl Reader {
    /// How the body of an answer is read. `places` says what is looked for, in events or else.
    fn new(head: AnswerHead<'_>, places: &dyn Fn(bool) -> Places) -> Self {
        let kind = head.content_type.unwrap_or_default();
        let kind = kind.split(|it| *it == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        let is_json =
            kind == b"application/json" || (kind.starts_with(b"application/") && kind.ends_with(b"+json"));
        let are_lines =
            [&b"application/x-ndjson"[..], b"application/ndjson", b"application/jsonl"].contains(&&*kind);
        if head.is_encoded {
            Self::Opaque
        } else if kind == b"text/event-stream" {
            Self::Events(Box::new(Events::new(places(true))))
        } else if are_lines {
            Self::Lines(Box::new(Lines::new(places(false))))
        } else if is_json {
            Self::Document(Box::new(Scanner::new(places(false))))
        } else {
            Self::Opaque
        }
    }

    fn feed(&mut self, part: &[u8], tally: &mut Tally) {
        match self {
            Self::Opaque => {}
            Self::Events(events) => events.feed(part, |it| tally.read(it)),
            Self::Lines(lines) => lines.feed(part, |it| tally.read(it)),
            Self::Document(scanner) => {
                let before = (scanner.changes(), scanner.extent());
                scanner.feed(part);
                if before != (scanner.changes(), scanner.extent()) {
                    // Whoever leaves just before the end has what was reported.
                    *tally = tally.again();
                    tally.read(scanner);
                    if scanner.extent() == Extent::Broken && tally.report() != Report::Nothing {
                        tally.spoil();
                    }
                }
            }
        }
    }

    /// The bytes of the texts that have passed, where they can be told from what is around them.
    fn text(&self) -> Option<u64> {
        match self {
            Self::Events(events) if events.scanner().counts_text() => Some(events.scanner().text()),
            Self::Events(_) | Self::Lines(_) | Self::Document(_) | Self::Opaque => None,
        }
    }

    fn scanner(&self) -> Option<&Scanner> {
        match self {
            Self::Document(scanner) => Some(scanner),
            Self::Events(events) => Some(events.scanner()),
            Self::Lines(lines) => Some(lines.scanner()),
            Self::Opaque => None,
        }
    }
}

/// Builds a static place: `place!(Usage: "response", "usage")`; `_` is any step.
macro_rules! place {
    (@step _) => { Step::Any };
    (@step $step:literal) => { Step::To(Cow::Borrowed($step)) };
    ($role:ident: $($step:tt)/+) => {
        Place { role: Role::$role, path: Cow::Borrowed(&[$(place!(@step $step)),+]) }
    };
}

fn openai_places(are_events: bool) -> Places {
    static DOCUMENT: &[Place] = &[place!(Model: "model"), place!(Usage: "usage")];
    static EVENTS: &[Place] = &[
        place!(Model: "model"),
        place!(Usage: "usage"),
        place!(Type: "type"),
        place!(Error: "error"),
        place!(ModelWithin: "response" / "model"),
        place!(UsageWithin: "response" / "usage"),
        place!(Text: "delta"),
        place!(Text: "choices" / _ / "text"),
        place!(Text: "choices" / _ / "delta" / "content"),
        place!(Text: "choices" / _ / "delta" / "reasoning"),
        place!(Text: "choices" / _ / "delta" / "reasoning_content"),
        place!(Text: "choices" / _ / "delta" / "refusal"),
        place!(Text: "choices" / _ / "delta" / "tool_calls" / _ / "function" / "arguments"),
    ];
    Places::Fixed(if are_events { EVENTS } else { DOCUMENT })
}

fn anthropic_places(are_events: bool) -> Places {
    static DOCUMENT: &[Place] = &[place!(Model: "model"), place!(Usage: "usage")];
    static EVENTS: &[Place] = &[
        place!(Type: "type"),
        place!(Usage: "usage"),
        place!(ModelWithin: "message" / "model"),
        place!(UsageWithin: "message" / "usage"),
        place!(Text: "delta" / "text"),
        place!(Text: "delta" / "thinking"),
        place!(Text: "delta" / "partial_json"),
    ];
    Places::Fixed(if are_events { EVENTS } else { DOCUMENT })
}

fn places(pointers: &JsonPointers) -> Places {
    let place = |role, pointer: &Option<Pointer>| {
        let steps = pointer.as_ref()?.steps();
        let path = steps.iter().map(|it| Step::To(Cow::Owned(it.clone()))).collect();
        Some(Place { role, path })
    };
    let all = [
        place(Role::Model, &pointers.model),
        place(Role::Input, &pointers.input),
        place(Role::Cached, &pointers.cached),
        place(Role::Output, &pointers.output),
        place(Role::Tokens, &pointers.tokens),
        place(Role::Cost, &pointers.cost),
    ];
    Places::Given(all.into_iter().flatten().collect())
}
