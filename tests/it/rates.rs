//! Prices in other currencies: what is billed for them, what the bill is worth later, and what happens while a rate
//! is missing. How numbers are exchanged is tested in `money.rs`, how an answer is read in `src/rates`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::assemble::stranded;
use faregate::cli::{check, explain};
use faregate::clock::Clock;
use faregate::config::Config;
use faregate::nano::{Raw, UnixSeconds};
use faregate::rates::{MAX_ANSWER, RateSettings, RateSource, Rates, read};
use faregate::store::{Filter, PaymentJournal};
use faregate::x402::{PaymentProof, encode_header};
use reqwest::Response;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::admin::{ADMIN, Api};
use crate::patience::{soon, wait_for};
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, manual_clock, offers, signature};
use crate::scripted::{Reply, Scripted};
use crate::upstream_down::operators;

const ROUTES: &str = r#"
  - { name: dollars, match: "GET /dollars", upstream: api, price: 0.02 USD, grants: { requests: 5, within: 10h } }
  - { name: euros, match: "GET /euros", upstream: api, price: 0.01 EUR }
  - { name: xno, match: "GET /xno", upstream: api, price: 0.001 XNO }
  - { name: shadow, match: "GET /shadow", upstream: api, price: 0.02 USD, mode: shadow }
  - name: tools
    match: POST /mcp
    upstream: api
    mcp: { methods: { ping: free }, tools: { search: 0.02 USD, render: 0.006 USD } }
"#;

/// A gateway whose rates are in a file, by a clock that stands where the test puts it.
struct Shop {
    rig: Rig,
    /// Not in the gateway's own folder, which the configuration does not name.
    folder: TempDir,
    seconds: Arc<AtomicU64>,
    more: String,
}

impl Shop {
    async fn open(usd: &str) -> Self {
        Self::with(usd, "").await
    }

    /// With more lines in its configuration.
    async fn with(usd: &str, lines: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let (clock, seconds) = manual_clock();
        let path = folder.path().join("rates.json");
        let more = format!(
            "{lines}challenge: {{ lifetime: 30m }}\nrates: {{ source: {}, every: 60m, at_most_old: 2h, max_change: 30% }}",
            path.display()
        );
        say(&folder, usd, seconds.load(Ordering::SeqCst));
        let plan = Plan { routes: ROUTES.to_owned(), more: more.clone(), clock, ..Plan::default() };
        Self { rig: Rig::with(plan).await, folder, seconds, more }
    }

    fn config(&self) -> Config {
        self.rig.config(&self.more, ROUTES)
    }

    fn now(&self) -> u64 {
        self.seconds.load(Ordering::SeqCst)
    }

