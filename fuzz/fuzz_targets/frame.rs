//! Frames into the engine.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| trials::frame(data));
