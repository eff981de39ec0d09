//! URLs in the file: parsed, with an allowed scheme, without user, password and fragment.

use url::Url;

/// # Errors
/// What is wrong. The message repeats nothing of the URL, which may contain keys.
pub(super) fn parse(text: &str, schemes: [&str; 2]) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL: {error}"))?;
    if !schemes.contains(&url.scheme()) {
        return Err(format!("the scheme must be {}", schemes.join(" or ")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user or password in the URL is not supported".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a fragment (`#`) has no meaning here".to_owned());
    }
    Ok(url)
}

pub(super) const HTTP: [&str; 2] = ["http", "https"];
