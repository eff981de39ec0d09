//! Whole gateways over one store: two at once over PostgreSQL, one after another over a backup.

use std::sync::Arc;

use faregate::assemble::{self, Services};
use faregate::cli::{doctor, recover};
use faregate::clock::Clock;
use faregate::config::Config;
use faregate::listen;
use faregate::nano::{BlockHash, SecretKey, Seed, UnixSeconds};
use faregate::store::deposits::{Deposit, DepositJournal};
use faregate::store::{BackupError, Filter, PaymentJournal, SqliteOptions, SqliteStore, backup_sqlite};
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::database;
use crate::rig::{PLENTY, Plan, ROUTES, Rig, error, signature};

/// Another gateway with the keys, the node and the upstream of a rig.
pub(crate) struct Sibling {
    url: String,
    services: Services,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Sibling {
    pub(crate) async fn start(config: Config) -> Self {
        let services = assemble::assemble(config, Clock::system()).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), services.gateway());
        let (stop, shutdown) = watch::channel(false);
        let served = tokio::spawn(listen::serve(listener, Arc::new(proxy), shutdown));
        Self { url, services, stop, served }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        self.served.await.unwrap();
        self.services.stop().await;
    }

    /// The answer's status to a proof.
    pub(crate) async fn redeem(&self, rig: &Rig, path: &str, proof: &str) -> reqwest::Response {
        let request =
            rig.http.get(format!("{}{path}", self.url)).header("Host", rig.url.replace("http://", ""));
        request.header("PAYMENT-SIGNATURE", proof).send().await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_over_one_server_redeem_one_proof_once() {
    let Some(database) = database().await else { return };
    let store = format!("store: {{ postgres: \"{}\" }}", database.address());
    let rig = Rig::with(Plan { more: store.clone(), ..Plan::default() }).await;
    let sibling = Sibling::start(rig.config(&store, ROUTES)).await;
    let key = rig.payer(1, PLENTY);
    for path in ["/v1/quote/XNO", "/v1/quote/BTC", "/v1/quote/ETH"] {
        let [_, offer] = rig.bill(path).await;
        let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        rig.devnet.process(block).unwrap();
        let proof = signature(&key, &block, &offer);
        let headers = [("PAYMENT-SIGNATURE", proof.as_str())];
        let (one, other) = tokio::join!(rig.get(path, &headers), sibling.redeem(&rig, path, &proof));
        let mut answers = [one.status().as_u16(), other.status().as_u16()];
        answers.sort_unstable();
        // The other finds the one use spent, or under way on the first.
        assert!(answers == [200, 402] || answers == [200, 503], "{answers:?}");
    }
    let journal = sibling.services.store().scan(0, Filter::default(), 99).await.unwrap();
    assert_eq!(journal.len(), 3);
    sibling.end().await;
    rig.end().await;
}

/// The pool's keys, from the file that only the gateway should read.
fn pool_keys(rig: &Rig) -> impl Fn(faregate::nano::Account) -> SecretKey + use<> {
    let text = std::fs::read_to_string(rig.folder.path().join("pool.seed")).unwrap();
    let seed = Seed::from_bytes(hex::decode(text.trim()).unwrap().try_into().unwrap());
    move |account| {
        use faregate::payment::{Mechanism, address_pool::seed_indexes};
        Mechanism::ALL
            .into_iter()
            .flat_map(|mechanism| seed_indexes(mechanism, 8))
            .map(|index| seed.key(index))
            .find(|key| key.account() == account)
            .unwrap()
    }
}

#[tokio::test]
async fn what_was_received_since_a_restored_backup_is_not_sold_again() {
    let rig = Rig::start().await;
    let folder = rig.folder.path().to_owned();
    let (live, old) = (folder.join("faregate.db"), folder.join("old.db"));
    let copied = backup_sqlite(&live, &old).unwrap();
    assert_eq!((copied.payments, copied.faults.len()), (0, 0));
    assert!(matches!(backup_sqlite(&live, &old), Err(BackupError::Exists(_))));

    // Two payments: what the first sent is received, what the second sent is not.
    let (key, keys) = (rig.payer(1, PLENTY), pool_keys(&rig));
    let mut proofs = Vec::new();
    for received in [true, false] {
        let [_, offer] = rig.bill("/v1/quote/XNO").await;
        let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        rig.devnet.process(block).unwrap();
        let proof = signature(&key, &block, &offer);
        assert_eq!(rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
        if received {
            rig.devnet.receive_all(&keys(offer.pay_to)).unwrap();
        }
        proofs.push((block.hash(), proof));
    }
    let [(first, proof), (second, _)] = proofs.try_into().unwrap();

    let restored = rig.config("store: { path: old.db }", ROUTES);
    let blocks = |some: &[recover::ReceivedSend]| some.iter().map(|it| it.block).collect::<Vec<_>>();
    for _ in 0..2 {
        let dry = recover::recover(&restored, &[], true).await.unwrap();
        assert_eq!(blocks(&dry.claimed), [first], "shown, not claimed");
    }
    let found = recover::recover(&restored, &[], false).await.unwrap();
    assert_eq!((found.accounts, found.received), (1, 1));
    let [shown] = &found.claimed[..] else { panic!("{:?}", found.claimed) };
    assert_eq!((shown.block, shown.sender), (first, Some(key.account())));
    assert_eq!(shown.amount.get(), 10_u128.pow(26));
    let listed: Vec<BlockHash> = found.receivable.iter().map(|(_, it)| it.hash).collect();
    assert_eq!(listed, [second], "may be a payment under way: not claimed");
    let again = recover::recover(&restored, &[], false).await.unwrap();
    assert_eq!((again.received, again.claimed), (1, vec![]), "it can be run again");

    let sibling = Sibling::start(restored).await;
    let refused = sibling.redeem(&rig, "/v1/quote/XNO", &proof).await;
    assert_eq!((refused.status().as_u16(), error(refused).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    sibling.end().await;
    rig.end().await;
}

/// A sweep receives what nobody has redeemed, too: who knows of it can leave it to its payer.
#[tokio::test]
async fn a_send_that_was_swept_unredeemed_can_be_left_to_its_payer() {
    let rig = Rig::start().await;
    let (key, keys) = (rig.payer(1, PLENTY), pool_keys(&rig));
    let mut sent = Vec::new();
    for _ in 0..2 {
        let [_, offer] = rig.bill("/v1/quote/XNO").await;
        let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        rig.devnet.process(block).unwrap();
        rig.devnet.receive_all(&keys(offer.pay_to)).unwrap();
        sent.push((block.hash(), signature(&key, &block, &offer)));
    }
    let [(left, late), (taken, lost)] = sent.try_into().unwrap();
    // The journal that is restored knew one of them as unclaimed.
    let restored = rig.config("store: { path: lost.db }", ROUTES);
    let journal = SqliteStore::open(&rig.folder.path().join("lost.db"), SqliteOptions::default()).unwrap();
    let account = rig.devnet.lattice().entry(left).unwrap().block.account;
    let deposit = Deposit { block: left, account, sender: None, amount: faregate::nano::Raw::new(1) };
    journal.note_deposits(&[deposit], 10, UnixSeconds(1)).await.unwrap();
    journal.close().await;
    let typo = BlockHash([7; 32]);
    let refused = recover::recover(&restored, &[left, typo], false).await.unwrap_err();
    assert!(matches!(refused, recover::RecoverError::NothingToExcept(it) if it == typo), "{refused}");
    let found = recover::recover(&restored, &[left], false).await.unwrap();
    let blocks = |some: &[recover::ReceivedSend]| some.iter().map(|it| it.block).collect::<Vec<_>>();
    assert_eq!((blocks(&found.left), blocks(&found.claimed)), (vec![left], vec![taken]));
    assert!(found.left[0].was_unclaimed && !found.claimed[0].was_unclaimed);
    let sibling = Sibling::start(restored).await;
    let served = sibling.redeem(&rig, "/v1/quote/XNO", &late).await;
    assert_eq!(served.status(), 200, "it was received, and its payer is served all the same");
    let refused = sibling.redeem(&rig, "/v1/quote/XNO", &lost).await;
    assert_eq!((refused.status().as_u16(), error(refused).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    sibling.end().await;
    rig.end().await;
}

#[tokio::test]
async fn the_doctor_tells_what_is_sound_and_what_is_not() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    rig.pay(&key, "/v1/quote/XNO").await;
    let file = rig.folder.path().join("doctor.yaml");
    let examine = async |more: &str, node: &str| {
        let text = format!(
            "public_url: {}\nlisten: {{ http: 127.0.0.1:8402 }}\n\
             nano: {{ nodes: [{node}], pool: {{ seed_file: pool.seed, size: 8 }} }}\n\
             upstreams: {{ api: {{ url: {} }} }}\n{more}\n\
             routes: [{{ match: /v1/**, upstream: api, price: 1 raw }}]\n",
            // The gateway itself stands for a server that takes connections.
            rig.url,
            rig.url
        );
        std::fs::write(&file, text).unwrap();
        let mut out = Vec::new();
        let args = doctor::DoctorArgs { config: file.clone().into(), json: true };
        let code = doctor::run(args, &mut out).await.unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(format!("{code:?}").contains("(0)"), report["good"] == true, "{code:?}");
        report
    };
    let fault = |report: &serde_json::Value| {
        let faults = report["checks"].as_array().unwrap().iter().filter(|it| it["good"] == false);
        faults.map(|it| it["what"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let node = rig.devnet.rpc_url();
    let sound = examine("", &node).await;
    assert_eq!(sound["good"], true, "{sound}");
    assert!(sound["checks"][0]["detail"].as_str().unwrap().starts_with("1 payment"), "{sound}");
    let full = examine("store: { free_space: 1000000000 MiB }", &node).await;
    assert_eq!(fault(&full), ["disk"]);
    let deaf = examine("", "http://127.0.0.1:1").await;
    assert_eq!(fault(&deaf), ["node 127.0.0.1:1"]);
    let seed = rig.folder.path().join("pool.seed");
    std::fs::set_permissions(&seed, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(fault(&examine("", &node).await), ["nano.pool.seed_file"]);
    std::fs::set_permissions(&seed, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tool = rusqlite::Connection::open(rig.folder.path().join("faregate.db")).unwrap();
    tool.execute_batch("UPDATE capabilities SET spent = uses").unwrap();
    tool.execute_batch(
        "INSERT OR REPLACE INTO leases SELECT payment, x'00', 1, 5, 0, 5, 0, 0, 0, 0, NULL FROM capabilities",
    )
    .unwrap();
    drop(tool);
    let broken = examine("", &node).await;
    assert_eq!(fault(&broken), ["store"]);
    assert!(broken["checks"][0]["detail"].as_str().unwrap().contains("than were bought"), "{broken}");
    rig.end().await;
}
