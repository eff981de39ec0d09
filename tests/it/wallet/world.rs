//! The surroundings of a wallet: a node that knows one account, gateways, and their bills.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use faregate::ledger::node::{NodeClient, NodeEndpoint};
use faregate::ledger::work::WorkSource;
use faregate::nano::{Account, BlockHash, Raw, Representative, Seed, Signature, StateBlock, Threshold};
use faregate::payment::Mechanism;
use faregate::vault::Vault;
use faregate::wallet::{Wallet, WalletOptions};
use serde_json::{Value, json};
use url::Url;

use crate::scripted::{Reply, Scripted, Seen};

pub(crate) const EASY: Threshold = Threshold(0xf000_0000_0000_0000);
pub(crate) const PRICE: u128 = 100;
pub(crate) const NONCE: &str = "ab01000000000000000000000000000000000000000000000000000000000000";

pub(crate) fn seed() -> Seed {
    Seed::from_bytes([21; 32])
}

pub(crate) fn payer() -> Account {
    seed().key(0).account()
}

pub(crate) fn payee() -> Account {
    seed().key(77).account()
}

/// A ledger of one account, which confirms every valid block at once.
pub(crate) struct Books {
    blocks: BTreeMap<String, StateBlock>,
    pub(crate) frontier: Option<StateBlock>,
    pub(crate) receivable: BTreeMap<String, u128>,
    /// Blocks are accepted and not shown, as by a node that loses them.
    pub(crate) forgetful: bool,
    /// The newest block is shown as not confirmed.
    pub(crate) unconfirmed: bool,
}

impl Books {
    pub(crate) fn with_balance(balance: u128) -> Arc<Mutex<Self>> {
        let mut books = Self {
            blocks: BTreeMap::new(),
            frontier: None,
            receivable: BTreeMap::new(),
            forgetful: false,
            unconfirmed: false,
        };
        if balance > 0 {
            let unsigned = StateBlock {
                account: payer(),
                previous: BlockHash::ZERO,
                representative: Representative(payer()),
                balance: Raw::new(balance),
                link: [1; 32],
                signature: Signature([0; 64]),
                work: None,
            };
            books.add(unsigned.signed(&seed().key(0)));
        }
        Arc::new(Mutex::new(books))
    }

    /// Lets a send of `amount` raw to the payer wait, and returns it.
    pub(crate) fn let_wait(&mut self, amount: u128) -> StateBlock {
        self.let_wait_for(payer(), amount)
    }

    /// Lists a send of `amount` raw to `destination` as waiting for the payer.
    pub(crate) fn let_wait_for(&mut self, destination: Account, amount: u128) -> StateBlock {
        let sender = seed().key(78);
        let unsigned = |previous, balance, link| StateBlock {
            account: sender.account(),
            previous,
            representative: Representative(sender.account()),
            balance: Raw::new(balance),
            link,
            signature: Signature([0; 64]),
            work: None,
        };
        // Each has another predecessor, so that two sends of equal amounts are two blocks.
        let link = [u8::try_from(self.blocks.len()).unwrap(); 32];
        let before = unsigned(BlockHash::ZERO, 10_000, link).signed(&sender);
        let send = unsigned(before.hash(), 10_000 - amount, destination.0).signed(&sender);
        self.blocks.extend([before, send].map(|it| (it.hash().to_string(), it)));
        self.receivable.insert(send.hash().to_string(), amount);
        send
    }

    /// The hash of a block of another account.
    pub(crate) fn foreign_block(&mut self) -> BlockHash {
        let send = self.let_wait(1);
        self.receivable.clear();
        send.hash()
    }

    fn add(&mut self, block: StateBlock) {
        self.receivable.remove(&BlockHash(block.link).to_string());
        self.blocks.insert(block.hash().to_string(), block);
        self.frontier = Some(block);
    }

