//! The durable store: one contract, held by the model and by every engine.

mod conformance;
mod model;
mod samples;
mod sequences;
mod sqlite;
