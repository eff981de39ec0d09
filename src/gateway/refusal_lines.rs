//! How many lines of the access log a client gets by being turned away: strangers decide how often that is.

use std::time::Duration;

use super::turns::{Pace, Turns};
use crate::cashier::Client;
use crate::repeats::Repeats;

/// Ten lines a second, and a hundred at once after a pause.
const PACE: Pace =
    Pace { each: Duration::from_millis(100), saved: Duration::from_secs(10), longest_wait: Duration::ZERO };
/// Clients whose lines are counted at once, and how long without a line. Beyond, the oldest begin again.
const CLIENTS: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// Counts the lines of requests that were turned away and whose payment, if they had one, serves nothing.
#[derive(Debug)]
pub(super) struct RefusalLines {
    turns: Turns<Option<Client>>,
    left_out: Repeats,
}

impl RefusalLines {
    pub(super) fn new() -> Self {
        Self { turns: Turns::new(CLIENTS, FORGOTTEN_AFTER), left_out: Repeats::new() }
    }

    /// Whether one more request of `client` has a line. If not, the other log says so now and then.
    pub(super) fn has_one_more(&self, client: Option<Client>) -> bool {
        let has = self.turns.take(client, PACE).is_ok();
        if !has && let Some(held_back) = self.left_out.again() {
            let client = client.map(|it| it.network().to_string());
            tracing::warn!(
                client,
                held_back,
                "a client is turned away more often than the access log says: lines are left out"
            );
        }
        has
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn each_client_has_its_own_lines_and_then_none() {
        let lines = RefusalLines::new();
        let client = |last| Some(Client::at(IpAddr::from([192, 0, 2, last])));
        let taken = (0..10_000).filter(|_| lines.has_one_more(client(1))).count();
        assert!((101..10_000).contains(&taken), "{taken}");
        assert!(lines.has_one_more(client(2)) && lines.has_one_more(None));
    }
}
