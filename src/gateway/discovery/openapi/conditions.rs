//! What the routes of an operation ask of host, query and headers, as servers and parameters.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Published;
use crate::routes::{HostPattern, Route};

/// The servers of an operation whose routes are all for one host; `None` if some route is for more.
pub(super) fn servers(published: &Published<'_>, routes: &[&Route]) -> Option<Value> {
    let is_at_one = |route: &&Route| route.conditions.host().and_then(HostPattern::one).is_some();
    if !routes.iter().all(is_at_one) {
        return None;
    }
    let mut urls: Vec<String> = routes.iter().map(|it| published.origin(it).to_string()).collect();
    urls.sort_unstable();
    urls.dedup();
    Some(urls.into_iter().map(|url| json!({ "url": url })).collect())
}

/// The parameters and headers that the routes of an operation have conditions on, with the values that are
/// asked for. Each is required if all routes ask for it.
pub(super) fn parameters(routes: &[&Route]) -> Vec<Value> {
    let mut found: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for route in routes {
        for it in route.conditions.query() {
            found.entry(("query", it.name())).or_default().push(it.value());
        }
        for it in route.conditions.headers() {
            found.entry(("header", it.name().as_str())).or_default().push(it.value());
        }
    }
    let parameter = |((place, name), mut values): ((&str, &str), Vec<&str>)| {
        let required = values.len() == routes.len();
        values.sort_unstable();
        values.dedup();
        let schema = if required {
            json!({ "type": "string", "enum": values })
        } else {
            json!({ "type": "string", "examples": values })
        };
        json!({ "name": name, "in": place, "required": required, "schema": schema })
    };
    found.into_iter().map(parameter).collect()
}
