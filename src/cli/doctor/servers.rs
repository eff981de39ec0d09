//! Servers that the gateway calls: nodes, those that make work, and upstreams. Each is connected to and asked.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use pingora::protocols::l4::socket::SocketAddr;

use super::Checkup;
use super::certificates::{self, Left};
use crate::assemble::{endpoints, sockets as sockets_of, upstreams_tls, work_servers};
use crate::config::{Config, UpstreamConfig, UpstreamUrl};
use crate::gateway::upstream::{Upstream, of_socket};
use crate::ledger::node::{BlockCount, NodeClient, NodeEndpoint};
use crate::nano::{Account, Threshold, UnixSeconds};

/// How long the look-up of a name may take.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);
/// A node with so many confirmed blocks fewer than others has not caught up.
const BEHIND: u64 = 1000;

/// Asks each node what it has, and compares it with the others and with its own peers.
pub(super) async fn nodes(config: &Config) -> Vec<Checkup> {
    let asked = join_all(endpoints(&config.nano).into_iter().map(count)).await;
    let counts = asked.iter().filter_map(|(_, found)| found.as_ref().ok());
    let most = counts.map(|(own, peers)| own.cemented.max(*peers)).max().unwrap_or(0);
    let checkup = |(label, found): (String, Result<(BlockCount, u64), String>)| {
        let what = format!("node {label}");
        match found {
            Ok((own, _)) => {
                let said = format!("{} blocks, {} of them confirmed", own.count, own.cemented);
                let missing = most.saturating_sub(own.cemented);
                if missing > BEHIND {
                    let said = format!("{said}: {missing} fewer than others have");
                    Checkup::warning(what, said, "let it catch up; it confirms no payment until then")
                } else {
                    Checkup::ok(what, said)
                }
            }
            Err(why) => Checkup::broken(what, why, "look whether the node runs, and at `nano.nodes`"),
        }
    };
    asked.into_iter().map(checkup).collect()
}

/// A node's blocks, and how many its peers have confirmed: 0 if it does not say.
async fn count(endpoint: NodeEndpoint) -> (String, Result<(BlockCount, u64), String>) {
    let label = endpoint.label();
    let client = match NodeClient::new(vec![endpoint]) {
        Ok(client) => client,
        Err(error) => return (label, Err(error.to_string())),
    };
    let found = match client.block_count().await {
        Ok(own) => Ok((own, client.telemetry().await.map_or(0, |it| it.cemented_count))),
        Err(error) => Err(error.to_string()),
    };
    (label, found)
}

/// Subscribes at each WebSocket as the gateway does: one that connects may still know nothing of confirmations.
pub(super) async fn sockets(config: &Config) -> Vec<Checkup> {
    let sockets = match sockets_of(&config.nano) {
        Ok(sockets) => sockets,
        Err(error) => return vec![Checkup::broken("nano.websocket", error, "write `ws://HOST:PORT`")],
    };
    let asked = sockets.into_iter().map(async |socket| {
        let what = format!("nano.websocket {}", socket.label());
        // Any account will do: the node acknowledges it, and tells nothing of it before the connection ends.
        match socket.try_subscription(Account([0; 32])).await {
            Ok(()) => Checkup::ok(what, "subscribes to confirmations"),
            Err(why) => Checkup::broken(
                what,
                why,
                "turn the node's WebSocket server on (`[node.websocket]` of its config-node.toml), and look at \
                 `nano.websocket`; confirmations are asked for meanwhile",
            ),
        }
    });
    join_all(asked).await
}

/// Has each work server make work, of the easier kind.
pub(super) async fn work(config: &Config, now: UnixSeconds) -> Vec<Checkup> {
    let easy = config.nano.work.thresholds.receive;
    let asked = work_servers(config).into_iter().map(async |(key, endpoint)| {
        let what = format!("{key} {}", endpoint.label());
        match make_work(endpoint, easy, now).await {
            Ok(()) => Checkup::ok(what, "makes work"),
            Err(why) => {
                let advice = format!("look whether it runs and has `work_generate` on, and at `{key}`");
                Checkup::broken(what, format!("makes no work: {why}"), advice)
            }
        }
    });
    join_all(asked).await
}

async fn make_work(endpoint: NodeEndpoint, threshold: Threshold, now: UnixSeconds) -> Result<(), String> {
    // Another root each time: a server may remember its answers.
    let mut root = [0x5a; 32];
    for (place, byte) in root.iter_mut().zip(now.0.to_be_bytes()) {
        *place = byte;
    }
    let client = NodeClient::new(vec![endpoint]).map_err(|error| error.to_string())?;
    client.work_generate(root, threshold).await.map(drop).map_err(|error| error.to_string())
}

