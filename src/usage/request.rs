//! What a request says of itself before it is forwarded: its model, and how much it can use.
//!
//! The gateway holds an amount for what it reads here, and the upstream reads the same bytes with another parser. So a
//! body that two parsers could read differently is refused, as far as its price goes: a key that occurs twice or in
//! another letter case, numbers that are not whole, text that is not Unicode.

use std::borrow::Cow;

use serde_json::Value;

use super::body::{self, Body};
use super::no_rate::{MAX_COUNT, MAX_MODEL, NoRate};
use super::pointer::JsonPointers;
use super::scan::{Place, Places, Role, Scanner, Step};

const STREAM_OPTIONS: &str = "stream_options";
const INCLUDE_USAGE: &str = "include_usage";
/// The keys of a request to OpenAI's API that determine what it can use, and what it is.
const OPENAI_KEYS: &[&str] = &[
    "model",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n",
    "best_of",
    "stream",
    STREAM_OPTIONS,
    "messages",
    "prompt",
    "input",
];
const ANTHROPIC_KEYS: &[&str] = &["model", "max_tokens"];

/// What a request asks for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Asked {
    pub(super) model: Option<String>,
    /// The most tokens of output, if it says so.
    pub(super) output: Option<u64>,
    /// Whether it refers to input that is not in it.
    pub(super) refers: bool,
    /// Whether its input and output are tokens of a language model, which its bytes bound.
    pub(super) speaks_of_tokens: bool,
    /// The body to forward instead.
    pub(super) body: Option<Vec<u8>>,
}

/// Reads a request to OpenAI's API. `ask`: whether the usage of a stream is asked for.
pub(super) fn openai(body: Option<&[u8]>, ask: bool) -> Result<Asked, NoRate> {
    let body = body.ok_or(NoRate::NoBody)?;
    let read = Body::read(body, OPENAI_KEYS, Some(STREAM_OPTIONS))?;
    let of_completions = [number(&read, "max_tokens")?, number(&read, "max_completion_tokens")?];
    // Where both are written, which of them counts differs between servers.
    let of_completions = of_completions.into_iter().flatten().max();
    let of_responses = number(&read, "max_output_tokens")?;
    // Servers ignore what the other API has, and with it a bound that is no bound.
    let has = |key: &str| read.get(key).is_some_and(|it| !it.is_null());
    let bound = match (has("messages") || has("prompt"), has("input")) {
        (true, false) => of_completions,
        (false, true) => of_responses,
        (true, true) => of_completions.zip(of_responses).map(|(one, other)| one.max(other)),
        // No server answers to this.
        (false, false) => of_completions.max(of_responses),
    };
    // `best_of` completions are made, and `n` of them shown.
    let times = number(&read, "n")?.max(number(&read, "best_of")?).unwrap_or(1);
    let output = bound.map(|it| it.saturating_mul(times));
    if output.is_some_and(|it| it > MAX_COUNT) {
        return Err(NoRate::Number("max_tokens"));
    }
    let body = if ask { with_usage(&read, body)? } else { None };
    Ok(Asked { model: model(read.get("model"))?, output, refers: read.refers, speaks_of_tokens: true, body })
}

/// Reads a request to Anthropic's API.
pub(super) fn anthropic(body: Option<&[u8]>) -> Result<Asked, NoRate> {
    let read = Body::read(body.ok_or(NoRate::NoBody)?, ANTHROPIC_KEYS, None)?;
    Ok(Asked {
        model: model(read.get("model"))?,
        output: number(&read, "max_tokens")?,
        refers: read.refers,
        speaks_of_tokens: true,
        body: None,
    })
}

/// Reads a request whose model is at a pointer.
pub(super) fn by_pointer(body: Option<&[u8]>, pointers: &JsonPointers) -> Result<Asked, NoRate> {
    let body = body.ok_or(NoRate::NoBody)?;
    let found = pointers.model.as_ref().map(|it| body::at(body, it)).transpose()?.flatten();
    Ok(Asked { model: model(found.as_ref())?, ..Asked::default() })
}

/// A number of tokens or answers; `None` if it is not there.
fn number(body: &Body, key: &'static str) -> Result<Option<u64>, NoRate> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            let number = value.as_u64().filter(|it| (1..=MAX_COUNT).contains(it));
            number.map(Some).ok_or(NoRate::Number(key))
        }
    }
}

fn model(value: Option<&Value>) -> Result<Option<String>, NoRate> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(model)) if (1..=MAX_MODEL).contains(&model.len()) => Ok(Some(model.clone())),
        Some(_) => Err(NoRate::Model),
    }
}

