//! The network that the demo pays on: a ledger in this process, or one that nodes of the operator's show.

use std::time::Duration;

use url::Url;

use super::live::Live;
use crate::cli::failure::Failure;
use crate::devnet::{Devnet, DevnetOptions};
use crate::ledger::node::{NodeClient, NodeEndpoint, NodeSetupError};
use crate::ledger::work::WorkSource;
use crate::nano::Thresholds;

/// How long the demo's ledger takes to confirm a block: about as long as the main network.
const CONFIRM_AFTER: Duration = Duration::from_millis(300);
/// How long a call to the demo's ledger may take.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) enum Network {
    /// A ledger for development.
    Play {
        devnet: Box<Devnet>,
        node: Url,
    },
    Live(Live),
}

impl Network {
    /// The network of `live`, or else one of its own.
    pub(super) async fn begin(live: Option<&Live>) -> Result<Self, Failure> {
        if let Some(live) = live {
            return Ok(Self::Live(live.clone()));
        }
        let options = DevnetOptions { confirm_after: CONFIRM_AFTER, ..DevnetOptions::default() };
        let devnet = Box::new(Devnet::start(options).await?);
        let node = Url::parse(&devnet.rpc_url());
        let node = node.map_err(|error| Failure::Unavailable(format!("the demo's ledger: {error}")))?;
        Ok(Self::Play { devnet, node })
    }

    /// A client for its nodes.
    pub(super) fn client(&self) -> Result<NodeClient, NodeSetupError> {
        match self {
            Self::Play { node, .. } => {
                NodeClient::new(vec![NodeEndpoint::from_url(node.clone(), NODE_TIMEOUT)?])
            }
            Self::Live(live) => live.client(),
        }
    }

    /// Who makes work for it.
    pub(super) fn work(&self, client: &NodeClient) -> WorkSource {
        match self {
            Self::Play { .. } => WorkSource::local(),
            Self::Live(_) => WorkSource::node_first(client.clone()),
        }
    }

    pub(super) const fn thresholds(&self) -> Thresholds {
        match self {
            Self::Play { .. } => crate::devnet::THRESHOLDS,
            Self::Live(live) => live.thresholds(),
        }
    }

    /// The sections of the configuration about it.
    pub(super) fn sections(&self) -> String {
        let Thresholds { send, receive } = self.thresholds();
        match self {
            Self::Play { devnet, .. } => format!(
                "nano:\n  nodes: [{}]\n  pool: {{ seed_file: pool.seed, size: 64 }}\n  \
                 work: {{ send: \"{send}\", receive: \"{receive}\" }}\n",
                devnet.rpc_url()
            ),
            Self::Live(live) => live.sections(),
        }
    }
}
