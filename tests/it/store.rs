//! The durable store: one contract, held by the model and by every engine.

mod conformance;
pub(crate) mod model;
mod samples;
mod sequences;
mod sqlite;
