//! The fuzz target `usage`: see `src/usage.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::usage::run(data));
