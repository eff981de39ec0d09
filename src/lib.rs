//! Faregate: a reverse proxy that puts a price on any HTTP API.
//!
//! # The layers
//!
//! Each module names only modules above it in this list. `tests/it/tidy.rs` checks it.
//!
//! `vocabulary` is a macro for all of them, `letter_case` tells texts that differ in it.
//!
//! Pure modules, without clock, randomness, lock, socket or file:
//! * [`nano`]: the currency: amounts, accounts, blocks, signatures, work.
//! * [`money`]: prices in other currencies, and their exchange into raw, exactly.
//! * [`usage`]: what an answer used, and what that costs.
//! * [`routes`]: the price table: what a request costs.
//! * [`x402`]: the JSON objects and headers of the x402 protocol.
//! * [`payment`]: the rules for a payment, as types that follow one another.
//! * [`sweep`]: which blocks bring the money of a pool account home.
//!
//! Ports, which give access to the outside world:
//! * [`clock`], [`entropy`], [`shutdown`], [`repeats`], `outbound` and `sync`: time, randomness, the end of the
//!   process, log lines that would repeat, outgoing connections, synchronisation.
//! * [`rates`]: what currencies are worth in XNO, read from a file or a server.
//! * [`vault`]: keys and other secrets. [`ledger`]: the nodes of the Nano network.
//! * [`store`]: the journal of payments and capabilities. [`metrics`]: what is counted.
//!   [`access_log`]: a line for each request. [`traces`]: a span for each, for a collector.
//!
//! Drivers, which apply the rules:
//! * [`cashier`]: decides one request. [`admission`]: the use that an admitted request holds until its
//!   answer ends.
//! * [`sweeper`]: sends received money to the treasury. [`reconcile`]: compares the journal with the
//!   ledger.
//!
//! The edge, where clients, operators and configuration come in:
//! * [`listen`], [`config`], [`facilitator`], [`admin`], [`wallet`] and [`devnet`], a local ledger for
//!   development.
//! * [`acme`]: certificates from an authority.
//! * [`gateway`]: the proxy itself. Its documentation lists all steps of the path of a request.
//! * [`assemble`]: builds a gateway from its configuration. [`cli`]: the command line.
//!
//! The rules and their reasons are in the [`guide`].
//!
//! A program that only pays uses this crate with `default-features = false`: it gets [`wallet`] and the
//! modules that it needs, without Pingora and the stores.

#[macro_use]
mod vocabulary;

pub mod guide;

mod letter_case;
pub mod nano;
pub mod money;
pub mod usage;
pub mod routes;
pub mod x402;
pub mod payment;
pub mod sweep;

pub mod clock;
pub mod entropy;
pub mod shutdown;
mod outbound;
#[cfg(feature = "gateway")]
mod sync;
pub mod repeats;
#[cfg(feature = "gateway")]
pub mod rates;
pub mod vault;
pub mod ledger;
#[cfg(feature = "gateway")]
pub mod store;
#[cfg(feature = "gateway")]
pub mod metrics;
#[cfg(feature = "gateway")]
pub mod access_log;
#[cfg(feature = "gateway")]
pub mod traces;

#[cfg(feature = "gateway")]
pub mod cashier;
#[cfg(feature = "gateway")]
pub mod admission;
#[cfg(feature = "gateway")]
pub mod sweeper;
#[cfg(feature = "gateway")]
pub mod refunder;
#[cfg(feature = "gateway")]
pub mod reconcile;

#[cfg(feature = "gateway")]
pub mod listen;
#[cfg(feature = "gateway")]
pub mod config;
#[cfg(feature = "gateway")]
pub mod acme;
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
