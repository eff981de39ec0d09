//! Answers as the servers document them, shortened.

use faregate::usage::{JsonPointers, UsageSource};

use super::{EVENTS, JSON, cost};

/// An answer, and what it costs.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) source: UsageSource,
    pub(super) content_type: &'static str,
    pub(super) body: &'static str,
    cost: u128,
}

const CHAT: &str = r#"{
  "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT", "object": "chat.completion", "created": 1741569952,
  "model": "mini-2025-04-14",
  "choices": [{ "index": 0, "message": { "role": "assistant", "content": "A \"usage\": {\"prompt_tokens\": 9}", "refusal": null,
    "annotations": [] }, "logprobs": null, "finish_reason": "stop" }],
  "usage": { "prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29,
    "prompt_tokens_details": { "cached_tokens": 4, "audio_tokens": 0 },
    "completion_tokens_details": { "reasoning_tokens": 0, "audio_tokens": 0 } },
  "service_tier": "default"
}
"#;

const CHAT_EVENTS: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"mini\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null}\n\n\
data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hello \\\"usage\\\"\"},\"finish_reason\":null}],\"usage\":null}\n\n\
data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"mini\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n\
data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"model\":\"mini\",\"choices\":[],\"usage\":{\"prompt_tokens\":8,\"completion_tokens\":2,\"total_tokens\":10}}\n\n\
data: [DONE]\n\n";

/// Each event says what was used up to it.
const RUNNING_TOTALS: &str = "data: {\"model\":\"mini\",\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":1}}\r\n\r\n\
data: {\"model\":\"mini\",\"choices\":[{\"delta\":{\"content\":\"b\"}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2}}\r\n\r\n\
data: {\"model\":\"mini\",\"choices\":[{\"delta\":{\"content\":\"c\"}}],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":3}}\r\n\r\n\
data: [DONE]\r\n\r\n";

const COMPLETION: &str = r#"{"id":"cmpl-1","object":"text_completion","model":"dear","choices":[{"text":"\n\nThis","index":0,"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}"#;

const EMBEDDINGS: &str = r#"{"object":"list","data":[{"object":"embedding","embedding":[0.0023064255,-0.009327292,-2.8842222e-05],"index":0}],"model":"mini","usage":{"prompt_tokens":8,"total_tokens":8}}"#;

const RESPONSE: &str = r#"{"id":"resp_1","object":"response","status":"completed","error":null,"model":"mini","output":[{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"output_text","text":"In","annotations":[]}]}],"tools":[],"usage":{"input_tokens":36,"input_tokens_details":{"cached_tokens":6},"output_tokens":87,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":123},"user":null,"metadata":{}}"#;

const RESPONSE_EVENTS: &str = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"status\":\"in_progress\",\"model\":\"mini\",\"output\":[],\"usage\":null,\"metadata\":{\"usage\":{\"input_tokens\":1}}}}\n\n\
event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1\",\"output_index\":0,\"content_index\":0,\"delta\":\"Hi\"}\n\n\
event: response.output_text.done\ndata: {\"type\":\"response.output_text.done\",\"item_id\":\"msg_1\",\"text\":\"Hi\"}\n\n\
event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"model\":\"mini\",\"usage\":{\"input_tokens\":37,\"output_tokens\":11,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":48}}}\n\n";

const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"mini","content":[{"type":"text","text":"Hi!"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":12,"cache_creation_input_tokens":3,"cache_read_input_tokens":20,"output_tokens":6,"service_tier":"standard"}}"#;

const MESSAGE_EVENTS: &str = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"model\":\"dear\",\"stop_reason\":null,\"usage\":{\"input_tokens\":25,\"cache_creation_input_tokens\":0,\"cache_read_input_tokens\":2,\"output_tokens\":1}}}\n\n\
event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n\
event: ping\ndata: {\"type\": \"ping\"}\n\n\
event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}\n\n\
event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n\
event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":15}}\n\n\
event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

