//! Reads what a request's body says of its price, and keeps nothing else of it: not everybody who sends one has paid.
//!
//! All of it must be JSON in UTF-8. What decides the price must be there once, in one spelling.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::no_rate::{MAX_MODEL, NoRate, shown};
use super::pointer::Pointer;
use crate::letter_case::fold;

/// The most keys of an object that is kept.
const MAX_KEPT: usize = 16;

/// Keys, at any depth, under which a request refers to input that is not text in it: its bytes do not bound it. A key
/// too many makes a hold larger, and nothing dearer.
const REFERENCES: &[&str] = &[
    "audio_url",
    "conversation",
    "file",
    "file_id",
    "file_url",
    "image",
    "image_url",
    "images",
    "input_audio",
    "previous_response_id",
    "source",
    "url",
    "video_url",
];

/// What is known of a body.
#[derive(Debug, Default)]
pub(super) struct Body {
    values: Vec<(&'static str, Value)>,
    /// Whether it refers to input that is not text in it.
    pub(super) refers: bool,
    fault: Option<NoRate>,
}

impl Body {
    /// Reads the values of these keys of an object. A text that is long, a fraction, a list, and an object (except
    /// under `object`) are kept as an empty list, which nothing takes for what it looks for.
    ///
    /// # Errors
    /// [`NoRate`], if the body is not an object in JSON, or if one of the keys is there twice or in another spelling.
    pub(super) fn read(
        body: &[u8],
        keys: &[&'static str],
        object: Option<&'static str>,
    ) -> Result<Self, NoRate> {
        let mut read = Self::default();
        whole(body, Top { keys, object, body: &mut read })?;
        match read.fault.take() {
            None => Ok(read),
            Some(fault) => Err(fault),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.values.iter().find(|(it, _)| *it == key).map(|(_, value)| value)
    }
}

/// The value to which a pointer leads; of a long text and so on as with [`Body::read`].
///
/// # Errors
/// As [`Body::read`], for the keys on the way.
pub(super) fn at(body: &[u8], pointer: &Pointer) -> Result<Option<Value>, NoRate> {
    let mut found = At::default();
    whole(body, Along { steps: pointer.steps(), found: &mut found })?;
    match found.fault {
        None => Ok(found.value),
        Some(fault) => Err(fault),
    }
}

fn whole<'de, S: DeserializeSeed<'de>>(body: &'de [u8], seed: S) -> Result<(), NoRate> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(NoRate::NotAnObject);
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = seed.deserialize(&mut reader).and_then(|_| reader.end());
    read.map_err(|error| NoRate::Json(error.to_string()))
}

/// The fault of a key that a parser that ignores letter case would read as one of `known`.
pub(super) fn misspelled(key: &str, known: &[&str]) -> Option<NoRate> {
    let folded = if key.is_ascii() { Cow::Borrowed(key) } else { Cow::Owned(fold(key)) };
    let is_alike = |known: &str| {
        // Nothing is allocated for each of the many keys that a body may have.
        if known.is_ascii() { known.eq_ignore_ascii_case(&folded) } else { fold(known) == fold(&folded) }
    };
    let meant = known.iter().find(|it| **it != key && is_alike(it))?;
    Some(NoRate::Key(shown(key), (*meant).to_owned()))
}

fn twice(key: &str) -> NoRate {
    NoRate::Json(format!("the key {:?} occurs twice", shown(key)))
}

/// What stands for all that is not kept.
const OTHER: Value = Value::Array(Vec::new());

/// A key, of which a function makes what is needed.
struct Key<T, F>(F, PhantomData<T>);

fn key<T, F: FnOnce(&str) -> T>(see: F) -> Key<T, F> {
    Key(see, PhantomData)
}

impl<'de, T, F: FnOnce(&str) -> T> DeserializeSeed<'de> for Key<T, F> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<T, D::Error> {
        from.deserialize_str(self)
    }
}

impl<T, F: FnOnce(&str) -> T> Visitor<'_> for Key<T, F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        Ok((self.0)(text))
    }
}

/// The body itself.
struct Top<'a> {
    keys: &'a [&'static str],
    /// The key of an object that is kept.
    object: Option<&'static str>,
    body: &'a mut Body,
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Self { keys, object, body } = self;
        loop {
            let fault = &mut body.fault;
            let found = entries.next_key_seed(key(|key: &str| {
                if fault.is_none() {
                    *fault = misspelled(key, keys);
                }
                (keys.iter().find(|it| **it == key).copied(), REFERENCES.contains(&key))
            }))?;
            let Some((known, is_reference)) = found else { return Ok(()) };
            let keep = match known {
                None => Keep::Nothing,
                Some(key) if Some(key) == object => Keep::Object,
                Some(_) => Keep::Scalar,
            };
            let value = entries.next_value_seed(Walk { keep, refers: &mut body.refers })?;
            body.refers |= is_reference && !value.is_null();
            let Some(known) = known else { continue };
            if body.get(known).is_some() {
                body.fault.get_or_insert_with(|| twice(known));
            }
            body.values.push((known, value));
        }
    }
}

/// What is kept of a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Keep {
    Nothing,
    Scalar,
    /// An object of scalars, or a scalar.
    Object,
}

/// Any value, to its end. Of what is not kept there is [`OTHER`], and null.
struct Walk<'a> {
    keep: Keep,
    refers: &'a mut bool,
}

