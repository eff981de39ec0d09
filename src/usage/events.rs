//! The JSON in a stream of events (`text/event-stream`, the HTML standard, section 9.2), and in lines of JSON.
//!
//! The data of an event is scanned as it passes. It counts when the event has ended with a blank line, as it does for
//! readers.

use super::scan::{Extent, Places, Scanner};

const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
const DATA: &[u8] = b"data";

/// A stream of events, as far as it has passed.
#[derive(Clone, Debug)]
pub(super) struct Events {
    scanner: Scanner,
    at: Line,
    /// Whether the last byte was a carriage return: a line feed belongs to the same end of a line.
    after_return: bool,
    /// Whether the event has a line of data.
    has_data: bool,
    /// How much of the stream's byte order mark has passed; `None` after it.
    mark: Option<usize>,
}

/// Where in a line the stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    /// In the name of a field, of which so many bytes have passed that begin the word `data`.
    Name(usize),
    /// After the colon: one space is no data.
    Colon,
    Data,
    /// In a comment or another field.
    Other,
}

impl Events {
    pub(super) fn new(places: Places) -> Self {
        let scanner = Scanner::new(places);
        Self { scanner, at: Line::Name(0), after_return: false, has_data: false, mark: Some(0) }
    }

    pub(super) const fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// The next part of the stream. `seen` is given the JSON of each event that ends in it.
    pub(super) fn feed(&mut self, part: &[u8], mut seen: impl FnMut(&Scanner)) {
        let mut rest = part;
        while let Some((byte, after)) = rest.split_first() {
            if self.is_mark(*byte) {
                rest = after;
                continue;
            }
            if matches!(byte, b'\r' | b'\n') {
                if !(*byte == b'\n' && self.after_return) {
                    self.end_line(&mut seen);
                }
                self.after_return = *byte == b'\r';
                rest = after;
                continue;
            }
            self.after_return = false;
            let end = memchr::memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
            self.line(line);
            rest = after;
        }
    }

    /// Whether the byte belongs to a byte order mark at the start of the stream. One that is not whole is the name of
    /// some field.
    fn is_mark(&mut self, byte: u8) -> bool {
        let Some(passed) = self.mark else { return false };
        if BYTE_ORDER_MARK.get(passed) == Some(&byte) {
            let passed = passed.saturating_add(1);
            self.mark = (passed < BYTE_ORDER_MARK.len()).then_some(passed);
            return true;
        }
        self.mark = None;
        if passed > 0 {
            self.at = Line::Other;
        }
        false
    }

    /// A part of one line.
    fn line(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some((byte, after)) = rest.split_first() {
            match self.at {
                Line::Other => return,
                Line::Data => {
                    self.scanner.feed(rest);
                    return;
                }
                Line::Colon => {
                    self.at = Line::Data;
                    rest = if *byte == b' ' { after } else { rest };
                }
                Line::Name(passed) => {
                    rest = after;
                    if *byte == b':' && passed == DATA.len() {
                        self.begin_data();
                        self.at = Line::Colon;
                    } else if DATA.get(passed) == Some(byte) {
                        self.at = Line::Name(passed.saturating_add(1));
                    } else {
                        self.at = Line::Other;
                    }
                }
            }
        }
    }

    fn begin_data(&mut self) {
        if self.has_data {
            // The lines of an event's data are one text.
            self.scanner.feed(b"\n");
        }
        self.has_data = true;
    }

    fn end_line(&mut self, seen: &mut impl FnMut(&Scanner)) {
        match self.at {
            Line::Name(0) => {
                if self.has_data {
                    if self.scanner.extent() == Extent::Whole {
                        seen(&self.scanner);
                    }
                    self.scanner.reset();
                    self.has_data = false;
                }
            }
            // A field without a colon has an empty value.
            Line::Name(passed) if passed == DATA.len() => self.begin_data(),
            Line::Name(_) | Line::Colon | Line::Data | Line::Other => {}
        }
        self.at = Line::Name(0);
    }
}

/// JSON texts of one line each.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    scanner: Scanner,
}

impl Lines {
    pub(super) fn new(places: Places) -> Self {
        Self { scanner: Scanner::new(places) }
    }

    pub(super) const fn scanner(&self) -> &Scanner {
        &self.scanner
    }

