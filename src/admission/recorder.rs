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

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        pairs.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect()
    }

    /// What is kept of an answer of one part, whose body may have 5 bytes.
    fn kept(status: StatusCode, headers: &HeaderMap, body: &'static str) -> Answer {
        let mut recorder = Recorder::begin(5, status, headers);
        recorder.part(Some(&Bytes::from_static(body.as_bytes())), true);
        recorder.finish(false).unwrap()
    }

    #[test]
    fn an_answer_is_kept_up_to_its_largest_size() {
        let one = headers(&[("content-length", "5"), ("x-kind", "quote"), ("set-cookie", "login=1")]);
        let whole = kept(StatusCode::OK, &one, "12345");
        let expected = vec![("x-kind".to_owned(), b"quote".to_vec())];
        assert_eq!((whole.status, whole.headers, whole.body), (200, expected, Some(b"12345".to_vec())));
        let too_large = [
            kept(StatusCode::OK, &HeaderMap::new(), "123456"),
            kept(StatusCode::OK, &headers(&[("content-length", "6")]), ""),
            kept(StatusCode::SWITCHING_PROTOCOLS, &HeaderMap::new(), ""),
        ];
        for answer in too_large {
            assert_eq!(answer, Answer::not_kept(answer.status));
        }
    }

    #[test]
    fn an_answer_is_kept_with_up_to_32_kib_of_headers() {
        let fits = "x".repeat(32_768_usize.saturating_sub("x-long".len()));
        assert!(kept(StatusCode::OK, &headers(&[("x-long", &fits)]), "1").body.is_some());
        let longer = format!("{fits}x");
        let answer = kept(StatusCode::OK, &headers(&[("x-long", &longer)]), "1");
        assert_eq!(answer, Answer::not_kept(200));
    }

    #[test]
    fn only_a_whole_answer_is_kept() {
        for (end, finished, is_kept) in
            [(false, false, false), (true, false, true), (false, true, true), (true, true, true)]
        {
            let mut recorder = Recorder::begin(5, StatusCode::OK, &HeaderMap::new());
            recorder.part(Some(&Bytes::from_static(b"1")), end);
            recorder.part(None, false);
            assert_eq!(recorder.finish(finished).is_some(), is_kept, "{end} {finished}");
        }
    }
}