impl Walk<'_> {
    fn kept(&self, value: impl FnOnce() -> Value) -> Value {
        if self.keep == Keep::Nothing { OTHER } else { value() }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, it: bool) -> Result<Value, E> {
        Ok(self.kept(|| Value::Bool(it)))
    }

    fn visit_u64<E: Error>(self, it: u64) -> Result<Value, E> {
        Ok(self.kept(|| Value::Number(it.into())))
    }

    fn visit_i64<E: Error>(self, it: i64) -> Result<Value, E> {
        Ok(self.kept(|| Value::Number(it.into())))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Value, E> {
        Ok(OTHER)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(if text.len() <= MAX_MODEL { self.kept(|| Value::String(text.to_owned())) } else { OTHER })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element_seed(Walk { keep: Keep::Nothing, refers: self.refers })?.is_some() {}
        Ok(OTHER)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        let (keep, refers) = (self.keep, self.refers);
        let keeps_keys = keep == Keep::Object;
        while let Some((name, is_reference)) = entries
            .next_key_seed(key(|key: &str| (keeps_keys.then(|| key.to_owned()), REFERENCES.contains(&key))))?
        {
            let keep = if keeps_keys { Keep::Scalar } else { Keep::Nothing };
            let value = entries.next_value_seed(Walk { keep, refers: &mut *refers })?;
            *refers |= is_reference && !value.is_null();
            let Some(name) = name else { continue };
            if kept.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the key {:?} occurs twice", shown(&name))));
            }
            if kept.len() == MAX_KEPT {
                return Err(A::Error::custom(format_args!("an option has more than {MAX_KEPT} keys")));
            }
            kept.insert(name, value);
        }
        Ok(if keeps_keys { Value::Object(kept) } else { OTHER })
    }
}

/// What is found at a place.
#[derive(Default)]
struct At {
    value: Option<Value>,
    fault: Option<NoRate>,
}

/// A value on the way to a place, which is so many steps further on.
struct Along<'a> {
    steps: &'a [String],
    found: &'a mut At,
}

impl Along<'_> {
    /// A value that has nothing below it.
    fn end(self, value: Value) {
        if self.steps.is_empty() {
            self.found.value = Some(value);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Along<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Along<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.end(Value::Null);
        Ok(())
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.end(OTHER);
        Ok(())
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.end(OTHER);
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.end(OTHER);
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.end(OTHER);
        Ok(())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let value = if text.len() <= MAX_MODEL { Value::String(text.to_owned()) } else { OTHER };
        self.end(value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((step, below)) = self.steps.split_first() else {
            self.found.value = Some(OTHER);
            while items.next_element_seed(ignored(&mut false))?.is_some() {}
            return Ok(());
        };
        for index in 0_usize.. {
            let is_step = *step == index.to_string();
            let is_there = if is_step {
                items.next_element_seed(Along { steps: below, found: &mut *self.found })?.is_some()
            } else {
                items.next_element_seed(ignored(&mut false))?.is_some()
            };
            if !is_there {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((step, below)) = self.steps.split_first() else {
            self.found.value = Some(OTHER);
            while entries.next_key_seed(key(|_: &str| ()))?.is_some() {
                entries.next_value_seed(ignored(&mut false))?;
            }
            return Ok(());
        };
        let mut is_seen = false;
        while let Some((is_step, fault)) =
            entries.next_key_seed(key(|key: &str| (key == step, misspelled(key, &[step.as_str()]))))?
        {
            if self.found.fault.is_none() {
                self.found.fault = fault;
            }
            if !is_step {
                entries.next_value_seed(ignored(&mut false))?;
                continue;
            }
            if is_seen {
                self.found.fault.get_or_insert_with(|| twice(step));
            }
            is_seen = true;
            entries.next_value_seed(Along { steps: below, found: &mut *self.found })?;
        }
        Ok(())
    }
}

const fn ignored(refers: &mut bool) -> Walk<'_> {
    Walk { keep: Keep::Nothing, refers }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A body of a few bytes for each value would take many times its length in memory as a tree.
    #[test]
    fn only_what_decides_the_price_is_kept() {
        let long = format!("[{}1]", "1,".repeat(100_000));
        let text = "a".repeat(MAX_MODEL + 1);
        let body = format!(
            r#"{{"x":{long},"model":{long},"n":"{text}","o":{{"a":{long},"b":1}},"k":null,"f":1.5,"y":{{"url":{{}}}}}}"#
        );
        let read = Body::read(body.as_bytes(), &["model", "n", "o", "k", "f", "z"], Some("o")).unwrap();
        assert_eq!(
            (read.get("model"), read.get("n"), read.get("f")),
            (Some(&OTHER), Some(&OTHER), Some(&OTHER))
        );
        assert_eq!((read.get("k"), read.get("z"), read.get("x")), (Some(&Value::Null), None, None));
        assert_eq!(read.get("o").unwrap(), &serde_json::json!({ "a": [], "b": 1 }));
        assert!(read.refers);
        let keys: Vec<_> = (0..17).map(|it| format!("\"{it}\":1")).collect();
        let body = format!("{{\"o\":{{{}}}}}", keys.join(","));
        assert!(matches!(Body::read(body.as_bytes(), &["o"], Some("o")), Err(NoRate::Json(_))));
        assert!(Body::read(body.as_bytes(), &["o"], None).is_ok());
    }
}
