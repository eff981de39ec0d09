//! The admin API as an OpenAPI document (version 3.1), made of the table of operations.

use serde_json::{Map, Value, json};

use super::operations::{Kind, Operation, Parameter, Sent, Spec};
use super::problem::ProblemKind;
use super::shapes::{Field, Member, PROBLEM, Shape};

/// The whole document.
#[must_use]
pub fn document(version: &str) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    describe(&PROBLEM, &mut schemas);
    if let Some(kinds) = schemas.get_mut(PROBLEM.name).and_then(|it| it.pointer_mut("/properties/type")) {
        *kinds = json!({ "enum": ProblemKind::ALL.map(ProblemKind::name) });
    }
    for operation in Operation::ALL {
        let spec = operation.spec();
        describe(spec.answer, &mut schemas);
        let path = paths.entry(spec.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = path {
            methods.insert(if spec.changes { "post" } else { "get" }.to_owned(), method(operation, spec));
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Faregate's admin API", "version": version },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas,
        },
    })
}

fn method(operation: Operation, spec: &Spec) -> Value {
    let outside = spec.parameters.iter().filter(|it| it.sent != Sent::Body);
    let mut method = json!({
        "operationId": operation.id(),
        "summary": spec.about,
        "parameters": outside.map(parameter).collect::<Vec<_>>(),
        "responses": {
            "200": {
                "description": "It is done",
                "content": { "application/json": { "schema": reference(spec.answer) } },
            },
            "default": {
                "description": "It is not done",
                "content": { "application/problem+json": { "schema": reference(&PROBLEM) } },
            },
        },
    });
    let body: Vec<_> = spec.parameters.iter().filter(|it| it.sent == Sent::Body).collect();
    if let (Value::Object(method), false) = (&mut method, body.is_empty()) {
        let required = body.iter().any(|it| it.required);
        let schema = object(body.into_iter());
        method.insert(
            "requestBody".to_owned(),
            json!({ "required": required, "content": { "application/json": { "schema": schema } } }),
        );
    }
    method
}

fn parameter(it: &Parameter) -> Value {
    let place = match it.sent {
        Sent::Path => "path",
        Sent::Query => "query",
        Sent::Header => "header",
        Sent::Body => "body",
    };
    json!({ "name": it.name, "in": place, "required": it.required, "description": it.about, "schema": kind(it.kind) })
}

/// The schema of an object with these members.
#[must_use]
pub fn object<'a>(parameters: impl Iterator<Item = &'a Parameter>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for it in parameters {
        let mut schema = kind(it.kind);
        if let Value::Object(schema) = &mut schema {
            schema.insert("description".to_owned(), it.about.into());
        }
        properties.insert(it.name.to_owned(), schema);
        if it.required {
            required.push(it.name);
        }
    }
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn kind(kind: Kind) -> Value {
    match kind {
        Kind::Text(most) => json!({ "type": "string", "minLength": 1, "maxLength": most }),
        Kind::Hex(digits) => json!({ "type": "string", "pattern": format!("^[0-9a-fA-F]{{{digits}}}$") }),
        Kind::Account => json!({ "type": "string", "examples": ["nano_…"] }),
        Kind::Time => json!({ "type": "string", "examples": ["2026-01-31T12:00:00Z", "2026-01-31", "24h"] }),
        Kind::Duration => json!({ "type": "string", "examples": ["30s", "1h", "7d"] }),
        Kind::Count(most) => json!({ "type": "integer", "minimum": 1, "maximum": most }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
    }
}

fn reference(shape: &Shape) -> Value {
    json!({ "$ref": format!("#/components/schemas/{}", shape.name) })
}

/// Adds the schema of a shape, and of those in it.
fn describe(shape: &'static Shape, schemas: &mut Map<String, Value>) {
    if schemas.contains_key(shape.name) {
        return;
    }
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for field in shape.fields {
        if let Member::One(inner) | Member::Many(inner) = field.member {
            describe(inner, schemas);
        }
        properties.insert(field.name.to_owned(), member(field));
        if !field.nullable {
            required.push(field.name);
        }
    }
    let mut schema = json!({ "type": "object", "properties": properties, "required": required });
    if let (Value::Object(schema), false) = (&mut schema, shape.fields.is_empty()) {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    schemas.insert(shape.name.to_owned(), schema);
}

fn member(field: &Field) -> Value {
    let schema = match field.member {
        Member::Text => json!({ "type": "string" }),
        Member::Time => json!({ "type": "string", "format": "date-time" }),
        Member::Count => json!({ "type": "integer", "minimum": 0 }),
        Member::Flag => json!({ "type": "boolean" }),
        Member::Any => json!({}),
        Member::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Member::One(shape) => reference(shape),
        Member::Many(shape) => json!({ "type": "array", "items": reference(shape) }),
    };
    let nullable = field.nullable && !matches!(field.member, Member::Any);
    let mut schema = if nullable { json!({ "anyOf": [schema, { "type": "null" }] }) } else { schema };
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), field.about.into());
    }
    schema
}
