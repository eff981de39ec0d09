//! The fuzz target `mcp`: see `src/mcp.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::mcp::run(data));