    /// The node's part of `process`; also what a gateway does with a `nanoTxn` block.
    fn process(&mut self, block: &StateBlock) -> Result<(), &'static str> {
        let (previous, balance) =
            self.frontier.map_or((BlockHash::ZERO, 0), |it| (it.hash(), it.balance.get()));
        if block.verify().is_err() {
            return Err("Bad signature");
        }
        if !block.work.is_some_and(|work| work.reaches(&block.work_root(), EASY)) {
            return Err("Block work is less than threshold");
        }
        if block.previous != previous {
            return Err("Fork");
        }
        let received = self.receivable.get(&BlockHash(block.link).to_string());
        if block.balance.get() > balance && Some(&(block.balance.get() - balance)) != received {
            return Err("Unreceivable");
        }
        if !self.forgetful {
            self.add(*block);
        }
        Ok(())
    }

    pub(crate) fn answer(&mut self, call: &Value) -> Value {
        match call["action"].as_str().unwrap() {
            "account_info" => self.frontier.map_or(json!({"error": "Account not found"}), |block| {
                let confirmed = if self.unconfirmed { block.previous } else { block.hash() };
                json!({
                    "frontier": block.hash(), "balance": block.balance, "representative": block.representative,
                    "confirmed_frontier": confirmed, "confirmed_balance": block.balance, "receivable": "0",
                })
            }),
            "block_info" => match self.blocks.get(call["hash"].as_str().unwrap()) {
                Some(block) => shown(block),
                None => json!({"error": "Block not found"}),
            },
            "blocks_info" => {
                let hashes = call["hashes"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
                let found = hashes.filter_map(|hash| Some((hash.to_owned(), shown(self.blocks.get(hash)?))));
                json!({"blocks": found.collect::<serde_json::Map<_, _>>()})
            }
            "receivable" if self.receivable.is_empty() => json!({"blocks": ""}),
            "receivable" => {
                let entry = |(hash, amount): (&String, &u128)| {
                    (hash.clone(), json!({"amount": amount.to_string(), "source": payee()}))
                };
                json!({"blocks": self.receivable.iter().map(entry).collect::<serde_json::Map<_, _>>()})
            }
            "active_difficulty" => json!({"network_minimum": EASY, "network_receive_minimum": EASY}),
            "process" => {
                let block: StateBlock = serde_json::from_value(call["block"].clone()).unwrap();
                match self.process(&block) {
                    Ok(()) => json!({"hash": block.hash()}),
                    Err(error) => json!({"error": error}),
                }
            }
            "work_generate" => json!({"error": "Local work generation is disabled"}),
            other => panic!("{other}"),
        }
    }
}

fn shown(block: &StateBlock) -> Value {
    json!({
        "block_account": block.account, "balance": block.balance, "confirmed": "true", "contents": block,
    })
}

pub(crate) async fn node(books: &Arc<Mutex<Books>>) -> Scripted {
    let books = Arc::clone(books);
    Scripted::start(move |seen| Reply::json(&books.lock().unwrap().answer(&seen.json()))).await
}

/// A node whose answers are changed by `lie`, which also sees the call.
pub(crate) async fn node_that(
    books: &Arc<Mutex<Books>>,
    lie: impl Fn(&Value, &mut Value) + Send + Sync + 'static,
) -> Scripted {
    let books = Arc::clone(books);
    Scripted::start(move |seen| {
        let call = seen.json();
        let mut answer = books.lock().unwrap().answer(&call);
        lie(&call, &mut answer);
        Reply::json(&answer)
    })
    .await
}

pub(crate) fn processed(node: &Scripted) -> Vec<StateBlock> {
    let sent = node.seen().into_iter().filter(|seen| seen.action() == "process");
    sent.map(|seen| serde_json::from_value(seen.json()["block"].clone()).unwrap()).collect()
}

pub(crate) fn wallet(node: &Scripted) -> Wallet {
    wallet_with(
        node,
        WalletOptions { confirm_wait: Duration::from_secs(5), ..WalletOptions::up_to(Raw::new(PRICE)) },
    )
}

pub(crate) fn wallet_with(node: &Scripted, options: WalletOptions) -> Wallet {
    let endpoint = NodeEndpoint::from_url(node.url.clone(), Duration::from_secs(5)).unwrap();
    let nodes = NodeClient::new(vec![endpoint]).unwrap();
    let work = WorkSource::node_first(nodes.clone());
    Wallet::new(Vault::from_seed(seed()), 0, nodes, work, options).unwrap()
}