    /// Time goes by, and nobody writes a rate.
    fn wait(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    /// A minute later the file has this rate for dollars, and the gateway gets a SIGHUP.
    async fn quote(&self, usd: &str) {
        self.wait(60);
        say(&self.folder, usd, self.now());
        self.rig.services.reload(&self.config()).await.unwrap();
    }

    /// What is billed for `path`, by the first offer.
    async fn billed(&self, path: &str) -> String {
        self.rig.bill(path).await[0].amount.xno().to_string()
    }

    async fn status(&self, path: &str) -> (u16, String) {
        let answer = self.rig.get(path, &[]).await;
        (answer.status().as_u16(), error(answer).await)
    }

    async fn readyz(&self) -> Value {
        serde_json::from_str(&operators(&self.rig, "/readyz").await).unwrap()
    }

    async fn metric(&self, series: &str) -> Option<f64> {
        let text = operators(&self.rig, "/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("faregate_{series} ")))?;
        Some(line.parse().unwrap())
    }
}

fn say(folder: &TempDir, usd: &str, at: u64) {
    let rates = json!({ "XNO": { "USD": usd, "EUR": "0.5" }, "at": at });
    std::fs::write(folder.path().join("rates.json"), rates.to_string()).unwrap();
}

async fn entry(answer: Response, index: usize) -> Value {
    let bill: Value = answer.json().await.unwrap();
    bill["accepts"][index].clone()
}

#[tokio::test]
async fn a_price_in_a_currency_is_billed_in_raw_and_kept_with_its_rate() {
    let shop = Shop::open("0.83").await;
    let rig = &shop.rig;
    let [txn, signed] = rig.bill("/dollars").await;
    assert_eq!(txn.amount.xno().to_string(), "0.024097 XNO", "0.02 / 0.83, rounded up to what wallets show");
    assert_eq!(signed.amount, txn.amount, "one rate for all ways to pay");
    assert_eq!(shop.billed("/euros").await, "0.02 XNO");
    assert_eq!(shop.billed("/xno").await, "0.001 XNO");
    let exchange = json!({ "price": "0.02", "currency": "USD", "rate": "0.83" });
    for index in [0, 1] {
        let entry = entry(rig.get("/dollars", &[]).await, index).await;
        assert_eq!(entry["extra"]["exchange"], exchange);
        assert_eq!(entry["amount"], txn.amount.to_string());
    }
    assert_eq!(entry(rig.get("/xno", &[]).await, 0).await["extra"].get("exchange"), None);

    let key = rig.payer(1, PLENTY);
    let paid = rig.pay(&key, "/dollars").await;
    assert_eq!((paid.status().as_u16(), capability(&paid).1), (200, 4));
    assert_eq!(rig.pay(&key, "/xno").await.status(), 200);
    let payments = rig.services.store().scan(0, Filter::default(), 10).await.unwrap();
    let kept: Vec<_> =
        payments.iter().map(|it| (it.intent.amount, it.intent.exchange.map(|it| it.to_string()))).collect();
    let xno = Raw::with_unit("0.001 XNO").unwrap();
    assert_eq!(kept, [(txn.amount, Some("0.02 USD at 0.83".to_owned())), (xno, None)]);
    shop.rig.end().await;
}

/// The rate moves while the client pays.
#[tokio::test]
async fn a_bill_is_paid_as_it_says_whatever_the_rate_is_by_then() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let key = rig.payer(1, PLENTY);
    let [low, _] = rig.bill("/dollars").await;
    assert_eq!(low.amount.xno().to_string(), "0.025 XNO");
    shop.quote("0.64").await;
    let [high, _] = rig.bill("/dollars").await;
    assert_eq!(high.amount.xno().to_string(), "0.03125 XNO");
    for (bill, extra) in [(&low, "0.8"), (&high, "0.64")] {
        let (proof, _) = rig.txn(&key, bill);
        assert_eq!(rig.get("/dollars", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200, "{extra}");
    }
    shop.quote("0.8").await;
    let [_, signed] = rig.bill("/dollars").await;
    let block = rig.devnet.send_block(&key, signed.pay_to, signed.amount).unwrap();
    let proof = signature(&key, &block, &signed);
    rig.devnet.process(block).unwrap();
    shop.quote("0.64").await;
    assert_eq!(rig.ask_until_decided("/dollars", &proof).await.status(), 200);
    shop.rig.end().await;
}

/// The amount, the price and the rate are what was offered, or there was no such offer.
#[tokio::test]
async fn nobody_changes_the_rate_of_a_bill() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let key = rig.payer(1, PLENTY);
    let bill = rig.bill("/dollars").await;
    let (proof, _) = rig.txn(&key, &bill[0]);
    let sent = faregate::x402::decode_header(&proof).unwrap();
    for (pointer, value) in [
        ("/accepted/extra/exchange/rate", json!("8")),
        ("/accepted/extra/exchange/price", json!("0.002")),
        ("/accepted/extra/exchange/currency", json!("EUR")),
        ("/accepted/extra/exchange", Value::Null),
        ("/accepted/amount", json!("1000000000000000000000000")),
    ] {
        let mut changed = Value::Object(sent.clone());
        *changed.pointer_mut(pointer).unwrap() = value;
        let answer = rig.get("/dollars", &[("PAYMENT-SIGNATURE", &encode_header(&changed))]).await;
        assert_eq!(
            (answer.status().as_u16(), error(answer).await),
            (402, "CHALLENGE_UNKNOWN".to_owned()),
            "{pointer}"
        );
    }
    // An exchange that nobody could offer is a fault of the proof.
    for value in
        [json!("x"), json!({ "price": "0.02", "currency": "usd", "rate": "1" }), json!({ "price": 0.02 })]
    {
        let mut changed = Value::Object(sent.clone());
        *changed.pointer_mut("/accepted/extra/exchange").unwrap() = value.clone();
        let answer = rig.get("/dollars", &[("PAYMENT-SIGNATURE", &encode_header(&changed))]).await;
        assert_eq!(
            (answer.status().as_u16(), error(answer).await),
            (402, "MALFORMED_PAYLOAD".to_owned()),
            "{value}"
        );
    }
    assert_eq!(rig.effects().broadcast, 0);
    assert_eq!(rig.get("/dollars", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
    shop.rig.end().await;
}

#[tokio::test]
async fn without_a_fresh_rate_nothing_is_sold_by_it_and_what_was_bought_or_billed_is_served() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/dollars").await);
    shop.wait(2 * 3600 - 60);
    let [bill, _] = rig.bill("/dollars").await;
    shop.wait(60);
    assert_eq!(shop.billed("/dollars").await, "0.025 XNO", "to the last second");
    assert_eq!(shop.readyz().await["ready"], true);
    assert_eq!(shop.metric("exchange_rate{currency=\"USD\"}").await, Some(0.8));
    assert_eq!(shop.metric("exchange_rate_age_seconds{currency=\"USD\"}").await, Some(7200.0));
    assert_eq!(shop.metric("exchange_rate_fresh{currency=\"USD\"}").await, Some(1.0));

    shop.wait(1);
    for path in ["/dollars", "/euros"] {
        let answer = rig.get(path, &[]).await;
        assert_eq!(header(&answer, "retry-after"), "10");
        assert_eq!((answer.status().as_u16(), error(answer).await), (503, "rate_unavailable".to_owned()));
    }
    assert_eq!(shop.billed("/xno").await, "0.001 XNO", "XNO needs no rate");
    let unlocked = rig.get("/dollars", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((unlocked.status().as_u16(), capability(&unlocked).1), (200, 3));
    let (proof, _) = rig.txn(&key, &bill);
    let paid = rig.get("/dollars", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((paid.status().as_u16(), capability(&paid).1), (200, 4), "what it was billed");
    let shadow = rig.get("/shadow", &[]).await;
    assert_eq!((shadow.status().as_u16(), header(&shadow, "faregate-shadow")), (200, "rate_unavailable"));
    // A refused payment gets no bill either.
    let mut bent = Value::Object(faregate::x402::decode_header(&proof).unwrap());
    bent["accepted"]["amount"] = json!("1");
    let answer = rig.get("/dollars", &[("PAYMENT-SIGNATURE", &encode_header(&bent))]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await), (503, "rate_unavailable".to_owned()));
    let told = shop.readyz().await;
    assert_eq!((&told["ready"], &told["reason"]), (&json!(false), &json!("no_rate")));
    let usd = json!({ "currency": "USD", "rate": "0.8", "age": 7201, "fresh": false, "held": null });
    assert_eq!(told["rates"][1], usd);
    let bought: Value = serde_json::from_str(&operators(rig, "/readyz?for=bought").await).unwrap();
    assert_eq!(bought["ready"], true);
    assert_eq!(shop.metric("exchange_rate_fresh{currency=\"USD\"}").await, Some(0.0));

    shop.quote("0.8").await;
    assert_eq!(shop.billed("/dollars").await, "0.025 XNO");
    assert_eq!(shop.readyz().await["ready"], true);
    let shadow = rig.get("/shadow", &[]).await;
    assert!(header(&shadow, "faregate-shadow").starts_with("amount=25000000000000000000000000000;"));
    shop.rig.end().await;
}

/// The source is away when the gateway starts.
#[tokio::test]
async fn a_gateway_that_has_read_no_rate_starts_and_sells_what_needs_none() {
    let shop = Shop::open("none").await;
    assert_eq!(shop.status("/dollars").await, (503, "rate_unavailable".to_owned()));
    assert_eq!(shop.billed("/euros").await, "0.02 XNO", "the other currency is not at fault");
    assert_eq!(shop.billed("/xno").await, "0.001 XNO");
    assert_eq!(shop.readyz().await["reason"], "no_rate");
    assert_eq!(shop.metric("exchange_rate{currency=\"USD\"}").await, None);
    assert_eq!(shop.metric("exchange_rate_fresh{currency=\"USD\"}").await, Some(0.0));
    shop.quote("0.8").await;
    assert_eq!(shop.billed("/dollars").await, "0.025 XNO");
    shop.rig.end().await;
}

#[tokio::test]
async fn a_jump_changes_no_price_before_three_readings_agree_on_it() {
    let shop = Shop::open("0.8").await;
    for held in ["8", "8.1"] {
        shop.quote(held).await;
        assert_eq!(shop.billed("/dollars").await, "0.025 XNO", "{held}");
        assert_eq!(shop.readyz().await["rates"][1]["held"], held);
    }
    // A reload without a new reading confirms nothing.
    shop.rig.services.reload(&shop.config()).await.unwrap();
    assert_eq!(shop.billed("/dollars").await, "0.025 XNO");
    shop.quote("8").await;
    assert_eq!(shop.billed("/dollars").await, "0.0025 XNO");
    assert_eq!(shop.readyz().await["rates"][1]["held"], Value::Null);
    // One wrong reading, and then as before.
    for (said, billed) in
        [("80000", "0.0025 XNO"), ("8", "0.0025 XNO"), ("0", "0.0025 XNO"), ("7.9", "0.002532 XNO")]
    {
        shop.quote(said).await;
        assert_eq!(shop.billed("/dollars").await, billed, "{said}");
    }
    shop.rig.end().await;
}

/// What is given away is worth what a payment is at that moment: [`crate::renamed`].
#[tokio::test]
async fn the_admin_api_shows_the_rates_and_gives_nothing_away_whose_worth_is_not_known() {
    let shop = Shop::with("none", ADMIN).await;
    let api = Api::of(&shop.rig).await;
    let gift = json!({ "route": "dollars", "uses": 1, "note": "a tester" });
    let (status, refused) = api.post("/v1/capabilities", &gift).await;
    assert_eq!(status, 503);
    assert!(refused["detail"].as_str().unwrap().starts_with("what 0.02 USD is in XNO"), "{refused}");
    let status = api.get("/v1/status").await;
    assert_eq!((&status["ready"], &status["reason"]), (&json!(false), &json!("no_rate")));
    let none = json!({ "currency": "USD", "rate": null, "age": null, "fresh": false, "held": null });
    assert_eq!(status["rates"][1], none);

    shop.quote("0.8").await;
    let (status, given) = api.post("/v1/capabilities", &gift).await;
    assert_eq!(status, 200, "{given}");
    let token = given["token"].as_str().unwrap();
    assert_eq!(shop.rig.get("/dollars", &[("PAYMENT-CAPABILITY", token)]).await.status(), 200);
    assert_eq!(shop.rig.pay(&shop.rig.payer(1, PLENTY), "/dollars").await.status(), 200);
    let payments = api.get("/v1/payments").await;
    let [payment] = &payments["payments"].as_array().unwrap()[..] else { panic!("{payments}") };
    let told = ["price", "currency", "rate", "amount_xno"].map(|it| payment[it].as_str().unwrap());
    assert_eq!(told, ["0.02", "USD", "0.8", "0.025"]);
    let routes = api.get("/v1/routes").await;
    assert_eq!(routes["routes"][0]["price"]["currency"], "USD");
    api.end().await;
    shop.rig.end().await;
}

/// What another source says is not compared with the last one, or a wrong place could not be corrected.
#[tokio::test]
async fn another_place_of_the_rate_is_believed_at_once_and_rates_may_go() {
    let shop = Shop::open("0.8").await;
    let moved = format!(
        "{}\n",
        shop.more
            .replace("max_change", "currencies: { USD: /XNO/EUR, EUR: /XNO/EUR }, time: /at, max_change")
    );
    let moved = shop.rig.config(&moved, ROUTES);
    assert_eq!(shop.rig.services.preview(&moved).unwrap().changed, ["rates changed"]);
    shop.rig.services.reload(&moved).await.unwrap();
    assert_eq!(shop.billed("/dollars").await, "0.04 XNO");
    let only_xno = "\n  - { match: \"GET /xno\", upstream: api, price: 0.001 XNO }\n";
    shop.rig.services.reload(&shop.rig.config("", only_xno)).await.unwrap();
    assert_eq!(shop.billed("/xno").await, "0.001 XNO");
    assert_eq!(shop.readyz().await["rates"], json!([]));
    assert_eq!(shop.metric("exchange_rate_fresh{currency=\"USD\"}").await, None);
    shop.rig.end().await;
}

/// Before: what was read from the last source was forgotten first, and nothing was sold until the next one answered.
#[tokio::test]
async fn while_a_new_source_is_asked_the_last_one_sells() {
    let shop = Shop::open("0.8").await;
    let reply = Arc::new(Mutex::new(Reply::Hang));
    let told = Arc::clone(&reply);
    let server = Scripted::start(move |_| told.lock().unwrap().clone()).await;
    let more = format!(
        "rates: {{ source: \"{}\", every: 60m, at_most_old: 2h, timeout: 60s, currencies: {{ USD: /0, EUR: /1 }} }}",
        server.url
    );
    let config = shop.rig.config(&more, ROUTES);
    let sold = async {
        wait_for("the source is asked", async || (!server.seen().is_empty()).then_some(())).await;
        shop.billed("/dollars").await
    };
    tokio::select! {
        _ = shop.rig.services.reload(&config) => panic!("it waits for the source"),
        amount = sold => assert_eq!(amount, "0.025 XNO"),
    }
    *reply.lock().unwrap() = Reply::text(200, "[0.4, 0.5]");
    shop.rig.services.reload(&config).await.unwrap();
    assert_eq!(shop.billed("/dollars").await, "0.05 XNO");
    shop.rig.end().await;
}

#[tokio::test]
async fn calls_of_an_mcp_server_are_priced_in_a_currency_and_a_batch_costs_the_sum() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let post = async |body: Value, proof: &str| {
        let request = rig.http.post(format!("{}/mcp", rig.url)).header("Content-Type", "application/json");
        request.header("PAYMENT-SIGNATURE", proof).body(body.to_string()).send().await.unwrap()
    };
    let call =
        |tool: &str| json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool } });
    let ask = async |body: Value| {
        let request = rig.http.post(format!("{}/mcp", rig.url)).header("Content-Type", "application/json");
        request.body(body.to_string()).send().await.unwrap()
    };
    let batch = json!([call("search"), call("render")]);
    for (body, amount) in [(call("search"), "0.025"), (call("render"), "0.0075"), (batch.clone(), "0.0325")] {
        let offer = offers(&ask(body.clone()).await).offers.remove(0);
        assert_eq!(offer.amount.xno().number(), amount, "{body}");
    }
    let key = rig.payer(1, PLENTY);
    let offer = offers(&ask(batch.clone()).await).offers.remove(0);
    let (proof, _) = rig.txn(&key, &offer);
    assert_eq!(post(batch, &proof).await.status(), 200);
    let payments = rig.services.store().scan(0, Filter::default(), 10).await.unwrap();
    assert_eq!(payments[0].intent.exchange.unwrap().to_string(), "0.026 USD at 0.8");
    shop.wait(3 * 3600);
    assert_eq!(error(ask(call("search")).await).await, "rate_unavailable");
    let ping = json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" });
    assert_eq!(ask(ping).await.status(), 200, "free calls are free");
    shop.rig.end().await;
}

