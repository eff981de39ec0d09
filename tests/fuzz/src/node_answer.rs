//! Answers of nodes: what is believed is what the answer says, and only what is proven pays.

use std::collections::BTreeMap;
use std::time::Duration;

use faregate::ledger::node::fuzzing::{self, Classed, FaultClass, SilentNode, Watch};
use faregate::ledger::node::{BlockInfo, Contents, NodeClient, NodeEndpoint};
use faregate::ledger::{LedgerError, Sighting};
use faregate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, Threshold};
use faregate::payment::BlockKind;
use http::StatusCode;
use serde_json::Value;

/// What is sent in each call to the node, and never shown.
const KEY: &str = "k3y-of-the-operator";

/// The statuses that are tried: those of nodes first.
const STATUSES: [u16; 10] = [200, 400, 422, 500, 200, 404, 429, 502, 301, 204];
/// How many of them a node gives.
const OF_NODES: usize = 5;

/// Three nodes of two providers, none of them trusted; or one that is.
fn endpoint(host: &str, trusted: bool) -> NodeEndpoint {
    let url = format!("http://{host}/?key={KEY}").parse().expect("a URL");
    NodeEndpoint { trusted, ..NodeEndpoint::from_url(url, Duration::from_secs(1)).expect("an endpoint") }
}

struct World {
    node: SilentNode,
    watch: Watch,
}

thread_local! {
    static WORLD: std::cell::RefCell<World> = {
        let node = SilentNode::new(endpoint("rpc.example", true)).expect("a node");
        let hosts = ["one.example", "two.example", "two.example:8080"];
        let client = NodeClient::new(hosts.iter().map(|it| endpoint(it, false)).collect()).expect("a client");
        let watch = Watch::new(client.with_quorum(2), awaited().hash());
        std::cell::RefCell::new(World { node, watch })
    };
}

/// The block before the awaited one.
#[must_use]
pub fn before() -> StateBlock {
    StateBlock {
        account: Account([1; 32]),
        previous: BlockHash([2; 32]),
        representative: Representative(Account([3; 32])),
        balance: Raw::new(100),
        link: [4; 32],
        signature: Signature([5; 64]),
        work: None,
    }
}

/// The block that is waited for: it sends 30 raw.
#[must_use]
pub fn awaited() -> StateBlock {
    StateBlock { previous: before().hash(), balance: Raw::new(70), link: [6; 32], ..before() }
}

/// The first byte gives the status, the second the reader or the nodes that answer; the rest is the body.
pub fn run(data: &[u8]) {
    let [status, reader, body @ ..] = data else { return };
    let place = usize::from(*status) % STATUSES.len();
    let status = StatusCode::from_u16(STATUSES[place]).expect("a status");
    WORLD.with_borrow_mut(|world| {
        if reader % 4 == 0 {
            return wait(world, *reader, body);
        }
        let judged = world.node.judge(status, body);
        check_class(place, body, &judged);
        if let Ok(answer) = judged {
            read(&answer);
        }
    });
}

/// Each body is taken for what it can be, and for nothing else.
fn check_class(place: usize, body: &[u8], judged: &Classed<Value>) {
    let json = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    let status = STATUSES[place];
    match judged {
        Ok(value) => {
            assert!(status == 200 && json.as_ref() == Some(value));
            assert!(value.get("error").is_none_or(Value::is_null));
        }
        Err((class, text)) => {
            assert!(!text.contains(KEY), "the key is shown: {text}");
            assert!(text.chars().count() <= 1500 && !text.contains('\n'), "{text}");
            let said = json.as_ref().and_then(|it| it.get("error")).is_some_and(Value::is_string);
            let in_words = json.is_none() && matches!(status, 400 | 422);
            assert_eq!(
                *class == FaultClass::Refused,
                place < OF_NODES && (said || in_words),
                "{status}: {text}"
            );
            assert!(*class != FaultClass::NotBelieved && *class != FaultClass::TimedOut);
        }
    }
}

fn number(value: &Value, name: &str) -> Option<u128> {
    match value.get(name)? {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => number.as_u64().map(u128::from),
        _ => None,
    }
}

