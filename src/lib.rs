//! Faregate: a reverse proxy that puts a price on any HTTP API.
//!
//! The layers, a module each; a module names only those above it (`tests/it/tidy.rs` holds it).
//!
//! Pure, without clock, randomness, lock, socket or file:
//! * [`nano`]: the currency. [`x402`]: the envelopes on the wire. [`routes`]: the price table.
//!   [`payment`]: the rules, stage by stage. [`sweep`]: which blocks empty a pool account.
//!
//! Ports, where the outside world comes in:
//! * [`clock`], [`entropy`], [`shutdown`], [`outbound`], [`sync`], [`vault`], [`ledger`], [`store`], [`metrics`].
//!
//! Drivers:
//! * [`cashier`]: decides one request by the rules. [`admission`]: the use it holds, until its answer
//!   ends. [`sweeper`]: brings the money home. [`reconcile`]: compares the journal with the ledger.
//!
//! Edge:
//! * [`listen`], [`config`], [`gateway`] (with the list of a request's path), [`facilitator`], [`admin`],
//!   [`wallet`], [`devnet`], [`assemble`], [`cli`].
//!
//! The rules and their reasons are in the [`guide`].
//!
//! A program that only pays takes this crate with `default-features = false`: [`wallet`] and what it
//! stands on, without Pingora and the stores.

pub mod guide;

pub mod nano;
pub mod x402;
pub mod routes;
pub mod payment;
pub mod sweep;

pub mod clock;
pub mod entropy;
pub mod shutdown;
mod outbound;
#[cfg(feature = "gateway")]
mod sync;
pub mod vault;
pub mod ledger;
#[cfg(feature = "gateway")]
pub mod store;
#[cfg(feature = "gateway")]
pub mod metrics;

#[cfg(feature = "gateway")]
pub mod cashier;
#[cfg(feature = "gateway")]
pub mod admission;
#[cfg(feature = "gateway")]
pub mod sweeper;
#[cfg(feature = "gateway")]
pub mod reconcile;

#[cfg(feature = "gateway")]
pub mod listen;
#[cfg(feature = "gateway")]
pub mod config;
#[cfg(feature = "gateway")]
pub mod gateway;
#[cfg(feature = "gateway")]
pub mod facilitator;
#[cfg(feature = "gateway")]
pub mod admin;
pub mod wallet;
#[cfg(feature = "gateway")]
pub mod devnet;
#[cfg(feature = "gateway")]
pub mod assemble;
#[cfg(feature = "gateway")]
pub mod cli;

/// README's Rust examples are compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
