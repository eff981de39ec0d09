//! The fuzz target `config`: see `src/config.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::config::run(data));
