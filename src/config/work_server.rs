//! Who makes the work of a payment's block that comes without.

use std::time::Duration;

use serde_yaml::Value;

use super::judge::Judge;
use super::mirror::{Piece, WorkServerFile};
use super::nodes::{NodeUrl, node_url};
use crate::ledger::node::is_near;

/// A work server, and how much is asked of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkMaker {
    /// Where it answers `work_generate`.
    pub server: NodeUrl,
    /// Computations at one time.
    pub at_once: u32,
    /// Requests that wait for one of these; one more is turned away.
    pub waiting: u32,
    /// Computations that one client may cause a minute.
    pub per_client: u32,
}

const PATH: &str = "nano.work.optional";

/// Work for a send takes seconds on a good processor, and much less on a graphics card.
const TIMEOUT: Duration = Duration::from_secs(30);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const AT_ONCE: u32 = 2;
const WAITING: u32 = 64;
const PER_CLIENT: u32 = 10;
const MOST: u32 = 100_000;

/// Nothing where clients have to bring their work; the outer nothing is a fault.
pub(super) fn optional(judge: &mut Judge<'_>, piece: Piece<Value>) -> Option<Option<WorkMaker>> {
    if !piece.is_given() {
        return Some(None);
    }
    let hint =
        "write `optional: { server: http://127.0.0.1:7076 }`: a node or server that answers `work_generate`";
    let file: WorkServerFile = judge.section(PATH, piece)?;
    let text = judge.need(PATH, "server", file.server, hint);
    let timeout =
        judge.duration("nano.work.optional.timeout", file.timeout, MIN_TIMEOUT..=MAX_TIMEOUT, TIMEOUT);
    let at_once = judge.count("nano.work.optional.at_once", file.at_once, 1..=MOST, AT_ONCE);
    let waiting = judge.count("nano.work.optional.waiting", file.waiting, 1..=MOST, WAITING);
    let per_client = judge.count("nano.work.optional.per_client", file.per_client, 1..=MOST, PER_CLIENT);
    let (url, parameters) = judge.read("nano.work.optional.server", &text?, hint, node_url)?;
    let trusted = is_near(&url);
    Some(Some(WorkMaker {
        server: NodeUrl { url, parameters, timeout: timeout?, trusted },
        at_once: at_once?,
        waiting: waiting?,
        per_client: per_client?,
    }))
}
