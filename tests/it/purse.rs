//! Purses: what a payment buys where a request costs what it uses.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use faregate::nano::{Raw, SecretKey};
use futures_util::future::join_all;
use reqwest::Response;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::patience::soon;
use crate::rig::{Ending, PLENTY, Plan, Rig, error, header, offers};
use crate::scripted::Reply;

mod closing;
mod payers;
mod topping_up;

/// One raw for a token of input, four for one of output; the purse has 10,000.
const ROUTES: &str = r#"
  - name: chat
    match: "POST /chat"
    upstream: api
    meter: { deposit: 10000 raw, within: 1h, usage: openai, hold: 2000 raw, RATES }
  - name: cost
    match: "POST /cost"
    upstream: api
    meter: { deposit: 10000 raw, within: 1h, usage: header, hold: 2000 raw }
"#;
const RATES: &str = "rates: { small: { input: 1 raw, output: 4 raw, per: 1 } }";
const DEPOSIT: u128 = 10_000;

fn plan(answer: impl Fn(&crate::scripted::Seen) -> Reply + Send + Sync + 'static) -> Plan {
    Plan { routes: ROUTES.replace("RATES", RATES), answer: Box::new(answer), ..Plan::default() }
}

/// An answer of a model that used so many tokens.
fn used(input: u64, output: u64) -> Reply {
    Reply::json(&json!({
        "id": "c", "model": "small", "choices": [{ "message": { "content": "Hi" } }],
        "usage": { "prompt_tokens": input, "completion_tokens": output },
    }))
    .with("Content-Type", "application/json")
}

/// A request whose answer has at most 100 tokens: it may cost 400 raw, and one for each of its own bytes.
fn ask() -> Value {
    json!({ "model": "small", "max_tokens": 100, "messages": [{ "role": "user", "content": "Hello" }] })
}

fn hold_of(body: &Value) -> u128 {
    400 + body.to_string().len() as u128
}

