//! A receipt in a stream of events (`text/event-stream`, by the HTML standard, section 9.2): in the event that has the
//! answer to the call.

use super::{MAX_HELD, ResultMeta, with_meta};

/// Holds each event until it is whole, and hands it on. The one that has the answer gets the receipt.
#[derive(Debug)]
pub struct EventReceipt {
    id: String,
    meta: ResultMeta,
    held: Vec<u8>,
    /// Whether a field of an event has passed since the last blank line.
    has_field: bool,
    /// Whether the event is too long to be held: it passes as it is.
    is_passing: bool,
    line: Line,
    is_done: bool,
}

/// Where in a line the stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    Start,
    /// After a carriage return: a line feed belongs to the same end of a line.
    AfterReturn,
    /// In a line that starts with a colon, which readers skip.
    Comment,
    Field,
}

impl EventReceipt {
    /// For the answer to the call with this `id`, which is JSON.
    #[must_use]
    pub const fn new(id: String, meta: ResultMeta) -> Self {
        Self {
            id,
            meta,
            held: Vec::new(),
            has_field: false,
            is_passing: false,
            line: Line::Start,
            is_done: false,
        }
    }

    /// Whether all that follows passes as it is.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// What goes on to the client once `part` has come.
    #[must_use]
    pub fn part(&mut self, part: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(part.len());
        for (index, byte) in part.iter().enumerate() {
            if self.is_done {
                out.extend_from_slice(part.get(index..).unwrap_or_default());
                return out;
            }
            self.byte(*byte, &mut out);
        }
        out
    }

    /// What is left to hand on at the end: an event that did not end, and is none.
    #[must_use]
    pub fn end(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.held.push(byte);
        let at_start = matches!(self.line, Line::Start | Line::AfterReturn);
        let mut is_whole = false;
        match byte {
            b'\n' if self.line == Line::AfterReturn => self.line = Line::Start,
            b'\r' | b'\n' => {
                is_whole = at_start;
                self.has_field |= self.line == Line::Field;
                self.line = if byte == b'\r' { Line::AfterReturn } else { Line::Start };
            }
            b':' if at_start => self.line = Line::Comment,
            _ if at_start => self.line = Line::Field,
            _ => {}
        }
        if is_whole {
            self.hand_on(out);
        } else if self.held.len() > MAX_HELD {
            self.is_passing = true;
        }
        // A comment alone waits for nothing.
        let is_between = !self.has_field && matches!(self.line, Line::Start | Line::AfterReturn);
        if self.is_passing || is_between {
            out.append(&mut self.held);
        }
    }

    /// An event is whole.
    fn hand_on(&mut self, out: &mut Vec<u8>) {
        let event = std::mem::take(&mut self.held);
        let is_answer = self.has_field && !self.is_passing;
        (self.has_field, self.is_passing) = (false, false);
        let text = std::str::from_utf8(&event).ok().filter(|_| is_answer);
        let with_receipt = text.and_then(|it| self.with_receipt(it));
        self.is_done = with_receipt.is_some();
        out.extend_from_slice(with_receipt.as_ref().map_or(event.as_slice(), String::as_bytes));
    }

    /// The event with the receipt, if it has the answer: its data are written in the place of their first line, and
    /// every other line stays.
    fn with_receipt(&self, event: &str) -> Option<String> {
        let lines = lines(event);
        let data: Vec<_> = lines.iter().filter_map(|it| data_of(it.0)).collect();
        let answer = with_meta(&data.join("\n"), &self.id, &self.meta)?;
        let mut text = String::with_capacity(event.len().saturating_add(answer.len()));
        let mut answer = Some(answer);
        for (line, ending) in lines {
            if data_of(line).is_none() {
                text.push_str(line);
                text.push_str(ending);
                continue;
            }
            for part in answer.take().iter().flat_map(|it| it.split('\n')) {
                text.push_str(if line.starts_with("data: ") { "data: " } else { "data:" });
                text.push_str(part);
                text.push_str(ending);
            }
        }
        Some(text)
    }
}

/// The data of a line, if it has some.
fn data_of(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':').unwrap_or((line, ""));
    (name == "data").then(|| value.strip_prefix(' ').unwrap_or(value))
}

