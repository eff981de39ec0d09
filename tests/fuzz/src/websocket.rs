//! Messages of a node's WebSocket: hints only, and the same in any frames.

use std::time::Duration;

use faregate::ledger::node::fuzzing::{self, Watch, messages};
use faregate::ledger::node::{NodeClient, NodeEndpoint};
use faregate::ledger::{LedgerError, Sighting};
use faregate::nano::{Account, BlockHash};
use jiter::JsonValue;
use serde_json::Value;

use crate::json;
use crate::node_answer::awaited;

thread_local! {
    static WATCH: std::cell::RefCell<Watch> = {
        let url = "http://node.example/".parse().expect("a URL");
        let node = NodeEndpoint::from_url(url, Duration::from_secs(1)).expect("an endpoint");
        let client = NodeClient::new(vec![node]).expect("a client");
        std::cell::RefCell::new(Watch::new(client, awaited().hash()))
    };
}

/// The first byte says what the rest is: bytes of the connection, or a text and where it is cut.
pub fn run(data: &[u8]) {
    match data {
        [0, frames @ ..] => messages(frames).iter().for_each(hear),
        [cuts, text @ ..] => framed(*cuts, text),
        [] => {}
    }
}

/// A message reports a send only if it says so, and confirms nothing.
fn hear(message: &Value) {
    let text = message.to_string();
    let sends = WATCH.with_borrow_mut(|watch| {
        let sends = fuzzing::hear(watch, message);
        let sighting: Result<Sighting, LedgerError> = watch.sighting();
        assert_eq!(sighting, Err(LedgerError::TimedOut), "a hint is not an answer");
        sends
    });
    let Ok(read) = JsonValue::parse(text.as_bytes(), false) else {
        return assert!(sends.is_empty() || text.len() > 10_000, "only one parser reads it");
    };
    assert_eq!(sends, reported(&read).into_iter().collect::<Vec<_>>(), "{text}");
}

fn reported(message: &JsonValue<'_>) -> Option<(BlockHash, Account)> {
    let inner = json::field(message, "message")?;
    let block = json::field(inner, "block")?;
    let is_send = json::text(message, "topic")? == "confirmation" && json::text(block, "subtype")? == "send";
    let (hash, to) =
        (json::text(inner, "hash")?.parse().ok()?, json::text(block, "link_as_account")?.parse().ok()?);
    is_send.then_some((hash, to))
}

/// The lines are messages. However they are cut into frames, with pings between, the same arrives.
fn framed(cuts: u8, text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut bytes = Vec::new();
    let mut expected = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        let pieces = usize::from(cuts.rotate_left(number as u32) & 3) + 1;
        let size = line.len().div_ceil(pieces).max(1);
        let mut parts: Vec<&[u8]> = line.as_bytes().chunks(size).collect();
        if parts.is_empty() {
            parts.push(b"");
        }
        let count = parts.len();
        for (index, part) in parts.into_iter().enumerate() {
            let opcode = if index == 0 { 1 } else { 0 };
            frame(&mut bytes, opcode, index + 1 == count, part);
            if cuts & 4 != 0 {
                frame(&mut bytes, 9, true, b"ping");
            }
        }
        if cuts & 8 != 0 {
            frame(&mut bytes, 2, true, line.as_bytes());
        }
        expected.extend(serde_json::from_str::<Value>(line).ok());
    }
    frame(&mut bytes, 8, true, b"");
    frame(&mut bytes, 1, true, b"\"after the end\"");
    let came = messages(&bytes);
    assert_eq!(came, expected, "in other frames");
    came.iter().for_each(hear);
}

/// One frame of a server (RFC 6455, section 5.2).
fn frame(bytes: &mut Vec<u8>, opcode: u8, is_last: bool, payload: &[u8]) {
    bytes.push(opcode | if is_last { 0x80 } else { 0 });
    match payload.len() {
        length @ 0..=125 => bytes.push(length as u8),
        length @ 126..=0xffff => {
            bytes.push(126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(payload);
}
