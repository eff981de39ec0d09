//! A whole gateway on loopback for one test: a development ledger, an upstream that answers as the
//! test says, the services, and the gateway on a free port.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use faregate::assemble::{self, Services};
use faregate::clock::Clock;
use faregate::config::Config;
use faregate::devnet::{Devnet, DevnetOptions};
use faregate::listen;
use faregate::nano::{BlockHash, Raw, SecretKey, StateBlock, UnixSeconds};
use faregate::x402::{NanoOffer, NanoOffers, PaymentProof, encode_header};
use pingora::server::configuration::ServerConf;
use reqwest::{Client, Response};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use crate::patience::eventually;
use crate::patience::{http_client, soon, wait_for};
use crate::scripted::{Reply, Scripted, Seen};

/// How a gateway is to be; the usual one with what a test changes.
pub(crate) struct Plan {
    /// YAML lines under `routes:`, and whatever else follows them.
    pub(crate) routes: String,
    /// YAML lines before `routes:`: more upstreams, then whatever else. `UPSTREAM` stands for the
    /// scripted upstream's URL.
    pub(crate) more: String,
    /// What stands under `nano.work.optional`; `None` if clients bring their work.
    pub(crate) work: Option<String>,
    /// What stands under `nano.mechanisms`; the default where it is nothing.
    pub(crate) mechanisms: Option<&'static str>,
    /// More of what stands under `listen`.
    pub(crate) listen: Option<&'static str>,
    pub(crate) devnet: DevnetOptions,
    pub(crate) clock: Clock,
    /// Bytes that the gateway may have on their way to one client; `None` leaves it to the system.
    pub(crate) send_buffer: Option<u32>,
    pub(crate) answer: Box<dyn Fn(&Seen) -> Reply + Send + Sync>,
}

/// One priced route, one of many uses, one free, one of another price.
pub(crate) const ROUTES: &str = r#"
  - { match: "GET /v1/quote/{symbol}", upstream: api, price: 0.0001 XNO }
  - { name: search, match: "/v1/search/**", upstream: api, price: 0.001 XNO, grants: { requests: 5, within: 1h } }
  - { name: paid, match: "/paid", upstream: api, price: 1 raw }
  - { match: "/free/**", upstream: api, free: true }
"#;

impl Default for Plan {
    fn default() -> Self {
        Self {
            routes: ROUTES.to_owned(),
            more: String::new(),
            work: None,
            mechanisms: None,
            listen: None,
            devnet: DevnetOptions::default(),
            clock: Clock::system(),
            send_buffer: None,
            answer: Box::new(|seen| Reply::text(200, &format!("upstream saw {} {}", seen.method, seen.path))),
        }
    }
}

/// How a gateway ends before a restart.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    Orderly,
    /// As when it is killed: nothing is reported, nothing handed back.
    Abrupt,
}

/// What a gateway has caused outside itself so far.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Effects {
    /// Requests that reached the upstream.
    pub(crate) forwarded: usize,
    /// Blocks that were handed to the node.
    pub(crate) broadcast: u64,
}

