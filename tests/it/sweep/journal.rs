//! What a sweep leaves in the journal, wherever it is killed.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use faregate::clock::Clock;
use faregate::config::Config;
use faregate::devnet::{DevnetOptions, InjectedFault, Times};
use faregate::nano::Raw;
use faregate::payment::Mechanism;
use faregate::store::deposits::{DepositJournal, SweepRecord, SweepState};
use faregate::store::{Engine, SqliteOptions, SqliteStore};
use faregate::sweep::Action;
use faregate::{assemble, sweeper};
use serde_json::Value;
use tempfile::TempDir;

use super::Pool;
use super::home::{Home, ONE_XNO, POOL, number};
use crate::rig::eventually;

fn store() -> (TempDir, Arc<Engine>) {
    let folder = TempDir::new().unwrap();
    let store = SqliteStore::open(&folder.path().join("a.db"), SqliteOptions::default()).unwrap();
    (folder, Arc::new(Engine::from(store)))
}

async fn sweeps(store: &Engine) -> Vec<SweepRecord> {
    store.sweeps(None, None, usize::MAX).await.unwrap()
}

#[tokio::test]
async fn each_block_is_recorded_and_what_it_received_too() {
    let mut pool = Pool::new(2).await;
    pool.fund_all(3);
    let (_folder, store) = store();
    let round = pool.journalled(&store).sweep().await.unwrap();
    pool.assert_all_home();
    let mut written = sweeps(&store).await;
    assert!(written.iter().all(|it| it.state == SweepState::Confirmed && it.ended_at.is_some()));
    let mut done: Vec<_> = round
        .accounts
        .iter()
        .flat_map(|it| it.blocks.iter().map(faregate::store::deposits::SweepBlock::of_step))
        .collect();
    written.sort_by_key(|it| it.block.block);
    done.sort_by_key(|it| it.block);
    assert_eq!(written.iter().map(|it| it.block).collect::<Vec<_>>(), done);
    let home = written.iter().filter(|it| it.block.action == Action::Send);
    assert!(home.clone().all(|it| it.block.link == super::TREASURY.0));
    assert_eq!(home.map(|it| it.block.amount.get()).sum::<u128>(), pool.funded);
    // An unclaimed send is received and stays unclaimed, with its sender and amount.
    let unclaimed = store.unclaimed(None, usize::MAX).await.unwrap();
    assert_eq!(unclaimed.iter().map(|it| it.deposit.amount.get()).sum::<u128>(), pool.funded);
    assert!(unclaimed.iter().all(|it| it.deposit.sender.is_some()));
    assert_eq!(unclaimed.len(), 6);
}

#[tokio::test]
async fn what_was_published_and_not_ended_is_found_by_the_next_sweep() {
    let confirm_after = Duration::from_secs(3600);
    let mut pool = Pool::with(1, DevnetOptions { confirm_after, ..DevnetOptions::default() }).await;
    pool.fund_all(1);
    let (_folder, store) = store();
    let hasty = pool.sweeper_with(|it| it.confirm_wait = Duration::from_millis(50));
    let hasty = hasty.journalled_in(sweeper::SweepJournal::new(Arc::clone(&store), Clock::system()));
    assert_eq!(hasty.sweep().await.unwrap().failed().count(), 1);
    let [left] = sweeps(&store).await[..] else { panic!("one block") };
    assert_eq!(left.state, SweepState::Planned);
    // A block that is not confirmed yet keeps its state.
    hasty.sweep().await.unwrap();
    assert_eq!(sweeps(&store).await, [left]);
    assert!(pool.devnet.confirm_now(left.block.block));
    hasty.sweep().await.unwrap();
    assert_eq!(sweeps(&store).await[0].state, SweepState::Confirmed);
}

#[tokio::test]
async fn a_block_in_whose_place_another_is_confirmed_is_superseded() {
    let mut pool = Pool::new(2).await;
    // One account that would be opened, one that would receive.
    pool.fund(0, 1000);
    pool.fund(1, 1000);
    let key = |index| faregate::nano::Seed::from_bytes(super::SEED).key(index);
    pool.devnet.receive_all(&key(1)).unwrap();
    pool.fund(1, 500);
    let (_folder, store) = store();
    pool.devnet.order("process", InjectedFault::Refuse("Gap source block".to_owned()), Times::Always);
    assert_eq!(pool.journalled(&store).sweep().await.unwrap().failed().count(), 2);
    let planned = sweeps(&store).await;
    assert!(planned.len() == 2 && planned.iter().all(|it| it.state == SweepState::Planned), "{planned:?}");
    // Nothing took their place; anyone who has them may still publish them.
    pool.journalled(&store).sweep().await.unwrap();
    assert!(sweeps(&store).await.iter().all(|it| it.state == SweepState::Planned));
    // The owner of the seed receives with a wallet, with another representative.
    pool.devnet.faults().clear();
    for index in 0..2 {
        pool.devnet.receive_all(&key(index)).unwrap();
    }
    pool.journalled(&store).sweep().await.unwrap();
    let ended = sweeps(&store).await;
    for it in &planned {
        let now = ended.iter().find(|now| now.block == it.block).unwrap();
        assert_eq!(now.state, SweepState::Superseded, "{now:?}");
    }
    pool.assert_all_home();
}

