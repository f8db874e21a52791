//! Text into the reader of config files.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trials::config(data));
