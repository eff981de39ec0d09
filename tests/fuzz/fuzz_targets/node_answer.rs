//! The fuzz target `node_answer`: see `src/node_answer.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| faregate_fuzz::node_answer::run(data));
