//! Where the members of a JSON object stand in its text, so that one is cut out or put in and all else stays as it
//! was written.

use std::ops::Range;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Deserializer;

/// An object in a text.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectText {
    /// Right behind the brace that opens it.
    pub begin: usize,
    pub members: Vec<MemberText>,
    /// Right behind the brace that closes it.
    pub end: usize,
}

/// A member of an object.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MemberText {
    pub key: String,
    /// From its key to the end of its value.
    pub whole: Range<usize>,
    pub value: Range<usize>,
}

impl ObjectText {
    /// The object that begins at `at` in `text`, perhaps after white space; `None` if none does that can be read.
    #[must_use]
    pub fn at(text: &str, at: usize) -> Option<Self> {
        let begin = after(text, at, b'{')?;
        let mut members = Vec::new();
        let mut here = space(text, begin);
        if text.as_bytes().get(here) == Some(&b'}') {
            return Some(Self { begin, members, end: here.saturating_add(1) });
        }
        loop {
            here = space(text, here);
            let key_at = here;
            let (key, key_end) = value::<String>(text, here)?;
            let value_at = space(text, after(text, key_end, b':')?);
            let (_, value_end) = value::<IgnoredAny>(text, value_at)?;
            members.push(MemberText { key, whole: key_at..value_end, value: value_at..value_end });
            if let Some(end) = after(text, value_end, b'}') {
                return Some(Self { begin, members, end });
            }
            here = after(text, value_end, b',')?;
        }
    }

    /// The object that is all of `text`.
    #[must_use]
    pub fn whole(text: &str) -> Option<Self> {
        Self::at(text, 0).filter(|it| space(text, it.end) == text.len())
    }

    /// The member with this key; `None` if there is none, or more than one.
    #[must_use]
    pub fn only(&self, key: &str) -> Option<&MemberText> {
        let mut found = self.members.iter().filter(|it| it.key == key);
        found.next().filter(|_| found.next().is_none())
    }

    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.members.iter().any(|it| it.key == key)
    }

    /// The object that is the value of the only member with this key.
    #[must_use]
    pub fn inner(&self, text: &str, key: &str) -> Option<Self> {
        Self::at(text, self.only(key)?.value.start)
    }

    /// `text` without the members of this object that have one of these keys, each with one comma.
    #[must_use]
    pub fn without(&self, text: &str, keys: &[&str]) -> Option<String> {
        let goes = |it: &MemberText| keys.contains(&it.key.as_str());
        // Those in front go up to the first that stays, all others from the one before.
        let in_front = self.members.iter().take_while(|it| goes(it)).count();
        let begin = self.members.first().map_or(self.begin, |it| it.whole.start);
        let mut from = match (in_front.checked_sub(1), self.members.get(in_front)) {
            (None, _) => begin,
            (Some(_), Some(stays)) => stays.whole.start,
            (Some(last), None) => self.members.get(last)?.whole.end,
        };
        let mut left = String::with_capacity(text.len());
        left.push_str(text.get(..begin)?);
        for pair in self.members.windows(2).skip(in_front) {
            if let [before, own] = pair
                && goes(own)
            {
                left.push_str(text.get(from..before.whole.end)?);
                from = own.whole.end;
            }
        }
        left.push_str(text.get(from..)?);
        Some(left)
    }
}

/// Where the items are of the array that begins at `at` in `text`, perhaps after white space; `None` if none does that
/// can be read.
#[must_use]
pub fn array_items(text: &str, at: usize) -> Option<Vec<Range<usize>>> {
    let mut here = space(text, after(text, at, b'[')?);
    let mut items = Vec::new();
    if text.as_bytes().get(here) == Some(&b']') {
        return Some(items);
    }
    loop {
        let begin = space(text, here);
        let (_, end) = value::<IgnoredAny>(text, begin)?;
        items.push(begin..end);
        if after(text, end, b']').is_some() {
            return Some(items);
        }
        here = after(text, end, b',')?;
    }
}

/// The value at `at`, and where it ends.
fn value<T: DeserializeOwned>(text: &str, at: usize) -> Option<(T, usize)> {
    let mut read = Deserializer::from_str(text.get(at..)?).into_iter::<T>();
    let value = read.next()?.ok()?;
    Some((value, at.saturating_add(read.byte_offset())))
}

