//! What is fuzzed: one function for each target, which takes any bytes and panics if a promise does not hold.
//!
//! The fuzzer calls them (`fuzz_targets`), and `tests/replay.rs` calls them with every file of the corpora.
//! Each has an oracle: a second implementation, written here or from another library, or a property of the
//! answer. See "Fuzzing" in `tests/README.md`.

pub mod block;
pub mod config;
pub mod envelope;
pub mod http_head;
pub mod mcp;
pub mod node_answer;
pub mod target;
pub mod token;
pub mod usage;
pub mod websocket;

mod json;

/// A function that takes any bytes.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: [(&str, Target); 10] = [
    ("block", block::run),
    ("config", config::run),
    ("envelope", envelope::run),
    ("http_head", http_head::run),
    ("mcp", mcp::run),
    ("node_answer", node_answer::run),
    ("target", target::run),
    ("token", token::run),
    ("usage", usage::run),
    ("websocket", websocket::run),
];
