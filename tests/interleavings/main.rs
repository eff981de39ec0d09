//! The state that concurrent requests share, under a scheduler (`shuttle`) that decides at every lock and
//! every wait which task goes on: the meter of a capability, the settlements under way, the store's queue.
//!
//! The sources are the program's own, compiled here once more by their paths over another `sync`. Locks,
//! waits, spawning and time are the scheduler's. The caches and channels of other crates run as one step
//! between two of its decisions. More orders: `INTERLEAVINGS=100000 cargo test --release --test
//! interleavings`. A failing order is printed; `shuttle::replay` plays it again.
//!
//! Why by path, and not by a feature of the crate that replaces `sync`: the scheduler's locks panic outside
//! of an exploration, so a crate built with that feature could run no other test, every test run would
//! build the crate twice, and the private types under test would have to become public. Here they are the
//! same files. If a source starts to need something else, this test does not compile.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test fails by panicking"
)]

mod cashier;
mod store;
mod sync;

// Modules that the sources name.
use faregate::{clock, nano, payment, repeats, routes, shutdown};

/// Orders in an ordinary test run.
const ORDERS: usize = 300;

/// Tries the orders in which `story` can happen.
fn explore(story: impl Fn() + Send + Sync + 'static) {
    #[expect(clippy::disallowed_methods, reason = "a test's own argument")]
    let orders = std::env::var("INTERLEAVINGS").map_or(ORDERS, |it| it.parse().expect("INTERLEAVINGS"));
    let story = std::sync::Arc::new(story);
    let mut config = shuttle::Config::new();
    // SQLite is not frugal.
    config.stack_size = 1 << 19;
    let random = shuttle::scheduler::RandomScheduler::new(orders);
    let again = std::sync::Arc::clone(&story);
    shuttle::Runner::new(random, config.clone()).run(move || again());
    // Few changes of task, at the worst moments.
    let priorities = shuttle::scheduler::PctScheduler::new(3, orders);
    shuttle::Runner::new(priorities, config).run(move || story());
}
