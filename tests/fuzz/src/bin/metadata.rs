#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| ferric_sip::fuzz::metadata(data));
