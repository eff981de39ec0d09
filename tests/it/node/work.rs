//! Work: requested from a node, checked, and computed here if no node provides it.

use std::sync::{Arc, Mutex};

use faregate::ledger::LedgerError;
use faregate::ledger::work::WorkSource;
use faregate::nano::{Threshold, Work};
use serde_json::json;

use super::{client, until};
use crate::scripted::{Reply, Scripted};

#[tokio::test]
async fn work_is_asked_for_in_the_nodes_own_numbers_and_checked() {
    let root = [3; 32];
    let easy = Threshold(0xf000_0000_0000_0000);
    let good = (0..).map(Work).find(|work| work.reaches(&root, easy)).unwrap();
    // RsNano refuses a hexadecimal difficulty.
    let rsnano = Scripted::start(move |seen| match seen.json()["difficulty"].as_str() {
        Some("17293822569102704640") => Reply::json(&json!({"work": good.to_string().to_uppercase()})),
        _ => Reply::text(422, "Failed to deserialize the JSON body into the target type: \"expected \" u64"),
    })
    .await;
    assert_eq!(client(&[&rsnano.url]).work_generate(root, easy).await, Ok(good));
    assert_eq!(rsnano.calls("work_generate"), 2);

    let bad = (0..).map(Work).find(|work| !work.reaches(&root, easy)).unwrap();
    let lazy = Scripted::start(move |_| Reply::json(&json!({"work": bad}))).await;
    let lazy = client(&[&lazy.url]);
    assert!(matches!(lazy.work_generate(root, easy).await, Err(LedgerError::NotBelieved(_))));
    let computed = WorkSource::node_first(lazy).work(root, easy).await.unwrap();
    assert!(computed.reaches(&root, easy));
}

#[tokio::test]
async fn work_is_computed_here_and_its_progress_reported() {
    let root = [7; 32];
    let threshold = Threshold(0xffff_e000_0000_0000);
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    let source =
        WorkSource::local().observed_by(Arc::new(move |progress| log.lock().unwrap().push(progress)));
    assert!(source.work(root, threshold).await.unwrap().reaches(&root, threshold));
    let told = told.lock().unwrap();
    assert_eq!(told.iter().filter(|progress| progress.found).count(), 1);
    assert!(told.iter().all(|progress| progress.expected == 1 << 19 && progress.tried > 0));
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_given_up() {
    let tried = Arc::new(Mutex::new(0));
    let log = Arc::clone(&tried);
    let source =
        WorkSource::local().observed_by(Arc::new(move |progress| *log.lock().unwrap() = progress.tried));
    let search = tokio::spawn(async move { source.work([1; 32], Threshold(u64::MAX)).await });
    until(|| *tried.lock().unwrap() > 0).await;
    search.abort();
    assert!(search.await.unwrap_err().is_cancelled());
    // At the end of this test the runtime waits for its blocking threads; without the stop, for ever.
}
