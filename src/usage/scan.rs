//! Finds a few values in JSON that passes in pieces, and keeps nothing else of it.
//!
//! A value is known by its whole place, so that what is quoted deeper down is no matter. Values are kept as they are
//! written, and read by a strict parser afterwards; of all else only the structure is followed, as far as it decides
//! what is where.

use std::borrow::Cow;
use std::sync::Arc;

/// The longest value that is kept, in bytes.
pub(super) const MAX_VALUE: usize = 16 * 1024;
/// The longest key that is compared, in bytes as it is written: each character of a step can be written in six.
const MAX_KEY: usize = 6 * super::pointer::MAX_STEP;
/// How deep values may be nested.
const MAX_DEPTH: u32 = 128;
/// How many open containers can lead to a place, and one more.
const LEVELS: usize = super::pointer::MAX_STEPS + 1;

/// What a place is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Model,
    Usage,
    /// The type of an event.
    Type,
    /// What went wrong in a stream.
    Error,
    /// The model and the usage of what an event is about.
    ModelWithin,
    UsageWithin,
    /// A text that is counted and not kept.
    Text,
    Input,
    Cached,
    Output,
    Tokens,
    Cost,
    Options,
}

/// One step to a place.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Step {
    /// The key of an object, or the index of a list.
    To(Cow<'static, str>),
    /// Any of them.
    Any,
}

/// A place that is looked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) role: Role,
    pub(super) path: Cow<'static, [Step]>,
}

/// The places that are looked for: at most 16, of which none is within another.
#[derive(Clone, Debug)]
pub(super) enum Places {
    Fixed(&'static [Place]),
    Given(Arc<[Place]>),
}

impl Places {
    pub(super) fn all(&self) -> &[Place] {
        match self {
            Self::Fixed(all) => all,
            Self::Given(all) => all,
        }
    }
}

/// What is known of a place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Taken<'a> {
    Nothing,
    /// A whole value, as it is written.
    Value(&'a [u8]),
    /// It was there twice, or too long.
    Doubtful,
}

/// How much of a JSON text has passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Extent {
    /// It is not at its end.
    Part,
    Whole,
    /// It is not JSON.
    Broken,
}

/// What comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    Value,
    /// The first item of a list, or its end.
    FirstItem,
    /// The first key of an object, or its end.
    FirstKey,
    NextKey,
    InKey,
    Colon,
    InText,
    InScalar,
    /// A comma or the end of the container.
    After,
    End,
    Broken,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Progress {
    #[default]
    Nothing,
    Begun,
    Whole,
    Doubtful,
}

/// What was found at a place.
#[derive(Clone, Debug, Default)]
struct Found {
    progress: Progress,
    bytes: Vec<u8>,
}

/// Follows one JSON text.
#[derive(Clone, Debug)]
pub(super) struct Scanner {
    places: Places,
    found: Vec<Found>,
    at: At,
    /// How many containers are open, and which of them are objects, the innermost in the lowest bit.
    depth: u32,
    objects: u128,
    /// Places below the open containers, a bit for each; the root's value is at level 0.
    below: [u16; LEVELS],
    /// The index of the next item in the open lists.
    indexes: [usize; LEVELS],
    /// Places at or below the next value.
    next: u16,
    /// The place whose value passes, and how many containers were open when it began.
    taking: Option<(usize, u32)>,
    /// Whether the text that passes is counted.
    counting: bool,
    /// Whether a backslash was the last byte of a text or key.
    escaped: bool,
    key: Vec<u8>,
    /// The bytes of the texts that are counted, of all JSON texts so far.
    text: u64,
    /// How often a place's value came to its end or became doubtful.
    changes: u64,
}

impl Scanner {
    pub(super) fn new(places: Places) -> Self {
        let found = vec![Found::default(); places.all().len()];
        let mut scanner = Self {
            places,
            found,
            at: At::Value,
            depth: 0,
            objects: 0,
            below: [0; LEVELS],
            indexes: [0; LEVELS],
            next: 0,
            taking: None,
            counting: false,
            escaped: false,
            key: Vec::new(),
            text: 0,
            changes: 0,
        };
        scanner.reset();
        scanner
    }