pub(crate) fn paying_by(mechanism: Mechanism) -> WalletOptions {
    WalletOptions { mechanism: Some(mechanism), ..WalletOptions::up_to(Raw::new(PRICE)) }
}

pub(crate) fn get(gateway: &Scripted, path: &str) -> reqwest::Request {
    reqwest::Request::new(reqwest::Method::GET, gateway.url.join(path).unwrap())
}

pub(crate) fn entry(mechanism: &str) -> Value {
    let nonce = if mechanism == "nanoTxn" { "challenge" } else { "nonce" };
    let mut entry = json!({
        "scheme": "exact", "network": "nano:mainnet", "asset": "XNO", "amount": PRICE.to_string(),
        "payTo": payee(), "maxTimeoutSeconds": 120,
        "extra": {
            "mechanism": mechanism, nonce: NONCE, "validBefore": 2_000_000_000, "workThreshold": EASY,
            "route": "quotes", "grants": {"requests": 3, "seconds": 60}, "unheard-of": [1, {"a": null}],
        },
        "unknown": "kept",
    });
    if mechanism == "nanoSession" {
        let price = (PRICE - 7).to_string();
        entry["extra"]["nanoSession"] =
            json!({ "id": "a session", "tag": 7, "resourceAmountRaw": price, "tagAmountRaw": "7" });
    }
    entry
}

pub(crate) fn bill(error: &str, accepts: &[Value]) -> Reply {
    let bill = json!({
        "x402Version": 2, "error": error, "accepts": accepts,
        "resource": {"url": "http://x/", "description": "", "mimeType": ""},
    });
    Reply::text(402, "pay").with("PAYMENT-REQUIRED", &STANDARD.encode(bill.to_string()))
}

pub(crate) fn every_way() -> Vec<Value> {
    vec![entry("nanoTxn"), entry("nanoSignature"), entry("nanoSession")]
}

pub(crate) fn settled(reply: Reply, success: bool, reason: &str) -> Reply {
    let settlement =
        json!({"success": success, "errorReason": reason, "transaction": "", "network": "nano:mainnet"});
    reply.with("PAYMENT-RESPONSE", &STANDARD.encode(settlement.to_string()))
}

pub(crate) fn served(remaining: u32) -> Reply {
    let capability = format!("tok; remaining={remaining}; expires=2000000000");
    settled(Reply::text(200, "quote").with("PAYMENT-CAPABILITY", &capability), true, "")
}

pub(crate) fn proof(seen: &Seen) -> Option<Value> {
    let header = seen.header("PAYMENT-SIGNATURE")?;
    Some(serde_json::from_slice(&STANDARD.decode(header).unwrap()).unwrap())
}

pub(crate) fn proofs(gateway: &Scripted) -> Vec<String> {
    let shown = gateway.seen();
    shown.iter().filter_map(|seen| seen.header("PAYMENT-SIGNATURE").map(str::to_owned)).collect()
}

/// A gateway that sells three requests for one `nanoTxn` block.
pub(crate) async fn selling(books: &Arc<Mutex<Books>>) -> Scripted {
    let (books, left) = (Arc::clone(books), Mutex::new(0_u32));
    Scripted::start(move |seen| {
        let mut left = left.lock().unwrap();
        if let Some(proof) = proof(seen) {
            let block: StateBlock = serde_json::from_value(proof["payload"]["block"].clone()).unwrap();
            if let Err(error) = books.lock().unwrap().process(&block) {
                return settled(bill(error, &every_way()), false, "BROADCAST_FAILED");
            }
            *left = 3;
        } else if seen.header("PAYMENT-CAPABILITY") != Some("tok") || *left == 0 {
            return bill("payment required", &every_way());
        }
        *left -= 1;
        served(*left)
    })
    .await
}

/// Writes the payer's seed to a file for `faregate pay`.
pub(crate) fn seed_file(directory: &std::path::Path) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join("payer.seed");
    std::fs::write(&path, seed().expose_hex()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The address of a path on a server.
pub(crate) fn url_of(server: &Scripted, path: &str) -> Url {
    server.url.join(path).unwrap()
}
