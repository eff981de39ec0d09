//! What the gateway publishes about its prices.

use serde_yaml::Value;

use super::judge::{Judge, Judged, all};
use super::mirror::{DiscoveryFile, Given, Piece};

/// Which documents there are, and how they describe the API.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Discovery {
    /// `/.well-known/x402` and `/.well-known/x402.json`.
    pub x402: bool,
    /// `/openapi.json`.
    pub openapi: bool,
    /// `/llms.txt`.
    pub llms: bool,
    /// The API's name; `None`: its public authority is used.
    pub title: Option<String>,
    pub description: Option<String>,
    /// A mail address.
    pub contact: Option<String>,
}

/// The longest text that describes the API, in bytes.
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

pub(super) fn discovery(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Discovery> {
    if let Given::Is(Value::Bool(on)) = piece.given {
        return Ok(Discovery::all(on));
    }
    let file: DiscoveryFile = judge.section(piece)?;
    let mut text = |piece, is_good: fn(&str) -> bool, hint| {
        judge.one_line(piece, MAX_TEXT, |text| !text.is_empty() && is_good(text), hint)
    };
    let title = text(file.title, |_| true, "a name");
    let description = text(file.description, |_| true, "a description");
    let contact = text(file.contact, is_address, "a mail address");
    all!(Discovery {
        x402: judge.flag(file.x402, true),
        openapi: judge.flag(file.openapi, true),
        llms: judge.flag(file.llms, true),
        title,
        description,
        contact,
    })
}

fn is_address(text: &str) -> bool {
    text.split_once('@').is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
}
