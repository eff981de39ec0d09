//! Arguments that more than one command takes.

use http::{HeaderName, HeaderValue};

/// A header of a request, `Name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write a header as 'Name: value'")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not a header's name"))?;
    let value =
        value.trim().parse().map_err(|_| "the value has a character that is not allowed in a header")?;
    Ok((name, value))
}
