//! The document of the admin API says what there is, and the answers are what it says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{bought, with_api};

/// What in `value` is not as `schema` says. Only what the document uses of JSON Schema.
fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let inner =
            document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"));
        return faults(document, inner, value, place);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let all: Vec<_> = any.iter().map(|it| faults(document, it, value, place)).collect();
        return if all.iter().any(Vec::is_empty) { Vec::new() } else { all.concat() };
    }
    let is_right = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        Some(other) => panic!("{other}"),
        None => true,
    };
    if !is_right {
        return vec![format!("{place}: {value} is no {}", schema["type"])];
    }
    let mut found = Vec::new();
    for item in value.as_array().into_iter().flatten() {
        found.extend(faults(document, &schema["items"], item, &format!("{place}[]")));
    }
    if let (Some(members), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, value) in members {
            match known.get(name) {
                Some(schema) => found.extend(faults(document, schema, value, &format!("{place}.{name}"))),
                None if schema["additionalProperties"] == false => {
                    found.push(format!("{place}: {name} is unknown"))
                }
                None => {}
            }
        }
        for name in schema["required"].as_array().into_iter().flatten() {
            if !members.contains_key(name.as_str().unwrap()) {
                found.push(format!("{place}: {name} is missing"));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_document_is_of_the_operations_there_are_and_of_their_answers() {
    let (rig, api) = with_api().await;
    let (_, id) = bought(&rig, 1).await;
    let (_, given) = api.post("/v1/capabilities", &json!({ "route": "search", "note": "a gift" })).await;
    assert!(given["id"].is_string(), "{given}");
    crate::rig::eventually("the pool is looked at", async || {
        !api.get("/v1/pool").await["last_look"].is_null()
    })
    .await;
    let document = api.get("/v1/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let block = api.get("/v1/payments").await["payments"][0]["block"].as_str().unwrap().to_owned();
    let mut seen = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap();
            assert!(seen.insert(name.to_owned()), "{name} is there twice");
            let of = if name == "show_payment" { &block } else { &id };
            let url = path.replace("{id}", of);
            let request = match method.as_str() {
                "get" => api.request("GET", &url),
                // Nobody takes orders here, so a reload and a drain are asked as the program's tests ask them.
                "post" if ["reload"].contains(&name) => continue,
                "post" => {
                    let body =
                        if name == "grant_capability" { json!({ "route": "search" }) } else { json!({}) };
                    api.request("POST", &format!("{url}?dry_run=true")).json(&body)
                }
                other => panic!("{other}"),
            };
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200, "{method} {url}");
            let answer: Value = answer.json().await.unwrap();
            let schema = operation.pointer("/responses/200/content/application~1json/schema").unwrap();
            let faults = faults(&document, schema, &answer, name);
            assert!(faults.is_empty(), "{faults:#?}\n{answer}");
            for parameter in operation["parameters"].as_array().unwrap() {
                assert!(
                    parameter["schema"].is_object() && parameter["description"].is_string(),
                    "{parameter}"
                );
            }
        }
    }
    assert_eq!(seen.len(), faregate::admin::operations::Operation::ALL.len());
    let refused = api.request("GET", "/v1/payments?limit=x").send().await.unwrap();
    let refused: Value = refused.json().await.unwrap();
    let problem = json!({ "$ref": "#/components/schemas/Problem" });
    assert_eq!(faults(&document, &problem, &refused, "problem"), [""; 0]);
    let broken = json!({ "type": "x", "title": 1, "more": true });
    assert_eq!(faults(&document, &problem, &broken, "problem").len(), 4, "the check sees faults");
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn routes_are_listed_with_what_they_cost() {
    let (rig, api) = with_api().await;
    let routes = api.get("/v1/routes").await;
    let search = routes["routes"].as_array().unwrap().iter().find(|it| it["name"] == "search").unwrap();
    assert_eq!(search["price"]["xno"], "0.001 XNO");
    assert_eq!((&search["price"]["requests"], &search["metering"]), (&json!(5), &json!("leased")));
    assert_eq!(search["mechanisms"], json!(["nanoTxn", "nanoSignature"]));
    let upstreams = api.get("/v1/upstreams").await;
    assert_eq!(
        (&upstreams["upstreams"][0]["name"], &upstreams["upstreams"][0]["up"]),
        (&json!("api"), &json!(true))
    );
    let pool = api.get("/v1/pool").await;
    assert_eq!(pool["pool"][0], json!({ "mechanism": "nanoTxn", "addresses": 8 }));
    api.end().await;
    rig.end().await;
}
