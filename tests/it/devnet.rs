//! The development ledger answers like the reference node: error texts over real HTTP, the life of a
//! block, forks, gaps, confirmation, and the faults that tests order.

mod accounts;
mod confirmation;
mod errors;
mod faults;
mod random;
mod work;

use faregate::devnet::{Devnet, DevnetOptions, THRESHOLDS};
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Seed, Signature, StateBlock, Threshold, Work,
};
use serde_json::{Value, json};

use crate::patience::{http_client, soon};

/// A running ledger and a client for it.
struct Net {
    devnet: Devnet,
    client: reqwest::Client,
}

impl Net {
    async fn start() -> Self {
        Self::with(DevnetOptions::default()).await
    }

    async fn with(options: DevnetOptions) -> Self {
        Self { devnet: Devnet::start(options).await.unwrap(), client: http_client().build().unwrap() }
    }

    async fn send(&self, body: String) -> reqwest::Result<reqwest::Response> {
        // No content type: nodes ignore it.
        self.client.post(self.devnet.rpc_url()).body(body).send().await
    }

    /// The answer to a body, which is always an HTTP 200 with JSON.
    async fn raw(&self, body: &str) -> Value {
        let response = self.send(body.to_owned()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.json().await.unwrap()
    }

    async fn ask(&self, body: &Value) -> Value {
        self.raw(&body.to_string()).await
    }

    /// Asserts the exact answer to each request, and names the request that differs.
    async fn table(&self, rows: &[(&str, Value, Value)]) {
        for (case, request, expected) in rows {
            assert_eq!(&self.ask(request).await, expected, "{case}: {request}");
        }
    }

    /// An account with a confirmed first block and this balance.
    fn opened(&self, index: u32, balance: u128) -> SecretKey {
        let key = key(index);
        self.devnet.fund(key.account(), Raw::new(balance)).unwrap();
        assert_eq!(self.devnet.receive_all(&key).unwrap().len(), 1);
        key
    }

    /// The block that follows the key's frontier with this balance and link.
    fn next(&self, key: &SecretKey, balance: u128, link: [u8; 32]) -> StateBlock {
        let previous = self.devnet.lattice().frontier(key.account()).unwrap_or(BlockHash::ZERO);
        block(key, previous, balance, link)
    }
}

/// A key for tests.
fn key(index: u32) -> SecretKey {
    Seed::from_bytes([7; 32]).key(index)
}

/// A signed block with work that reaches every threshold.
fn block(key: &SecretKey, previous: BlockHash, balance: u128, link: [u8; 32]) -> StateBlock {
    let representative = Representative(key.account());
    block_for(key, previous, representative, balance, link)
}

fn block_for(
    key: &SecretKey,
    previous: BlockHash,
    representative: Representative,
    balance: u128,
    link: [u8; 32],
) -> StateBlock {
    let mut block = StateBlock {
        account: key.account(),
        previous,
        representative,
        balance: Raw::new(balance),
        link,
        signature: Signature([0; 64]),
        work: None,
    };
    block.work = Some(work_between(&block.work_root(), THRESHOLDS.send, None));
    block.signed(key)
}

/// Work that reaches `from` and does not reach `below`, if that is given.
fn work_between(root: &[u8; 32], from: Threshold, below: Option<Threshold>) -> Work {
    let fits = |work: &Work| work.reaches(root, from) && below.is_none_or(|below| !work.reaches(root, below));
    (0..).map(Work).find(fits).unwrap()
}

/// The request with which wallets publish a block.
fn process(subtype: &str, block: &StateBlock) -> Value {
    json!({ "action": "process", "json_block": "true", "subtype": subtype, "block": block })
}

fn process_bare(block: &StateBlock) -> Value {
    json!({ "action": "process", "json_block": true, "block": block })
}

/// The block with some of its JSON fields changed, or removed if the new value is null.
fn altered(block: &StateBlock, fields: &[(&str, Value)]) -> Value {
    let Value::Object(mut altered) = serde_json::to_value(block).unwrap() else { unreachable!("a block") };
    for (name, value) in fields {
        if value.is_null() {
            altered.remove(*name);
        } else {
            altered.insert((*name).to_owned(), value.clone());
        }
    }
    Value::Object(altered)
}

fn error(text: &str) -> Value {
    json!({ "error": text })
}

fn accepted(block: &StateBlock) -> Value {
    json!({ "hash": block.hash() })
}

fn burn_link() -> [u8; 32] {
    Account::BURN.0
}

/// The command prints a seed and an address with which the ledger can be used at once.
#[tokio::test]
async fn command_prints_what_is_needed() {
    use clap::{Args, Command, FromArgMatches};
    use faregate::cli::devnet::{DevnetArgs, run};

    struct Lines(tokio::sync::mpsc::UnboundedSender<String>, String);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.1.push_str(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.send(std::mem::take(&mut self.1)).unwrap();
            Ok(())
        }
    }

    let command = DevnetArgs::augment_args(Command::new("devnet"));
    let words = [
        "devnet",
        "--rpc",
        "127.0.0.1:0",
        "--websocket",
        "127.0.0.1:0",
        "--confirm-after",
        "0s",
        "--work-threshold",
        "8000000000000000",
    ];
    let args = DevnetArgs::from_arg_matches(&command.try_get_matches_from(words).unwrap()).unwrap();
    let (sender, mut printed) = tokio::sync::mpsc::unbounded_channel();
    let running = tokio::spawn(async move { run(args, &mut Lines(sender, String::new())).await });
    let text = soon("the printed text", printed.recv()).await.unwrap();

    let word = |after: &str| text.split(after).nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let seed: Seed = word("funded seed").parse().unwrap();
    assert_eq!(seed.key(0).account().to_string(), word("funded account"));
    let request = json!({ "action": "account_info", "account": word("funded account") });
    let answer =
        http_client().build().unwrap().post(word("RPC")).body(request.to_string()).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["balance"], Raw::MAX.to_string());
    assert_eq!(answer["frontier"], word("genesis block"));
    assert!(word("WebSocket").starts_with("ws://127.0.0.1:"));
    assert!(text.contains("8000000000000000") && text.contains("curl -d"), "{text}");
    running.abort();
}

/// The ledger's hashes and signatures agree with those of independent libraries.
#[test]
fn blocks_hash_as_elsewhere() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/nano.json")).unwrap();
    let blocks = vectors["state_blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 7);
    for vector in blocks {
        let mut fields = vector["block"].clone();
        fields["signature"] = vector["signature_deterministic"].clone();
        let block: StateBlock = serde_json::from_value(fields).unwrap();
        assert_eq!(block.hash().lower_hex(), vector["hash"].as_str().unwrap());
        block.verify().unwrap();
    }
}
