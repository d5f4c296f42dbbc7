#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ferric_media::fuzz::rtp(std::time::Instant::now(), data));
