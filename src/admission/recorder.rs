//! An answer as it passes to the client, to be kept under a payment identifier.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderName};

use crate::store::Answer;

/// Bytes of all kept headers together. An answer with more is not kept.
const MOST_HEADER_BYTES: usize = 32 * 1024;

/// Records an answer that counts.
#[derive(Debug)]
pub(super) struct Recorder {
    /// Bytes of the largest body that is kept.
    largest: usize,
    answer: Answer,
    whole: bool,
}

impl Recorder {
    /// Begins with the status and the headers that the client gets.
    pub(super) fn begin(largest: usize, status: StatusCode, headers: &HeaderMap) -> Self {
        let announced = headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
        let announced: usize = announced.and_then(|it| it.parse().ok()).unwrap_or(0);
        let kept: Vec<_> = headers
            .iter()
            .filter(|(name, _)| !is_of_this_time(name))
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        let bytes: usize = kept.iter().map(|(name, value)| name.len().saturating_add(value.len())).sum();
        // A tunnel has no end that could be kept.
        let fits = bytes <= MOST_HEADER_BYTES && announced <= largest && !status.is_informational();
        let status = status.as_u16();
        let answer = Answer { status, headers: kept, body: Some(Vec::new()) };
        Self { largest, answer: if fits { answer } else { Answer::not_kept(status) }, whole: false }
    }

    /// A part of the body passes; `end` says that it is the last.
    pub(super) fn part(&mut self, part: Option<&Bytes>, end: bool) {
        self.whole |= end;
        let (Some(body), Some(part)) = (self.answer.body.as_mut(), part) else { return };
        if body.len().saturating_add(part.len()) > self.largest {
            self.answer = Answer::not_kept(self.answer.status);
        } else {
            body.extend_from_slice(part);
        }
    }

    /// The answer, if all of it passed. `finished` says that the exchange ended without an error.
    pub(super) fn finish(self, finished: bool) -> Option<Answer> {
        (finished || self.whole).then_some(self.answer)
    }
}

/// Headers that belong to one connection, one moment or one payer's browser, and are not kept: how
/// the body was framed, what the gateway itself adds, and cookies, which may be a login.
fn is_of_this_time(name: &HeaderName) -> bool {
    const STARTS: [&str; 3] = ["payment-", "access-control-", "proxy-"];
    const NAMES: [&str; 10] = [
        "connection",
        "content-length",
        "date",
        "keep-alive",
        "set-cookie",
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let name = name.as_str();
    STARTS.iter().any(|it| name.starts_with(it)) || NAMES.contains(&name)
}