async fn post(rig: &Rig, path: &str, body: &Value, headers: &[(&str, &str)]) -> Response {
    let mut request = rig.http.post(format!("{}{path}", rig.url)).json(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Pays what is asked for `body`; the answer.
async fn buy(rig: &Rig, key: &SecretKey, path: &str, body: &Value) -> Response {
    let bill = post(rig, path, body, &[]).await;
    assert_eq!(bill.status(), 402);
    let offer = offers(&bill).offers.into_iter().next().unwrap();
    let (proof, _) = rig.txn(key, &offer);
    post(rig, path, body, &[("PAYMENT-SIGNATURE", &proof)]).await
}

/// The token and the balance of an answer's `PAYMENT-CAPABILITY`.
fn purse(response: &Response) -> (String, u128) {
    let value = header(response, "payment-capability");
    let (token, rest) = value.split_once("; balance=").unwrap();
    (token.to_owned(), rest.split(';').next().unwrap().parse().unwrap())
}

async fn spend(rig: &Rig, token: &str, path: &str, body: &Value) -> Response {
    post(rig, path, body, &[("PAYMENT-CAPABILITY", token)]).await
}

/// What the requests so far were charged, by the access log.
async fn charged(rig: &Rig, count: usize) -> Vec<Option<u128>> {
    let lines = rig.lines(count).await;
    lines.iter().map(|it| it["cost_raw"].as_str().map(|it| it.parse().unwrap())).collect()
}

#[tokio::test]
async fn a_request_costs_what_it_used_to_the_raw() {
    let rig = Rig::with(plan(|_| used(17, 9))).await;
    let key = rig.payer(1, PLENTY);
    let bill = post(&rig, "/chat", &ask(), &[]).await;
    let offer = offers(&bill).offers.into_iter().next().unwrap();
    assert_eq!((bill.status().as_u16(), offer.amount), (402, Raw::new(DEPOSIT)));
    assert_eq!(rig.upstream.seen().len(), 0, "nothing is asked that is not paid for");
    let paid = buy(&rig, &key, "/chat", &ask()).await;
    assert_eq!(paid.status(), 200);
    let (token, left) = purse(&paid);
    assert_eq!(left, DEPOSIT - hold_of(&ask()), "its own hold is set aside");
    assert!(paid.json::<Value>().await.unwrap()["usage"].is_object(), "the answer is as it was");
    let (costs, mut balance) = (17 + 4 * 9, DEPOSIT);
    for _ in 0..3 {
        balance -= costs;
        let next = spend(&rig, &token, "/chat", &ask()).await;
        assert_eq!((next.status().as_u16(), purse(&next)), (200, (token.clone(), balance - hold_of(&ask()))));
    }
    let costs = charged(&rig, 4).await;
    assert_eq!(costs.iter().flatten().collect::<Vec<_>>(), [&53; 4], "{costs:?}");
    assert_eq!(rig.upstream.seen().iter().filter(|it| it.header("accept-encoding").is_some()).count(), 0);
    rig.end().await;
}

#[tokio::test]
async fn what_is_left_is_there_after_a_restart() {
    for ending in [Ending::Orderly, Ending::Abrupt] {
        let rig = Rig::with(plan(|_| used(100, 10))).await;
        let key = rig.payer(1, PLENTY);
        let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
        let before = purse(&spend(&rig, &token, "/chat", &ask()).await).1 + hold_of(&ask());
        assert_eq!(before, DEPOSIT - 140);
        let rig = rig.restart(ending).await;
        let after = async || {
            let answer = spend(&rig, &token, "/chat", &ask()).await;
            // After a crash, what was leased comes back when the lease lapses.
            (answer.status() == 200).then(|| purse(&answer).1 + hold_of(&ask()))
        };
        let after = crate::patience::wait_for("the purse is found", after).await;
        match ending {
            Ending::Orderly => assert_eq!(after, DEPOSIT - 280),
            // What was spent within the last fifth of a second may be forgotten, never more.
            Ending::Abrupt => assert!((DEPOSIT - 280..=DEPOSIT).contains(&after), "{after}"),
        }
        rig.end().await;
    }
}

#[tokio::test]
async fn a_request_that_the_purse_does_not_cover_is_not_forwarded_and_says_what_is_left() {
    let calls = AtomicU32::new(0);
    let answer = move |_: &_| used(0, if calls.fetch_add(1, Ordering::SeqCst) == 0 { 2300 } else { 100 });
    let rig = Rig::with(plan(answer)).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let dry = spend(&rig, &token, "/chat", &ask()).await;
    assert_eq!(dry.status(), 200, "800 raw are left, and it is asked for less");
    let dry = spend(&rig, &token, "/chat", &ask()).await;
    assert_eq!(dry.status(), 402);
    assert_eq!(rig.upstream.seen().len(), 2);
    let body: Value = dry.json().await.unwrap();
    assert_eq!(body["error"], "CAPABILITY_EXHAUSTED", "{body}");
    assert!(body["message"].as_str().unwrap().contains("400 raw left"), "{body}");
    assert_eq!(charged(&rig, 3).await, [Some(9200), Some(400), None]);
    rig.end().await;
}

#[tokio::test]
async fn a_purse_is_as_large_as_what_the_request_may_cost() {
    let rig = Rig::with(plan(|_| used(1, 1))).await;
    let key = rig.payer(1, PLENTY);
    let large = json!({ "model": "small", "max_tokens": 10_000, "messages": [] });
    let hold = 40_000 + large.to_string().len() as u128;
    let bill = post(&rig, "/chat", &large, &[]).await;
    assert_eq!(offers(&bill).offers[0].amount, Raw::new(hold));
    // The payment for a small purse is not taken for it, nor lost.
    let small = offers(&post(&rig, "/chat", &ask(), &[]).await).offers.into_iter().next().unwrap();
    let (proof, block) = rig.txn(&key, &small);
    let refused = post(&rig, "/chat", &large, &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(refused.status(), 402);
    assert_eq!(error(refused).await, "INSUFFICIENT_AMOUNT");
    assert!(rig.devnet.lattice().entry(block.hash()).is_none(), "it was not broadcast");
    let served = post(&rig, "/chat", &ask(), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(served.status(), 200);
    let bought = buy(&rig, &rig.payer(2, PLENTY), "/chat", &large).await;
    assert_eq!((bought.status().as_u16(), purse(&bought).1), (200, 0), "all of it is set aside");
    rig.end().await;
}

#[tokio::test]
async fn a_model_without_a_rate_and_what_cannot_be_read_is_refused_before_it_is_forwarded() {
    let rig = Rig::with(plan(|_| used(1, 1))).await;
    let key = rig.payer(1, PLENTY);
    let (token, before) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let other = spend(&rig, &token, "/chat", &json!({ "model": "large", "messages": [] })).await;
    assert_eq!(other.status(), 403);
    assert_eq!(error(other).await, "not_offered");
    for body in ["[]", "{", "{\"model\":\"small\",\"model\":\"large\"}"] {
        let request = rig.http.post(format!("{}/chat", rig.url)).header("Content-Type", "application/json");
        let answer = request.header("PAYMENT-CAPABILITY", &token).body(body).send().await.unwrap();
        assert_eq!(answer.status(), 400, "{body}");
    }
    assert_eq!(rig.upstream.seen().len(), 1);
    let next = spend(&rig, &token, "/chat", &ask()).await;
    assert_eq!(purse(&next).1, before - 5, "nothing was charged but the first");
    rig.end().await;
}

#[tokio::test]
async fn requests_at_once_never_spend_more_than_there_is() {
    let running = Arc::new(AtomicU32::new(0));
    let most = Arc::clone(&running);
    let rig = Rig::with(plan(move |_| {
        most.fetch_add(1, Ordering::SeqCst);
        used(0, 100)
    }))
    .await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let body = ask();
    let answers = join_all((0..60).map(|_| spend(&rig, &token, "/chat", &body))).await;
    let served = answers.iter().filter(|it| it.status() == 200).count() as u128;
    assert!(answers.iter().all(|it| [200, 402, 503].contains(&it.status().as_u16())));
    assert!((1..=24).contains(&served), "{served}");
    assert_eq!(u128::from(running.load(Ordering::SeqCst)), served + 1);
    let costs = charged(&rig, served as usize + 1).await;
    assert!(costs.iter().flatten().all(|it| *it == 400), "{costs:?}");
    rig.end().await;
}

#[tokio::test]
async fn an_upstream_that_says_the_cost_is_believed_and_the_client_hears_it() {
    let rig = Rig::with(plan(|seen| {
        let cost = seen.json()["cost"].as_str().map(str::to_owned);
        let answer = Reply::text(200, "done");
        cost.map_or(answer.clone(), |it| answer.with("Faregate-Cost", &it))
    }))
    .await;
    let key = rig.payer(1, PLENTY);
    let first = buy(&rig, &key, "/cost", &json!({ "cost": "12 raw" })).await;
    assert_eq!((first.status().as_u16(), header(&first, "faregate-cost")), (200, "12"));
    let (token, _) = purse(&first);
    for body in [json!({}), json!({ "cost": "a lot" }), json!({ "cost": "0 raw" })] {
        assert_eq!(spend(&rig, &token, "/cost", &body).await.status(), 200);
    }
    let costs = charged(&rig, 4).await;
    assert_eq!(costs, [Some(12), Some(2000), Some(2000), Some(0)], "the hold where nothing is said");
    rig.end().await;
}

#[tokio::test]
async fn an_answer_that_failed_costs_nothing() {
    let rig = Rig::with(plan(|seen| Reply::text(if seen.body.len() > 100 { 500 } else { 404 }, "no"))).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let long = json!({ "model": "small", "max_tokens": 9, "user": "u".repeat(100) });
    let failed = spend(&rig, &token, "/chat", &long).await;
    assert_eq!((failed.status().as_u16(), purse(&failed).1), (500, DEPOSIT));
    assert_eq!(charged(&rig, 2).await, [Some(0), None]);
    rig.end().await;
}

/// Bodies of models are longer than what Pingora can send again.
#[tokio::test]
async fn a_long_body_arrives_byte_for_byte() {
    let rig = Rig::with(plan(|_| used(1, 1))).await;
    let key = rig.payer(1, PLENTY);
    for length in [60_000, 65_400, 65_536, 66_000, 131_072, 700_001] {
        let body = json!({ "model": "small", "max_tokens": 1, "user": "é".repeat(length / 2) });
        let paid = buy(&rig, &key, "/chat", &body).await;
        assert_eq!(paid.status(), 200, "{length}");
        let seen = rig.upstream.seen().pop().unwrap();
        assert_eq!(seen.body, body.to_string().into_bytes(), "{length}");
        assert_eq!(seen.header("content-length"), Some(&*body.to_string().len().to_string()));
    }
    let too_long = json!({ "model": "small", "user": "u".repeat(8 << 20) });
    assert_eq!(post(&rig, "/chat", &too_long, &[]).await.status(), 413);
    rig.end().await;
}

/// An upstream that streams: what comes first, and the rest once it is told to go on.
struct Streaming {
    url: String,
    go_on: Arc<Notify>,
}

async fn read_request(client: &mut TcpStream) {
    let (mut read, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = client.read(&mut piece).await.unwrap();
        read.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|it| it.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return;
        }
    }
}

async fn streaming(first: String, rest: String) -> Streaming {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let go_on = Arc::new(Notify::new());
    let told = Arc::clone(&go_on);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (first, rest, told) = (first.clone(), rest.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                read_request(&mut client).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
                let _written = client.write_all(format!("{head}{first}").as_bytes()).await;
                told.notified().await;
                let _written = client.write_all(rest.as_bytes()).await;
            });
        }
    });
    Streaming { url, go_on }
}

