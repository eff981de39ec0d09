//! The demo on a network of the operator's own: what it costs, who pays, and how everything is sent back.
//!
//! One account of the seed pays, and it is also the treasury that the demo's addresses are swept to. The seed of these
//! addresses is in a file beside the payer's and is never deleted: whatever ends the demo, the money is at keys that are on
//! the disk.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::assemble::{node_client, sweeper};
use crate::cli::failure::Failure;
use crate::clock::Stopwatch;
use crate::config::{Config, Sweep};
use crate::ledger::LedgerError;
use crate::ledger::node::{NodeClient, NodeEndpoint, NodeLedger, NodeSetupError};
use crate::ledger::work::{WorkSource, expected_tries};
use crate::nano::{Account, Raw, Thresholds};
use crate::vault::Vault;

/// How many payments the story makes, and what they cost together, in raw: four at 0.0001 XNO and two at 0.001 XNO.
const PAYMENTS: u32 = 6;
const COST: Raw = Raw::new(2_400_000_000_000_000_000_000_000_000);
/// How long a call to a node may take, as in a configuration.
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sending everything back may take; each block needs work and a confirmation.
const GIVE_BACK_WITHIN: Duration = Duration::from_secs(300);
/// The pause between two attempts at it.
const PAUSE: Duration = Duration::from_millis(500);
/// The addresses of each mechanism. Few, since each that was paid to has to be emptied.
const POOL: u32 = 2;
/// Sends to the payer that are added up.
const MOST_RECEIVABLE: u32 = 1000;

/// Who pays on which network.
#[derive(Clone)]
pub(super) struct Live {
    nodes: Vec<Url>,
    seed_file: PathBuf,
    account: Account,
    thresholds: Thresholds,
    /// What the account has at the beginning, received or not.
    before: Raw,
}

/// What came of sending everything back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Returned {
    sent: Raw,
    /// What the payer has less than at the beginning.
    missing: Raw,
}

impl Live {
    /// Opens the seed and asks the nodes.
    ///
    /// # Errors
    /// [`Failure::Usage`], [`Failure::Config`] if the seed's file cannot be used, [`Failure::Unavailable`] without a node
    /// or without the money.
    pub(super) async fn open(nodes: &[Url], seed_file: &Path) -> Result<Self, Failure> {
        let seed = |error: &dyn std::fmt::Display| Failure::Config(format!("`--seed-file`: {error}"));
        let seed_file = std::path::absolute(seed_file).map_err(|error| seed(&error))?;
        let account = Vault::open(&seed_file).map_err(|error| seed(&error))?.account(0);
        let mut live = Self {
            nodes: nodes.to_vec(),
            seed_file,
            account,
            thresholds: Thresholds::MAINNET,
            before: Raw::ZERO,
        };
        let client = live.client().map_err(|error| Failure::Usage(format!("`--node`: {error}")))?;
        let no_node = |error: LedgerError| {
            Failure::Unavailable(format!("{error}: look whether the node runs, and at `--node`"))
        };
        live.before = holdings(&client, account).await.map_err(no_node)?;
        // A node that does not say what its network asks for is one of the main network.
        live.thresholds = client.thresholds().await.unwrap_or(Thresholds::MAINNET);
        if live.before < COST {
            return Err(Failure::Unavailable(format!(
                "the demo pays {} and sends it back, and {account} has {}: send it the rest",
                COST.xno(),
                live.before.xno()
            )));
        }
        Ok(live)
    }

    /// Says what it costs.
    pub(super) fn announce(&self, out: &mut impl Write) -> io::Result<()> {
        let Thresholds { send, receive } = self.thresholds;
        writeln!(
            out,
            "What this costs: nothing, if it ends well. It makes {PAYMENTS} payments, together {}, from",
            COST.xno()
        )?;
        writeln!(out, "    {}", self.account)?;
        writeln!(
            out,
            "which has {}, to addresses of its own, and sends all of it back at the end, also after a",
            self.before.xno()
        )?;
        writeln!(out, "failure or Ctrl-C. There are no fees. The seed of these addresses is kept in")?;
        writeln!(out, "    {}", self.pool_file().display())?;
        writeln!(
            out,
            "At most {} blocks need the work of a send ({} tries each on average), and as many that of a receive ({}).",
            PAYMENTS.saturating_add(POOL.saturating_mul(2)),
            expected_tries(send),
            expected_tries(receive)
        )?;
        writeln!(out, "The node is asked for it first; what it does not make is computed here.\n")?;
        out.flush()
    }

