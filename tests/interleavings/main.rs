//! The places in which requests meet, under a scheduler (`shuttle`) that decides at every lock and
//! every wait who goes on: the meter of a capability, the settlements under way, the store's queue.
//!
//! The sources are the program's own, compiled here once more over another `sync`. Locks, waits,
//! spawning and time are the scheduler's; the caches and channels of other crates run between two of
//! its decisions as one step. More orders: `INTERLEAVINGS=100000 cargo test --release --test
//! interleavings`. A failing order is printed; `shuttle::replay` plays it again.
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

// What the sources name beside themselves.
use faregate::{clock, nano, payment, routes, shutdown};

/// Orders tried in an ordinary test run.
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
