//! What runs in the demo.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::live::Live;
use super::network::Network;
use super::upstream::{DemoApi, INPUT, MODEL, OUTPUT};
use crate::assemble::{self, Services};
use crate::cli::failure::Failure;
use crate::clock::Clock;
use crate::config::Config;
use crate::listen;
use crate::nano::Raw;
use crate::vault::Vault;

/// The file of the play wallet's seed.
const PLAY_SEED: &str = "wallet.seed";
/// What the demo's wallet starts with: 1 XNO.
const ALLOWANCE: Raw = Raw::new(1_000_000_000_000_000_000_000_000_000_000);

/// Everything that runs, and its addresses.
pub(super) struct Stage {
    pub(super) network: Network,
    services: Services,
    pub(super) gateway: String,
    admin: String,
    upstream: SocketAddr,
    /// Keys, store and the play wallet's seed; deleted at the end.
    folder: TempDir,
    config: Config,
    stop: watch::Sender<bool>,
    served: JoinSet<()>,
}

impl Stage {
    /// Starts everything, before the network of `live` or else before one of its own.
    pub(super) async fn set(live: Option<&Live>, out: &mut impl Write) -> Result<Self, Failure> {
        let network = Network::begin(live).await?;
        let (stop, shutdown) = watch::channel(false);
        let mut served = JoinSet::new();

        let (listener, upstream) = free_listener().await.map_err(unavailable)?;
        let app = Arc::new(HttpServer::new_app(DemoApi::default()));
        served.spawn(listen::serve(listener, app, shutdown.clone()));

        let (public, gateway) = free_listener().await.map_err(unavailable)?;
        let (operator, admin) = free_listener().await.map_err(unavailable)?;
        let folder = tempfile::Builder::new().prefix("faregate-demo-").tempdir().map_err(unavailable)?;
        let text = configuration(gateway, admin, upstream, &network.sections());
        writeln!(out, "An API at http://{upstream} that does not know about payments; in front of it a")?;
        match &network {
            Network::Play { .. } => {
                writeln!(out, "gateway with this price table; and a Nano ledger for development:\n")?
            }
            Network::Live(_) => writeln!(out, "gateway with this price table:\n")?,
        }
        for line in text.lines().skip_while(|line| !line.starts_with("routes:")) {
            writeln!(out, "    {line}")?;
        }
        writeln!(out)?;
        let config = Config::parse(&text, "demo.yaml", folder.path(), |_| None)?;
        std::fs::write(folder.path().join("demo.yaml"), &text).map_err(unavailable)?;
        let services = assemble::assemble(config.clone(), Clock::system()).await?;
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), services.gateway());
        served.spawn(listen::serve(public, Arc::new(proxy), shutdown.clone()));
        let app = Arc::new(HttpServer::new_app(services.admin()));
        served.spawn(listen::serve(operator, app, shutdown));

        if let Network::Play { devnet, .. } = &network {
            let wallet = Vault::create(&folder.path().join(PLAY_SEED))?;
            devnet.fund(wallet.account(0), ALLOWANCE)?;
        }
        let (gateway, admin) = (format!("http://{gateway}"), format!("http://{admin}"));
        Ok(Self { network, services, gateway, admin, upstream, folder, config, stop, served })
    }

    /// The gateway's configuration.
    pub(super) const fn config(&self) -> &Config {
        &self.config
    }

    /// The file of the seed that pays, from its first account.
    pub(super) fn seed_file(&self) -> PathBuf {
        match &self.network {
            Network::Play { .. } => self.folder.path().join(PLAY_SEED),
            Network::Live(live) => live.seed_file().to_owned(),
        }
    }

    /// Ends everything; what others depend on ends last.
    pub(super) async fn strike(mut self) -> Result<ExitCode, Failure> {
        self.stop.send_replace(true);
        while self.served.join_next().await.is_some() {}
        self.services.stop().await;
        if let Network::Play { devnet, .. } = self.network {
            devnet.stop().await;
        }
        self.folder.close().map_err(unavailable)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What to try while it runs.
    pub(super) fn invite(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { gateway, admin, upstream, folder, .. } = self;
        let (Network::Play { devnet, .. }, seed) = (&self.network, self.seed_file()) else { return Ok(()) };
        writeln!(out, "It goes on running. Try:\n")?;
        writeln!(out, "    curl -i {gateway}/v1/quote/XNO        # 402: how to pay")?;
        writeln!(out, "    curl -i {gateway}/docs/index          # free")?;
        writeln!(
            out,
            "    faregate pay {gateway}/v1/search/nano --repeat 3 --node {} --seed-file {}",
            devnet.rpc_url(),
            seed.display()
        )?;
        writeln!(out, "    curl {admin}/metrics\n")?;
        writeln!(out, "    gateway        {gateway}")?;
        writeln!(out, "    admin          {admin}  (/metrics, /readyz)")?;
        writeln!(out, "    upstream       http://{upstream}")?;
        writeln!(out, "    ledger         {}", devnet.rpc_url())?;
        writeln!(out, "    configuration  {}\n", folder.path().join("demo.yaml").display())?;
        writeln!(out, "Ctrl-C ends it.")?;
        out.flush()
    }
}

async fn free_listener() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn unavailable(error: io::Error) -> Failure {
    Failure::Unavailable(format!("the demo cannot be set up: {error}"))
}

fn configuration(gateway: SocketAddr, admin: SocketAddr, upstream: SocketAddr, nano: &str) -> String {
    format!(
        r#"public_url: http://{gateway}
listen: {{ http: {gateway} }}
admin: {{ listen: {admin} }}
{nano}upstreams:
  quotes: {{ url: "http://{upstream}" }}
routes:
  - {{ match: "GET /v1/quote/{{symbol}}", upstream: quotes, price: 0.0001 XNO }}
  - {{ name: search, match: "/v1/search/**", upstream: quotes, price: 0.001 XNO, grants: {{ requests: 5, within: 1h }} }}
  - {{ match: "/v1/flaky", upstream: quotes, price: 0.0001 XNO }}
  - match: POST /v1/chat/completions
    name: chat
    upstream: quotes
    meter:
      deposit: 0.001 XNO
      usage: openai
      rates: {{ {MODEL}: {{ input: {INPUT} XNO, output: {OUTPUT} XNO, per: 1M }} }}
      hold: 0.0001 XNO
  - {{ match: "/docs/**", upstream: quotes, free: true }}
"#
    )
}
