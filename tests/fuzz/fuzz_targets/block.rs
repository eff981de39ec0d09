//! The fuzz target `block`: see `src/block.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::block::run(data));
