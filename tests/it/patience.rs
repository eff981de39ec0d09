//! How long a test waits. Every wait has a limit, and a test that reaches it says what it waited for.

use std::time::Duration;

use reqwest::{Client, ClientBuilder};

/// The longest that a test waits for something that takes milliseconds on a quiet machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Between two looks at something that cannot be awaited.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits for `work`, for [`PATIENCE`] at most. `what` stands in the message of a test that waited in vain.
pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    within(PATIENCE, what, work).await
}

/// Waits for `work`, for `limit` at most.
pub(crate) async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(limit, work).await;
    result.unwrap_or_else(|_| panic!("waited {limit:?} in vain: {what}"))
}

/// Looks again and again until `is_so`, for [`PATIENCE`] at most.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    wait_for(what, async || is_so().await.then_some(())).await;
}

/// Looks again and again until `look` finds something, for [`PATIENCE`] at most.
pub(crate) async fn wait_for<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    soon(what, found).await
}

/// An HTTP client for the loopback whose requests have a limit too. reqwest is built without a
/// cryptography of its own, so the one to use is installed; an error says that an earlier call did it.
pub(crate) fn http_client() -> ClientBuilder {
    drop(rustls::crypto::ring::default_provider().install_default());
    Client::builder().no_proxy().timeout(PATIENCE + PATIENCE)
}

/// A wait without a limit hangs the whole run and says nothing. The simulation has a clock of its own,
/// and the attacks on paths wait for silence; all others wait by the helpers above.
#[test]
fn every_other_test_waits_by_these_helpers() {
    let own = [
        "patience.rs",
        "simulation.rs",
        "people.rs",
        "names.rs",
        "strangers.rs",
        "paths.rs",
        "upstreams.rs",
        "http2.rs",
    ];
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"))];
    let mut looked_at = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            for way in ["time::timeout(", "Client::builder()", "Client::new()"] {
                assert!(own.contains(&name) || !text.contains(way), "{}: `{way}`", path.display());
            }
            looked_at += 1;
        }
    }
    assert!(looked_at > 80, "the tests were not found");
}
