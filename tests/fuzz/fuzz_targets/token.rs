//! The fuzz target `token`: see `src/token.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::token::run(data));
