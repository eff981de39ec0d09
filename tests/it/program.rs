//! The real program as a process of its own, in front of a development ledger, and a client that
//! takes a broken connection for what it is.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::patience::{http_client, within};
use faregate::devnet::Devnet;
use faregate::x402::NanoOffers;
use reqwest::{Client, Response, StatusCode};
use tokio::process::{Child, Command};

/// What a payment of the only priced route costs, in raw.
pub(crate) const PRICE: u128 = 1_000;

/// The program's configuration on the disk, and where it listens.
pub(crate) struct Program {
    pub(crate) url: String,
    config: PathBuf,
    log: &'static str,
}

impl Program {
    /// A configuration in `folder`: one route, `/thing`, whose payments buy `uses`.
    pub(crate) fn new(folder: &Path, devnet: &Devnet, upstream: &str, uses: u32) -> Self {
        Self::metering(folder, devnet, upstream, uses, "leased")
    }

    /// The same, with the uses counted as `metering` says.
    pub(crate) fn metering(
        folder: &Path,
        devnet: &Devnet,
        upstream: &str,
        uses: u32,
        metering: &str,
    ) -> Self {
        let address = free_address();
        let config = folder.join("faregate.yaml");
        std::fs::write(&config, yaml(&address, devnet, upstream, uses, metering)).unwrap();
        Self { url: format!("http://{address}"), config, log: "error" }
    }

    /// The same, with a log of this level.
    pub(crate) const fn logging(mut self, level: &'static str) -> Self {
        self.log = level;
        self
    }

    /// The same, with these lines more at the end of the configuration, and these under `nano`.
    pub(crate) fn with(self, nano: &str, more: &str) -> Self {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let text = text.replacen("\nnano:\n", &format!("\nnano:\n{nano}"), 1) + more;
        std::fs::write(&self.config, text).unwrap();
        self
    }

    /// A second one of this configuration, in the same folder, that listens elsewhere: as when it takes over.
    pub(crate) fn beside(&self) -> Self {
        let (address, own) = (free_address(), self.url.trim_start_matches("http://"));
        let text = std::fs::read_to_string(&self.config).unwrap();
        let listen = |address: &str| format!("listen: {{ http: {address} }}");
        assert!(text.contains(&listen(own)));
        let config = self.config.with_file_name("beside.yaml");
        std::fs::write(&config, text.replacen(&listen(own), &listen(&address), 1)).unwrap();
        Self { url: format!("http://{address}"), config, log: self.log }
    }

    /// Starts it; `failpoints` in the language of the `fail` crate.
    pub(crate) fn start(&self, failpoints: Option<&str>) -> Child {
        let mut command = self.command();
        command.envs(failpoints.map(|it| ("FAILPOINTS", it))).stdout(Stdio::null()).spawn().unwrap()
    }

    /// Starts it with these for standard output and standard error.
    pub(crate) fn start_with(&self, out: Stdio, err: Stdio) -> Child {
        self.command().stdout(out).stderr(err).spawn().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
        command.args(["serve", "--log", self.log, "--config"]).arg(&self.config);
        command.env_remove("FAILPOINTS").kill_on_drop(true);
        command
    }
}

/// Ends the program as an operator would, so that the last uses are reported.
pub(crate) async fn end(mut program: Child) {
    let pid = program.id().expect("running").to_string();
    let told = Command::new("kill").args(["-TERM", &pid]).status().await.unwrap();
    assert!(told.success());
    let ended = within(Duration::from_secs(30), "the program ends", program.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

/// A client without a memory or a proxy.
pub(crate) fn client() -> Client {
    http_client().build().unwrap()
}

/// Asks for `/thing`: the status, and of a 402 the bill; `None` if the connection broke.
pub(crate) async fn get(
    http: &Client,
    url: &str,
    proof: Option<&str>,
) -> Option<(StatusCode, Option<NanoOffers>)> {
    let mut request = http.get(format!("{url}/thing"));
    if let Some(proof) = proof {
        request = request.header("PAYMENT-SIGNATURE", proof);
    }
    whole(request.send().await.ok()?).await
}

async fn whole(response: Response) -> Option<(StatusCode, Option<NanoOffers>)> {
    let (status, headers) = (response.status(), response.headers().clone());
    // The answer counts when it is whole.
    response.bytes().await.ok()?;
    let bill = headers.get("payment-required").map(|it| NanoOffers::from_header(it).unwrap());
    Some((status, bill))
}

pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn yaml(address: &str, devnet: &Devnet, upstream: &str, uses: u32, metering: &str) -> String {
    let work = faregate::devnet::THRESHOLDS;
    format!(
        r#"public_url: http://{address}
listen: {{ http: {address} }}
drain: {{ delay: 0s }}
nano:
  nodes: [{}]
  pool: {{ seed_file: pool.seed, size: 4 }}
  work: {{ send: "{}", receive: "{}" }}
challenge: {{ lifetime: 3600s }}
upstreams:
  api: {{ url: "{upstream}" }}
routes:
  - {{ match: "/thing", upstream: api, price: {PRICE} raw, grants: {{ requests: {uses}, within: 1h }}, metering: {metering}, payment_identifier: optional }}
"#,
        devnet.rpc_url(),
        work.send,
        work.receive
    )
}