    /// The next part. `seen` is given the JSON of each line that ends in it.
    pub(super) fn feed(&mut self, part: &[u8], mut seen: impl FnMut(&Scanner)) {
        let mut lines = part.split(|it| *it == b'\n');
        self.scanner.feed(lines.next().unwrap_or_default());
        for line in lines {
            if self.scanner.extent() == Extent::Whole {
                seen(&self.scanner);
            }
            self.scanner.reset();
            self.scanner.feed(line);
        }
    }

    /// The answer has ended, and with it the last line.
    pub(super) fn end(&self, seen: impl FnOnce(&Scanner)) {
        if self.scanner.extent() == Extent::Whole {
            seen(&self.scanner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::usage::scan::{Place, Role, Step, Taken};

    fn places() -> Places {
        let path = Cow::Owned(vec![Step::To(Cow::Borrowed("a"))]);
        Places::Given([Place { role: Role::Usage, path }].into())
    }

    fn noted(seen: &mut Vec<String>, scanner: &Scanner) {
        if let Taken::Value(value) = scanner.taken(Role::Usage) {
            seen.push(String::from_utf8_lossy(value).into_owned());
        }
    }

    fn of_events(stream: &[u8]) -> String {
        let read = |step: usize| {
            let (mut events, mut found) = (Events::new(places()), Vec::new());
            stream.chunks(step).for_each(|part| events.feed(part, |it| noted(&mut found, it)));
            found.join(",")
        };
        let whole = read(stream.len().max(1));
        for step in 1..8 {
            assert_eq!(read(step), whole, "{}", String::from_utf8_lossy(stream));
        }
        whole
    }

    #[test]
    fn the_data_of_events_is_read_as_readers_do() {
        for (stream, expected) in [
            ("data: {\"a\":1}\n\ndata:{\"a\":2}\n\n", "1,2"),
            ("data: {\"a\":1}\r\n\r\ndata: {\"a\":2}\r\r", "1,2"),
            ("event: x\nid: 7\ndata: {\"a\":1}\nretry: 5\n\n", "1"),
            ("data: {\"a\":\ndata: 1}\n\n", "1"),
            ("data: {\"a\":1\ndata\ndata: }\n\n", "1"),
            ("\u{feff}data: {\"a\":1}\n\n", "1"),
            // Not the start of the stream.
            ("\n\u{feff}data: {\"a\":1}\n\n", ""),
            (": data: {\"a\":1}\n\n", ""),
            ("Data: {\"a\":1}\n\n", ""),
            (" data: {\"a\":1}\n\n", ""),
            ("data : {\"a\":1}\n\n", ""),
            ("datas: {\"a\":1}\n\n", ""),
            ("{\"a\":1}\n\n", ""),
            ("event: message data: {\"a\":1}\n\n", ""),
            // An event without an end is none, and one that is not JSON says nothing.
            ("data: {\"a\":1}\n", ""),
            ("data: {\"a\":1}", ""),
            ("data: {\"a\":1\n\ndata: 2}\n\n", ""),
            ("data: {\"a\":1} x\n\ndata: {\"a\":2}\n\ndata: [DONE]\n\n", "2"),
            ("data:  \n\n", ""),
            ("data: {\"a\":1}\n:\n\n", "1"),
            ("\n\n\ndata: {\"a\":1}\n\n\n\n", "1"),
        ] {
            assert_eq!(of_events(stream.as_bytes()), expected, "{stream:?}");
        }
        assert_eq!(of_events(b"\xef\xbbdata: {\"a\":1}\n\ndata: {\"a\":2}\n\n"), "2");
        assert_eq!(of_events(b"data: {\"x\":\"\xff\x00\",\"a\":1}\n\n"), "1");
    }

    #[test]
    fn lines_are_texts_of_their_own() {
        let of_lines = |text: &[u8], step: usize| {
            let (mut lines, mut found) = (Lines::new(places()), Vec::new());
            text.chunks(step).for_each(|part| lines.feed(part, |it| noted(&mut found, it)));
            found.push("end".to_owned());
            lines.end(|it| noted(&mut found, it));
            found.join(",")
        };
        for step in 1..40 {
            let text = b"{\"a\":1}\r\n{\"b\":2}\n\n{\"a\":\n3}\n{\"a\":4}\n{\"a\":5}";
            assert_eq!(of_lines(text, step), "1,4,end,5");
            assert_eq!(of_lines(b"{\"a\":1}\n{\"a\":2", step), "1,end");
        }
    }
}
