//! `faregate demo`: the whole thing in one process, on loopback: a development ledger, a small
//! upstream, the gateway in front of it, and a wallet that pays.

mod story;
mod upstream;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use pingora::apps::http_app::HttpServer;
use pingora::server::configuration::ServerConf;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{EX_SOFTWARE, EX_UNAVAILABLE, complain};
use crate::assemble::{self, AssembleError, Services};
use crate::clock::{Clock, Stopwatch};
use crate::config::{Config, Faults};
use crate::devnet::{Devnet, DevnetError, DevnetOptions};
use crate::listen;
use crate::nano::{AmountError, Raw};
use crate::vault::{Vault, VaultError};
use story::StoryError;

/// How long the demo's ledger takes to confirm a block: about what the main network takes.
const CONFIRM_AFTER: Duration = Duration::from_millis(300);
/// What the demo's wallet starts with.
const ALLOWANCE: &str = "1 XNO";

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the paid requests instead of leaving everything running
    #[arg(long)]
    pub once: bool,
}

/// Why the demo ended early.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("the demo cannot be set up: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Devnet(#[from] DevnetError),
    #[error("the demo's own configuration has a fault:\n{0}")]
    Faults(Faults),
    #[error(transparent)]
    Assemble(#[from] AssembleError),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error(transparent)]
    Amount(#[from] AmountError),
    #[error("the demo did not go as it should: {0}")]
    Story(#[from] StoryError),
}

/// Everything that runs, and where.
struct Stage {
    devnet: Devnet,
    services: Services,
    gateway: String,
    admin: String,
    upstream: SocketAddr,
    /// Keys, store and the wallet's seed; gone with the demo.
    folder: TempDir,
    stop: watch::Sender<bool>,
    served: JoinSet<()>,
}

/// Runs the demo, printing to `out`.
pub async fn run(args: DemoArgs, out: &mut impl Write) -> ExitCode {
    match demo(&args, out).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(if matches!(error, DemoError::Story(_)) { EX_SOFTWARE } else { EX_UNAVAILABLE })
        }
    }
}

async fn demo(args: &DemoArgs, out: &mut impl Write) -> Result<(), DemoError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let started = Stopwatch::start();
    let stage = Stage::set(out).await?;
    writeln!(out, "Everything runs, after {:.0?}.\n", started.elapsed())?;
    let told = tokio::select! {
        told = story::tell(&stage, out) => told,
        _ = interrupt.recv() => { return stage.strike().await; }
    };
    told?;
    if !args.once {
        stage.invite(out)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        writeln!(out, "\nThe demo ends; nothing of it is kept.")?;
    }
    stage.strike().await
}

impl Stage {
    async fn set(out: &mut impl Write) -> Result<Self, DemoError> {
        let options = DevnetOptions { confirm_after: CONFIRM_AFTER, ..DevnetOptions::default() };
        let devnet = Devnet::start(options).await?;
        let (stop, shutdown) = watch::channel(false);
        let mut served = JoinSet::new();

        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let upstream = listener.local_addr()?;
        let app = Arc::new(HttpServer::new_app(upstream::DemoApi::default()));
        served.spawn(listen::serve(listener, app, shutdown.clone()));

        let (public, operator) =
            (TcpListener::bind(("127.0.0.1", 0)).await?, TcpListener::bind(("127.0.0.1", 0)).await?);
        let (gateway, admin) = (public.local_addr()?, operator.local_addr()?);
        let folder = tempfile::Builder::new().prefix("faregate-demo-").tempdir()?;
        let text = configuration(gateway, admin, upstream, &devnet);
        writeln!(
            out,
            "An API at http://{upstream} that knows nothing of money; in front of it a gateway with"
        )?;
        writeln!(out, "this price table, and a Nano ledger for development:\n")?;
        for line in text.lines().skip_while(|line| !line.starts_with("routes:")) {
            writeln!(out, "    {line}")?;
        }
        writeln!(out)?;
        let config = Config::parse(&text, "demo.yaml", folder.path(), |_| None).map_err(DemoError::Faults)?;
        std::fs::write(folder.path().join("demo.yaml"), &text)?;
        let services = assemble::assemble(config, Clock::system()).await?;
        let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), services.gateway());
        served.spawn(listen::serve(public, Arc::new(proxy), shutdown.clone()));
        let app = Arc::new(HttpServer::new_app(services.admin()));
        served.spawn(listen::serve(operator, app, shutdown));

        let wallet = Vault::create(&folder.path().join("wallet.seed"))?;
        devnet.fund(wallet.account(0), Raw::with_unit(ALLOWANCE)?)?;
        let (gateway, admin) = (format!("http://{gateway}"), format!("http://{admin}"));
        Ok(Self { devnet, services, gateway, admin, upstream, folder, stop, served })
    }

    /// Ends everything, in the order in which it depends on each other.
    async fn strike(mut self) -> Result<(), DemoError> {
        self.stop.send_replace(true);
        while self.served.join_next().await.is_some() {}
        self.services.stop().await;
        self.devnet.stop().await;
        self.folder.close()?;
        Ok(())
    }

    /// What to try while it runs.
    fn invite(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { gateway, admin, upstream, devnet, folder, .. } = self;
        let seed = folder.path().join("wallet.seed");
        writeln!(out, "It goes on running. To try:\n")?;
        writeln!(out, "    curl -i {gateway}/v1/quote/XNO        # a bill: 402")?;
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

fn configuration(gateway: SocketAddr, admin: SocketAddr, upstream: SocketAddr, devnet: &Devnet) -> String {
    let (node, work) = (devnet.rpc_url(), crate::devnet::THRESHOLDS);
    format!(
        r#"public_url: http://{gateway}
listen: {{ http: {gateway} }}
admin: {{ listen: {admin} }}
nano:
  nodes: [{node}]
  pool: {{ seed_file: pool.seed, size: 64 }}
  work: {{ send: "{}", receive: "{}" }}
upstreams:
  quotes: {{ url: "http://{upstream}" }}
routes:
  - {{ match: "GET /v1/quote/{{symbol}}", upstream: quotes, price: 0.0001 XNO }}
  - {{ name: search, match: "/v1/search/**", upstream: quotes, price: 0.001 XNO, grants: {{ requests: 5, within: 1h }} }}
  - {{ match: "/v1/flaky", upstream: quotes, price: 0.0001 XNO }}
  - {{ match: "/docs/**", upstream: quotes, free: true }}
"#,
        work.send, work.receive
    )
}
