//! A receipt in an answer that is one JSON text.

use super::{MAX_HELD, ResultMeta, with_meta};

/// Holds an answer until its object is whole, and hands it on with the receipt in it.
#[derive(Debug)]
pub struct WholeReceipt {
    id: String,
    meta: ResultMeta,
    held: Vec<u8>,
    depth: usize,
    /// Within a string of JSON: whether the next byte is escaped.
    in_text: Option<bool>,
    is_done: bool,
}

impl WholeReceipt {
    /// For the answer to the call with this `id`, which is JSON.
    #[must_use]
    pub const fn new(id: String, meta: ResultMeta) -> Self {
        Self { id, meta, held: Vec::new(), depth: 0, in_text: None, is_done: false }
    }

    /// Whether all that follows passes as it is.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.is_done
    }

    /// What goes on to the client once `part` has come.
    #[must_use]
    pub fn part(&mut self, part: &[u8]) -> Vec<u8> {
        let end = if self.is_done { Some(0) } else { self.scan(part) };
        let (own, rest) = part.split_at_checked(end.unwrap_or(part.len())).unwrap_or((part, &[]));
        self.held.extend_from_slice(own);
        if end.is_none() && self.held.len() <= MAX_HELD {
            return Vec::new();
        }
        let mut out = self.end();
        out.extend_from_slice(rest);
        out
    }

    /// What is left to hand on at the end.
    #[must_use]
    pub fn end(&mut self) -> Vec<u8> {
        let held = std::mem::take(&mut self.held);
        if std::mem::replace(&mut self.is_done, true) || held.len() > MAX_HELD {
            return held;
        }
        let with_receipt = std::str::from_utf8(&held).ok().and_then(|it| with_meta(it, &self.id, &self.meta));
        with_receipt.map_or(held, String::into_bytes)
    }

    /// Where in `part` the object ends that began before or begins in it.
    fn scan(&mut self, part: &[u8]) -> Option<usize> {
        for (index, byte) in part.iter().enumerate() {
            match (self.in_text, byte) {
                (Some(true), _) => self.in_text = Some(false),
                (Some(false), b'\\') => self.in_text = Some(true),
                (Some(false), b'"') => self.in_text = None,
                (Some(false), _) => {}
                (None, b'"') => self.in_text = Some(false),
                (None, b'{' | b'[') => self.depth = self.depth.saturating_add(1),
                (None, b'}' | b']') => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index.saturating_add(1));
                    }
                }
                (None, _) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> WholeReceipt {
        let meta = ResultMeta { payment_response: Some("7".to_owned()), capability: None };
        WholeReceipt::new("1".to_owned(), meta)
    }

    fn passed(receipt: &mut WholeReceipt, parts: &[&[u8]]) -> Vec<u8> {
        let mut out: Vec<u8> = parts.iter().flat_map(|it| receipt.part(it)).collect();
        out.extend(receipt.end());
        out
    }

    #[test]
    fn an_answer_in_pieces_has_its_receipt_as_soon_as_it_is_whole() {
        let answer = "{\"a\":\"\\\"}{[\\\\\",\"result\":{\"b\":[{}]},\"id\":1}";
        let expected = answer.replace("{\"b\"", "{\"_meta\":{\"x402/payment-response\":7},\"b\"");
        for size in [1, 2, 7, 1000] {
            let mut receipt = receipt();
            let mut out: Vec<u8> = answer.as_bytes().chunks(size).flat_map(|it| receipt.part(it)).collect();
            assert_eq!(std::str::from_utf8(&out).unwrap(), expected, "nothing waits for the end");
            assert!(receipt.is_done());
            out.extend(passed(&mut receipt, &[b"\n", b"more"]));
            assert_eq!(std::str::from_utf8(&out).unwrap(), format!("{expected}\nmore"));
        }
    }

    #[test]
    fn what_is_too_long_or_no_answer_passes_as_it_is() {
        let wrap = |length: usize| {
            let empty = "{\"id\":1,\"result\":{\"a\":\"\"}}";
            empty.replace("\"\"", &format!("\"{}\"", "x".repeat(length.saturating_sub(empty.len()))))
        };
        let fits = passed(&mut receipt(), &[wrap(MAX_HELD).as_bytes()]);
        assert_eq!(fits.len(), MAX_HELD.saturating_add("\"_meta\":{\"x402/payment-response\":7},".len()));
        let long = wrap(MAX_HELD.saturating_add(1));
        for size in [1000, usize::MAX] {
            let parts: Vec<_> = long.as_bytes().chunks(size).collect();
            assert_eq!(passed(&mut receipt(), &parts), long.as_bytes());
        }
        for other in [&b"{\"id\":1,\"result\":{"[..], b"}", b"\xff{}", b"", b"{\"id\":2,\"result\":{}}"] {
            assert_eq!(passed(&mut receipt(), &[other]), other);
        }
    }
}