/// A gateway that runs, with everything around it.
pub(crate) struct Rig {
    pub(crate) devnet: Devnet,
    pub(crate) upstream: Scripted,
    pub(crate) services: Services,
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    pub(crate) http: Client,
    pub(crate) folder: TempDir,
    /// The access log.
    logged: Arc<Mutex<Vec<u8>>>,
    config: Config,
    clock: Clock,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(Plan::default()).await
    }

    pub(crate) async fn with(plan: Plan) -> Self {
        let devnet = Devnet::start(plan.devnet.clone()).await.unwrap();
        let upstream = Scripted::start(plan.answer).await;
        let folder = TempDir::new().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        if let Some(bytes) = plan.send_buffer {
            // A connection has the size of the listener that accepts it.
            socket.set_send_buffer_size(bytes).unwrap();
        }
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1024).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut text =
            yaml(&url, &devnet, &upstream.url.origin().ascii_serialization(), &plan.more, &plan.routes);
        if let Some(work) = plan.work {
            text = text.replacen(" }\nupstreams:", &format!(", optional: {work} }}\nupstreams:"), 1);
        }
        if let Some(listen) = plan.listen {
            text = text.replacen("listen: { ", &format!("listen: {{ {listen}, "), 1);
        }
        if let Some(mechanisms) = plan.mechanisms {
            text = text.replacen("\nnano:\n", &format!("\nnano:\n  mechanisms: {mechanisms}\n"), 1);
        }
        let config = parse(&text, folder.path());
        Self::on(listener, devnet, upstream, folder, config, plan.clock).await
    }

    async fn on(
        listener: TcpListener,
        devnet: Devnet,
        upstream: Scripted,
        folder: TempDir,
        config: Config,
        clock: Clock,
    ) -> Self {
        all_descriptors();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut services = assemble::assemble(config.clone(), clock.clone()).await.unwrap();
        let logged = Arc::new(Mutex::new(Vec::new()));
        services.log_requests_to(Kept(Arc::clone(&logged))).unwrap();
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), services.gateway());
        let (stop, shutdown) = watch::channel(false);
        let served =
            tokio::spawn(listen::serve_behind(services.door(), listener, None, Arc::new(proxy), shutdown));
        let http = http_client().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { devnet, upstream, services, url, http, folder, logged, config, clock, stop, served }
    }

    /// Ends the gateway, with or without its last words to the store, and starts another on the same
    /// files.
    pub(crate) async fn restart(self, how: Ending) -> Self {
        let config = self.config.clone();
        self.restart_with(how, config).await
    }

    /// As [`Rig::restart`], with another configuration.
    pub(crate) async fn restart_with(self, how: Ending, config: Config) -> Self {
        let Self { devnet, upstream, services, folder, clock, stop, served, .. } = self;
        match how {
            Ending::Orderly => {
                stop.send_replace(true);
                soon("the gateway ends", served).await.unwrap();
                soon("the services end", services.stop()).await;
            }
            Ending::Abrupt => {
                served.abort();
                assert!(served.await.unwrap_err().is_cancelled());
                drop(services);
            }
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::on(listener, devnet, upstream, folder, config, clock).await
    }

    /// Ends everything in order; what a test left under way shows here.
    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        soon("the gateway ends", self.served).await.unwrap();
        soon("the services end", self.services.stop()).await;
        soon("the ledger ends", self.devnet.stop()).await;
    }

    /// A configuration like this rig's with other routes.
    pub(crate) fn config(&self, more: &str, routes: &str) -> Config {
        let upstream = self.upstream.url.origin().ascii_serialization();
        parse(&yaml(&self.url, &self.devnet, &upstream, more, routes), self.folder.path())
    }

    pub(crate) async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = self.http.get(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    /// Asks with the same proof, as each 503 says, until the answer is another.
    pub(crate) async fn ask_until_decided(&self, path: &str, proof: &str) -> Response {
        let decided = async || {
            let answer = self.get(path, &[("PAYMENT-SIGNATURE", proof)]).await;
            Some(answer).filter(|it| it.status() != 503)
        };
        wait_for("a decision about the payment", decided).await
    }

    /// The access log as it is.
    pub(crate) fn logged(&self) -> String {
        String::from_utf8(self.logged.lock().unwrap().clone()).unwrap()
    }

    /// The first `count` lines of the access log, once there are so many.
    pub(crate) async fn lines(&self, count: usize) -> Vec<Value> {
        eventually("the requests are logged", async || self.logged().lines().count() >= count).await;
        self.logged().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns once the ledger has a block. On a busy machine a client is told to wait before its block is broadcast.
    pub(crate) async fn has_broadcast(&self, block: BlockHash) {
        eventually("the ledger has the block", async || self.devnet.lattice().entry(block).is_some()).await;
    }

    /// Confirms a block once the ledger has it.
    pub(crate) async fn confirm(&self, block: BlockHash) {
        self.has_broadcast(block).await;
        assert!(self.devnet.confirm_now(block));
    }

    pub(crate) fn effects(&self) -> Effects {
        Effects { forwarded: self.upstream.seen().len(), broadcast: self.devnet.faults().calls("process") }
    }

    /// The bill for `path`: its two offers, `nanoTxn` first.
    pub(crate) async fn bill(&self, path: &str) -> [NanoOffer; 2] {
        let response = self.get(path, &[]).await;
        assert_eq!(response.status(), 402);
        offers(&response).offers.try_into().unwrap()
    }

    /// A key whose account holds `amount`, received and confirmed.
    pub(crate) fn payer(&self, index: u32, amount: Raw) -> SecretKey {
        let key = faregate::nano::Seed::from_bytes([0x5a; 32]).key(index);
        self.devnet.fund(key.account(), amount).unwrap();
        self.devnet.receive_all(&key).unwrap();
        key
    }

    /// The header that answers the `nanoTxn` offer with a block by `key`, and the block.
    pub(crate) fn txn(&self, key: &SecretKey, offer: &NanoOffer) -> (String, StateBlock) {
        let block = self.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
        (encode_header(&offer.answer(&PaymentProof::NanoTxn { block })), block)
    }

    /// Pays `path` by `nanoTxn`, and gives the answer.
    pub(crate) async fn pay(&self, key: &SecretKey, path: &str) -> Response {
        let [txn, _] = self.bill(path).await;
        let (header, _) = self.txn(key, &txn);
        self.get(path, &[("PAYMENT-SIGNATURE", &header)]).await
    }
}

/// Raises the number of file descriptors to what the system allows, as the program does: one client's share of the
/// connections is a part of it.
fn all_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
}

