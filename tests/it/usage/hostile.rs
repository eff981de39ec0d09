//! Upstreams that report what cannot be, or write what is not what they say it is.

use std::time::Duration;

use faregate::usage::{AnswerHead, Ending, JsonPointers, UsageSource};

use super::{EVENTS, HOLD, JSON, admitted, broken_off, cost, head, plan, read};

/// The most memory that may be kept of an answer, in bytes.
const MOST: usize = 256 * 1024;

#[test]
fn a_report_that_cannot_be_costs_the_hold() {
    for usage in [
        r#"{"prompt_tokens":-1,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1.5,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1e2,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1.0,"completion_tokens":1}"#,
        r#"{"prompt_tokens":"1","completion_tokens":1}"#,
        r#"{"prompt_tokens":true,"completion_tokens":1}"#,
        r#"{"prompt_tokens":[1],"completion_tokens":1}"#,
        r#"{"prompt_tokens":1000000001,"completion_tokens":1}"#,
        r#"{"prompt_tokens":18446744073709551616,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1e999,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"prompt_tokens":1,"completion_tokens":1}"#,
        r#"{"prompt_tokens":01,"completion_tokens":1}"#,
        r#"{"prompt_tokens":NaN,"completion_tokens":1}"#,
        r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":2}}"#,
        r#"{"prompt_tokens":1,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":-1}}"#,
        "{\"prompt_tokens\":1,\"completion_tokens\":1,\"x\":\"\u{0}\"}",
        "{}",
        "[1,1]",
        "12",
        "\"12\"",
        "true",
    ] {
        let body = format!("{{\"model\":\"mini\",\"usage\":{usage}}}");
        assert_eq!(cost(&UsageSource::OpenAi, JSON, &body), (HOLD, None), "{body}");
        let stream = format!("data: {body}\n\ndata: [DONE]\n\n");
        assert_eq!(cost(&UsageSource::OpenAi, EVENTS, &stream), (HOLD, None), "{stream}");
    }
    let twice = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    assert_eq!(cost(&UsageSource::OpenAi, JSON, twice), (HOLD, None));
    let spelled = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1},"us\u0061ge":null}"#;
    assert_eq!(cost(&UsageSource::OpenAi, JSON, spelled), (HOLD, None));
}

#[test]
fn what_is_not_utf8_is_no_report() {
    let body = b"{\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1,\"x\":\"\xff\"}}";
    assert_eq!(read(&UsageSource::OpenAi, JSON, body).finish(Ending::Whole, Duration::ZERO).get(), HOLD);
    // Elsewhere it is no matter.
    let body = b"{\"x\":\"\xff\xfe\",\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}";
    assert_eq!(read(&UsageSource::OpenAi, JSON, body).finish(Ending::Whole, Duration::ZERO).get(), 12);
}

