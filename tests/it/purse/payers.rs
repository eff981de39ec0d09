//! Payers, clients and servers that would have a purse pay less than was used, or more than was agreed.

use tokio::sync::watch;

use super::*;
use crate::rig::signature;

/// What is downloaded.
const MORE: &str = r#"
  - name: file
    match: "POST /file"
    upstream: api
    meter: { deposit: 10000 raw, within: 1h, usage: bytes, hold: 2000 raw, rates: { "*": { bytes: 1 raw, per: 1 } } }
"#;

fn more(answer: impl Fn(&crate::scripted::Seen) -> Reply + Send + Sync + 'static) -> Plan {
    let routes = ROUTES.replace("RATES", RATES) + MORE;
    Plan { routes, answer: Box::new(answer), ..Plan::default() }
}

/// An upstream that streams in pieces: each is sent once the number is so high.
async fn in_steps(pieces: Vec<String>) -> (Streaming, watch::Sender<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (go_on, told) = watch::channel(0);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (pieces, mut told) = (pieces.clone(), told.clone());
            tokio::spawn(async move {
                read_request(&mut client).await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
                let _written = client.write_all(head.as_bytes()).await;
                for (step, piece) in pieces.iter().enumerate() {
                    if told.wait_for(|it| *it >= step).await.is_err() {
                        return;
                    }
                    let _written = client.write_all(piece.as_bytes()).await;
                }
            });
        }
    });
    (Streaming { url, go_on: Arc::default() }, go_on)
}

/// Each of them alone would be covered by what is left: once all of them were told that it is there for them.
#[tokio::test]
async fn streams_at_once_do_not_count_on_the_same_money() {
    // In the end 45,000 raw each, of 100,000.
    let pieces = [chunk("He", Some((0, 9))), chunk("llo", Some((0, 11_250))), "data: [DONE]\n\n".to_owned()];
    let (upstream, go_on) = in_steps(pieces.into()).await;
    let routes = format!(
        r#"
  - name: chat
    match: "POST /chat"
    upstream: model
    meter: {{ deposit: 100000 raw, within: 1h, usage: openai, hold: 2000 raw, {RATES}, overdraft: cut }}
"#
    );
    let more = format!("  model: {{ url: \"{}\" }}", upstream.url);
    let rig = Rig::with(Plan { routes, more, ..Plan::default() }).await;
    let body = json!({ "model": "small" });
    let first = buy(&rig, &rig.payer(1, PLENTY), "/chat", &body).await;
    let (token, _) = purse(&first);
    let mut answers = vec![first];
    for _ in 0..4 {
        answers.push(spend(&rig, &token, "/chat", &body).await);
    }
    for answer in &mut answers {
        assert_eq!(answer.status(), 200);
        soon("a part comes", answer.chunk()).await.unwrap().unwrap();
    }
    go_on.send_replace(1);
    let all = join_all(answers.into_iter().map(async |mut answer| {
        let text = soon("the next part comes, or the end", answer.chunk()).await;
        text.ok().flatten().map(|_| answer)
    }))
    .await;
    let going_on: Vec<_> = all.into_iter().flatten().collect();
    assert_eq!(going_on.len(), 2, "100,000 raw are there for two of them");
    go_on.send_replace(2);
    for answer in going_on {
        assert!(soon("the stream ends", answer.text()).await.unwrap().ends_with("[DONE]\n\n"));
    }
    let costs = charged(&rig, 5).await;
    assert_eq!(costs.iter().flatten().filter(|it| **it == 45_000).count(), 2, "{costs:?}");
    assert_eq!(costs.iter().flatten().sum::<u128>(), 100_000, "{costs:?}");
    rig.end().await;
}

