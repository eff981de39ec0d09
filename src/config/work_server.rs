//! The server that computes the work of payment blocks that have none.

use std::time::Duration;

use super::judge::{Judge, Judged, all};
use super::mirror::WorkServerFile;
use super::nodes::{NodeUrl, node_url};

/// A work server, and how much is asked of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct WorkMaker {
    /// Answers `work_generate`.
    pub server: NodeUrl,
    /// Computations at one time.
    pub at_once: u32,
    /// Requests that wait for one of these; one more is refused.
    pub waiting: u32,
    /// Computations that one client may cause a minute.
    pub per_client: u32,
}

/// Work for a send takes seconds on a good processor, and much less on a graphics card.
const TIMEOUT: Duration = Duration::from_secs(30);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
const AT_ONCE: u32 = 2;
const WAITING: u32 = 64;
const PER_CLIENT: u32 = 10;
const MOST: u32 = 100_000;

pub(super) fn work_server(judge: &mut Judge<'_>, file: WorkServerFile) -> Judged<WorkMaker> {
    let hint =
        "write `optional: { server: http://127.0.0.1:7076 }`: a node or server that answers `work_generate`";
    let server = judge.need_text(file.server, hint, node_url);
    let timeout = judge.duration(file.timeout, MIN_TIMEOUT..=MAX_TIMEOUT, TIMEOUT);
    all!(WorkMaker {
        server: server.and_then(|it| Ok(NodeUrl { timeout: timeout?, ..it })),
        at_once: judge.count(file.at_once, 1..=MOST, AT_ONCE),
        waiting: judge.count(file.waiting, 1..=MOST, WAITING),
        per_client: judge.count(file.per_client, 1..=MOST, PER_CLIENT),
    })
}
