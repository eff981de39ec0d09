//! Reads the few values that are kept of an answer, if every parser reads them alike.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How many characters of a key an error message repeats.
const SHOWN: usize = 40;

/// The value of a whole text.
///
/// # Errors
/// The reason, if the text is not JSON in UTF-8, if a key occurs twice in an object, or if a number is out of range.
pub(super) fn read(json: &[u8]) -> Result<Value, String> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = Strict.deserialize(&mut reader);
    value.and_then(|value| reader.end().map(|()| value)).map_err(|error| error.to_string())
}

#[derive(Clone, Copy)]
struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, it: bool) -> Result<Value, E> {
        Ok(Value::Bool(it))
    }

    fn visit_u64<E: Error>(self, it: u64) -> Result<Value, E> {
        Ok(Value::Number(it.into()))
    }

    fn visit_i64<E: Error>(self, it: i64) -> Result<Value, E> {
        Ok(Value::Number(it.into()))
    }

    fn visit_f64<E: Error>(self, it: f64) -> Result<Value, E> {
        Number::from_f64(it).map(Value::Number).ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if object.contains_key(&key) {
                let shown: String = key.chars().take(SHOWN).collect();
                return Err(A::Error::custom(format_args!("the key {shown:?} occurs twice")));
            }
            object.insert(key, entries.next_value_seed(self)?);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for text in [
            &b"{\"a\":1,\"a\":1}"[..],
            b"{\"b\":[{\"a\":1,\"\\u0061\":2}]}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":1e999}",
            b"\xef\xbb\xbf{}",
            b"{} x",
            b"{\"a\":1,}",
            b"{\"a\":01}",
            b"{\"a\":\"\\ud800\"}",
            b"",
        ] {
            assert!(read(text).is_err(), "{}", String::from_utf8_lossy(text));
        }
        assert!(read("[".repeat(200).as_bytes()).is_err());
        let good = br#" {"a": [1, -2, 0.5, null, true], "b": {"a": "x"}} "#;
        assert_eq!(read(good).unwrap(), serde_json::from_slice::<Value>(good).unwrap());
    }
}