/// A name that was moved to another path opens it only where a use costs no more. Two prices in one currency are compared
/// in it, or all that was bought would be lost when XNO became a little cheaper.
#[tokio::test]
async fn what_was_bought_under_a_name_that_was_moved_is_good_while_the_price_in_its_currency_is_no_higher() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/dollars").await);
    let [bill, _] = rig.bill("/dollars").await;
    let moved = |price: &str| {
        format!(
            "\n  - {{ name: dollars, match: \"GET /moved\", upstream: api, price: {price}, grants: {{ requests: 5, within: 10h }} }}\n"
        )
    };
    let reload = async |price: &str| {
        rig.services.reload(&rig.config(&shop.more, &moved(price))).await.unwrap();
    };
    let show = async || rig.get("/moved", &[("PAYMENT-CAPABILITY", &token)]).await.status().as_u16();
    let stranded = async |price: &str| {
        let config = rig.config(&shop.more, &moved(price));
        stranded(rig.services.store(), &config.table, UnixSeconds(shop.now())).await.unwrap().len()
    };
    shop.wait(60);
    say(&shop.folder, "0.7", shop.now());
    for (price, status, lost) in [
        ("0.02 USD", 200, 0),
        ("0.03 USD", 410, 1),
        // 0.025 XNO were paid.
        ("0.025 XNO", 200, 0),
        ("0.026 XNO", 410, 1),
        ("0.0125 EUR", 200, 0),
        ("0.0126 EUR", 410, 0),
    ] {
        reload(price).await;
        assert_eq!((show().await, stranded(price).await), (status, lost), "{price}");
    }
    reload("0.02 USD").await;
    assert_eq!(shop.billed("/moved").await, "0.028572 XNO", "a use is dearer in XNO");
    let (proof, _) = rig.txn(&key, &bill);
    assert_eq!(rig.get("/moved", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200, "what it was billed");

    shop.wait(2 * 3600 + 1);
    for (price, status) in [("0.0125 EUR", 503), ("0.03 USD", 410), ("0.02 USD", 200)] {
        reload(price).await;
        assert_eq!(show().await, status, "without a rate: {price}");
    }
    shop.rig.end().await;
}

