//! The fuzz target `target`: see `src/target.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::target::run(data));
