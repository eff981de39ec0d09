//! What of x402 is spoken beside what every client knows.

use super::judge::{Judge, Judged, all};
use super::mirror::{Piece, RailHintFile, X402File};
use super::web_address;

/// The longest text of a hint, in bytes.
const MAX_TEXT: usize = 512;
/// The most faucets.
const MAX_FAUCETS: usize = 8;

/// What of x402 is spoken beside what every client knows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct X402Config {
    /// Whether a signed block is taken from a client that sends back the six fields of an entry without its `extra`.
    pub without_extra: bool,
    /// How a client without XNO gets some, for every bill.
    pub rail_hint: Option<RailHint>,
}

/// What is said of Nano, which all entries of a bill of this gateway are on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RailHint {
    /// Why it is the cheapest.
    pub why: String,
    pub docs: Option<String>,
    pub site: Option<String>,
    pub agent_readme: Option<String>,
    /// A command, which a client must not run blindly.
    pub bootstrap: Option<String>,
    /// How what is commonly held becomes XNO.
    pub topup: Option<String>,
    pub faucets: Vec<String>,
    /// The scheme's specification.
    pub spec: Option<String>,
}

pub(super) fn x402(judge: &mut Judge<'_>, file: X402File) -> Judged<X402Config> {
    all!(X402Config {
        without_extra: judge.flag(file.without_extra, false),
        rail_hint: judge.optional(file.rail_hint, rail_hint),
    })
}

fn rail_hint(judge: &mut Judge<'_>, mut file: RailHintFile) -> Judged<RailHint> {
    let why = file.why.take();
    let hint = "write `why: …`: why a client should pay in XNO, with what it costs";
    let path = why.path.clone();
    let why = judge.one_line(why, MAX_TEXT, |it| !it.is_empty(), "a reason");
    let why = why.and_then(|it| {
        it.ok_or_else(|| {
            let (parent, _) = path.rsplit_once('.').unwrap_or(("", &path));
            judge.fault(parent, "`why` is missing", hint)
        })
    });
    all!(RailHint {
        why,
        docs: address(judge, file.docs),
        site: address(judge, file.site),
        agent_readme: address(judge, file.agent_readme),
        bootstrap: text(judge, file.bootstrap),
        topup: text(judge, file.topup),
        faucets: faucets(judge, file.faucets),
        spec: text(judge, file.spec),
    })
}

fn text(judge: &mut Judge<'_>, piece: Piece<String>) -> Judged<Option<String>> {
    judge.one_line(piece, MAX_TEXT, |it| !it.is_empty(), "a text")
}

fn address(judge: &mut Judge<'_>, piece: Piece<String>) -> Judged<Option<String>> {
    judge.text(piece, "write an address: `https://…`", |text| {
        if text.len() > MAX_TEXT {
            return Err(format!("longer than {MAX_TEXT} bytes"));
        }
        web_address::parse(text, web_address::HTTP).map(|it| it.to_string())
    })
}

fn faucets(judge: &mut Judge<'_>, piece: Piece<Vec<serde_yaml::Value>>) -> Judged<Vec<String>> {
    if !piece.is_given() {
        return Ok(Vec::new());
    }
    let (path, hint) = (piece.path.clone(), "list the addresses of faucets");
    let items: Vec<Piece<String>> = judge.items(piece, "the list is empty", hint)?;
    if items.len() > MAX_FAUCETS {
        return Err(judge.fault(&path, format_args!("more than {MAX_FAUCETS} faucets"), hint));
    }
    judge.each(items, "faucet", String::clone, |judge, item| {
        let path = item.path.clone();
        let address = address(judge, item)?;
        address.ok_or_else(|| judge.fault(&path, "the key has no value", "write an address: `https://…`"))
    })
}
