//! `accounts_receivable`, whose `count` means one thing to the C++ node and another to RsNano.

use faregate::ledger::node::MOST_RECEIVABLE;
use faregate::nano::{Account, Seed};
use serde_json::{Map, Value, json};

use super::client;
use crate::scripted::{Reply, Scripted, Seen};

/// What `count` limits.
#[derive(Clone, Copy, Debug)]
enum Count {
    /// The sends of each account: the C++ node.
    Sends,
    /// The accounts: RsNano.
    Accounts,
}

const ACCOUNTS: u32 = 126;
const CROWDED: u32 = 100;

fn accounts() -> Vec<Account> {
    (0..ACCOUNTS).map(|index| Seed::from_bytes([6; 32]).key(index).account()).collect()
}

/// Ten sends to each account, and a hundred to the last one.
fn sends_to(account: Account) -> Vec<(String, Value)> {
    let index = u32::try_from(accounts().iter().position(|it| *it == account).unwrap()).unwrap();
    let sends = if index + 1 == ACCOUNTS { CROWDED } else { 10 };
    let send =
        |number| (format!("{:064X}", index * 1000 + number), json!({ "amount": "1", "source": account }));
    (1..=sends).map(send).collect()
}

fn answer(seen: &Seen, meaning: Count) -> Value {
    let call = seen.json();
    let count: usize = call["count"].as_str().unwrap().parse().unwrap();
    if let Some(one) = call["account"].as_str() {
        let sends = sends_to(one.parse().unwrap());
        return json!({ "blocks": sends.into_iter().take(count).collect::<Map<_, _>>() });
    }
    let asked = call["accounts"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
    let (of_accounts, of_sends) = match meaning {
        Count::Sends => (usize::MAX, count),
        Count::Accounts => (count, usize::MAX),
    };
    let each = |account: &str| {
        let sends = sends_to(account.parse().unwrap()).into_iter().take(of_sends);
        (account.to_owned(), Value::Object(sends.collect()))
    };
    json!({ "blocks": asked.take(of_accounts).map(each).collect::<Map<_, _>>() })
}

/// Of 1,234 sends on 126 addresses the gateway saw 113, without an error: it asked RsNano about 256
/// accounts with a `count` of 32 and took the answer for complete.
#[tokio::test]
async fn every_receivable_send_is_seen_in_either_dialect() {
    for meaning in [Count::Sends, Count::Accounts] {
        let node = Scripted::start(move |seen| Reply::json(&answer(seen, meaning))).await;
        let found = client(&[&node.url]).accounts_receivable(&accounts()).await.unwrap();
        let sends: usize = found.values().map(Vec::len).sum();
        assert_eq!((found.len(), sends), (126, 125 * 10 + 100), "{meaning:?}");
        assert_eq!(node.calls("receivable"), 1, "the one account with many is asked for alone");
        let alone = node.seen().into_iter().find(|seen| seen.action() == "receivable").unwrap();
        assert_eq!(alone.json()["count"], MOST_RECEIVABLE.to_string());
    }
}