/// Keeps what is written.
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Plenty for any test: 10 XNO.
pub(crate) const PLENTY: Raw = Raw::new(10_000_000_000_000_000_000_000_000_000_000);

/// The signature that answers a `nanoSignature` offer for a block that was sent.
pub(crate) fn signature(key: &SecretKey, block: &StateBlock, offer: &NanoOffer) -> String {
    let faregate::x402::ProofRequest::NanoSignature { nonce } = offer.ask else {
        panic!("no nanoSignature offer")
    };
    let message = format!("{}:{}:{}", block.hash().lower_hex(), hex::encode(nonce), offer.valid_before);
    let digest = faregate::nano::noms_digest(&message).unwrap();
    let proof = PaymentProof::NanoSignature {
        block_hash: block.hash(),
        account: key.account(),
        signature: key.sign(&digest),
    };
    encode_header(&offer.answer(&proof))
}

/// The offers of a 402.
pub(crate) fn offers(response: &Response) -> NanoOffers {
    NanoOffers::from_header(header(response, "payment-required")).unwrap()
}

pub(crate) fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).unwrap_or_else(|| panic!("no {name}")).to_str().unwrap()
}

/// The code of a 402's or 503's body.
pub(crate) async fn error(response: Response) -> String {
    let body: Value = response.json().await.unwrap();
    body["error"].as_str().unwrap().to_owned()
}

/// The token and the `remaining` of an answer's `PAYMENT-CAPABILITY`.
pub(crate) fn capability(response: &Response) -> (String, u32) {
    let value = header(response, "payment-capability");
    let (token, rest) = value.split_once("; remaining=").unwrap();
    (token.to_owned(), rest.split(';').next().unwrap().parse().unwrap())
}

/// A clock that stands where a test puts it.
pub(crate) fn manual_clock() -> (Clock, Arc<std::sync::atomic::AtomicU64>) {
    let seconds = Arc::new(std::sync::atomic::AtomicU64::new(1_800_000_000));
    let shown = Arc::clone(&seconds);
    (Clock::from_fn(move || UnixSeconds(shown.load(std::sync::atomic::Ordering::SeqCst))), seconds)
}

fn yaml(url: &str, devnet: &Devnet, upstream: &str, more: &str, routes: &str) -> String {
    let work = faregate::devnet::THRESHOLDS;
    let mut text = String::new();
    writeln!(text, "public_url: {url}\nlisten: {{ http: {} }}", url.trim_start_matches("http://")).unwrap();
    writeln!(text, "nano:\n  nodes: [{}]\n  pool: {{ seed_file: pool.seed, size: 8 }}", devnet.rpc_url())
        .unwrap();
    if let Some(socket) = devnet.websocket_url() {
        writeln!(text, "  websocket: {socket}").unwrap();
    }
    writeln!(text, "  work: {{ send: \"{}\", receive: \"{}\" }}", work.send, work.receive).unwrap();
    writeln!(
        text,
        "upstreams:\n  api: {{ url: \"{upstream}\" }}\n{}\nroutes:\n{routes}",
        more.replace("UPSTREAM", upstream)
    )
    .unwrap();
    text
}

fn parse(text: &str, folder: &Path) -> Config {
    Config::parse(text, "test.yaml", folder, |_| None).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}
