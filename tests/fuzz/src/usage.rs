//! Answers that are charged for what they use: in pieces as whole, and by the counts that a second parser reads.

use std::time::Duration;

use faregate::nano::Raw;
use faregate::usage::{
    AnswerHead, Ending, Gauge, JsonPointers, MAX_COUNT, MeterPlan, Overdraft, Per, Rate, Rates, UsageSource,
};
use jiter::JsonValue;
use serde_json::Value;

use crate::json;

/// The most memory that may be kept of an answer, in bytes.
const MOST: usize = 256 * 1024;
const MAX_DEPTH: usize = 128;
const HOLD: Raw = Raw::new(1_000);
const KINDS: [&[u8]; 4] =
    [b"text/event-stream", b"application/json", b"application/x-ndjson", b"application/octet-stream"];

fn rate(line: &str, input: u128) -> Rate {
    let [input, output] = [Raw::new(input), Raw::new(10)];
    Rate { line: line.to_owned(), input, cached: input, output, per: Per::One, ..Rate::default() }
}

fn plan(choice: u8) -> MeterPlan {
    let pointers = |cost: &str| JsonPointers {
        model: "/model".parse().ok(),
        input: "/usage/a".parse().ok().filter(|_| cost.is_empty()),
        output: "/b/1/c".parse().ok().filter(|_| cost.is_empty()),
        cost: cost.parse().ok(),
        ..JsonPointers::default()
    };
    let source = match choice % 4 {
        0 => UsageSource::OpenAi,
        1 => UsageSource::Anthropic,
        2 => UsageSource::Json(pointers("")),
        _ => UsageSource::Json(pointers("/usage/cost")),
    };
    MeterPlan {
        deposit: Raw::new(1_000_000),
        seconds: 60,
        source,
        rates: Rates::new([rate("m", 2), rate("*", 3)]),
        hold: HOLD,
        overdraft: Overdraft::default(),
        announce: false,
        ask_usage: true,
    }
}

/// The first byte says how the rest is read: as an answer, and as a request.
pub fn run(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let plan = plan(choice);
    let content_type = KINDS[usize::from(choice / 4 % 4)];
    check_pieces(&plan, content_type, body, usize::from(choice / 16) + 1);
    if plan.source == UsageSource::OpenAi {
        check_request(&plan, body);
        check_counts(&plan, body);
    }
}

fn gauge(plan: &MeterPlan, content_type: &[u8]) -> Gauge {
    let admitted = plan.admit(Some(br#"{"model":"m"}"#)).expect("a plain request");
    plan.gauge(
        &admitted,
        AnswerHead { status: 200, content_type: Some(content_type), ..AnswerHead::default() },
    )
}

fn check_pieces(plan: &MeterPlan, content_type: &[u8], body: &[u8], step: usize) {
    let (mut whole, mut parts) = (gauge(plan, content_type), gauge(plan, content_type));
    whole.feed(body);
    for part in body.chunks(step) {
        parts.feed(part);
        assert!(parts.held() <= MOST, "{} bytes are kept", parts.held());
    }
    let end = |gauge: &Gauge, ending| gauge.clone().finish(ending, Duration::ZERO);
    assert_eq!(parts.reported(), whole.reported());
    assert_eq!(parts.cost(Duration::ZERO), whole.cost(Duration::ZERO));
    for ending in [Ending::Whole, Ending::BrokenOff] {
        assert_eq!(end(&parts, ending), end(&whole, ending), "{ending:?}");
        assert!(whole.reported().is_some() || content_type == KINDS[2] || end(&whole, ending) <= HOLD);
    }
}

/// A count as a second parser sees it; `None` if it is none.
fn count(usage: &JsonValue<'_>, name: &str) -> Option<u64> {
    match json::field(usage, name) {
        Some(JsonValue::Int(it)) => u64::try_from(*it).ok().filter(|it| *it <= MAX_COUNT),
        _ => None,
    }
}

/// Of a JSON answer that a second parser reads, the same counts are charged.
fn check_counts(plan: &MeterPlan, body: &[u8]) {
    let Ok(value) = JsonValue::parse(body, false) else { return };
    let JsonValue::Object(fields) = &value else { return };
    if body.iter().filter(|it| matches!(it, b'[' | b'{')).count() > MAX_DEPTH {
        return; // which the second parser may read
    }
    let mut gauge = gauge(plan, KINDS[1]);
    gauge.feed(body);
    let usage = json::field(&value, "usage");
    let is_one = fields.iter().filter(|(key, _)| key == "usage").count() == 1;
    let Some(usage @ JsonValue::Object(counts)) = usage else {
        assert!(gauge.reported().is_none() || !is_one, "reported nowhere");
        return;
    };
    const KNOWN: [&str; 3] = ["prompt_tokens", "completion_tokens", "total_tokens"];
    let are_known = counts.iter().all(|(key, _)| KNOWN.contains(&&**key));
    let is_plain =
        |it: &&str| counts.iter().filter(|(key, _)| key == it).count() == 1 && count(usage, it).is_some();
    if is_one && are_known && KNOWN.iter().all(is_plain) {
        let [input, output] =
            ["prompt_tokens", "completion_tokens"].map(|it| u128::from(count(usage, it).unwrap_or_default()));
        // No line but that of `m` is for a model by its name.
        assert_eq!(gauge.reported(), Some(Raw::new(input * 2 + output * 10)), "what is plain is read");
    }
}

/// What is read of a request is what a second parser reads, and what is made of it differs in the usage alone.
fn check_request(plan: &MeterPlan, body: &[u8]) {
    let Ok(admitted) = plan.admit(Some(body)) else { return };
    let value: Value = serde_json::from_slice(body).expect("JSON");
    // The second parser has no type for integers beyond 64 bits.
    if let Ok(read) = JsonValue::parse(body, false) {
        let line = if json::text(&read, "model") == Some("m") { "m" } else { "*" };
        assert_eq!(admitted.rate.line, line);
        assert!(json::is_read_as(&value, &read));
    }
    let Some(made) = admitted.body else { return };
    let mut made: Value = serde_json::from_slice(&made).expect("JSON");
    let options = made.get_mut("stream_options").and_then(Value::as_object_mut).expect("options");
    assert_eq!(options.remove("include_usage"), Some(Value::Bool(true)));
    if let Some(refused) = value.pointer("/stream_options/include_usage") {
        assert_eq!(*refused, Value::Bool(false));
        options.insert("include_usage".to_owned(), refused.clone());
    }
    if options.is_empty() && value.get("stream_options").is_none_or(Value::is_null) {
        let put = made.as_object_mut().expect("an object");
        match value.get("stream_options") {
            Some(_) => drop(put.insert("stream_options".to_owned(), Value::Null)),
            None => drop(put.remove("stream_options")),
        }
    }
    assert!(json::is_same(&made, &value), "{made} was made of {value}");
}