/// Connects to every server of every upstream and asks it. If certificates are at fault, nobody is connected to.
pub(super) async fn upstreams(config: &Config, now: UnixSeconds) -> Vec<Checkup> {
    let tls = upstreams_tls(config).ok();
    let mut found = Vec::new();
    for (name, settings) in &config.upstreams {
        let upstream = tls
            .as_ref()
            .map(|it| Upstream::new(name.clone(), settings, it.get(name).cloned().unwrap_or_default()));
        for url in &settings.urls {
            let socket = settings.socket.as_deref();
            let upstream = upstream.as_ref().map(|it| (it, settings));
            found.push(server(&format!("upstream {name}"), url, socket, upstream, now).await);
        }
    }
    found
}

const LOOK_INTO_ITS_LOG: &str = "look into its log";

/// An answer over TLS is as good as the certificate behind it will be.
async fn judge_certificate(
    told: String,
    address: std::net::SocketAddr,
    url: &UpstreamUrl,
    settings: &UpstreamConfig,
    now: UnixSeconds,
) -> Reached {
    let name = settings.server_name.as_deref().unwrap_or(&url.host);
    match certificates::of_server(address, name, settings.connect_timeout, now).await {
        Ok(Left::Long { days }) => {
            Reached::Answers(format!("{told}, with a certificate for {days} more days"))
        }
        Ok(Left::Little { days }) => Reached::Doubtful(
            format!("{told}; its certificate expires in {days} days"),
            "have the upstream's certificate renewed: nothing is sold there without",
        ),
        Err(why) => {
            Reached::Doubtful(format!("{told}; its certificate was not seen: {why}"), LOOK_INTO_ITS_LOG)
        }
    }
}

/// How one address of an upstream was found.
enum Reached {
    Answers(String),
    /// It answers, but there is something to do.
    Doubtful(String, &'static str),
    Not(String),
}

async fn server(
    what: &str,
    url: &UpstreamUrl,
    socket: Option<&Path>,
    upstream: Option<(&Upstream, &UpstreamConfig)>,
    now: UnixSeconds,
) -> Checkup {
    let host = &url.host;
    let advice = "start it, or correct the upstream's URL; nothing is sold there meanwhile";
    let addresses = match socket {
        Some(path) => of_socket(path).map(|it| vec![it]).map_err(|error| error.to_string()),
        None => resolved(host, url.port).await,
    };
    let addresses = match addresses {
        Ok(addresses) => addresses,
        Err(error) => return Checkup::broken(what, format!("{host}: {error}"), advice),
    };
    let Some((upstream, settings)) = upstream else {
        let listed: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        let detail = format!("{host}: {}; not connected to", listed.join(", "));
        return Checkup::warning(what, detail, "correct the certificates of upstreams first");
    };
    let reached = addresses.into_iter().map(async |address| {
        let inet = address.as_inet().copied().filter(|_| url.tls);
        match (reach(upstream, address, url).await, inet) {
            (Reached::Answers(told), Some(inet)) => judge_certificate(told, inet, url, settings, now).await,
            (other, _) => other,
        }
    });
    let reached = join_all(reached).await;
    let some_work = reached.iter().any(|it| !matches!(it, Reached::Not(_)));
    let all_work = reached.iter().all(|it| matches!(it, Reached::Answers(_)));
    let doubt = reached.iter().find_map(|it| match it {
        Reached::Doubtful(_, advice) => Some(*advice),
        Reached::Answers(_) | Reached::Not(_) => None,
    });
    let told = reached.into_iter().map(|it| match it {
        Reached::Answers(told) | Reached::Doubtful(told, _) | Reached::Not(told) => told,
    });
    let told = format!("{host}: {}", told.collect::<Vec<_>>().join("; "));
    match (some_work, all_work) {
        (true, true) => Checkup::ok(what, told),
        (true, false) => Checkup::warning(what, told, doubt.unwrap_or(LOOK_INTO_ITS_LOG)),
        (false, _) => Checkup::broken(what, told, advice),
    }
}

async fn reach(upstream: &Upstream, address: SocketAddr, url: &UpstreamUrl) -> Reached {
    if let Err(why) = upstream.reach(address.clone(), url).await {
        return Reached::Not(format!("{address} takes no connections: {why}"));
    }
    match upstream.ask(address.clone(), url).await {
        Ok(it) => {
            let told = format!("{address} answers {} to {}", it.status.as_u16(), it.asked);
            if it.is_health_check && it.status != StatusCode::OK {
                Reached::Not(format!("{told}, its health check"))
            } else if it.status.is_server_error() {
                Reached::Doubtful(told, LOOK_INTO_ITS_LOG)
            } else {
                Reached::Answers(told)
            }
        }
        Err(why) => Reached::Not(format!("{address} takes connections and does not answer: {why}")),
    }
}

/// The addresses of a host, at least one.
async fn resolved(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.map(SocketAddr::Inet).collect();
            if addresses.is_empty() { Err("no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", LOOK_UP_WITHIN.as_secs())),
    }
}