fn chunk(text: &str, usage: Option<(u64, u64)>) -> String {
    let usage = usage.map(|(input, output)| json!({ "prompt_tokens": input, "completion_tokens": output }));
    let event = json!({ "model": "small", "choices": [{ "delta": { "content": text } }], "usage": usage });
    format!("data: {event}\n\n")
}

async fn rig_before(upstream: &Streaming, more: &str) -> Rig {
    let routes = format!(
        r#"
  - name: chat
    match: "POST /chat"
    upstream: model
    meter: {{ deposit: 10000 raw, within: 1h, usage: openai, hold: 2000 raw, {RATES}{more} }}
"#
    );
    Rig::with(Plan { routes, more: format!("  model: {{ url: \"{}\" }}", upstream.url), ..Plan::default() })
        .await
}

#[tokio::test]
async fn a_stream_costs_what_its_last_event_says_and_arrives_as_it_was() {
    let (first, rest) = (chunk("He", Some((7, 1))), chunk("llo", Some((7, 5))) + "data: [DONE]\n\n");
    let upstream = streaming(first.clone(), rest.clone()).await;
    for (more, end) in [("", ""), (", announce: stream", ": Faregate-Cost: 27\n\n")] {
        let rig = rig_before(&upstream, more).await;
        let key = rig.payer(1, PLENTY);
        upstream.go_on.notify_one();
        let answer = buy(&rig, &key, "/chat", &ask()).await;
        assert_eq!(answer.status(), 200);
        assert_eq!(soon("the stream ends", answer.text()).await.unwrap(), format!("{first}{rest}{end}"));
        assert_eq!(charged(&rig, 1).await, [Some(27)]);
        rig.end().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_pays_what_was_reported_or_by_what_it_was_sent() {
    let text = "word ".repeat(60);
    for (first, costs) in [(chunk("He", Some((7, 1))), 11..=11), (chunk(&text, None), 1..=500)] {
        let upstream = streaming(first, ": still here\n\n".repeat(9)).await;
        let rig = rig_before(&upstream, "").await;
        let key = rig.payer(1, PLENTY);
        let mut answer = buy(&rig, &key, "/chat", &ask()).await;
        soon("a part comes", answer.chunk()).await.unwrap().unwrap();
        drop(answer);
        // Until something is sent, one who left looks like one who has only finished sending.
        upstream.go_on.notify_one();
        let charged = charged(&rig, 1).await;
        assert!(costs.contains(&charged[0].unwrap()), "{charged:?}");
        rig.end().await;
    }
}

#[tokio::test]
async fn a_stream_that_outruns_its_purse_is_cut_or_goes_on_within_its_hold() {
    // In the end 12,000 raw, of 10,000.
    let (first, rest) = (chunk("He", Some((0, 9))), chunk("llo", Some((0, 3000))) + "data: [DONE]\n\n");
    for (more, is_whole) in [("", true), (", overdraft: cut", false)] {
        let upstream = streaming(first.clone(), rest.clone()).await;
        let rig = rig_before(&upstream, more).await;
        let key = rig.payer(1, PLENTY);
        // It does not bound itself, so 2,000 are set aside.
        let mut answer = buy(&rig, &key, "/chat", &json!({ "model": "small" })).await;
        assert_eq!(answer.status(), 200);
        soon("a part comes", answer.chunk()).await.unwrap().unwrap();
        upstream.go_on.notify_one();
        let text = soon("the stream ends", answer.text()).await;
        assert_eq!(text.is_ok_and(|it| it.ends_with("[DONE]\n\n")), is_whole, "{more}");
        assert_eq!(charged(&rig, 1).await, [Some(DEPOSIT)], "all there was, and no more");
        rig.end().await;
    }
    // Nothing has left yet: then it is said what became of the money.
    let upstream = streaming(chunk("Hello", Some((0, 3000))), String::new()).await;
    let rig = rig_before(&upstream, ", overdraft: cut").await;
    let answer = buy(&rig, &rig.payer(1, PLENTY), "/chat", &json!({ "model": "small" })).await;
    assert_eq!(answer.status(), 403);
    assert_eq!(error(answer).await, "purse_dry");
    assert_eq!(charged(&rig, 1).await, [Some(DEPOSIT)]);
    rig.end().await;
    let upstream = streaming(first, chunk("llo", Some((0, 3001)))).await;
    let rig = rig_before(&upstream, "").await;
    let mut answer = buy(&rig, &rig.payer(1, PLENTY), "/chat", &json!({ "model": "small" })).await;
    soon("a part comes", answer.chunk()).await.unwrap().unwrap();
    upstream.go_on.notify_one();
    assert!(soon("the stream ends", answer.text()).await.is_err(), "beyond the hold it is cut as well");
    rig.end().await;
}
