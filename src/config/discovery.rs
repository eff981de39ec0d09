//! What the gateway publishes about its prices.

use serde_yaml::Value;

use super::document::below;
use super::judge::Judge;
use super::mirror::{DiscoveryFile, Piece};

/// Which documents there are, and what they say of the API as a whole.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovery {
    /// `/.well-known/x402` and `/.well-known/x402.json`.
    pub x402: bool,
    /// `/openapi.json`.
    pub openapi: bool,
    /// `/llms.txt`.
    pub llms: bool,
    /// The API's name; its public authority where there is none.
    pub title: Option<String>,
    pub description: Option<String>,
    /// An address for mail.
    pub contact: Option<String>,
}

/// Bytes of a text that describes the API.
const MAX_TEXT: usize = 2000;

impl Discovery {
    const fn all(on: bool) -> Self {
        Self { x402: on, openapi: on, llms: on, title: None, description: None, contact: None }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self::all(true)
    }
}

pub(super) fn discovery(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Discovery> {
    if !piece.is_given() {
        return Some(Discovery::default());
    }
    let hint = "write `false`, or `{ openapi: false, title: Example }`";
    let value = judge.get("discovery", piece, hint)?;
    if let Some(on) = value.as_bool() {
        return Some(Discovery::all(on));
    }
    let file: DiscoveryFile = judge.open("discovery", value)?;
    let mut on = |key, piece: Piece<bool>| {
        let given = piece.is_given();
        if given { judge.get(&below("discovery", key), piece, "write `true` or `false`") } else { Some(true) }
    };
    let (x402, openapi, llms) = (on("x402", file.x402), on("openapi", file.openapi), on("llms", file.llms));
    let title = line(judge, "title", file.title, |_| true);
    let description = line(judge, "description", file.description, |_| true);
    let is_address = |text: &str| text.split_once('@').is_some_and(|(a, b)| !a.is_empty() && b.contains('.'));
    let contact = line(judge, "contact", file.contact, is_address);
    Some(Discovery {
        x402: x402?,
        openapi: openapi?,
        llms: llms?,
        title: title?,
        description: description?,
        contact: contact?,
    })
}

/// A line of text, perhaps none; nothing where it is faulty.
fn line(
    judge: &mut Judge<'_>,
    key: &str,
    piece: Piece<String>,
    is_good: impl Fn(&str) -> bool,
) -> Option<Option<String>> {
    if !piece.is_given() {
        return Some(None);
    }
    let path = below("discovery", key);
    let text = judge.get(&path, piece, "write a line of text")?;
    if text.is_empty() || text.len() > MAX_TEXT || text.chars().any(char::is_control) || !is_good(&text) {
        let hint = format!("one line of at most {MAX_TEXT} bytes; `contact` is an address for mail");
        judge.fault(&path, "this text cannot be used here", &hint);
        return None;
    }
    Some(Some(text))
}
