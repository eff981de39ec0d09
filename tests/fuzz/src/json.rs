//! JSON as a second parser reads it.

use jiter::JsonValue;
use serde_json::Value;

/// The object's field; of a key that is there twice, the last one.
pub fn field<'a>(value: &'a JsonValue<'a>, name: &str) -> Option<&'a JsonValue<'a>> {
    let JsonValue::Object(fields) = value else { return None };
    fields.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The text of the object's field, if it is a text.
pub fn text<'a>(value: &'a JsonValue<'a>, name: &str) -> Option<&'a str> {
    match field(value, name) {
        Some(JsonValue::Str(text)) => Some(text),
        _ => None,
    }
}

/// Whether two readings of one number are the same. `serde_json` may miss the last digits of a fraction.
fn is_near(one: f64, other: f64) -> bool {
    one == other || (one - other).abs() <= one.abs().max(other.abs()) * 1e-14
}

/// Whether two values mean the same.
pub fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64().zip(other.as_f64()).is_some_and(|(one, other)| is_near(one, other))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|it| is_same(value, it)))
        }
        (one, other) => one == other,
    }
}

/// Whether the second parser read the same value. An integer that it has no type for may differ.
pub fn is_read_as(one: &Value, other: &JsonValue<'_>) -> bool {
    match (one, other) {
        (Value::Null, JsonValue::Null) => true,
        (Value::Bool(one), JsonValue::Bool(other)) => one == other,
        (Value::String(one), JsonValue::Str(other)) => one == other,
        // `-0` is a fraction to one and an integer to the other.
        (Value::Number(one), JsonValue::Int(0)) => one.as_f64() == Some(0.0),
        (Value::Number(one), JsonValue::Int(other)) => one.as_i64() == Some(*other),
        (Value::Number(one), JsonValue::Float(other)) => one.as_f64().is_some_and(|it| is_near(it, *other)),
        (Value::Array(one), JsonValue::Array(other)) => {
            one.len() == other.len()
                && one.iter().zip(other.iter()).all(|(one, other)| is_read_as(one, other))
        }
        (Value::Object(one), JsonValue::Object(_)) => {
            one.iter().all(|(key, value)| field(other, key).is_some_and(|it| is_read_as(value, it)))
                && matches!(other, JsonValue::Object(fields) if fields.iter().all(|(key, _)| one.contains_key(&**key)))
        }
        _ => false,
    }
}