fn says_true(value: &Value, name: &str) -> bool {
    match value.get(name) {
        Some(Value::Bool(truth)) => *truth,
        Some(Value::Number(number)) => number.as_u64() == Some(1),
        Some(Value::String(text)) => text == "true" || text == "1",
        _ => false,
    }
}

fn hash(value: &Value, name: &str) -> Option<BlockHash> {
    value.get(name)?.as_str()?.parse().ok()
}

/// Every reader: what it gives is in the answer.
fn read(answer: &Value) {
    if let Ok(info) = believed(fuzzing::account_info(answer)) {
        assert_eq!(hash(answer, "frontier"), Some(info.frontier));
        assert_eq!(hash(answer, "confirmed_frontier"), Some(info.confirmed_frontier));
        assert_eq!(number(answer, "confirmed_balance"), Some(info.confirmed_balance.get()));
        assert_eq!(number(answer, "balance"), Some(info.balance.get()));
        assert_eq!(number(answer, "confirmed_height"), info.confirmed_height.map(u128::from));
        assert_eq!(number(answer, "receivable"), info.receivable.map(Raw::get));
    }
    if let Ok(count) = believed(fuzzing::block_count(answer)) {
        assert_eq!(number(answer, "cemented"), Some(u128::from(count.cemented)));
        assert_eq!(number(answer, "count"), Some(u128::from(count.count)));
    }
    if let Ok(telemetry) = believed(fuzzing::telemetry(answer)) {
        assert_eq!(number(answer, "cemented_count"), Some(u128::from(telemetry.cemented_count)));
        assert_eq!(hash(answer, "genesis_block"), Some(telemetry.genesis_block));
    }
    if let Ok(version) = believed(fuzzing::version(answer)) {
        assert_eq!(answer.get("network").and_then(Value::as_str), Some(version.network.as_str()));
    }
    if let Ok(info) = believed(fuzzing::block_info(answer)) {
        check_block(answer, &info);
    }
    if let Ok(found) = believed(fuzzing::blocks_info(answer)) {
        let blocks = answer.get("blocks").expect("`blocks`");
        let named: BTreeMap<_, _> = match blocks.as_object() {
            Some(blocks) => blocks.iter().map(|(hash, info)| (hash.to_uppercase(), info)).collect(),
            None => BTreeMap::new(),
        };
        assert_eq!(found.len(), named.len());
        // Of two spellings of one hash, either may be taken.
        let is_plain = blocks.as_object().is_none_or(|it| it.len() == named.len());
        for (hash, info) in found.iter().filter(|_| is_plain) {
            check_block(named.get(&hash.to_string()).expect("a block that was named"), info);
        }
    }
    if let Ok(found) = believed(fuzzing::receivable(answer)) {
        assert!(found.is_sorted_by(|one, next| one.amount >= next.amount));
        let blocks = answer.get("blocks").and_then(Value::as_object);
        for entry in found {
            let blocks = blocks.expect("a map");
            let value = blocks.iter().filter(|(hash, _)| hash.parse() == Ok(entry.hash)).map(|(_, it)| it);
            let is_there = |it: &Value| match it {
                Value::Object(_) => number(it, "amount") == Some(entry.amount.get()),
                it => it.as_str().and_then(|it| it.parse().ok()) == Some(entry.amount.get()),
            };
            assert!(value.into_iter().any(is_there), "{entry:?}");
        }
    }
    let thresholds = believed(fuzzing::thresholds(answer));
    let threshold = thresholds.map_or(Threshold(1 << 60), |it| it.send);
    if let Ok(work) = fuzzing::work(answer, &[7; 32], threshold) {
        assert!(work.value(&[7; 32]) >= threshold.0);
        assert_eq!(answer.get("work").and_then(Value::as_str).and_then(|it| it.parse().ok()), Some(work));
    }
    let sent = awaited().hash();
    assert_eq!(fuzzing::processed(answer, sent).is_ok(), hash(answer, "hash") == Some(sent));
}

/// A reader's fault is that the answer has no proper form, in a message of bounded length.
fn believed<T>(answer: Classed<T>) -> Result<T, ()> {
    answer.map_err(|(class, text)| {
        assert_eq!(class, FaultClass::Nonsense, "{text}");
        assert!(text.chars().count() <= 300, "{text}");
    })
}