/// The body of a stream of completions with `include_usage`; `None` if it is none, or asks for it itself.
fn with_usage(read: &Body, body: &[u8]) -> Result<Option<Vec<u8>>, NoRate> {
    let is_stream = match read.get("stream") {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::Bool(true)) => true,
        Some(_) => return Err(NoRate::Value("stream", "`true` or `false`")),
    };
    // The responses API, which has an `input`, reports always and does not know the option.
    let completes = read.get("messages").or_else(|| read.get("prompt")).is_some();
    if !is_stream || !completes || read.get("input").is_some() {
        return Ok(None);
    }
    // What is replaced: the opening bracket of the body or of its options, `null` or `false`.
    let (start, replaced, by) = match read.get(STREAM_OPTIONS) {
        None => {
            let start = body.iter().position(|it| *it == b'{');
            (start, "{", format!("{{\"{STREAM_OPTIONS}\":{{\"{INCLUDE_USAGE}\":true}},"))
        }
        Some(Value::Null) => (start_of(OPTIONS, body), "null", format!("{{\"{INCLUDE_USAGE}\":true}}")),
        Some(Value::Object(options)) => {
            if let Some(fault) = options.keys().find_map(|key| body::misspelled(key, &[INCLUDE_USAGE])) {
                return Err(fault);
            }
            let comma = if options.is_empty() { "" } else { "," };
            match options.get(INCLUDE_USAGE) {
                None => (start_of(OPTIONS, body), "{", format!("{{\"{INCLUDE_USAGE}\":true{comma}")),
                Some(Value::Bool(true)) => return Ok(None),
                // A client that asks for no usage would pay the hold for whatever it uses.
                Some(Value::Bool(false)) => (start_of(ASKS, body), "false", "true".to_owned()),
                Some(_) => return Err(NoRate::Value(INCLUDE_USAGE, "`true` or `false`")),
            }
        }
        Some(_) => return Err(NoRate::Value(STREAM_OPTIONS, "an object")),
    };
    let Some((before, rest)) = start.and_then(|start| body.split_at_checked(start)) else { return Ok(None) };
    let after = rest.get(replaced.len()..).unwrap_or_default();
    Ok(Some([before, by.as_bytes(), after].concat()))
}

/// The body's `stream_options`.
static OPTIONS: &[Place] =
    &[Place { role: Role::Options, path: Cow::Borrowed(&[Step::To(Cow::Borrowed(STREAM_OPTIONS))]) }];
/// What they say of `include_usage`.
static ASKS: &[Place] = &[Place {
    role: Role::Options,
    path: Cow::Borrowed(&[Step::To(Cow::Borrowed(STREAM_OPTIONS)), Step::To(Cow::Borrowed(INCLUDE_USAGE))]),
}];

