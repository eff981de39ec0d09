//! `faregate sweep`, and the sweep beside a gateway, from a configuration file.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Parser;
use faregate::assemble;
use faregate::cli::sweep::{SweepArgs, run};
use faregate::clock::Clock;
use faregate::config::Config;
use faregate::devnet::{DevnetOptions, THRESHOLDS};
use faregate::nano::{Account, BlockHash, Work};
use faregate::payment::Mechanism;
use faregate::vault::Turn;
use serde_json::Value;

use super::home::{Home, ONE_XNO, POOL, number};
use crate::rig::eventually;
use crate::scripted::{Reply, Scripted};

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SweepArgs,
}

async fn sweep(home: &Home, more: &[&str]) -> (u8, String, String) {
    let arguments = ["sweep", "--config", home.config.to_str().unwrap()];
    let line = Line::try_parse_from(arguments.iter().chain(more)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(line.args, &mut out, &mut err).await;
    let code = number(code);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

#[tokio::test]
async fn every_mechanisms_range_is_swept_and_the_next_run_finds_nothing() {
    // A mechanism that is no longer offered may still have money on its addresses.
    let home = Home::new(POOL, "sweep: { minimum: 0.5 XNO }").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    home.fund(Mechanism::NanoSignature, 2, ONE_XNO / 2);
    home.fund(Mechanism::NanoSignature, 1, ONE_XNO / 4);
    let (code, out, err) = sweep(&home, &["--once"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(out.contains("1.5 XNO to the treasury, 4 blocks"), "{out}");
    assert_eq!(home.treasury(), ONE_XNO / 2 * 3);
    let (code, out, _) = sweep(&home, &["--once"]).await;
    assert_eq!((code, out.as_str()), (0, "nothing to sweep\n"));
    home.fund(Mechanism::NanoSignature, 1, ONE_XNO / 4 + 1);
    let (_, out, _) = sweep(&home, &["--once", "--json"]).await;
    let round: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&round["sent_raw"], &round["sent_xno"], &round["blocks"], &round["accounts"][0]["error"]),
        (
            &"500000000000000000000000000001".into(),
            &"0.500000000000000000000000000001".into(),
            &3.into(),
            &Value::Null
        )
    );
    home.devnet.stop().await;
}

#[tokio::test]
async fn work_is_asked_of_the_server_first_and_of_others_where_it_gives_none() {
    let honest = Arc::new(AtomicBool::new(true));
    let mood = Arc::clone(&honest);
    let server = Scripted::start(move |seen| {
        let root: BlockHash = seen.json()["hash"].as_str().unwrap().parse().unwrap();
        let easy = THRESHOLDS.send.max(THRESHOLDS.receive);
        let good = mood.load(Ordering::SeqCst);
        let work = (0..).map(Work).find(|it| it.reaches(&root.0, easy) == good).unwrap();
        Reply::json(&serde_json::json!({ "work": work }))
    })
    .await;
    let home = Home::new(POOL, &format!("sweep: {{ work_server: \"{}\" }}", server.url)).await;
    for good in [true, false] {
        honest.store(good, Ordering::SeqCst);
        let asked = server.calls("work_generate");
        home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
        let (code, out, err) = sweep(&home, &["--once"]).await;
        assert_eq!((code, err.as_str()), (0, ""), "{out}");
        assert!(out.contains("1 XNO to the treasury, 2 blocks"), "{out}");
        assert!(server.calls("work_generate") >= asked + 2);
        assert_eq!(home.devnet.faults().calls("work_generate") > 0, !good, "the node is asked after it");
    }
    assert_eq!(home.treasury(), 2 * ONE_XNO);
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_dry_run_prints_the_plan_and_does_nothing() {
    let home = Home::new(POOL, "").await;
    let account = home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    home.fund(Mechanism::NanoTxn, 0, 2 * ONE_XNO);
    let blocks = home.devnet.lattice().block_count();
    let (code, out, err) = sweep(&home, &["--dry-run"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    for part in [
        account.to_string().as_str(),
        "open     2 XNO  (2000000000000000000000000000000 raw)  ",
        "receive  1 XNO",
        "send     3 XNO",
        "1 account, 3 XNO (3000000000000000000000000000000 raw) would go to the treasury",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    let (_, json, _) = sweep(&home, &["--dry-run", "--json"]).await;
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(home.devnet.lattice().block_count(), blocks);
    assert_eq!((home.treasury(), home.devnet.faults().calls("process")), (0, 0));
    // The sweep does what the plan says.
    let (_, done, _) = sweep(&home, &["--once", "--json"]).await;
    let done: Value = serde_json::from_str(&done).unwrap();
    assert_eq!(json["accounts"][0]["blocks"], done["accounts"][0]["blocks"]);
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_gateway_without_the_seed_refuses_and_says_where_to_sweep() {
    let one = Account([0x55; 32]);
    let home = Home::new(&format!("{{ address: {one} }}\n  mechanisms: [nanoTxn]"), "").await;
    let (code, out, err) = sweep(&home, &["--once"]).await;
    assert_eq!((code, out.as_str()), (78, ""));
    assert!(
        err.contains("this gateway holds no key of its pool: it cannot sweep")
            && err.contains("on the machine with the seed"),
        "{err}"
    );
    let addresses = home.folder.path().join("pool.addresses");
    std::fs::write(&addresses, format!("{one}\n{}\n", Account([0x56; 32]))).unwrap();
    let text = std::fs::read_to_string(&home.config).unwrap();
    let text = text.replace("address: nano_", "addresses_file: pool.addresses } # ");
    std::fs::write(&home.config, text).unwrap();
    let (code, _, err) = sweep(&home, &["--dry-run"]).await;
    assert!(code == 78 && err.contains("on the machine with the seed"), "{code} {err}");
    home.devnet.stop().await;
}

#[tokio::test]
async fn no_seed_is_made_and_no_node_is_69() {
    let home = Home::new(POOL, "").await;
    home.devnet.order(
        "accounts_balances",
        faregate::devnet::InjectedFault::Drop,
        faregate::devnet::Times::Always,
    );
    let (code, _, err) = sweep(&home, &["--once"]).await;
    assert!(code == 69 && err.contains("nano.nodes"), "{code} {err}");
    let file = home.folder.path().join("pool.seed");
    std::fs::remove_file(&file).unwrap();
    let (code, _, err) = sweep(&home, &["--once"]).await;
    assert!(code == 78 && err.contains("there is no such file"), "{code} {err}");
    assert!(!file.exists());
    home.devnet.stop().await;
}

#[tokio::test]
async fn one_process_sweeps_and_the_other_skips() {
    let home = Home::new(POOL, "").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    let file = home.folder.path().join("pool.seed");
    let turn = Turn::take(&file).unwrap().expect("nobody has it");
    assert!(Turn::take(&file).unwrap().is_none());
    let (code, _, err) = sweep(&home, &["--once"]).await;
    assert!(code == 75 && err.contains("another process is sweeping"), "{code} {err}");
    assert_eq!(home.treasury(), 0);
    drop(turn);
    assert_eq!(sweep(&home, &["--once"]).await.0, 0);
    assert_eq!(home.treasury(), ONE_XNO);
    home.devnet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_with_no_warning_the_next_run_does_the_rest() {
    let options = DevnetOptions { confirm_after: Duration::from_millis(20), ..DevnetOptions::default() };
    let home = Home::with(POOL, "", options).await;
    for number in 0..12 {
        home.fund(Mechanism::NanoTxn, number % 3, ONE_XNO);
    }
    let command = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
        command.args(["sweep", "--once", "--config"]).arg(&home.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    for count in [2, 6, 11] {
        let mut child = command().spawn().unwrap();
        home.devnet.faults().called("process", count).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let mut last = command().spawn().unwrap();
    let ended = tokio::task::spawn_blocking(move || last.wait().unwrap()).await.unwrap();
    assert!(ended.success());
    assert_eq!(home.treasury(), 12 * ONE_XNO);
    home.devnet.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_once_it_sweeps_repeatedly_until_shutdown() {
    let home = Home::new(POOL, "sweep: { every: 1s }").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(["sweep", "--json", "--config"]).arg(&home.config).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    eventually("the pool is swept", || async { home.treasury() == ONE_XNO }).await;
    // Wait for the second round, so that what comes now is not swept by the first.
    let looks = home.devnet.faults().calls("accounts_balances");
    home.devnet.faults().called("accounts_balances", looks + 1).await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    eventually("the next round sweeps what came later", || async { home.treasury() == 2 * ONE_XNO }).await;
    let looks = home.devnet.faults().calls("accounts_balances");
    home.devnet.faults().called("accounts_balances", looks + 1).await;
    Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    assert!(ended.status.success());
    let lines = String::from_utf8(ended.stdout).unwrap();
    let sent = |line: &str| {
        let round: Value = serde_json::from_str(line).unwrap();
        round["sent_raw"].as_str().unwrap().parse::<u128>().unwrap()
    };
    assert_eq!(lines.lines().map(sent).sum::<u128>(), 2 * ONE_XNO);
    assert!(lines.lines().count() >= 2, "{lines}");
    home.devnet.stop().await;
}

/// A sweep by hand is another process: the gateway knows it from the journal.
#[tokio::test]
async fn a_sweep_by_hand_is_counted_by_the_gateway() {
    let home = Home::new(POOL, "").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    let services = assemble::assemble(Config::load(&home.config).unwrap(), Clock::system()).await.unwrap();
    let shows = |series: &str| services.metrics().text().unwrap().contains(&format!("\nfaregate_{series}\n"));
    eventually("the deposit is seen", async || shows("pool_receivable_xno 1")).await;
    assert!(shows("swept_xno_total 0"));
    let (code, out, err) = sweep(&home, &["--once"]).await;
    assert_eq!((code, err.as_str(), home.treasury()), (0, "", ONE_XNO), "{out}");
    eventually("the sweep is counted", async || shows("swept_xno_total 1")).await;
    assert!(shows("sweep_blocks_total{action=\"open\"} 1") && shows("sweep_blocks_total{action=\"send\"} 1"));
    services.stop().await;
    home.devnet.stop().await;
}

#[tokio::test]
async fn beside_a_gateway_the_pool_is_swept_and_counted() {
    let home = Home::new(POOL, "sweep: { every: 1s }").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    let services = assemble::assemble(Config::load(&home.config).unwrap(), Clock::system()).await.unwrap();
    eventually("the pool is swept", || async { home.treasury() == ONE_XNO }).await;
    home.fund(Mechanism::NanoSignature, 0, ONE_XNO);
    eventually("the next round sweeps what came later", || async { home.treasury() == 2 * ONE_XNO }).await;
    eventually("it is counted", || async {
        services.metrics().text().unwrap().contains("faregate_swept_xno_total 2\n")
    })
    .await;
    services.stop().await;
    home.devnet.stop().await;
}

#[tokio::test]
async fn what_nobody_claims_is_looked_at_beside_a_gateway() {
    let home = Home::new(POOL, "").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    home.fund(Mechanism::NanoSignature, 0, ONE_XNO / 2);
    let services = assemble::assemble(Config::load(&home.config).unwrap(), Clock::system()).await.unwrap();
    eventually("the look is shown", || async {
        let text = services.metrics().text().unwrap();
        text.contains("faregate_pool_receivable_xno 1.5\n")
            && text.contains("faregate_unclaimed_payments 2\n")
    })
    .await;
    assert_eq!(home.devnet.faults().calls("process"), 0, "without `sweep` nothing is swept");
    services.stop().await;
    home.devnet.stop().await;
}
