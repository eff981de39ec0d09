//! The durable store: one contract, held by the model and by every engine.

mod capabilities;
mod cluster;
mod conformance;
mod instances;
pub(crate) mod model;
mod pool;
mod postgres;
pub(crate) mod samples;
mod sequences;
mod sqlite;