/// The lines of an event, each with what ends it.
fn lines(mut text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    while let Some(at) = text.find(['\r', '\n']) {
        let (line, rest) = text.split_at(at);
        let length = if rest.starts_with("\r\n") { 2 } else { 1 };
        let (ending, after) = rest.split_at(length);
        lines.push((line, ending));
        text = after;
    }
    if !text.is_empty() {
        lines.push((text, ""));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str = "\"_meta\":{\"x402/payment-response\":7}";

    fn receipt() -> EventReceipt {
        let meta = ResultMeta { payment_response: Some("7".to_owned()), capability: None };
        EventReceipt::new("1".to_owned(), meta)
    }

    /// What passes of a stream in pieces of this size.
    fn passed(stream: &str, size: usize) -> String {
        let mut receipt = receipt();
        let mut out: Vec<u8> = stream.as_bytes().chunks(size).flat_map(|it| receipt.part(it)).collect();
        out.extend(receipt.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_event_with_the_answer_has_the_receipt_and_nothing_else_changes() {
        let answer = "{\"id\":1,\"result\":{}}";
        let with = format!("{{\"id\":1,\"result\":{{{OWN}}}}}");
        for (stream, expected) in [
            (format!("data: {answer}\n\n"), format!("data: {with}\n\n")),
            (
                format!(":x\nevent: message\r\ndata:{answer}\r\nid: 5\r\n\r\ndata: {answer}\n\n"),
                format!(":x\nevent: message\r\ndata:{with}\r\nid: 5\r\n\r\ndata: {answer}\n\n"),
            ),
            (format!("data:  {answer}\r\rdata"), format!("data:  {with}\r\rdata")),
            (
                "data: {\"id\":1,\ndata: \"result\":\nid: 5\ndata:{}}\n\n".to_owned(),
                format!("data: {{\"id\":1,\ndata: \"result\":\ndata: {{{OWN}}}}}\nid: 5\n\n"),
            ),
            (
                format!(
                    "data: {{\"id\":2,\"result\":{{}}}}\n\ndata: {{\"method\":\"a\"}}\n\ndata: {answer}\n\n"
                ),
                format!(
                    "data: {{\"id\":2,\"result\":{{}}}}\n\ndata: {{\"method\":\"a\"}}\n\ndata: {with}\n\n"
                ),
            ),
        ] {
            for size in [1, 2, 3, 1000] {
                assert_eq!(passed(&stream, size), expected, "{size}");
            }
        }
    }

    #[test]
    fn what_is_no_answer_passes_as_it_is() {
        for stream in [
            "",
            "\n\n\r\n",
            ": ping\n\n: ping\r\n\r\n",
            "event: a\n\n",
            "data\n\n",
            "data: {\"id\":1,\"error\":{}}\n\n",
            "data: {\"id\":1,\"result\":{}}\n",
            "datax: {\"id\":1,\"result\":{}}\n\n",
        ] {
            for size in [1, 1000] {
                assert_eq!(passed(stream, size), stream, "{size}");
            }
        }
        let mut receipt = receipt();
        assert_eq!(receipt.part(b"data: \xff\n\n"), b"data: \xff\n\n");
    }

    #[test]
    fn nothing_waits_but_an_event_that_is_not_whole() {
        let mut receipt = receipt();
        assert_eq!(receipt.part(b": ping\n"), b": ping\n", "a comment");
        assert_eq!(receipt.part(b"data: 1\n:x\n"), b"");
        assert_eq!(receipt.part(b"\nid: 2"), b"data: 1\n:x\n\n");
        assert_eq!(receipt.end(), b"id: 2");
    }

    #[test]
    fn an_event_of_more_than_256_kib_passes_and_the_next_one_has_its_receipt() {
        let long = format!("data: {{\"id\":1,\"result\":{{\"a\":\"{}\"}}}}\n\n", "x".repeat(MAX_HELD));
        let stream = format!("{long}data: {{\"id\":1,\"result\":{{}}}}\n\n");
        let expected = format!("{long}data: {{\"id\":1,\"result\":{{{OWN}}}}}\n\n");
        for size in [999, usize::MAX] {
            assert!(passed(&stream, size) == expected, "{size}");
        }
    }
}
