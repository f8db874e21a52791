//! Bytes into the reader of state files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trials::state(data));