#[tokio::test]
async fn what_cannot_be_recorded_is_not_published() {
    let mut pool = Pool::new(1).await;
    pool.fund_all(1);
    let (_folder, store) = store();
    store.close().await;
    let round = pool.journalled(&store).sweep().await.unwrap();
    let (_, error) = round.failed().next().expect("it is not swept");
    assert!(matches!(error, sweeper::SweepError::Journal(_)), "{error}");
    assert_eq!(pool.devnet.faults().calls("process"), 0);
}

/// Everything that was sent to the pool is swept, and the journal has each block of it.
#[tokio::test]
async fn killed_at_every_step_the_next_sweep_does_the_rest_and_the_journal_agrees() {
    if !fail::has_failpoints() {
        return;
    }
    for point in ["sweep-signed", "sweep-planned", "sweep-published", "sweep-confirmed"] {
        for nth in [1, 2, 3] {
            let home = Home::new(POOL, "").await;
            home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
            home.fund(Mechanism::NanoTxn, 0, ONE_XNO / 2);
            let points = format!("{point}={}*off->return", nth - 1);
            let killed = sweep(&home, Some(&points)).await;
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&killed), Some(6), "{points}");
            assert!(sweep(&home, None).await.success(), "{points}");
            assert_eq!(home.treasury(), ONE_XNO * 3 / 2, "{points}");
            let store = assemble::open_store(&Config::load(&home.config).unwrap().store, None).await.unwrap();
            let written = sweeps(&store).await;
            let confirmed = written.iter().filter(|it| it.state == SweepState::Confirmed);
            let mut actions: Vec<_> = confirmed.map(|it| it.block.action.as_str()).collect();
            actions.sort_unstable();
            assert_eq!(actions, ["open", "receive", "send"], "{points}: {written:?}");
            let lattice = home.devnet.lattice();
            assert!(written.iter().all(|it| lattice.entry(it.block.block).is_some()), "{points}");
            drop(lattice);
            assert_eq!(store.unclaimed(None, 9).await.unwrap().len(), 2, "{points}");
            store.close().await;
            home.devnet.stop().await;
        }
    }
}

async fn sweep(home: &Home, failpoints: Option<&str>) -> std::process::ExitStatus {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(["sweep", "--once", "--config"]).arg(&home.config);
    command.env_remove("FAILPOINTS").envs(failpoints.map(|it| ("FAILPOINTS", it)));
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap()
}

async fn payments(config: &Path, arguments: &[&str]) -> String {
    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        command: faregate::cli::payments::PaymentsCommand,
    }
    let config = ["--config", config.to_str().unwrap()];
    let line = ["payments"].iter().chain(arguments).chain(&config);
    let line = <Line as clap::Parser>::try_parse_from(line).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = faregate::cli::payments::run(line.command, &mut out, &mut err).await;
    assert_eq!((number(code), String::from_utf8(err).unwrap().as_str()), (0, ""), "{arguments:?}");
    String::from_utf8(out).unwrap()
}