    /// The file of the seed that pays, from its first account.
    pub(super) fn seed_file(&self) -> &Path {
        &self.seed_file
    }

    pub(super) const fn thresholds(&self) -> Thresholds {
        self.thresholds
    }

    /// The file of the seed of the addresses that are paid to.
    fn pool_file(&self) -> PathBuf {
        let mut name = self.seed_file.as_os_str().to_owned();
        name.push(".demo-pool");
        name.into()
    }

    pub(super) fn client(&self) -> Result<NodeClient, NodeSetupError> {
        let endpoint = |url: &Url| NodeEndpoint::from_url(url.clone(), NODE_TIMEOUT);
        NodeClient::new(self.nodes.iter().map(endpoint).collect::<Result<_, _>>()?)
    }

    /// The sections `nano` and `challenge`. The nodes are the operator's choice, so each is trusted. Work for a bill may
    /// take minutes on a small machine.
    pub(super) fn sections(&self) -> String {
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|it| format!("{{ url: {}, trusted: true }}", quoted(it.as_str())))
            .collect();
        format!(
            "nano:\n  nodes: [{}]\n  pool: {{ seed_file: {}, size: {POOL} }}\n  treasury: {}\n  \
             work: {{ send: \"{}\", receive: \"{}\" }}\nchallenge: {{ lifetime: 600s }}\n",
            nodes.join(", "),
            quoted(&self.pool_file().display().to_string()),
            self.account,
            self.thresholds.send,
            self.thresholds.receive
        )
    }

    /// Sends everything at the addresses of `config` to the payer, and waits until it is there.
    ///
    /// # Errors
    /// [`Failure`], if the last attempt failed.
    pub(super) async fn give_back(&self, config: &Config) -> Result<Returned, Failure> {
        let sweep = Some(Sweep { minimum: Raw::new(1), ..Sweep::default() });
        let config = Config { sweep, ..config.clone() };
        let client = node_client(&config.nano)?;
        let work = WorkSource::node_first(client.clone());
        let (sweeper, _seed_file) = sweeper(&config, NodeLedger::new(client.clone()), work)?;
        let (mut sent, watch) = (Raw::ZERO, Stopwatch::start());
        loop {
            let swept = sweeper.sweep().await.map(|round| round.sent());
            sent = sent.checked_add(*swept.as_ref().unwrap_or(&Raw::ZERO)).unwrap_or(Raw::MAX);
            let looked = match swept {
                Ok(_) => holdings(&client, self.account).await,
                Err(error) => Err(error),
            };
            let is_late = watch.elapsed() >= GIVE_BACK_WITHIN;
            match looked {
                Ok(now) if now >= self.before || is_late => {
                    let missing = self.before.checked_sub(now).unwrap_or(Raw::ZERO);
                    return Ok(Returned { sent, missing });
                }
                Err(error) if is_late => return Err(error.into()),
                Ok(_) | Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// What an operator does if not everything came back.
    pub(super) fn remedy(&self) -> String {
        format!(
            "what is missing is at addresses of the seed in {}: run the demo again, which sends back what it finds there",
            self.pool_file().display()
        )
    }

    /// Says what came back.
    ///
    /// # Errors
    /// [`Failure::Demo`] if something is missing; [`Failure::Output`].
    pub(super) fn report(&self, returned: Returned, out: &mut impl Write) -> Result<(), Failure> {
        let Returned { sent, missing } = returned;
        writeln!(
            out,
            "Sent back: {} to {}, which receives it with its next payment.",
            sent.xno(),
            self.account
        )?;
        if missing.is_zero() {
            writeln!(out, "It has what it had, received or waiting: {}.", self.before.xno())?;
            return Ok(());
        }
        Err(Failure::Demo(format!("{} did not come back; {}", missing.xno(), self.remedy())))
    }
}

/// What an account has, with what was sent to it and is not received yet.
async fn holdings(client: &NodeClient, account: Account) -> Result<Raw, LedgerError> {
    let balance = client.account_info(account).await?.map_or(Raw::ZERO, |it| it.balance);
    let waiting = client.receivable(account, MOST_RECEIVABLE, Raw::new(1)).await?;
    Ok(waiting.iter().fold(balance, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX)))
}

/// A text as a configuration has it, with nothing in it replaced.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace("${", "$${")
}
