//! (to come)

pub mod pay;
