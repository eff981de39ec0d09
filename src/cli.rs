//! (to come)

pub mod devnet;
