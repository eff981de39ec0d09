//! Faregate: a reverse proxy that puts a price on any HTTP API.
//!
//! The layers, a module each; a module names only those above it (`tests/it/tidy.rs` holds it).
//!
//! Pure, without clock, randomness, lock, socket or file:
//! * [`nano`]: the currency. [`x402`]: the envelopes on the wire. [`routes`]: the price table.
//!   [`payment`]: the rules, stage by stage. [`sweep`]: which blocks empty a pool account.
//!
//! Ports, where the outside world comes in:
//! * [`clock`], [`entropy`], [`shutdown`], [`sync`], [`vault`], [`ledger`], [`store`], [`metrics`].
//!
//! Drivers:
//! * [`cashier`]: carries one request through the rules. [`sweeper`]: brings the money home.
//!   [`reconcile`]: holds the journal against the ledger.
//!
//! Edge:
//! * [`listen`], [`config`], [`gateway`], [`facilitator`], [`admin`], [`wallet`], [`devnet`], [`assemble`], [`cli`].

pub mod nano;
pub mod x402;
pub mod routes;
pub mod payment;
pub mod sweep;

pub mod clock;
pub mod entropy;
pub mod shutdown;
mod sync;
pub mod vault;
pub mod ledger;
pub mod store;
pub mod metrics;

pub mod cashier;
pub mod sweeper;
pub mod reconcile;

pub mod listen;
pub mod config;
pub mod gateway;
pub mod facilitator;
pub mod admin;
pub mod wallet;
pub mod devnet;
pub mod assemble;
pub mod cli;
