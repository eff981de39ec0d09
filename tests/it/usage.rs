//! What answers cost that are charged for what they use: as real servers write them, as none should, and in any pieces.

mod answers;
mod configured;
mod hostile;

use std::time::Duration;

use faregate::nano::Raw;
use faregate::usage::{
    Admitted, AnswerHead, Counts, Ending, Gauge, MAX_COUNT, MeterPlan, NoRate, Overdraft, Per, Rate, Rates,
    UsageSource,
};
use proptest::prelude::*;

const HOLD: u128 = 1_000_000;
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream; charset=utf-8";

/// One raw for a cached token, 2 for one that is not, 3 for one that is written into the cache, 10 for one of output.
fn rate(line: &str) -> Rate {
    Rate {
        line: line.to_owned(),
        input: Raw::new(2),
        cached: Raw::new(1),
        cache_write: Raw::new(3),
        output: Raw::new(10),
        tokens: Raw::new(5),
        bytes: Raw::new(7),
        seconds: Raw::new(100),
        per: Per::One,
    }
}

fn plan(source: UsageSource) -> MeterPlan {
    let dear = Rate { output: Raw::new(1000), ..rate("dear") };
    MeterPlan {
        deposit: Raw::new(10 * HOLD),
        seconds: 3600,
        source,
        rates: Rates::new([rate("mini"), dear, Rate { input: Raw::new(4), ..rate("*") }]),
        hold: Raw::new(HOLD),
        overdraft: Overdraft::default(),
        announce: false,
        ask_usage: false,
    }
}

