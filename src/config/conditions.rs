//! What a route asks of a request beside its method and path: `host`, `query`, `headers`; and `strip`.

use serde_yaml::Value;

use super::document::below;
use super::judge::{Judge, Judged, Reported};
use super::mirror::Piece;
use crate::routes::{
    ConditionFault, Conditions, HeaderCondition, HostPattern, MAX_CONDITIONS, Pattern, QueryCondition, Strip,
};

const HOST_HINT: &str = "write `host: api.example.com`, or `host: \"*.example.com\"` for all names below";
const QUERY_HINT: &str = "write `query: { size: large }`";
const HEADERS_HINT: &str = "write `headers: { X-Tier: gold }`";
const STRIP_HINT: &str = "write the beginning of `match`: `strip: /llm` for `match: /llm/v1/**`";

/// The conditions of a route.
pub(super) fn conditions(
    judge: &mut Judge<'_>,
    host: Piece<String>,
    query: Piece<Value>,
    headers: Piece<Value>,
) -> Judged<Conditions> {
    let (of_query, of_headers) = (query.path.clone(), headers.path.clone());
    let host = judge.text(host, HOST_HINT, HostPattern::parse);
    let query = pairs(judge, query, QUERY_HINT, QueryCondition::read);
    let headers = pairs(judge, headers, HEADERS_HINT, HeaderCondition::read);
    let (host, query, headers) = (host?, query?, headers?);
    let hint =
        format!("name at most {MAX_CONDITIONS}, each once: letter case and punctuation tell no names apart");
    let message = "too many conditions, or two names that are alike";
    if Conditions::new(None, query.clone(), Vec::new()).is_none() {
        return Err(judge.fault(&of_query, message, &hint));
    }
    Conditions::new(host, query, headers).ok_or_else(|| judge.fault(&of_headers, message, &hint))
}

/// Names and values, each read by `read`.
fn pairs<T>(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    hint: &str,
    read: impl Fn(&str, &str) -> Result<T, ConditionFault>,
) -> Judged<Vec<T>> {
    let place = piece.path.clone();
    let map = match judge.get(piece, hint)? {
        None => return Ok(Vec::new()),
        Some(Value::Mapping(map)) if !map.is_empty() => map,
        Some(_) => return Err(judge.fault(&place, "names and values are expected here", hint)),
    };
    let mut outcome: Result<(), Reported> = Ok(());
    let mut found = Vec::new();
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let here = below(&place, name);
        // A number could be written in another way than a client sends it.
        let Some(value) = value.as_str() else {
            let hint = format!("put the value in quotes: `{name}: \"1\"`");
            outcome = Err(judge.fault(&here, "a value is text", &hint));
            continue;
        };
        match read(name, value) {
            Ok(it) => found.push(it),
            Err(fault) => outcome = Err(judge.refuse(&here, fault, hint)),
        }
    }
    outcome.map(|()| found)
}

/// The prefix that the upstream does not see.
pub(super) fn strip(
    judge: &mut Judge<'_>,
    piece: Piece<String>,
    pattern: Judged<&Pattern>,
) -> Judged<Option<Strip>> {
    if !piece.is_given() {
        return Ok(None);
    }
    let pattern = pattern?;
    judge.text(piece, STRIP_HINT, |text| Strip::new(text, pattern))
}
