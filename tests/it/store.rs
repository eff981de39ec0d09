//! The durable store: one contract, held by the model and by every engine.

mod capabilities;
pub(crate) mod cluster;
mod conformance;
pub(crate) mod instances;
pub(crate) mod model;
mod deposits;
mod operator;
pub(crate) mod overtaken;
mod postgres;
mod processes;
mod refunds;
pub(crate) mod samples;
mod sequences;
pub(crate) mod server;
mod sqlite;
mod standbys;
mod together;
mod upgrade;
