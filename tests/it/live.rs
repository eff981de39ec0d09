//! `faregate demo --node`: the demo on a network that goes on after it. A development ledger stands for the main network:
//! what is asked of it is the same, but for the thresholds of work, which it says itself.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions, InjectedFault, Times};
use faregate::nano::{Account, Raw, Seed};
use tempfile::TempDir;

use crate::serve::write_private;

/// What the demo pays: 0.0024 XNO.
const COST: Raw = Raw::new(2_400_000_000_000_000_000_000_000_000);

struct Site {
    folder: TempDir,
    devnet: Devnet,
    payer: Account,
}

impl Site {
    /// A payer with so much, sent and not received.
    async fn new(funds: Raw) -> Self {
        let folder = TempDir::new().unwrap();
        write_private(&folder.path().join("payer.seed"), format!("{}\n", "5c".repeat(32)));
        let options = DevnetOptions { confirm_after: Duration::from_millis(50), ..DevnetOptions::default() };
        let devnet = Devnet::start(options).await.unwrap();
        let payer = Seed::from_bytes([0x5c; 32]).key(0).account();
        if !funds.is_zero() {
            devnet.fund(payer, funds).unwrap();
        }
        Self { folder, devnet, payer }
    }

    fn seed_file(&self) -> PathBuf {
        self.folder.path().join("payer.seed")
    }

    fn start(&self) -> Child {
        Command::new(env!("CARGO_BIN_EXE_faregate"))
            .args(["demo", "--node", &self.devnet.rpc_url(), "--seed-file"])
            .arg(self.seed_file())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs it to its end: its exit code, and what it said.
    async fn run(&self) -> (Option<i32>, String) {
        let child = self.start();
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
        let output = crate::patience::within(Duration::from_secs(120), "the demo ends", ended).await.unwrap();
        let said = [output.stdout, output.stderr].map(|it| String::from_utf8(it).unwrap()).concat();
        (output.status.code(), said)
    }

    /// What the payer has, received or not.
    fn holdings(&self) -> Raw {
        let balance = self.devnet.lattice().balance(self.payer);
        balance.checked_add(self.waiting()).unwrap()
    }

    /// What was sent to the payer and is not received.
    fn waiting(&self) -> Raw {
        let ledger = self.devnet.lattice();
        ledger.receivables(self.payer).fold(Raw::ZERO, |sum, (_, it)| sum.checked_add(it.amount).unwrap())
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_demo_says_what_it_costs_pays_and_sends_everything_back() {
    let funds = COST.checked_add(Raw::new(7)).unwrap();
    let site = Site::new(funds).await;
    let (code, said) = site.run().await;
    assert_eq!(code, Some(0), "{said}");
    let place = |words: &str| said.find(words).unwrap_or_else(|| panic!("{words:?} is not in\n{said}"));
    assert!(place("What this costs") < place("1. Unpaid"), "{said}");
    assert!(place("0.0024 XNO") < place("1. Unpaid") && place(&site.payer.to_string()) < place("1. Unpaid"));
    assert!(place("7. Tokens of a model") < place("Sent back: 0.0024 XNO"), "{said}");
    assert_eq!(site.holdings(), funds);
    assert_eq!(site.waiting(), COST, "what was said is what was paid, and has come back");
    // A second time with what came back; the addresses are the same.
    let pool = std::fs::read_to_string(site.folder.path().join("payer.seed.demo-pool")).unwrap();
    let (code, said) = site.run().await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(site.holdings(), funds);
    let mode =
        std::fs::metadata(site.folder.path().join("payer.seed.demo-pool")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(std::fs::read_to_string(site.folder.path().join("payer.seed.demo-pool")).unwrap(), pool);
}

#[tokio::test]
async fn a_demo_that_fails_or_is_ended_sends_back_what_it_paid() {
    // By Ctrl-C after the first payment.
    let site = Site::new(COST).await;
    let mut child = site.start();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut said = String::new();
    let told = tokio::task::spawn_blocking(move || {
        while !said.contains("   paid ") {
            assert!(lines.read_line(&mut said).unwrap() > 0, "{said}");
        }
        (lines, said)
    });
    let (mut lines, mut said) =
        crate::patience::within(Duration::from_secs(60), "a payment", told).await.unwrap();
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let ended = tokio::task::spawn_blocking(move || {
        lines.read_to_string(&mut said).unwrap();
        (child.wait().unwrap(), said)
    });
    let (status, said) = crate::patience::within(Duration::from_secs(120), "it ends", ended).await.unwrap();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("Sent back: ") && !said.contains("7. Tokens of a model"), "{said}");
    assert_eq!(site.holdings(), COST, "{said}");

    // By a node that refuses what the third step asks of it, after the second has paid.
    let site = Site::new(COST).await;
    site.devnet.receive_all(&Seed::from_bytes([0x5c; 32]).key(0)).unwrap();
    let refuse = async {
        site.devnet.faults().called("process", 1).await;
        site.devnet.order("account_info", InjectedFault::Refuse("not today".to_owned()), Times::ONCE);
    };
    let ((code, said), ()) = tokio::join!(site.run(), refuse);
    assert_eq!(code, Some(70), "{said}");
    assert!(said.contains("the demo failed") && said.contains("Sent back: "), "{said}");
    assert_eq!(site.holdings(), COST, "{said}");
}

#[tokio::test]
async fn a_demo_that_cannot_begin_moves_no_money() {
    let site = Site::new(COST).await;
    set_mode(&site.seed_file(), 0o640);
    let (code, said) = site.run().await;
    // Root's files may be read by a group.
    let by_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(site.seed_file()).unwrap()) == 0;
    if !by_root {
        assert_eq!(code, Some(78), "{said}");
    }
    set_mode(&site.seed_file(), 0o644);
    let (code, said) = site.run().await;
    assert!(code == Some(78) && said.contains("--seed-file") && said.contains("chmod 600"), "{said}");
    let site = Site::new(Raw::new(5)).await;
    let (code, said) = site.run().await;
    assert_eq!(code, Some(69), "{said}");
    assert!(said.contains("0.0024 XNO") && said.contains(&site.payer.to_string()), "{said}");
    let site = Site::new(Raw::ZERO).await;
    assert_eq!(site.run().await.0, Some(69));
    let output = Command::new(env!("CARGO_BIN_EXE_faregate"))
        .args(["demo", "--node", "http://127.0.0.1:1", "--seed-file"])
        .arg(site.seed_file())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(69));
    for half in [&["demo", "--node", "http://127.0.0.1:1"][..], &["demo", "--seed-file", "x"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_faregate")).args(half).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{half:?}");
    }
}