/// A request for `mini` that does not bound itself.
fn admitted(plan: &MeterPlan) -> Admitted {
    plan.admit(Some(br#"{"model":"mini","messages":[]}"#)).unwrap()
}

fn head(content_type: &str) -> AnswerHead<'_> {
    AnswerHead { status: 200, content_type: Some(content_type.as_bytes()), ..AnswerHead::default() }
}

fn read(source: &UsageSource, content_type: &str, body: &[u8]) -> Gauge {
    let plan = plan(source.clone());
    let mut gauge = plan.gauge(&admitted(&plan), head(content_type));
    gauge.feed(body);
    gauge
}

/// What a whole answer costs, and what was reported of it before it ended.
fn cost(source: &UsageSource, content_type: &str, body: &str) -> (u128, Option<u128>) {
    let gauge = read(source, content_type, body.as_bytes());
    let reported = gauge.reported().map(Raw::get);
    (gauge.finish(Ending::Whole, Duration::ZERO).get(), reported)
}

fn broken_off(source: &UsageSource, content_type: &str, body: &str) -> u128 {
    read(source, content_type, body.as_bytes()).finish(Ending::BrokenOff, Duration::ZERO).get()
}

#[test]
fn a_request_is_held_for_what_it_can_cost() {
    let plan = plan(UsageSource::OpenAi);
    let hold = |body: &str| plan.admit(Some(body.as_bytes())).map(|it| it.hold.get());
    for (body, output) in [
        (r#"{"model":"mini","max_tokens":100}"#, 100),
        (r#"{"model":"mini","max_completion_tokens":100,"n":3}"#, 300),
        (r#"{"model":"mini","max_output_tokens":7,"input":"a"}"#, 7),
    ] {
        // Each byte of the request could be a token of input, at the dearest rate.
        assert_eq!(hold(body), Ok(body.len() as u128 * 3 + output * 10), "{body}");
    }
    let other = r#"{"model":"other","max_tokens":1}"#;
    assert_eq!(hold(other), Ok(other.len() as u128 * 4 + 10));
    assert_eq!(hold(r#"{"model":"mini"}"#), Ok(HOLD));
    assert_eq!(hold(r#"{"model":"mini","previous_response_id":"a","max_tokens":1}"#), Ok(HOLD));
    let large = r#"{"model":"dear","previous_response_id":"a","max_tokens":100000}"#;
    assert!(hold(large).unwrap() > HOLD);
    assert_eq!(plan.admit(None).unwrap_err(), NoRate::NoBody);
}

#[test]
fn a_request_whose_output_is_free_is_held_for_its_input() {
    let embeddings = Rate { output: Raw::ZERO, ..rate("embed") };
    let plan = MeterPlan { rates: Rates::new([embeddings]), ..plan(UsageSource::OpenAi) };
    let body = br#"{"model":"embed","input":["a","b"]}"#;
    assert_eq!(plan.admit(Some(body)).unwrap().hold.get(), body.len() as u128 * 3);
}

#[test]
fn a_model_without_a_rate_is_refused() {
    let plan = MeterPlan { rates: Rates::new([rate("mini")]), ..plan(UsageSource::Anthropic) };
    let admit = |body: &str| plan.admit(Some(body.as_bytes())).map(|it| it.rate.line.clone());
    assert_eq!(admit(r#"{"model":"mini"}"#), Ok("mini".to_owned()));
    let refused = admit(r#"{"model":"maxi"}"#).unwrap_err();
    assert!(refused.is_not_offered(), "{refused}");
    assert_eq!(admit(r#"{"model":"Mini"}"#), Err(NoRate::NotOffered("Mini".to_owned())));
    assert_eq!(admit(r#"{"model":"*"}"#), Err(NoRate::NotOffered("*".to_owned())));
    assert_eq!(admit("{}"), Err(NoRate::NoModel));
    assert!(!admit(r#"{"model":"mini","max_tokens":-1}"#).unwrap_err().is_not_offered());
}

#[test]
fn bodies_are_read_only_where_they_matter() {
    let json = |text: &str| {
        UsageSource::Json(faregate::usage::JsonPointers {
            model: text.parse().ok(),
            output: "/out".parse().ok(),
            ..Default::default()
        })
    };
    let reads = |source: UsageSource| plan(source).reads_request();
    assert!(reads(UsageSource::OpenAi) && reads(UsageSource::Anthropic) && reads(json("/model")));
    assert!(!reads(UsageSource::Header) && !reads(UsageSource::Bytes) && !reads(UsageSource::Seconds));
    assert!(!reads(json("")));
    let one = MeterPlan { rates: Rates::new([rate("*")]), ..plan(json("/model")) };
    assert!(!one.reads_request());
    assert_eq!(one.admit(None).unwrap().hold.get(), HOLD);
}

#[test]
fn the_rate_is_of_the_model_that_the_answer_names() {
    let of = |model: &str| {
        let body = format!(r#"{{"model":{model},"usage":{{"prompt_tokens":0,"completion_tokens":1}}}}"#);
        cost(&UsageSource::OpenAi, JSON, &body).0
    };
    assert_eq!(of(r#""dear""#), 1000);
    assert_eq!(of(r#""mini""#), 10);
    // A longer name of the same model, and none: no other line is for them.
    assert_eq!(of(r#""mini-2026-11-28""#), 10);
    assert_eq!((of(r#""*""#), of("null"), of("7"), of(r#""""#)), (10, 10, 10, 10));
    // In any order.
    let late = r#"{"usage":{"prompt_tokens":0,"completion_tokens":1},"model":"dear"}"#;
    assert_eq!(cost(&UsageSource::OpenAi, JSON, late), (1000, Some(1000)));
}

#[test]
fn whoever_leaves_pays_what_was_reported_or_by_the_bytes() {
    let openai = &UsageSource::OpenAi;
    let request = br#"{"model":"mini","messages":[]}"#.len() as u128;
    let input = request.div_ceil(3) * 2;
    let chunk = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}],\"usage\":null}}\n\n")
    };
    // Of an event, its text alone.
    assert_eq!(broken_off(openai, EVENTS, ""), input);
    assert_eq!(broken_off(openai, EVENTS, &chunk("ab")), input + 10);
    assert_eq!(broken_off(openai, EVENTS, &format!("{}{}", chunk("abc"), chunk("d"))), input + 20);
    // Of an answer that is not read further, each byte.
    assert_eq!(broken_off(openai, JSON, "{\"id\":\"1234"), input + 40);
    assert_eq!(broken_off(openai, "audio/mpeg", "abc"), input + 10);
    // Never more than was held.
    assert_eq!(broken_off(openai, EVENTS, &chunk(&"a".repeat(400_000))), HOLD);
    // What was reported counts, also just before the end.
    let usage = r#"{"model":"mini","usage":{"prompt_tokens":1,"completion_tokens":1}"#;
    assert_eq!(broken_off(openai, JSON, usage), 12);
    assert_eq!(broken_off(openai, EVENTS, &format!("data: {usage}}}\n\ndata: {{\"cho")), 12);
    // An event that has not ended is none.
    assert_eq!(broken_off(openai, EVENTS, &format!("data: {usage}}}\n")), input);
    // What an upstream does not say, nobody can estimate.
    assert_eq!(broken_off(&UsageSource::Header, JSON, "{"), HOLD);
}

#[test]
fn so_far_is_what_is_known_so_far() {
    let plan = plan(UsageSource::Anthropic);
    let mut gauge = plan.gauge(&admitted(&plan), head(EVENTS));
    gauge.feed(b"data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":5,\"output_tokens\":1}}}\n\n");
    assert_eq!(gauge.cost(Duration::ZERO).get(), 20);
    gauge.feed(b"data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":9}}\n\n");
    assert_eq!((gauge.cost(Duration::ZERO).get(), gauge.reported()), (100, Some(Raw::new(100))));
    let mut gauge = read(&UsageSource::Bytes, "image/png", b"abc");
    assert_eq!((gauge.cost(Duration::ZERO).get(), gauge.reported()), (21, None));
    gauge.feed(b"d");
    assert_eq!(gauge.finish(Ending::BrokenOff, Duration::ZERO).get(), 28);
    let gauge = read(&UsageSource::Seconds, "text/plain", b"abc");
    assert_eq!(gauge.cost(Duration::from_millis(2005)).get(), 201);
    assert_eq!(gauge.finish(Ending::Whole, Duration::MAX).get(), HOLD);
}

#[test]
fn an_amount_in_a_header_is_charged_and_a_trailer_counts_instead() {
    let plan = MeterPlan { rates: Rates::none(), ..plan(UsageSource::Header) };
    let admitted = plan.admit(None).unwrap();
    let of = |status, header: Option<&[u8]>, trailers: &[&[u8]]| {
        let head = AnswerHead { status, cost_header: header, ..AnswerHead::default() };
        let mut gauge = plan.gauge(&admitted, head);
        gauge.feed(b"whatever");
        trailers.iter().for_each(|it| gauge.trailer(it));
        let reported = gauge.reported().map(Raw::get);
        (gauge.finish(Ending::Whole, Duration::ZERO).get(), reported)
    };
    assert_eq!(of(200, Some(b"12 raw"), &[]), (12, Some(12)));
    assert_eq!(of(500, Some(b"0.000000000000000000000000000003 XNO"), &[]), (3, Some(3)));
    assert_eq!(of(200, Some(b"12 raw"), &[b"13 raw"]), (13, Some(13)));
    assert_eq!(of(200, None, &[b"0 raw"]), (0, Some(0)));
    // It says nothing: the hold, unless it failed.
    assert_eq!(of(200, None, &[]), (HOLD, None));
    assert_eq!(of(404, None, &[]), (0, None));
    for header in [&b"12"[..], b"", b"-1 raw", b"1.5 raw", b"1e3 raw", b"12 raw, 13 raw", b"\xff", b"NaN XNO"]
    {
        assert_eq!(of(200, Some(header), &[]), (HOLD, None));
        assert_eq!(of(200, Some(b"12 raw"), &[header]), (HOLD, None));
    }
}

/// Where the parts of an answer are cut is chance.
fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        prop::collection::vec(0..2000_usize, 0..8),
        // Each byte by itself.
        Just((0..2000).collect::<Vec<usize>>()),
    ]
}

/// An answer of [`answers`], perhaps with a few bytes that are not its own.
fn changed() -> impl Strategy<Value = (UsageSource, &'static str, Vec<u8>)> {
    let bytes = prop::sample::select(b"\"\\{}[]:,\r\n \x00\xffd1u".to_vec());
    let changes = prop::collection::vec((0..2000_usize, bytes, any::<bool>()), 0..4);
    (prop::sample::select(answers::all()), changes).prop_map(|(answer, changes)| {
        let mut body = answer.body.as_bytes().to_vec();
        for (at, byte, is_inserted) in changes {
            let at = at % body.len();
            if is_inserted {
                body.insert(at, byte);
            } else {
                body[at] = byte;
            }
        }
        (answer.source, answer.content_type, body)
    })
}

proptest! {
    /// It does not matter in which pieces an answer comes, also if it is not what it should be.
    #[test]
    fn an_answer_costs_the_same_in_any_pieces((source, content_type, body) in changed(), cuts in cuts()) {
        let whole = read(&source, content_type, &body);
        let plan = plan(source.clone());
        let mut gauge = plan.gauge(&admitted(&plan), head(content_type));
        let mut cuts: Vec<_> = cuts.into_iter().filter(|it| *it < body.len()).chain([0, body.len()]).collect();
        cuts.sort_unstable();
        for pair in cuts.windows(2) {
            gauge.feed(&body[pair[0]..pair[1]]);
        }
        prop_assert_eq!(gauge.reported(), whole.reported());
        prop_assert_eq!(gauge.cost(Duration::ZERO), whole.cost(Duration::ZERO));
        for ending in [Ending::Whole, Ending::BrokenOff] {
            prop_assert_eq!(gauge.clone().finish(ending, Duration::ZERO), whole.clone().finish(ending, Duration::ZERO));
        }
    }

    /// Whatever is reported of a request that bounds itself and keeps to it is covered by what is held for it.
    #[test]
    fn the_hold_covers_what_keeps_to_the_bound(
        max in 1..=10_000_u64, n in 1..=4_u64, text in "[ -~é日]{0,60}", share in 0..=100_u64, cached in 0..=100_u64,
    ) {
        let plan = plan(UsageSource::OpenAi);
        let body = serde_json::json!({ "model": "mini", "max_tokens": max, "n": n, "messages": [{ "content": text }] });
        let body = body.to_string();
        let admitted = plan.admit(Some(body.as_bytes())).unwrap();
        let input = body.len() as u64 * share / 100;
        let usage = serde_json::json!({ "usage": {
            "prompt_tokens": input, "completion_tokens": max * n * share / 100,
            "prompt_tokens_details": { "cached_tokens": input * cached / 100 },
        } });
        let mut gauge = plan.gauge(&admitted, head(JSON));
        gauge.feed(usage.to_string().as_bytes());
        prop_assert!(gauge.reported().unwrap() <= admitted.hold);
    }

    /// Against the definition, with numbers that fit: never too little, and less than one raw too much.
    #[test]
    fn a_price_is_the_sum_rounded_up(
        counts in prop::array::uniform4(0..=1_000_000_000_u64),
        rates in prop::array::uniform4(0..=1_000_000_000_000_000_000_u128),
        (per, units) in prop::sample::select(vec![(Per::One, 1), (Per::Thousand, 1_000), (Per::Million, 1_000_000_u128)]),
    ) {
        let [input, cached, output, bytes] = rates.map(Raw::new);
        let rate = Rate { input, cached, output, bytes, per, ..Rate::default() };
        let [input, cached, output, bytes] = counts;
        let price = rate.price(&Counts { input, cached, output, bytes, ..Counts::default() }).unwrap();
        let exact: u128 = counts.iter().zip(rates).map(|(count, rate)| u128::from(*count) * rate).sum();
        let charged = price.get() * units;
        prop_assert!(charged >= exact && charged - exact < units);
    }

    /// No count is too large to be read, and none that is believed overflows.
    #[test]
    fn counts_are_exact_or_cost_the_hold(input in any::<u64>(), output in any::<u64>()) {
        let body = format!(r#"{{"usage":{{"prompt_tokens":{input},"completion_tokens":{output}}}}}"#);
        let (whole, reported) = cost(&UsageSource::OpenAi, JSON, &body);
        if input <= MAX_COUNT && output <= MAX_COUNT {
            prop_assert_eq!(whole, u128::from(input) * 2 + u128::from(output) * 10);
        } else {
            prop_assert_eq!((whole, reported), (HOLD, None));
        }
    }
}
