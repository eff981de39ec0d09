//! Who may call which endpoint, and with how large a body.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::{Desk, PRICE, REPORT};
use crate::proxy::wire::Wire;
use crate::rig::Plan;

#[tokio::test]
async fn callers_show_the_token_where_there_is_one() {
    let desk = Desk::guarded(Plan::default(), ", token_file: facilitator.token").await;
    let file = desk.rig.folder.path().join("facilitator.token");
    let token = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!((token.len(), std::fs::metadata(&file).unwrap().permissions().mode() & 0o777), (64, 0o600));
    let url = format!("{}/supported", desk.url);
    let mut other = token.clone();
    other.replace_range(0..1, if token.starts_with('0') { "1" } else { "0" });
    for wrong in [
        None,
        Some(String::new()),
        Some(token.clone()),
        Some(format!("Basic {token}")),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {other}")),
        Some(format!("Bearer {}", &token[..62])),
        Some(format!("Bearer {token}00")),
    ] {
        let mut request = desk.rig.http.get(&url);
        if let Some(wrong) = &wrong {
            request = request.header("Authorization", wrong);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401, "{wrong:?}");
        assert_eq!(answer.headers()["www-authenticate"], "Bearer");
        let body: Value = answer.json().await.unwrap();
        assert!(body["message"].as_str().unwrap().contains("token_file"), "{body}");
        assert!(!body.to_string().contains(&token));
    }
    for right in [format!("Bearer {token}"), format!("bearer {}", token.to_uppercase())] {
        let answer = desk.rig.http.get(&url).header("Authorization", right).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    let two = desk.rig.http.get(&url).bearer_auth(&token).bearer_auth(&other).send().await.unwrap();
    assert_eq!(two.status(), 401, "two of them are none");
    let order = json!({ "resource": { "url": REPORT }, "price": PRICE });
    assert_eq!(desk.post("/requirements", &order).await.0, 401);
    assert_eq!(desk.post("/nowhere", &order).await.0, 401, "strangers do not learn what there is");
    desk.end().await;
}

#[tokio::test]
async fn what_is_not_there_and_what_is_too_long() {
    let desk = Desk::open(Plan::default()).await;
    assert_eq!(desk.post("/verifies", &json!({})).await.0, 404);
    assert_eq!(desk.post("/supported", &json!({})).await.0, 405);
    let answer = desk.rig.http.get(format!("{}/settle", desk.url)).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["allow"]), (405, &"POST".parse().unwrap()));
    let long = json!({ "resource": { "url": REPORT, "description": "x".repeat(70_000) }, "price": PRICE });
    let (status, body) = desk.post("/requirements", &long).await;
    assert_eq!((status, &body["error"]), (413, &json!("too_long")));
    desk.end().await;
}

/// Others are served while one caller sends nothing, half a request, or nonsense.
#[tokio::test]
async fn rubbish_on_the_wire() {
    let desk = Desk::open(Plan::default()).await;
    let mut silent = Wire::open(&desk.url).await;
    silent.send("POST /settle HTTP/1.1\r\nHost: desk\r\nContent-Length: 500\r\n\r\n{").await;
    let mut rubbish = Wire::open(&desk.url).await;
    rubbish.send("\u{0}\u{1}rubbish\r\n\r\n").await;
    let _refused = rubbish.rest().await;
    let mut half = Wire::open(&desk.url).await;
    half.send("POST /verify HTTP/1.1\r\nHost: desk\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(half.answer().await.status, 400);
    assert_eq!(desk.bill(REPORT, PRICE).await.offers.len(), 2);
    drop(silent);
    desk.end().await;
}
