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
        Self { gauge, began: Stopwatch::start(), hold, overdraft: grows.then_some(plan.overdraft), announces }
    }

    /// What the upstream has said of the cost so far.
    #[must_use]
    pub fn known(&self) -> Option<Raw> {
        self.gauge.reported()
    }

    /// A part of the body passes.
    pub(super) fn part(&mut self, part: &[u8]) {
        self.gauge.feed(part);
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
        if !self.announces {
            return None;
        }
        let cost = self.gauge.clone().finish(usage::Ending::Whole, self.began.elapsed());
        Some(format!(": Faregate-Cost: {}\n\n", cost.get().min(most)).into())
    }

    /// What the answer costs. One that its upstream broke off costs what was reported.
    pub(super) fn finish(self, ending: Ending) -> Raw {
        let elapsed = self.began.elapsed();
        match ending {
            Ending::Whole => self.gauge.finish(usage::Ending::Whole, elapsed),
            Ending::ClientGone => self.gauge.finish(usage::Ending::BrokenOff, elapsed),
            Ending::Failed => self.gauge.reported().unwrap_or(Raw::ZERO),
        }
    }
}
