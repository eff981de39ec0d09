//! The integration tests: one binary, a module per feature, real sockets on free ports.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "a test fails by panicking"
)]

mod access_log;
mod admin;
mod attacks;
mod cli;
mod config;
mod crash_points;
mod derived;
mod devnet;
mod dialects;
mod drafts;
mod discovery;
mod disk_full;
mod doctor;
mod documents;
mod exchange;
mod facilitator;
mod floods;
mod grpc;
mod kills;
mod listen;
mod listening;
mod live;
mod logs;
mod mcp;
mod metrics;
mod money;
mod nano;
mod nano_session;
mod network;
mod node;
mod patience;
mod pay;
mod payment;
mod payment_identifier;
mod payments;
mod power_cut;
mod program;
mod proxies;
mod proxy;
mod rates;
mod refunds;
mod renamed;
mod repeats;
mod purse;
mod request_id;
mod rig;
mod routes;
mod rules;
mod scripted;
mod serve;
mod simulation;
mod sloppy;
mod store;
mod sweep;
mod tidy;
mod tools;
mod traces;
mod translation;
mod upstream_down;
mod upstream_http2;
mod upstream_timeouts;
mod upstream_tls;
mod upstreams;
mod usage;
mod vault;
mod wallet;
mod work;
mod x402;
