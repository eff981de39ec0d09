//! The real program is killed at each point between a call of `/settle` and the record of its answer,
//! then started again on the same files. No payment is lost, and only an answer that was under way is
//! delivered twice.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;

use faregate::devnet::{Devnet, DevnetOptions};
use faregate::nano::{SecretKey, Seed, StateBlock};
use faregate::x402::PaymentProof;
use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Bill, PRICE, REPORT, call, decoded};
use crate::patience::{soon, wait_for};
use crate::program::{self, Program};
use crate::rig::{PLENTY, signature};

/// The exit status of a process that ended itself at a failpoint.
const SIGABRT: i32 = 6;

/// Calls the facilitator; `None` if it cannot be reached or closes the connection.
async fn post(http: &Client, url: &str, path: &str, body: &Value) -> Option<Value> {
    http.post(format!("{url}{path}")).json(body).send().await.ok()?.json().await.ok()
}

/// Calls until `wanted` accepts the answer.
async fn post_until(http: &Client, to: (&str, &str), body: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    let (url, path) = to;
    wait_for(path, async || post(http, url, path, body).await.filter(|it| wanted(it))).await
}

fn paid(devnet: &Devnet, key: &SecretKey, bill: &Bill, by_signature: bool) -> (Value, StateBlock) {
    let which = usize::from(by_signature);
    let offer = &bill.offers[which];
    let block = devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
    let payload = if by_signature {
        devnet.process(block).unwrap();
        decoded(&signature(key, &block, offer))
    } else {
        offer.answer(&PaymentProof::NanoTxn { block })
    };
    (call(&bill.entries[which], &payload), block)
}

/// How often in all a payment is answered as settled, by a program that ends itself at `point` and is
/// started again.
async fn deliveries(point: &str, by_signature: bool) -> u32 {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let key = Seed::from_bytes([0x6c; 32]).key(1);
    devnet.fund(key.account(), PLENTY).unwrap();
    devnet.receive_all(&key).unwrap();
    let folder = TempDir::new().unwrap();
    let program = Program::new(folder.path(), &devnet, "http://127.0.0.1:9", 1);
    let address = program::free_address();
    let mut file =
        std::fs::OpenOptions::new().append(true).open(folder.path().join("faregate.yaml")).unwrap();
    writeln!(file, "facilitator: {{ listen: {address} }}").unwrap();
    let url = format!("http://{address}");

    let mut child = program.start(Some(&format!("{point}=return")));
    let http = program::client();
    let order = json!({ "resource": { "url": REPORT }, "price": PRICE });
    let is_bill = |it: &Value| it["accepts"].is_array();
    let bill = Bill::of(&post_until(&http, (&url, "/requirements"), &order, is_bill).await);
    let (call, block) = paid(&devnet, &key, &bill, by_signature);
    let first = post(&http, &url, "/settle", &call).await;
    let ended = soon("the program ends itself", child.wait()).await;
    assert_eq!(ended.unwrap().signal(), Some(SIGABRT), "{point}");
    let mut delivered = u32::from(first.is_some_and(|it| it["success"] == true));

    let again = program.start(None);
    loop {
        let is_decided = |it: &Value| it["success"] == true || it["errorReason"] == "DUPLICATE_BLOCK_HASH";
        let answer = post_until(&http, (&url, "/settle"), &call, is_decided).await;
        if answer["success"] == false {
            break;
        }
        assert_eq!(answer["transaction"], block.hash().lower_hex());
        delivered += 1;
    }
    program::end(again).await;
    devnet.stop().await;
    delivered
}

#[tokio::test(flavor = "multi_thread")]
async fn before_its_answer_a_settlement_is_found_again_once() {
    for point in ["payment-claimed", "payment-broadcast", "payment-confirmed", "payment-granted"] {
        assert_eq!(deliveries(point, false).await, 1, "{point}");
    }
    assert_eq!(deliveries("payment-granted", true).await, 1);
}

/// Answered and not recorded: the one delivery that a crash may repeat.
#[tokio::test(flavor = "multi_thread")]
async fn between_answer_and_record_the_crash_favours_the_payer_by_one() {
    assert_eq!(deliveries("settle-answered", false).await, 2);
}