fn check_block(answer: &Value, info: &BlockInfo) {
    assert_eq!(info.confirmed, says_true(answer, "confirmed"), "confirmed");
    assert_eq!(number(answer, "balance"), Some(info.balance.get()));
    assert!(info.successor.is_none_or(|it| hash(answer, "successor") == Some(it)));
    let contents = answer.get("contents").expect("contents");
    let read = contents.as_str().map(|it| serde_json::from_str::<Value>(it).expect("JSON in a text"));
    let contents = read.as_ref().unwrap_or(contents);
    let kind = contents.get("type").and_then(Value::as_str).expect("a type");
    match &info.contents {
        Contents::State(block) => {
            assert_eq!(kind, "state");
            assert_eq!(number(contents, "balance"), Some(block.balance.get()));
            assert_eq!(hash(contents, "previous"), Some(block.previous));
            assert_eq!(hash(contents, "link"), Some(BlockHash(block.link)));
        }
        Contents::Legacy(legacy) => assert!(kind == legacy && kind != "state"),
    }
}

/// Parts of the body are answers to `blocks_info` of nodes in turn. Confirmed is only what two providers
/// call confirmed, and what was sent is what the two hashes prove.
fn wait(world: &mut World, order: u8, body: &[u8]) {
    let (hash, previous) = (awaited().hash(), before());
    world.watch.restart(hash);
    let (mut last, mut claims) = ([false; 3], [None; 3]);
    let mut allowed = Allowed::default();
    for (turn, part) in body.split(|it| *it == b'\n').take(6).enumerate() {
        let node = (usize::from(order / 4) + turn) % 3;
        let Ok(answer) = serde_json::from_slice::<Value>(part) else { continue };
        let Ok(found) = fuzzing::blocks_info(&answer) else { continue };
        world.watch.report(node, &found);
        // What is not the block is not a report on it.
        let says = |it: &BlockInfo| it.confirmed && (proves(it, hash) || is_legacy(it));
        last[node] = found.get(&hash).is_some_and(says);
        allowed.is_confirmed |= last[0] && (last[1] || last[2]);
        // Of a legacy block before it, two providers have to say the same balance.
        let claim = found.get(&previous.hash()).filter(|it| is_legacy(it)).map(|it| it.balance);
        claims[node] = claim.or(claims[node]);
        if claims[0] == claims[1] || claims[0] == claims[2] {
            allowed.before.extend(claims[0]);
        }
        check_sighting(world.watch.sighting(), hash, &allowed);
    }
}

/// What two providers have said so far.
struct Allowed {
    is_confirmed: bool,
    /// The balances before the block, in raw: the proven one is the first.
    before: Vec<Raw>,
}

impl Default for Allowed {
    fn default() -> Self {
        Self { is_confirmed: false, before: vec![before().balance] }
    }
}

fn is_legacy(info: &BlockInfo) -> bool {
    matches!(info.contents, Contents::Legacy(_))
}

fn proves(info: &BlockInfo, hash: BlockHash) -> bool {
    matches!(&info.contents, Contents::State(block) if block.hash() == hash)
}

fn check_sighting(sighting: Result<Sighting, LedgerError>, hash: BlockHash, allowed: &Allowed) {
    let facts = match sighting {
        Ok(Sighting::Confirmed(facts)) => {
            assert!(allowed.is_confirmed && facts.confirmed(), "confirmed by nobody");
            facts
        }
        Ok(Sighting::Unconfirmed(facts)) => {
            assert!(!facts.confirmed());
            facts
        }
        Ok(Sighting::Unknown) => return,
        Err(error) => return assert!(!error.to_string().contains(KEY)),
    };
    assert_eq!(facts.hash(), hash);
    match facts.kind() {
        BlockKind::Send { account, destination, amount } => {
            let block = awaited();
            assert_eq!((account, destination), (block.account, block.destination()));
            let is_amount = |before: &Raw| before.checked_sub(block.balance) == Some(amount);
            assert!(allowed.before.iter().any(is_amount), "{amount} raw by the word of one");
        }
        // A legacy block, or one that moves nothing, as two providers say.
        BlockKind::Other => {
            let is_none = |before: &Raw| *before <= awaited().balance;
            assert!(
                facts.previous() == BlockHash::ZERO || allowed.before.iter().any(is_none),
                "it is a send"
            );
        }
    }
}