const LINES: &str = "{\"model\":\"mini\",\"message\":{\"role\":\"assistant\",\"content\":\"The\"},\"done\":false}\n\
{\"model\":\"mini\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"total_duration\":4883583458,\"prompt_eval_count\":26,\"eval_count\":282}\n";

fn pointers(all: &[(&str, &str)]) -> UsageSource {
    let at = |name: &str| all.iter().find(|(it, _)| *it == name).map(|(_, pointer)| pointer.parse().unwrap());
    UsageSource::Json(JsonPointers {
        model: at("model"),
        input: at("input"),
        cached: at("cached"),
        output: at("output"),
        tokens: at("tokens"),
        cost: at("cost"),
    })
}

pub(super) fn all() -> Vec<Answer> {
    let answer = |source: &UsageSource, content_type, body, cost| Answer {
        source: source.clone(),
        content_type,
        body,
        cost,
    };
    let (openai, anthropic) = (&UsageSource::OpenAi, &UsageSource::Anthropic);
    let lines = &pointers(&[("model", "/model"), ("input", "/prompt_eval_count"), ("output", "/eval_count")]);
    let items = &pointers(&[
        ("model", "/model"),
        ("tokens", "/steps/1/tokens"),
        ("input", "/in"),
        ("cached", "/hit"),
    ]);
    let amount = &pointers(&[("cost", "/bill/a~1b")]);
    vec![
        answer(openai, JSON, CHAT, 15 * 2 + 4 + 10 * 10),
        answer(openai, EVENTS, CHAT_EVENTS, 8 * 2 + 2 * 10),
        answer(openai, EVENTS, RUNNING_TOTALS, 5 * 2 + 3 * 10),
        answer(openai, JSON, COMPLETION, 5 * 2 + 7 * 1000),
        answer(openai, JSON, EMBEDDINGS, 8 * 2),
        answer(openai, JSON, RESPONSE, 30 * 2 + 6 + 87 * 10),
        answer(openai, EVENTS, RESPONSE_EVENTS, 37 * 2 + 11 * 10),
        answer(anthropic, JSON, MESSAGE, 12 * 2 + 3 * 3 + 20 + 6 * 10),
        answer(anthropic, EVENTS, MESSAGE_EVENTS, 25 * 2 + 2 + 15 * 1000),
        answer(lines, "application/x-ndjson", LINES, 26 * 2 + 282 * 10),
        answer(
            items,
            "application/vnd.api+json",
            r#"{"in":9,"hit":4,"steps":[{"tokens":1},{"tokens":7}]}"#,
            5 * 2 + 4 + 7 * 5,
        ),
        answer(amount, JSON, r#"{"bill":{"a/b":"0.000000000000000000000000000123 XNO"}}"#, 123),
        answer(amount, JSON, r#"{"bill":{"a/b":340282366920938463463374607431768211455}}"#, u128::MAX),
        answer(amount, JSON, r#"{"bill":{"a/b":"77"}}"#, 77),
        answer(amount, EVENTS, "data: {\"bill\":{\"a/b\":5}}\n\ndata: {\"bill\":{\"a/b\":\"6 raw\"}}\n\n", 6),
    ]
}

#[test]
fn answers_cost_what_they_report() {
    for answer in all() {
        let expected = (answer.cost, Some(answer.cost));
        assert_eq!(cost(&answer.source, answer.content_type, answer.body), expected, "{}", answer.body);
    }
}

/// With their line ends, and with lines of data of any length, as other servers write them.
#[test]
fn events_cost_the_same_however_their_lines_end() {
    for answer in all().into_iter().filter(|it| it.content_type == EVENTS) {
        let plain = answer.body.replace("\r\n", "\n");
        for body in [
            plain.replace('\n', "\r\n"),
            plain.replace('\n', "\r"),
            format!("\u{feff}{plain}"),
            plain.replace("data: ", "data:"),
            plain.replace(",\"", ",\ndata: \""),
            plain.replace("\n\n", "\n: a comment\nid: 1\n\n\n"),
        ] {
            assert_eq!(cost(&answer.source, EVENTS, &body).0, answer.cost, "{body:?}");
        }
    }
}
