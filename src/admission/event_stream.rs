//! Whether a stream of events (`text/event-stream`) has handed on its first event. From then on it has
//! delivered what was bought, however it ends.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

/// What has passed of a stream of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventStream {
    /// Nothing is read out of a stream that is compressed: its first byte counts as an event.
    opaque: bool,
    at: Place,
    /// Whether a field of an event has passed since the last blank line.
    has_field: bool,
    has_event: bool,
}

/// Where in a line the stream is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    Start,
    /// After a carriage return: a line feed belongs to the same end of a line.
    AfterReturn,
    /// In a line that starts with a colon, which readers skip.
    Comment,
    Field,
}

impl EventStream {
    /// What an answer with these headers begins with; `None` if it is no stream of events.
    pub(super) fn begin(headers: &HeaderMap) -> Option<Self> {
        let kind = headers.get(CONTENT_TYPE)?.as_bytes();
        let kind = kind.split(|it| *it == b';').next().unwrap_or_default().trim_ascii();
        let opaque = headers.contains_key(CONTENT_ENCODING);
        let begun = Self { opaque, at: Place::Start, has_field: false, has_event: false };
        kind.eq_ignore_ascii_case(b"text/event-stream").then_some(begun)
    }

    /// A part of the body is handed on.
    pub(super) fn part(&mut self, part: &[u8]) {
        self.has_event |= self.opaque && !part.is_empty();
        for byte in part {
            if self.has_event {
                return;
            }
            self.byte(*byte);
        }
    }

    /// Whether a whole event was handed on.
    pub(super) const fn has_event(self) -> bool {
        self.has_event
    }

    fn byte(&mut self, byte: u8) {
        let at_start = matches!(self.at, Place::Start | Place::AfterReturn);
        match byte {
            b'\n' if self.at == Place::AfterReturn => self.at = Place::Start,
            b'\r' | b'\n' => {
                if at_start {
                    self.has_event = self.has_field;
                } else if self.at == Place::Field {
                    self.has_field = true;
                }
                self.at = if byte == b'\r' { Place::AfterReturn } else { Place::Start };
            }
            b':' if at_start => self.at = Place::Comment,
            _ if at_start => self.at = Place::Field,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has_event(parts: &[&str], encoding: Option<&'static str>) -> Option<bool> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, "Text/Event-Stream; charset=utf-8".parse().ok()?);
        if let Some(encoding) = encoding {
            headers.insert(CONTENT_ENCODING, encoding.parse().ok()?);
        }
        let mut stream = EventStream::begin(&headers)?;
        parts.iter().for_each(|it| stream.part(it.as_bytes()));
        Some(stream.has_event())
    }

    #[test]
    fn an_event_ends_with_a_blank_line() {
        for whole in [&["data: a\n\n"][..], &["data: a\r\n", "\r\n"], &["data", "\r\r"], &["\n:\nid: 1\n\n"]]
        {
            assert_eq!(has_event(whole, None), Some(true), "{whole:?}");
        }
        for part in [&["data: a\n"][..], &["data: a\r\n"], &[": ping\n\n: ping\n\n"], &["\n\n"], &[]] {
            assert_eq!(has_event(part, None), Some(false), "{part:?}");
        }
        assert_eq!(has_event(&["\x1f"], Some("gzip")), Some(true));
        assert_eq!(has_event(&[], Some("gzip")), Some(false));
    }

    #[test]
    fn other_answers_are_no_streams_of_events() {
        let mut headers = HeaderMap::new();
        assert!(EventStream::begin(&headers).is_none());
        headers.insert(CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
        assert!(EventStream::begin(&headers).is_none());
    }
}
