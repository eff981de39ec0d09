//! The fuzz target `websocket`: see `src/websocket.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::websocket::run(data));