/// Once what was counted here and not reported by the upstream was lost when the answer did not end.
#[tokio::test]
async fn a_download_that_is_cut_or_breaks_off_costs_the_bytes_that_passed() {
    let upstream = streaming("a".repeat(6000), "b".repeat(6000)).await;
    let routes = r#"
  - name: chat
    match: "POST /chat"
    upstream: model
    meter: { deposit: 10000 raw, within: 1h, usage: bytes, hold: 2000 raw, rates: { "*": { bytes: 1 raw, per: 1 } }, overdraft: cut }
"#;
    let plan = Plan {
        routes: routes.to_owned(),
        more: format!("  model: {{ url: \"{}\" }}", upstream.url),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let mut answer = buy(&rig, &rig.payer(1, PLENTY), "/chat", &json!({})).await;
    soon("a part comes", answer.chunk()).await.unwrap().unwrap();
    upstream.go_on.notify_one();
    assert!(soon("the stream ends", answer.text()).await.is_err(), "it is cut");
    assert_eq!(charged(&rig, 1).await, [Some(DEPOSIT)]);
    rig.end().await;

    let rig = Rig::with(more(|_| Reply::text(200, &"x".repeat(3000)).cut(1000))).await;
    let answer = buy(&rig, &rig.payer(1, PLENTY), "/file", &json!({})).await;
    assert_eq!(answer.status(), 200);
    assert!(soon("the answer breaks off", answer.text()).await.is_err());
    let costs = charged(&rig, 1).await;
    assert!((1..=2000).contains(&costs[0].unwrap()), "{costs:?}");
    rig.end().await;
}

/// A client that reads slowly can have its upstream give up whenever it likes.
#[tokio::test]
async fn an_answer_that_its_upstream_breaks_off_is_free_twice_and_then_costs_the_hold() {
    let rig = Rig::with(plan(|_| used(17, 9).cut(70))).await;
    let first = buy(&rig, &rig.payer(1, PLENTY), "/chat", &ask()).await;
    let (token, _) = purse(&first);
    assert!(first.text().await.is_err());
    let mut costs = charged(&rig, 1).await;
    for count in 2..=4 {
        assert!(spend(&rig, &token, "/chat", &ask()).await.text().await.is_err());
        costs = charged(&rig, count).await;
    }
    assert_eq!(costs, [Some(0), Some(0), Some(hold_of(&ask())), Some(0)]);
    rig.end().await;
}

/// Servers ignore the bounds of the API that they do not speak.
#[tokio::test]
async fn a_bound_of_another_api_bounds_nothing() {
    let rig = Rig::with(plan(|_| used(1, 1))).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = purse(&buy(&rig, &key, "/chat", &ask()).await);
    let messages = json!([{ "role": "user", "content": "Hello" }]);
    for (before, body) in (1..).zip([
        json!({ "model": "small", "max_output_tokens": 1, "messages": messages }),
        json!({ "model": "small", "max_output_tokens": 1, "messages": messages, "input": "Hello" }),
        json!({ "model": "small", "max_tokens": 1, "input": "Hello" }),
        json!({ "model": "small", "max_completion_tokens": 1, "input": "Hello" }),
    ]) {
        let spent: u128 = charged(&rig, before).await.into_iter().flatten().sum();
        let answer = spend(&rig, &token, "/chat", &body).await;
        assert_eq!(purse(&answer).1, DEPOSIT - spent - 2000, "{body}");
        assert!(answer.text().await.unwrap().contains("usage"));
    }
    rig.end().await;
}

/// The price is the least that a block sent beforehand must pay. Once what it paid beyond that was nobody's.
#[tokio::test]
async fn who_pays_more_has_more() {
    let rig = Rig::with(more(|_| Reply::text(200, "done").with("Faregate-Cost", "1 raw"))).await;
    let key = rig.payer(1, PLENTY);
    let bill = post(&rig, "/cost", &json!({}), &[]).await;
    let offer = offers(&bill).offers.pop().unwrap();
    let block = rig.devnet.send_block(&key, offer.pay_to, Raw::new(25_000)).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&key, &block, &offer);
    let paid = post(&rig, "/cost", &json!({}), &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((paid.status().as_u16(), purse(&paid).1), (200, 25_000 - 2000));
    rig.end().await;
}

/// The upstream may say any amount: the client hears what it pays.
#[tokio::test]
async fn a_client_is_not_told_that_it_pays_what_it_does_not() {
    let rig = Rig::with(plan(|seen| {
        let answer = Reply::text(200, "done").with("Faregate-Cost", "50000 raw");
        if seen.json()["free"] == true { answer.with("Faregate-Charge", "no") } else { answer }
    }))
    .await;
    let free = buy(&rig, &rig.payer(1, PLENTY), "/cost", &json!({ "free": true })).await;
    assert_eq!((free.status().as_u16(), free.headers().get("faregate-cost")), (200, None));
    let (token, _) = purse(&free);
    let paid = spend(&rig, &token, "/cost", &json!({})).await;
    assert_eq!((paid.status().as_u16(), header(&paid, "faregate-cost")), (200, "10000"));
    assert_eq!(charged(&rig, 2).await, [None, Some(DEPOSIT)]);
    rig.end().await;
}

/// Added to half an event, a comment would become a part of it, or its end.
#[tokio::test]
async fn a_stream_that_ends_within_an_event_stays_as_it_was() {
    let first = chunk("He", Some((7, 1)));
    for (rest, end) in [
        ("data: {\"model\"", ""),
        ("data: {}\n", ": Faregate-Cost: 11\n"),
        ("data: {}\r\n\r\n", ": Faregate-Cost: 11\n\n"),
    ] {
        let upstream = streaming(first.clone(), rest.to_owned()).await;
        let rig = rig_before(&upstream, ", announce: stream").await;
        upstream.go_on.notify_one();
        let answer = buy(&rig, &rig.payer(1, PLENTY), "/chat", &ask()).await;
        assert_eq!(soon("the stream ends", answer.text()).await.unwrap(), format!("{first}{rest}{end}"));
        rig.end().await;
    }
}