/// The route was metered when the purse was bought.
#[tokio::test]
async fn a_purse_pays_a_price_in_a_currency_by_the_rate_of_the_moment() {
    let shop = Shop::open("0.8").await;
    let rig = &shop.rig;
    let metered = "\n  - { name: dollars, match: \"GET /dollars\", upstream: api, \
        meter: { deposit: 0.05 XNO, within: 10h, usage: header, hold: 0.01 XNO } }\n";
    rig.services.reload(&rig.config("", metered)).await.unwrap();
    let paid = rig.pay(&rig.payer(1, PLENTY), "/dollars").await;
    assert_eq!(paid.status(), 200);
    let (token, _) = header(&paid, "payment-capability").split_once("; balance=").unwrap();
    shop.wait(2 * 3600 + 1);
    rig.services.reload(&shop.config()).await.unwrap();
    let show = async || rig.get("/dollars", &[("PAYMENT-CAPABILITY", token)]).await;
    let answer = show().await;
    assert_eq!((answer.status().as_u16(), error(answer).await), (503, "rate_unavailable".to_owned()));
    shop.quote("0.8").await;
    let answer = show().await;
    assert_eq!(answer.status(), 200);
    // The meter's hold, and a fifth of 0.025 XNO.
    let left = format!("; balance={};", Raw::with_unit("0.035 XNO").unwrap());
    assert!(header(&answer, "payment-capability").contains(&left), "{answer:?}");
    shop.rig.end().await;
}

