//! The fuzz target `http_head`: see `src/http_head.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::http_head::run(data));