    /// Begins with another JSON text.
    pub(super) fn reset(&mut self) {
        for found in &mut self.found {
            found.progress = Progress::Nothing;
            found.bytes.clear();
        }
        self.at = At::Value;
        self.depth = 0;
        self.objects = 0;
        self.next = u16::MAX;
        self.taking = None;
        self.counting = false;
        self.escaped = false;
    }

    pub(super) const fn extent(&self) -> Extent {
        match self.at {
            At::End => Extent::Whole,
            At::Broken => Extent::Broken,
            // A number at the top has no end of its own, and nothing in it.
            At::Value
            | At::FirstItem
            | At::FirstKey
            | At::NextKey
            | At::InKey
            | At::Colon
            | At::InText
            | At::InScalar
            | At::After => Extent::Part,
        }
    }

    pub(super) fn taken(&self, role: Role) -> Taken<'_> {
        let mut both = self.places.all().iter().zip(&self.found);
        match both.find(|(place, _)| place.role == role).map(|(_, found)| found) {
            Some(Found { progress: Progress::Whole, bytes }) => Taken::Value(bytes),
            Some(Found { progress: Progress::Doubtful, .. }) => Taken::Doubtful,
            Some(Found { progress: Progress::Nothing | Progress::Begun, .. }) | None => Taken::Nothing,
        }
    }

    /// Whether the value of a place has begun and not ended.
    pub(super) const fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// The bytes of the texts that are counted, of all JSON texts so far.
    pub(super) const fn text(&self) -> u64 {
        self.text
    }

    /// Whether any text is counted.
    pub(super) fn counts_text(&self) -> bool {
        self.places.all().iter().any(|it| it.role == Role::Text)
    }

    /// A number that grows when there is more to know.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// The memory that is kept, in bytes.
    pub(super) fn held(&self) -> usize {
        let found = self.found.iter().fold(0_usize, |sum, it| sum.saturating_add(it.bytes.capacity()));
        found.saturating_add(self.key.capacity())
    }

    /// The next part of the JSON text.
    pub(super) fn feed(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some((byte, after)) = rest.split_first() {
            match self.at {
                At::Broken => return,
                At::InText | At::InKey => rest = self.string(rest),
                At::Value
                | At::FirstItem
                | At::FirstKey
                | At::NextKey
                | At::Colon
                | At::InScalar
                | At::After
                | At::End => {
                    self.byte(*byte);
                    rest = after;
                }
            }
        }
    }

    /// A part that begins within a text or key; what follows it.
    fn string<'a>(&mut self, part: &'a [u8]) -> &'a [u8] {
        if self.escaped {
            self.escaped = false;
            let (first, rest) = part.split_at_checked(1).unwrap_or((part, &[]));
            self.of_string(first);
            return rest;
        }
        let end = memchr::memchr2(b'"', b'\\', part).unwrap_or(part.len());
        let (plain, rest) = part.split_at_checked(end).unwrap_or((part, &[]));
        self.of_string(plain);
        match rest.split_first() {
            None => rest,
            Some((b'\\', after)) => {
                self.escaped = true;
                self.of_string(b"\\");
                after
            }
            Some((_, after)) => {
                self.keep(b"\"");
                if self.at == At::InKey {
                    self.at = At::Colon;
                    self.next = self.below_key();
                } else {
                    self.end_value();
                }
                after
            }
        }
    }

    fn of_string(&mut self, part: &[u8]) {
        self.keep(part);
        if self.at == At::InKey {
            // One byte more than can be right shows that the key is too long.
            let room = MAX_KEY.saturating_add(1).saturating_sub(self.key.len());
            self.key.extend_from_slice(part.get(..room).unwrap_or(part));
        } else if self.counting {
            self.text = self.text.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        }
    }

    /// A byte outside of texts and keys.
    fn byte(&mut self, byte: u8) {
        if self.at == At::InScalar {
            if is_scalar(byte) {
                self.keep(&[byte]);
                return;
            }
            self.end_value();
        }
        self.keep(&[byte]);
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            return;
        }
        match (self.at, byte) {
            (At::FirstItem, b']') | (At::FirstKey, b'}') => self.close(byte),
            (At::Value | At::FirstItem, _) => self.begin_value(byte),
            (At::FirstKey | At::NextKey, b'"') => {
                self.key.clear();
                self.at = At::InKey;
            }
            (At::Colon, b':') => self.at = At::Value,
            (At::After, b',') if self.is_object() => self.at = At::NextKey,
            (At::After, b',') => {
                if let Some(index) = self.indexes.get_mut(level(self.depth)) {
                    *index = index.saturating_add(1);
                }
                self.next = self.below_index();
                self.at = At::Value;
            }
            (At::After, b']' | b'}') => self.close(byte),
            (
                At::FirstKey
                | At::NextKey
                | At::InKey
                | At::Colon
                | At::InText
                | At::InScalar
                | At::After
                | At::End
                | At::Broken,
                _,
            ) => self.at = At::Broken,
        }
    }

    fn begin_value(&mut self, byte: u8) {
        if self.taking.is_none() {
            self.begin_place();
            self.keep(&[byte]);
        }
        match byte {
            b'{' | b'[' => self.open(byte == b'{'),
            b'"' => self.at = At::InText,
            _ if is_scalar(byte) => self.at = At::InScalar,
            _ => self.at = At::Broken,
        }
    }

    /// Begins to keep or count the next value, if its place is looked for.
    fn begin_place(&mut self) {
        let steps = level(self.depth);
        let ends =
            |(index, place): &(usize, &Place)| self.next & bit(*index) != 0 && place.path.len() == steps;
        let Some((index, place)) = self.places.all().iter().enumerate().find(ends) else { return };
        if place.role == Role::Text {
            self.counting = true;
            return;
        }
        let Some(found) = self.found.get_mut(index) else { return };
        match found.progress {
            Progress::Nothing => {
                found.progress = Progress::Begun;
                self.taking = Some((index, self.depth));
            }
            Progress::Begun | Progress::Whole | Progress::Doubtful => {
                found.progress = Progress::Doubtful;
                self.changes = self.changes.saturating_add(1);
            }
        }
    }

    fn keep(&mut self, part: &[u8]) {
        let Some((index, _)) = self.taking else { return };
        let Some(found) = self.found.get_mut(index) else { return };
        if found.bytes.len().saturating_add(part.len()) > MAX_VALUE {
            found.progress = Progress::Doubtful;
            self.changes = self.changes.saturating_add(1);
            self.taking = None;
        } else {
            found.bytes.extend_from_slice(part);
        }
    }

    fn end_value(&mut self) {
        self.counting = false;
        if let Some((index, depth)) = self.taking
            && depth == self.depth
        {
            self.taking = None;
            self.changes = self.changes.saturating_add(1);
            if let Some(found) = self.found.get_mut(index) {
                found.progress = Progress::Whole;
            }
        }
        self.at = if self.depth == 0 { At::End } else { At::After };
    }

    fn open(&mut self, is_object: bool) {
        if self.depth == MAX_DEPTH {
            self.at = At::Broken;
            return;
        }
        // What is counted is a text.
        self.counting = false;
        self.depth = self.depth.saturating_add(1);
        self.objects = self.objects.wrapping_shl(1) | u128::from(is_object);
        let level = level(self.depth);
        let next = self.next;
        if let (Some(below), Some(index)) = (self.below.get_mut(level), self.indexes.get_mut(level)) {
            (*below, *index) = (next, 0);
        }
        if is_object {
            self.at = At::FirstKey;
        } else {
            self.at = At::FirstItem;
            self.next = self.below_index();
        }
    }

    fn close(&mut self, byte: u8) {
        if self.is_object() != (byte == b'}') {
            self.at = At::Broken;
            return;
        }
        self.depth = self.depth.saturating_sub(1);
        self.objects = self.objects.wrapping_shr(1);
        self.end_value();
    }

    const fn is_object(&self) -> bool {
        self.objects & 1 == 1
    }

    /// The places at or below the value of the key that has passed.
    fn below_key(&self) -> u16 {
        let open = self.open_places();
        if open == 0 || self.key.len() > MAX_KEY {
            return 0;
        }
        if !self.key.contains(&b'\\') {
            return self.led_to(open, |step| step.as_bytes() == self.key);
        }
        let mut quoted = Vec::with_capacity(self.key.len().saturating_add(2));
        quoted.push(b'"');
        quoted.extend_from_slice(&self.key);
        quoted.push(b'"');
        let key: String = serde_json::from_slice(&quoted).unwrap_or_default();
        self.led_to(open, |step| step == key)
    }

    /// The places at or below the next item of the innermost list.
    fn below_index(&self) -> u16 {
        let open = self.open_places();
        let index = self.indexes.get(level(self.depth)).copied().unwrap_or_default();
        if open == 0 { 0 } else { self.led_to(open, |step| step == index.to_string()) }
    }

    /// The places below the innermost container.
    fn open_places(&self) -> u16 {
        self.below.get(level(self.depth)).copied().unwrap_or_default()
    }

    /// Those of the `open` places to which such a step leads from the innermost container.
    fn led_to(&self, open: u16, is_step: impl Fn(&str) -> bool) -> u16 {
        let from = level(self.depth).saturating_sub(1);
        let leads = |place: &Place| match place.path.get(from) {
            Some(Step::To(step)) => is_step(step),
            Some(Step::Any) => true,
            None => false,
        };
        let all = self.places.all().iter().enumerate();
        all.filter(|(index, place)| open & bit(*index) != 0 && leads(place))
            .fold(0, |places, (index, _)| places | bit(index))
    }
}