/// Where the white space that is at `at` ends.
fn space(text: &str, at: usize) -> usize {
    let rest = text.as_bytes().get(at..).unwrap_or_default();
    let length = rest.iter().take_while(|it| matches!(it, b' ' | b'\t' | b'\n' | b'\r')).count();
    at.saturating_add(length)
}

/// Right behind `byte`, which stands at `at`, perhaps after white space.
fn after(text: &str, at: usize, byte: u8) -> Option<usize> {
    let here = space(text, at);
    (text.as_bytes().get(here) == Some(&byte)).then(|| here.saturating_add(1))
}

/// `text` with `put` in the place of `range`.
#[must_use]
pub fn replaced(text: &str, range: Range<usize>, put: &str) -> Option<String> {
    let (before, behind) = (text.get(..range.start)?, text.get(range.end..)?);
    Some([before, put, behind].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_cut_out_with_one_comma() {
        for (text, key, rest) in [
            (
                "{ \"a\" : 1 , \"b\" : [1, {\"a\":2}] , \"c\":\"}\" }",
                "a",
                "{ \"b\" : [1, {\"a\":2}] , \"c\":\"}\" }",
            ),
            ("{ \"a\" : 1 , \"b\" : [1, {\"a\":2}] , \"c\":\"}\" }", "b", "{ \"a\" : 1 , \"c\":\"}\" }"),
            (
                "{ \"a\" : 1 , \"b\" : [1, {\"a\":2}] , \"c\":\"}\" }",
                "c",
                "{ \"a\" : 1 , \"b\" : [1, {\"a\":2}] }",
            ),
            (" {\"a\":1.50e+2} ", "a", " {} "),
            ("{\"\\u0061\":null,\"b\":\"\\\"{,\"}", "a", "{\"b\":\"\\\"{,\"}"),
        ] {
            let object = ObjectText::whole(text).unwrap();
            assert_eq!(object.without(text, &[key]).as_deref(), Some(rest), "{text} {key}");
        }
    }

    /// Also of many with one key, in one pass.
    #[test]
    fn all_members_with_a_key_are_cut_out_whatever_stays() {
        let kinds = ["\"a\" : 1", "\"k\" : 2", "\"b\":[]"];
        let mut lists = vec![Vec::new()];
        for length in 0..4 {
            let longest = lists.iter().filter(|it| it.len() == length);
            let longer: Vec<_> =
                longest.flat_map(|it| kinds.map(|kind| [it.as_slice(), &[kind]].concat())).collect();
            lists.extend(longer);
        }
        assert_eq!(lists.len(), 121);
        for list in lists {
            let object = |members: &[&str]| format!("{{ {} }}", members.join(" , "));
            let whole = object(&list);
            let stay: Vec<_> = list.into_iter().filter(|it| it.starts_with("\"k")).collect();
            let without = ObjectText::whole(&whole).unwrap().without(&whole, &["a", "b"]);
            assert_eq!(without, Some(object(&stay)), "{whole}");
        }
    }

    #[test]
    fn what_is_no_object_has_no_members() {
        for text in [
            "",
            "{",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":1 \"b\":2}",
            "{} {}",
            "{a:1}",
            "{\"a\":01}",
        ] {
            assert_eq!(ObjectText::whole(text), None, "{text}");
        }
        let empty = ObjectText::whole(" { } ").unwrap();
        assert_eq!((empty.begin, empty.members.len(), empty.end), (2, 0, 4));
    }

    #[test]
    fn a_key_that_is_there_twice_is_no_only_one() {
        let object = ObjectText::whole("{\"a\":1,\"\\u0061\":2,\"b\":{\"c\":3}}").unwrap();
        assert!(object.only("a").is_none() && object.has("a"));
        let text = "{\"b\":{\"c\":3}}";
        let object = ObjectText::whole(text).unwrap();
        assert_eq!(object.inner(text, "b").unwrap().only("c").unwrap().value, 10..11);
        assert!(object.inner(text, "c").is_none());
    }
}
