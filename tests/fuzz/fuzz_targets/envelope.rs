//! The fuzz target `envelope`: see `src/envelope.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::envelope::run(data));