/// The bit of a place; none beyond the sixteenth.
fn bit(index: usize) -> u16 {
    u32::try_from(index).ok().and_then(|index| 1_u16.checked_shl(index)).unwrap_or_default()
}

/// A depth as an index.
fn level(depth: u32) -> usize {
    usize::try_from(depth).unwrap_or(usize::MAX)
}

/// What numbers and words consist of.
const fn is_scalar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::usage::pointer::Pointer;

    fn places(pointers: &[(Role, &str)]) -> Places {
        let place = |(role, text): &(Role, &str)| {
            let steps = text.split('/').skip(1).map(|it| match it {
                "*" => Step::Any,
                step => Step::To(Cow::Owned(step.to_owned())),
            });
            Place { role: *role, path: steps.collect() }
        };
        Places::Given(pointers.iter().map(place).collect())
    }

    fn usage(json: &str) -> (Extent, Option<String>) {
        let mut scanner = Scanner::new(places(&[(Role::Usage, "/usage")]));
        scanner.feed(json.as_bytes());
        let taken = match scanner.taken(Role::Usage) {
            Taken::Nothing => None,
            Taken::Value(value) => Some(String::from_utf8_lossy(value).into_owned()),
            Taken::Doubtful => Some("doubtful".to_owned()),
        };
        (scanner.extent(), taken)
    }

    #[test]
    fn a_value_is_taken_from_its_own_place_alone() {
        for (json, expected) in [
            (r#"{"usage":{"a":[1,{"b":"}"}]},"x":1}"#, Some(r#"{"a":[1,{"b":"}"}]}"#)),
            (r#"{"usage" : 12 }"#, Some("12")),
            (r#"{"usage":"a\"b","x":2}"#, Some(r#""a\"b""#)),
            (r#"{"us\u0061ge":null}"#, Some("null")),
            (r#"{"x":{"usage":1},"y":[{"usage":2}],"z":"\"usage\":3"}"#, None),
            (r#"[{"usage":1}]"#, None),
            (r#"{"usages":1,"usag":2,"Usage":3,"usage\u0000":4}"#, None),
            (r#"{"x":[],"y":{},"usage":[ ]}"#, Some("[ ]")),
            (r#"{"usage":1,"usage":2}"#, Some("doubtful")),
            (r#""usage""#, None),
        ] {
            assert_eq!(usage(json), (Extent::Whole, expected.map(str::to_owned)), "{json}");
        }
    }

    #[test]
    fn what_is_not_json_is_seen() {
        for json in [
            "{\"usage\":1]",
            "[1}",
            "{,}",
            "{\"a\" 1}",
            "{\"a\":1,,}",
            "{\"a\":}",
            "{\"a\":1}}",
            "{\"a\":1} x",
            "{a:1}",
            "\u{feff}{}",
            "[1\"a\"]",
            "{\"a\":\u{0}}",
            "{\"a\":1 2}",
            "[,]",
        ] {
            assert_eq!(usage(json).0, Extent::Broken, "{json}");
        }
        assert_eq!(usage(&"[".repeat(129)).0, Extent::Broken);
        for json in ["", " ", "{", "{\"a", "{\"a\":", "{\"a\":1", "{\"a\":[{}]", "[1, 2"] {
            assert_eq!(usage(json).0, Extent::Part, "{json}");
        }
        let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
        assert_eq!(usage(&deep).0, Extent::Whole);
    }

    #[test]
    fn little_is_kept_however_much_passes() {
        let mut scanner = Scanner::new(places(&[(Role::Usage, "/usage"), (Role::Text, "/x/*/t")]));
        let long = "a".repeat(100_000);
        for json in [
            format!(
                "{{\"{long}\":\"{long}\",\"x\":[{{\"t\":\"{long}\"}},{{\"t\":\"a\\n\"}},{{\"u\":\"b\"}}],\"usage\":\"{long}\"}}"
            ),
            format!("{{\"usage\":[{long}]}}"),
        ] {
            scanner.reset();
            scanner.feed(json.as_bytes());
            assert_eq!((scanner.extent(), scanner.taken(Role::Usage)), (Extent::Whole, Taken::Doubtful));
            assert!(scanner.held() <= 3 * MAX_VALUE, "{}", scanner.held());
        }
        assert_eq!(scanner.text(), 100_003);
    }

    fn arb_json() -> impl Strategy<Value = Value> {
        let key = prop::sample::select(vec!["usage", "a", "b~/", "é\"\\", "0"]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..4).prop_map(|it| json!(it)),
            ]
        })
    }

    proptest! {
        /// Against `serde_json`'s own pointers, in any spelling of white space and in any pieces.
        #[test]
        fn a_place_is_where_a_pointer_leads(
            value in arb_json(), pretty in any::<bool>(), cuts in prop::collection::vec(0..200_usize, 0..6),
            pointer in "/(usage|a|b~0~1|é\"|0|1)(/(usage|a|0|1|2)){0,3}",
        ) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let steps: Pointer = pointer.parse().unwrap();
            let path = steps.steps().iter().map(|it| Step::To(Cow::Owned(it.clone()))).collect();
            let mut scanner = Scanner::new(Places::Given([Place { role: Role::Usage, path }].into()));
            let mut cuts: Vec<_> = cuts.into_iter().map(|it| it.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                scanner.feed(&text.as_bytes()[pair[0]..pair[1]]);
            }
            let is_container = value.is_object() || value.is_array();
            prop_assert_eq!(scanner.extent() == Extent::Whole, is_container || value.is_string());
            let taken = match scanner.taken(Role::Usage) {
                Taken::Value(it) => Some(serde_json::from_slice::<Value>(it).unwrap()),
                Taken::Nothing | Taken::Doubtful => None,
            };
            prop_assert_eq!(taken.as_ref(), value.pointer(&pointer));
        }
    }
}