/// Where the value at a place of the body begins.
fn start_of(places: &'static [Place], body: &[u8]) -> Option<usize> {
    let mut scanner = Scanner::new(Places::Fixed(places));
    body.iter().position(|byte| {
        scanner.feed(std::slice::from_ref(byte));
        scanner.is_taking()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: &str) -> Result<Asked, NoRate> {
        openai(Some(body.as_bytes()), true)
    }

    #[test]
    fn a_request_bounds_itself_by_what_it_says() {
        for (body, expected) in [
            (r#"{"model":"a"}"#, None),
            (r#"{"model":"a","max_tokens":7}"#, Some(7)),
            (r#"{"model":"a","max_tokens":null,"max_completion_tokens":8}"#, Some(8)),
            (r#"{"model":"a","max_tokens":9,"max_completion_tokens":8,"n":3}"#, Some(27)),
            (r#"{"model":"a","max_output_tokens":5,"n":2,"best_of":4}"#, Some(20)),
            (r#"{"model":"a","n":4}"#, None),
            (r#"{"messages":[{"max_tokens":9}]}"#, None),
            (r#"{"messages":[],"max_tokens":9,"max_output_tokens":90}"#, Some(9)),
            (r#"{"messages":[],"input":null,"max_output_tokens":1}"#, None),
            (r#"{"input":"a","max_output_tokens":5,"max_tokens":1}"#, Some(5)),
            (r#"{"input":"a","max_completion_tokens":1}"#, None),
            (r#"{"prompt":"a","input":"a","max_output_tokens":1}"#, None),
            (r#"{"prompt":"a","input":"a","max_output_tokens":1,"max_tokens":4}"#, Some(4)),
        ] {
            assert_eq!(asked(body).unwrap().output, expected, "{body}");
        }
    }

    #[test]
    fn what_servers_could_read_differently_is_refused() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"model":"a","max_toKens":1}"#,
            "{\"model\":\"a\",\"max_to\u{212a}ens\":1}",
            "{\"model\":\"a\",\"be\u{17f}t_of\":1}",
            r#"{"model":"a","mode\u006c":"b"}"#,
            r#"{"model":"a","max_tokens":1.0}"#,
            r#"{"model":"a","max_tokens":1e3}"#,
            r#"{"model":"a","max_tokens":-1}"#,
            r#"{"model":"a","max_tokens":0}"#,
            r#"{"model":"a","max_tokens":"1"}"#,
            r#"{"model":"a","max_tokens":18446744073709551616}"#,
            r#"{"model":"a","max_tokens":1000000000,"n":2}"#,
            r#"{"model":"a","n":0}"#,
            r#"{"model":7}"#,
            r#"{"model":""}"#,
            r#"[{"model":"a"}]"#,
            r#""model""#,
            "",
            "model=a",
            "\u{feff}{\"model\":\"a\"}",
            r#"{"model":"a"} {}"#,
            r#"{"messages":[],"stream":1}"#,
            r#"{"messages":[],"stream":true,"stream_options":[]}"#,
            r#"{"messages":[],"stream":true,"stream_options":{"Include_Usage":true}}"#,
            r#"{"messages":[],"stream":true,"stream_options":{"include_usage":null}}"#,
        ] {
            assert!(asked(body).is_err(), "{body}");
        }
        assert_eq!(openai(None, false), Err(NoRate::NoBody));
        let long = format!(r#"{{"model":"{}"}}"#, "a".repeat(MAX_MODEL + 1));
        assert_eq!(asked(&long), Err(NoRate::Model));
        assert!(anthropic(Some(br#"{"model":"a","MAX_TOKENS":1}"#)).is_err());
        // A key that only this one format knows.
        assert!(anthropic(Some(br#"{"model":"a","N":1}"#)).is_ok());
    }

    #[test]
    fn what_is_not_in_a_request_does_not_bound_it() {
        for (body, expected) in [
            (r#"{"model":"a","messages":[{"content":"image_url"}]}"#, false),
            (r#"{"model":"a","messages":[{"content":[{"image_url":{"url":"https://x"}}]}]}"#, true),
            (r#"{"model":"a","previous_response_id":"r"}"#, true),
            (r#"{"model":"a","previous_response_id":null}"#, false),
        ] {
            assert_eq!(asked(body).unwrap().refers, expected, "{body}");
        }
    }

    #[test]
    fn usage_is_asked_for_and_the_rest_of_the_body_is_as_it_was() {
        for (body, expected) in [
            (
                r#" {"stream":true, "messages" : [ ]}"#,
                Some(r#" {"stream_options":{"include_usage":true},"stream":true, "messages" : [ ]}"#),
            ),
            (
                r#"{"prompt":"{","stream_options": null ,"stream":true}"#,
                Some(r#"{"prompt":"{","stream_options": {"include_usage":true} ,"stream":true}"#),
            ),
            (
                r#"{"messages":[{"stream_options":{}}],"stream_options":{},"stream":true}"#,
                Some(
                    r#"{"messages":[{"stream_options":{}}],"stream_options":{"include_usage":true},"stream":true}"#,
                ),
            ),
            (
                r#"{"messages":[],"str\u0065am_options":{ "x":{}},"stream":true}"#,
                Some(r#"{"messages":[],"str\u0065am_options":{"include_usage":true, "x":{}},"stream":true}"#),
            ),
            (
                r#"{"messages":[],"stream_options":{"x":false,"include_usage": false},"stream":true}"#,
                Some(r#"{"messages":[],"stream_options":{"x":false,"include_usage": true},"stream":true}"#),
            ),
            (r#"{"messages":[],"stream_options":{"include_usage":true},"stream":true}"#, None),
            (r#"{"messages":[],"stream":false}"#, None),
            (r#"{"messages":[]}"#, None),
            (r#"{"input":"a","stream":true}"#, None),
        ] {
            let made = asked(body).unwrap().body.map(|it| String::from_utf8(it).unwrap());
            assert_eq!(made.as_deref(), expected, "{body}");
            if let Some(made) = made {
                let read: Value = serde_json::from_str(&made).unwrap();
                assert_eq!(read["stream_options"]["include_usage"], true, "{made}");
                assert_eq!(asked(&made).unwrap().body, None);
            }
            assert_eq!(openai(Some(body.as_bytes()), false).unwrap().body, None);
        }
    }

    #[test]
    fn a_model_is_where_the_pointer_leads() {
        let pointers =
            JsonPointers { model: Some("/job/models/0".parse().unwrap()), ..JsonPointers::default() };
        let read = |body: &str| by_pointer(Some(body.as_bytes()), &pointers).map(|it| it.model);
        assert_eq!(read(r#"{"job":{"models":["a","b"]}}"#), Ok(Some("a".to_owned())));
        assert_eq!(read(r#"{"job":{"models":[]}}"#), Ok(None));
        assert_eq!(read(r#"{"job":7}"#), Ok(None));
        for body in [
            r#"{"job":{"models":["a"]},"Job":{"models":["b"]}}"#,
            r#"{"job":{"models":["a"]},"job":{}}"#,
            r#"{"job":{"models":[7]}}"#,
            "[]",
        ] {
            assert!(read(body).is_err(), "{body}");
        }
    }
}