#[tokio::test]
async fn unclaimed_sends_and_sweeps_are_listed_without_a_node() {
    let home = Home::new(POOL, "sweep: { every: 1s }").await;
    let account = home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    home.fund(Mechanism::NanoSignature, 1, ONE_XNO / 4);
    let services = assemble::assemble(Config::load(&home.config).unwrap(), Clock::system()).await.unwrap();
    eventually("it is swept", || async { home.treasury() == ONE_XNO * 5 / 4 }).await;
    eventually("it is counted", || async {
        let text = services.metrics().text().unwrap();
        text.contains("faregate_sweep_blocks_total{action=\"open\"} 2\n")
            && text.contains("faregate_sweep_blocks_total{action=\"send\"} 2\n")
            && text.contains("faregate_unclaimed_payments 2\n")
            && text.contains("faregate_unclaimed_journalled_total ")
    })
    .await;
    services.stop().await;
    home.devnet.stop().await;

    let table = payments(&home.config, &["list"]).await;
    assert!(table.matches("unclaimed").count() == 2 && table.contains(&account.to_string()), "{table}");
    let table = payments(&home.config, &["list", "--unclaimed"]).await;
    assert!(table.ends_with("2 sends unclaimed, 1.25 XNO\n"), "{table}");
    let lines = payments(&home.config, &["list", "--unclaimed", "--json"]).await;
    let rows: Vec<Value> = lines.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    let row = rows.iter().find(|it| it["account"] == account.to_string()).unwrap();
    assert!(row["amount_xno"] == "1" && row["state"] == "unclaimed" && row["sender"].is_string(), "{row}");
    let table = payments(&home.config, &["list", "--sweeps"]).await;
    assert!(table.ends_with("4 sweep blocks, 1.25 XNO sent to the treasury\n"), "{table}");
    let csv = payments(&home.config, &["export", "--sweeps"]).await;
    assert!(csv.starts_with("state,planned_at,ended_at,action,amount_xno,"), "{csv}");
    assert_eq!(csv.lines().count(), 5);
    assert_eq!(csv.matches(&super::TREASURY.to_string()).count(), 2);
    let csv = payments(&home.config, &["export", "--unclaimed"]).await;
    assert_eq!(csv.lines().count(), 3);
    let lines = payments(&home.config, &["list", "--sweeps", "--since", "2099-01-01", "--json"]).await;
    assert_eq!(lines, "");
}

#[tokio::test]
async fn a_send_reported_by_a_websocket_is_recorded_once_its_time_for_a_proof_is_over() {
    let websocket = Some("127.0.0.1:0".parse().unwrap());
    let options = DevnetOptions { websocket, ..DevnetOptions::default() };
    let home = Home::with(POOL, "", options).await;
    let text = std::fs::read_to_string(&home.config).unwrap();
    let socket = format!("nano:\n  websocket: {}\n", home.devnet.websocket_url().unwrap());
    std::fs::write(&home.config, text.replacen("nano:\n", &socket, 1)).unwrap();
    let mut config = Config::load(&home.config).unwrap();
    // Shorter than the configuration allows.
    config.challenge.lifetime = 1;
    let services = assemble::assemble(config, Clock::system()).await.unwrap();
    eventually("it listens", || async { services.ledger().sockets().iter().all(|it| it.connected) }).await;
    // The first check is over; the next is ten minutes away.
    eventually("a look", || async { home.devnet.faults().calls("accounts_receivable") > 0 }).await;
    let key = faregate::nano::Seed::from_bytes([0x5b; 32]).key(0);
    home.devnet.fund(key.account(), Raw::new(ONE_XNO)).unwrap();
    home.devnet.receive_all(&key).unwrap();
    let to = home.key(Mechanism::NanoSignature, 0).account();
    let block = home.devnet.send_block(&key, to, Raw::new(7)).unwrap();
    home.devnet.process(block).unwrap();
    assert_eq!(services.store().unclaimed(None, 9).await.unwrap(), []);
    eventually("it is recorded", || async { !services.store().unclaimed(None, 9).await.unwrap().is_empty() })
        .await;
    let [seen] = services.store().unclaimed(None, 9).await.unwrap()[..] else { panic!("one") };
    let deposit = seen.deposit;
    assert_eq!((deposit.block, deposit.account, deposit.amount.get()), (block.hash(), to, 7));
    assert_eq!(deposit.sender, Some(key.account()));
    services.stop().await;
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_pool_that_was_made_smaller_is_watched_and_swept_as_far_as_it_reached() {
    let home = Home::new("{ seed_file: pool.seed, size: 8 }", "").await;
    let services = assemble::assemble(Config::load(&home.config).unwrap(), Clock::system()).await.unwrap();
    services.stop().await;
    // The operator makes the pool smaller; the seventh address was paid.
    let text = std::fs::read_to_string(&home.config).unwrap();
    std::fs::write(&home.config, text.replace("size: 8", "size: 2")).unwrap();
    let config = Config::load(&home.config).unwrap();
    assert_eq!(assemble::address_pool(&config.nano).unwrap().of(Mechanism::NanoTxn).len(), 2);
    let account = home.fund(Mechanism::NanoTxn, 6, ONE_XNO);
    assert!(assemble::pool_accounts(&config.nano).unwrap().contains(&account));
    let found = payments(&home.config, &["list", "--unclaimed", "--from-ledger"]).await;
    assert!(found.contains(&account.to_string()), "{found}");
    assert!(sweep(&home, None).await.success());
    assert_eq!(home.treasury(), ONE_XNO);
    home.devnet.stop().await;
}
