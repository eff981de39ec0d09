//! `paths`: the path template of each route, and its methods.
//!
//! OpenAPI identifies a path by its shape and forbids two templates that differ only in the names of
//! their parameters, so routes of one shape share an item. `**` has no shape of its own. It takes the
//! shortest one that no closer route has, which is also what it covers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{Published, operation};
use crate::routes::{Part, Route};

/// The methods that an OpenAPI path item can hold.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
/// The methods of a route that names none.
const USUAL: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// The name of the parameter that `**` becomes, and of those before it.
const REST: &str = "rest";

/// The routes of one shape.
#[derive(Default)]
struct Slot<'r> {
    /// The shape of its open pattern, if it is for one.
    open: Option<String>,
    /// From the first route that is not hidden.
    template: Option<Template>,
    /// Methods that some route has for every request, hidden or not.
    claimed: BTreeSet<&'static str>,
    /// The routes of each method that are not hidden; one without conditions is last.
    operations: BTreeMap<&'static str, Vec<&'r Route>>,
}

#[derive(Clone)]
struct Template {
    text: String,
    parameters: Vec<Value>,
}

/// The paths of all routes that are not hidden.
pub(super) fn of(published: &Published<'_>) -> Value {
    let mut slots: BTreeMap<String, Slot<'_>> = BTreeMap::new();
    let mut routes: Vec<&Route> = published.config.table.routes().iter().map(AsRef::as_ref).collect();
    // Closed shapes first, and within a shape those with the fewest methods and the most conditions: the
    // order in which a request is matched.
    routes.sort_by_key(|route| {
        let methods = route.pattern.methods().len();
        (route.pattern.template().1, methods == 0, methods, Reverse(conditions(route)))
    });
    for route in routes {
        let (shape, template, base) = place(route, &slots);
        let slot = slots.entry(shape).or_default();
        slot.open = base;
        let methods: Vec<&'static str> = match route.pattern.methods() {
            [] => USUAL.to_vec(),
            named => METHODS
                .into_iter()
                .filter(|it| named.iter().any(|own| own.eq_ignore_ascii_case(it)))
                .collect(),
        };
        for method in methods.into_iter().filter(|it| !slot.claimed.contains(it)).collect::<Vec<_>>() {
            if route.conditions.is_empty() {
                slot.claimed.insert(method);
            }
            if !route.hidden {
                slot.operations.entry(method).or_default().push(route);
                slot.template.get_or_insert_with(|| template.clone());
            }
        }
    }
    let items = slots.into_values().filter_map(|slot| {
        let Template { text, parameters } = slot.template?;
        let operations = slot.operations.iter();
        let mut item: Map<_, _> = operations
            .map(|(method, routes)| ((*method).to_owned(), operation(published, routes, method)))
            .collect();
        if !parameters.is_empty() {
            item.insert("parameters".to_owned(), parameters.into());
        }
        Some((text, Value::Object(item)))
    });
    Value::Object(items.collect())
}

/// How many conditions a route has.
fn conditions(route: &Route) -> usize {
    let conditions = &route.conditions;
    usize::from(conditions.host().is_some())
        .saturating_add(conditions.query().len())
        .saturating_add(conditions.headers().len())
}

/// A route's shape, its template, and for an open pattern the shape without its `**`.
fn place(route: &Route, slots: &BTreeMap<String, Slot<'_>>) -> (String, Template, Option<String>) {
    let (parts, open) = route.pattern.template();
    let base = parts.iter().fold(String::new(), |shape, part| match part {
        Part::Literal(text) => format!("{shape}/{text}"),
        Part::Name(_) => format!("{shape}/{{}}"),
    });
    if !open {
        let slash = route.case_sensitive && route.pattern.ends_in_slash();
        let shape = if slash || base.is_empty() { format!("{base}/") } else { base };
        let mut template = template(&parts, 0);
        if slash || template.text.is_empty() {
            template.text.push('/');
        }
        return (shape, template, None);
    }
    let mut extra: usize = 1;
    let mut shape = format!("{base}/{{}}");
    let is_free = |shape: &str| slots.get(shape).is_none_or(|it| it.open.as_ref() == Some(&base));
    while !is_free(&shape) {
        shape.push_str("/{}");
        extra = extra.saturating_add(1);
    }
    (shape, template(&parts, extra), Some(base))
}

/// A path template of these parts and, for `**`, `extra` parameters after them.
fn template(parts: &[Part<'_>], extra: usize) -> Template {
    let mut text = String::new();
    let mut parameters = Vec::new();
    let mut names = BTreeSet::new();
    for part in parts {
        match part {
            Part::Literal(literal) => text = format!("{text}/{literal}"),
            Part::Name(name) => {
                text = format!("{text}/{{{name}}}");
                names.insert((*name).to_owned());
                parameters.push(parameter(name, None));
            }
        }
    }
    for number in 1..=extra {
        let mut name = if number == extra { REST.to_owned() } else { format!("{REST}{number}") };
        while !names.insert(name.clone()) {
            name.push('_');
        }
        text = format!("{text}/{{{name}}}");
        let more = (number == extra).then_some("The rest of the path, slashes and all; it may be empty.");
        parameters.push(parameter(&name, more));
    }
    Template { text, parameters }
}

fn parameter(name: &str, description: Option<&str>) -> Value {
    let mut parameter = json!({
        "name": name, "in": "path", "required": true, "schema": { "type": "string" },
    });
    if let (Some(description), Some(fields)) = (description, parameter.as_object_mut()) {
        fields.insert("description".to_owned(), description.into());
    }
    parameter
}