/// A client's words come back in many answers: only the place of the usage counts.
#[test]
fn what_is_quoted_is_no_report() {
    let usage = r#""usage":{"prompt_tokens":1,"completion_tokens":1}"#;
    for body in [
        format!(r#"{{"choices":[{{"message":{{{usage}}}}}]}}"#),
        format!(r#"{{"metadata":{{{usage}}}}}"#),
        format!(r#"{{"response":{{{usage}}}}}"#),
        format!(r#"[{{{usage}}}]"#),
        format!("{{\"text\":{}}}", serde_json::Value::from(format!("{{{usage}}}"))),
        r#"{"Usage":{},"USAGE":{"prompt_tokens":1}}"#.to_owned(),
    ] {
        assert_eq!(cost(&UsageSource::OpenAi, JSON, &body), (HOLD, None), "{body}");
        assert_eq!(cost(&UsageSource::OpenAi, EVENTS, &format!("data: {body}\n\n")), (HOLD, None), "{body}");
    }
    for stream in [
        format!(": {{{usage}}}\n\n"),
        format!("event: {{{usage}}}\n\n"),
        format!("{{{usage}}}\n\n"),
        format!("data: {{{usage}}}"),
        format!("data: \"data: {{{usage}}}\"\n\n"),
        format!("data: {{\"type\":\"ping\",\"message\":{{{usage}}}}}\n\n"),
    ] {
        assert_eq!(cost(&UsageSource::OpenAi, EVENTS, &stream), (HOLD, None), "{stream}");
        assert_eq!(cost(&UsageSource::Anthropic, EVENTS, &stream), (HOLD, None), "{stream}");
    }
}

#[test]
fn the_last_report_counts_and_a_part_that_cannot_be_spoils_a_sum() {
    let event = |usage: &str| format!("data: {{\"usage\":{usage}}}\n\n");
    let good = event(r#"{"prompt_tokens":1,"completion_tokens":1}"#);
    let bad = event(r#"{"prompt_tokens":-1}"#);
    let openai = |body: &str| cost(&UsageSource::OpenAi, EVENTS, body).0;
    assert_eq!((openai(&format!("{bad}{good}")), openai(&format!("{good}{bad}"))), (12, HOLD));
    assert_eq!(openai(&format!("{good}{}", event("null"))), 12);
    let anthropic = "data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":-1}}}\n\n\
        data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":1}}\n\n";
    assert_eq!(cost(&UsageSource::Anthropic, EVENTS, anthropic), (HOLD, None));
}

#[test]
fn an_answer_without_a_report_costs_the_hold_and_a_failure_nothing() {
    let plan = plan(UsageSource::OpenAi);
    let usage = r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let of = |status, content_type: Option<&str>, is_encoded, body: &str| {
        let content_type = content_type.map(str::as_bytes);
        let head = AnswerHead { status, content_type, is_encoded, cost_header: None };
        let mut gauge = plan.gauge(&admitted(&plan), head);
        gauge.feed(body.as_bytes());
        gauge.finish(Ending::Whole, Duration::ZERO).get()
    };
    assert_eq!(of(200, Some(JSON), false, "{}"), HOLD);
    assert_eq!(of(200, Some(JSON), false, ""), HOLD);
    assert_eq!(of(200, Some(JSON), false, "{\"usage\":null}"), HOLD);
    assert_eq!(of(200, Some(JSON), false, &format!("{usage}{usage}")), HOLD);
    assert_eq!(of(200, Some(JSON), true, usage), HOLD);
    assert_eq!(of(200, Some("text/html"), false, usage), HOLD);
    assert_eq!(of(200, None, false, usage), HOLD);
    assert_eq!(of(400, Some(JSON), false, r#"{"error":{"message":"no"}}"#), 0);
    assert_eq!(of(502, None, false, "<html>"), 0);
    // What a failure reports is charged for.
    assert_eq!(of(503, Some(JSON), false, usage), 12);
    assert_eq!(of(201, Some("Application/JSON; charset=utf-8"), false, usage), 12);
}

/// With 200 in its head, such a stream cost the hold, which is what the longest answer would have cost.
#[test]
fn a_stream_that_ends_in_an_error_costs_what_was_reported_or_nothing() {
    let text = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}],\"error\":null}\n\n";
    let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":1}}\n\n";
    for error in [
        r#"{"error":{"message":"The server had an error","type":"server_error","param":null,"code":null}}"#,
        r#"{"type":"error","code":"server_error","message":"no","param":null,"sequence_number":7}"#,
        r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"server_error"},"usage":null}}"#,
    ] {
        let (source, error) = (UsageSource::OpenAi, format!("data: {error}\n\n"));
        for (stream, expected) in [(format!("{text}{error}"), 0), (format!("{text}{usage}{error}"), 12)] {
            assert_eq!(cost(&source, EVENTS, &stream).0, expected, "{stream}");
            assert_eq!(broken_off(&source, EVENTS, &stream), expected, "{stream}");
            assert_eq!(read(&source, EVENTS, stream.as_bytes()).cost(Duration::ZERO).get(), expected);
        }
    }
    assert_eq!(cost(&UsageSource::OpenAi, EVENTS, text), (HOLD, None), "an error that is null is none");
    let start =
        r#"{"type":"message_start","message":{"model":"mini","usage":{"input_tokens":9,"output_tokens":1}}}"#;
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let stream = format!("event: message_start\ndata: {start}\n\nevent: error\ndata: {error}\n\n");
    assert_eq!(cost(&UsageSource::Anthropic, EVENTS, &stream), (28, Some(28)));
}

#[test]
fn little_is_kept_of_an_answer_without_end() {
    let long = "a".repeat(1 << 16);
    let parts = [
        format!("data: {{\"{long}"),
        long.clone(),
        format!("\":\"{long}"),
        format!("\",\"usage\":\"{long}"),
        format!("\",\"model\":[\"{long}\",\"{long}"),
        format!("\"],\"type\":{{\"{long}\":1}},\"response\":{{\"usage\":\"{long}"),
        format!("\",\"model\":{}", "[".repeat(100)),
        "\n".repeat(1 << 16),
        format!("data: {}", "1".repeat(1 << 16)),
        format!("{}\n", "d".repeat(1 << 16)),
    ];
    let pointers = JsonPointers {
        model: "/model".parse().ok(),
        input: "/usage".parse().ok(),
        output: "/type".parse().ok(),
        tokens: "/response/usage".parse().ok(),
        ..JsonPointers::default()
    };
    for source in [UsageSource::OpenAi, UsageSource::Anthropic, UsageSource::Json(pointers)] {
        for content_type in [JSON, EVENTS, "application/jsonl"] {
            let plan = plan(source.clone());
            let mut gauge = plan.gauge(&admitted(&plan), head(content_type));
            for part in parts.iter().cycle().take(64) {
                let body = if content_type == EVENTS { part } else { part.trim_start_matches("data: ") };
                gauge.feed(body.as_bytes());
                assert!(gauge.held() <= MOST, "{} bytes of {content_type}", gauge.held());
            }
        }
    }
}
