//! What an answer costs that is paid from a purse, as it passes.

use bytes::Bytes;

use super::Ending;
use crate::clock::Stopwatch;
use crate::nano::Raw;
use crate::usage::{self, Gauge, MeterPlan, Overdraft, UsageSource};

/// Reads what an answer used. Made when the answer begins.
#[derive(Debug)]
pub struct AnswerMeter {
    gauge: Gauge,
    began: Stopwatch,
    /// What was set aside for the request: an overdraft is never larger.
    hold: Raw,
    /// `None` for an answer that is there as a whole when its cost is known.
    overdraft: Option<Overdraft>,
    announces: bool,
    /// The last bytes that have passed.
    tail: Tail,
    /// Whether the cost is counted here: by bytes or by time.
    measures: bool,
}

/// The last bytes of a stream of events.
#[derive(Clone, Copy, Debug)]
struct Tail([u8; 4]);

impl Tail {
    /// Nothing has passed: an event may begin.
    const START: Self = Self([b'\n'; 4]);

    fn part(&mut self, part: &[u8]) {
        let start = part.len().saturating_sub(self.0.len());
        for byte in part.get(start..).unwrap_or_default() {
            let [_, a, b, c] = self.0;
            self.0 = [a, b, c, *byte];
        }
    }

    /// The end of a comment that changes nothing of the stream: between two events a blank line, in an event the end of
    /// a line. `None` within a line, which the comment would become a part of.
    fn end_of_comment(self) -> Option<&'static str> {
        match self.0 {
            [.., b'\n', b'\n' | b'\r'] | [.., b'\r', b'\r'] | [b'\r', b'\n', b'\r', b'\n'] => Some("\n\n"),
            [.., b'\n' | b'\r'] => Some("\n"),
            _ => None,
        }
    }
}

impl AnswerMeter {
    /// Of an answer that begins now, for which `hold` was set aside. `announces`: its end says what it cost.
    #[must_use]
    pub fn begin(gauge: Gauge, plan: &MeterPlan, hold: Raw, is_events: bool, announces: bool) -> Self {
        let grows = match plan.source {
            UsageSource::Bytes | UsageSource::Seconds => true,
            UsageSource::OpenAi | UsageSource::Anthropic | UsageSource::Json(_) => is_events,
            UsageSource::Header => false,
        };
        let measures = matches!(plan.source, UsageSource::Bytes | UsageSource::Seconds);
        let (began, overdraft) = (Stopwatch::start(), grows.then_some(plan.overdraft));
        Self { gauge, began, hold, overdraft, announces, tail: Tail::START, measures }
    }

    /// What the upstream has said of the cost so far.
    #[must_use]
    pub fn known(&self) -> Option<Raw> {
        self.gauge.reported()
    }

    /// A part of the body passes.
    pub(super) fn part(&mut self, part: &[u8]) {
        self.gauge.feed(part);
        if self.announces {
            self.tail.part(part);
        }
    }

    pub(super) fn trailer(&mut self, value: &[u8]) {
        self.gauge.trailer(value);
    }

    /// The cost so far.
    pub(super) fn so_far(&self) -> Raw {
        self.gauge.cost(self.began.elapsed())
    }

    /// Whether the answer is to be cut off that costs so much more than the purse has.
    pub(super) fn cuts(&self, lacking: u128) -> bool {
        match self.overdraft {
            None => false,
            Some(Overdraft::Cut) => lacking > 0,
            Some(Overdraft::Finish) => lacking > self.hold.get(),
        }
    }

    /// The line of a stream of events that says what it cost, at most `most`. It is a comment to every reader.
    pub(super) fn last_words(&self, most: u128) -> Option<Bytes> {
        let end = self.tail.end_of_comment().filter(|_| self.announces)?;
        let cost = self.gauge.clone().finish(usage::Ending::Whole, self.began.elapsed());
        Some(format!(": Faregate-Cost: {}{end}", cost.get().min(most)).into())
    }

    /// Whether what has passed of an answer that broke off is worth what it costs: it is counted here, or the upstream
    /// has said it.
    pub(super) fn counts_parts(&self) -> bool {
        self.measures || self.known().is_some()
    }

    /// What the answer costs, whoever broke it off: a client that reads slowly can have its upstream do that.
    pub(super) fn finish(self, ending: Ending) -> Raw {
        let ending = match ending {
            Ending::Whole => usage::Ending::Whole,
            Ending::ClientGone | Ending::Failed => usage::Ending::BrokenOff,
        };
        self.gauge.finish(ending, self.began.elapsed())
    }
}