/// The two headers of a session carry all that the MAC covers.
#[tokio::test]
async fn a_session_in_a_currency_is_paid_by_its_headers_alone() {
    let folder = TempDir::new().unwrap();
    let (clock, seconds) = manual_clock();
    say(&folder, "0.8", seconds.load(Ordering::SeqCst));
    let routes =
        "\n  - { match: \"GET /alone\", upstream: api, price: 0.02 USD, mechanisms: [nanoSession] }\n";
    let more = format!("rates: {{ source: {} }}", folder.path().join("rates.json").display());
    let rig = Rig::with(Plan { routes: routes.to_owned(), more, clock, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let bill = rig.get("/alone", &[]).await;
    let session = header(&bill, "x-payment-session").to_owned();
    let offer = offers(&bill).offers.remove(0);
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let hash = block.hash().to_string();
    let headers = [("X-PAYMENT-BLOCK", hash.as_str()), ("X-PAYMENT-SESSION", session.as_str())];
    let paid = async || Some(rig.get("/alone", &headers).await).filter(|it| it.status() != 503);
    assert_eq!(wait_for("the payment is settled", paid).await.status(), 200);
    let payments = rig.services.store().scan(0, Filter::default(), 10).await.unwrap();
    assert_eq!(payments[0].intent.exchange.unwrap().to_string(), "0.02 USD at 0.8");
    assert_eq!(payments[0].intent.terms.amount.xno().to_string(), "0.025 XNO");
    // As x402 envelope as well.
    let offer = offers(&rig.get("/alone", &[]).await).offers.remove(0);
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = encode_header(&offer.answer(&PaymentProof::NanoSession { block_hash: block.hash() }));
    assert_eq!(rig.ask_until_decided("/alone", &proof).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn what_is_published_has_the_price_in_its_currency_and_no_amount_in_raw() {
    let shop = Shop::open("0.8").await;
    let get = async |path: &str| shop.rig.get(path, &[]).await.text().await.unwrap();
    let manifest: Value = serde_json::from_str(&get("/.well-known/x402").await).unwrap();
    let items = manifest["items"].as_array().unwrap();
    let named = |name: &str| items.iter().find(|it| it["route"] == name).unwrap();
    let dollars = &named("dollars")["terms"][0];
    assert_eq!(dollars.get("amount"), None, "it is not known before it is billed");
    assert_eq!((&dollars["extra"]["price"], &dollars["extra"]["currency"]), (&json!("0.02"), &json!("USD")));
    let xno = &named("xno")["terms"][0];
    assert_eq!((&xno["amount"], xno["extra"].get("price")), (&json!("1000000000000000000000000000"), None));
    let search =
        named("tools")["calls"].as_array().unwrap().iter().find(|it| it["tool"] == "search").unwrap();
    assert_eq!(search["terms"][0]["extra"]["price"], "0.02");

    let api: Value = serde_json::from_str(&get("/openapi.json").await).unwrap();
    let info = &api["paths"]["/dollars"]["get"]["x-payment-info"];
    assert_eq!(info["price"], json!({ "mode": "fixed", "currency": "USD", "amount": "0.02" }));
    assert_eq!(info["protocols"][0]["x402"].get("amount"), None);
    let info = &api["paths"]["/mcp"]["post"]["x-payment-info"];
    assert_eq!(info["price"], json!({ "mode": "dynamic", "currency": "USD", "min": "0", "max": "0.02" }));
    let guide = get("/llms.txt").await;
    assert!(
        guide.contains(": 0.02 USD for 5 requests within 10h") && guide.contains("tool `search`: 0.02 USD"),
        "{guide}"
    );
    shop.rig.end().await;
}

#[tokio::test]
async fn check_and_explain_show_the_price_in_its_currency() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("faregate.yaml");
    let text = format!(
        "public_url: https://api.example.com\nlisten: {{ http: 127.0.0.1:8402 }}\n\
         nano: {{ nodes: [http://127.0.0.1:7076], pool: {{ seed_file: pool.seed }} }}\n\
         upstreams: {{ api: {{ url: http://127.0.0.1:3000 }} }}\nrates: {{ source: rates.json }}\nroutes:\n{ROUTES}"
    );
    std::fs::write(&path, text).unwrap();
    let check = async |json: bool| {
        let args =
            check::CheckArgs { config: path.clone().into(), offline: true, against_store: false, json };
        let mut out = Vec::new();
        check::run(&args, &mut out).await.unwrap();
        String::from_utf8(out).unwrap()
    };
    let table = check(false).await;
    assert!(table.contains("0.02 USD") && table.contains("free to 0.02 USD a call"), "{table}");
    let whole: Value = serde_json::from_str(&check(true).await).unwrap();
    let price = json!({ "price": "0.02", "currency": "USD", "requests": 5, "seconds": 36_000 });
    assert_eq!(whole["routes"][0]["price"], price);
    let explain = |method: &str, url: &str, data: Option<&str>, json: bool| {
        let args = explain::ExplainArgs {
            config: path.clone().into(),
            json,
            data: data.map(str::to_owned),
            headers: Vec::new(),
            host: None,
            method: method.to_owned(),
            url: url.to_owned(),
        };
        let mut out = Vec::new();
        explain::run(&args, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    let told = explain("GET", "/dollars", None, false);
    assert!(
        told.contains("costs     0.02 USD, in XNO by the rate of the moment at which it is billed\n"),
        "{told}"
    );
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"render"}}"#;
    let told: Value = serde_json::from_str(&explain("POST", "/mcp", Some(call), true)).unwrap();
    let quote = json!({ "free": false, "buys": "tool:render", "price": "0.006", "currency": "USD" });
    assert_eq!(told["call"], quote);
}

fn settings(source: RateSource) -> RateSettings {
    RateSettings {
        source,
        every: Duration::from_secs(60),
        at_most_old: 600,
        timeout: Duration::from_secs(5),
        max_change: 30,
        currencies: BTreeMap::from([("USD".parse().unwrap(), "/nano/usd".parse().unwrap())]),
        time: None,
        authorities: Vec::new(),
    }
}

const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// A server of rates is no more trusted than it must be.
#[tokio::test]
async fn a_server_of_rates_is_asked_for_one_short_answer_and_followed_nowhere() {
    let reply = Arc::new(Mutex::new(Reply::text(200, "")));
    let told = Arc::clone(&reply);
    let server = Scripted::start(move |_| told.lock().unwrap().clone()).await;
    let source = || RateSource::Url(server.url.join("/v3/price?key=SECRET").unwrap());
    let ask = async |next: Reply| {
        *reply.lock().unwrap() = next;
        let asked = RateSettings { timeout: Duration::from_millis(500), ..settings(source()) };
        let reading = read(&asked, NOW).await.map_err(|it| it.to_string())?;
        assert_eq!(reading.at, NOW);
        reading.rates.into_values().next().unwrap().map(|it| it.to_string()).map_err(|it| it.to_string())
    };
    let good = r#"{"nano":{"usd":0.832145}}"#;
    assert_eq!(ask(Reply::text(200, good)).await.as_deref(), Ok("0.832145"));
    let seen = server.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("GET", "/v3/price?key=SECRET"));
    let elsewhere = Reply::Http {
        status: 302,
        headers: vec![("Location".to_owned(), server.url.join("/other").unwrap().to_string())],
        body: Vec::new(),
    };
    assert_eq!(ask(elsewhere).await.unwrap_err(), "the answer has status 302");
    assert!(server.seen().iter().all(|it| it.path != "/other"));
    assert_eq!(ask(Reply::text(500, good)).await.unwrap_err(), "the answer has status 500");
    assert_eq!(ask(Reply::text(429, good)).await.unwrap_err(), "the answer has status 429");
    let long = format!("{}{good}", " ".repeat(MAX_ANSWER));
    assert!(ask(Reply::text(200, &long)).await.unwrap_err().starts_with("more than"));
    let fits = format!("{}{good}", " ".repeat(MAX_ANSWER - good.len()));
    assert_eq!(ask(Reply::text(200, &fits)).await.as_deref(), Ok("0.832145"));
    assert!(ask(Reply::text(200, "<html>")).await.unwrap_err().starts_with("not JSON"));
    let cut = Reply::Cut { whole: Box::new(Reply::text(200, good)), missing: 3 };
    for broken in [cut, Reply::Hang, Reply::Drop] {
        let why = ask(broken).await.unwrap_err();
        assert!(!why.contains("SECRET") && !why.is_empty(), "{why}");
    }
    assert!(!format!("{:?} {}", source(), source()).contains("SECRET"));
}

#[tokio::test]
async fn a_source_that_does_not_answer_delays_no_shutdown() {
    let server = Scripted::start(|_| Reply::Hang).await;
    let source = RateSource::Url(server.url.clone());
    let asked = RateSettings {
        every: Duration::from_millis(10),
        timeout: Duration::from_secs(3600),
        ..settings(source)
    };
    let rates = Arc::new(Rates::new(Some(asked), Clock::system()));
    let (stop, shutdown) = watch::channel(false);
    let watching = tokio::spawn(rates.watch(shutdown));
    wait_for("the source is asked", async || (!server.seen().is_empty()).then_some(())).await;
    stop.send_replace(true);
    soon("the watch ends", watching).await.unwrap();
}

#[tokio::test]
async fn a_file_of_rates_has_its_own_time_and_is_not_read_beyond_a_bound() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("rates.json");
    let ask = async || read(&settings(RateSource::File(path.clone())), NOW).await;
    assert!(ask().await.unwrap_err().to_string().contains("No such file"));
    std::fs::write(&path, r#"{"nano":{"usd":"0.8"}}"#).unwrap();
    let written = std::time::UNIX_EPOCH + Duration::from_secs(NOW.0 - 77);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(written).unwrap();
    assert_eq!(ask().await.unwrap().at, UnixSeconds(NOW.0 - 77));
    std::fs::write(&path, vec![b' '; MAX_ANSWER + 1]).unwrap();
    assert!(ask().await.unwrap_err().to_string().starts_with("more than"));
    let endless = read(&settings(RateSource::File("/dev/zero".into())), NOW).await;
    assert_eq!(endless.unwrap_err().to_string(), "not a file");
}
