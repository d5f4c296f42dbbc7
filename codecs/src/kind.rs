//! The codecs of a call: their names in SDP, their fixed payload types, their clocks
//! (RFC 3551 6, RFC 3389, RFC 7587).

use crate::amr;

/// The audio codecs that we store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CodecKind {
    /// G.711 mu-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// G.722 at 64 kbit/s.
    G722,
    /// Linear 16-bit PCM in network order.
    L16 {
        /// Sampling rate in Hz.
        rate: u32,
        /// 1 or 2.
        channels: u8,
    },
    /// Opus.
    Opus,
    /// G.729 with Annexes A and B.
    G729,
    /// GSM 06.10 full rate.
    Gsm,
    /// G.726 ADPCM.
    G726 {
        /// Bits a sample, 2 to 5: 16 to 40 kbit/s.
        bits: u8,
        /// Packed as in ATM AAL2.
        aal2: bool,
    },
    /// iLBC.
    Ilbc {
        /// The agreed length of a frame: 20 or 30.
        frame_ms: u8,
    },
    /// AMR, where the system has the library.
    Amr {
        /// `octet-align=1` was agreed, else bandwidth-efficient.
        octet_aligned: bool,
    },
    /// AMR-WB, where the system has the library.
    AmrWb {
        /// `octet-align=1` was agreed, else bandwidth-efficient.
        octet_aligned: bool,
    },
    /// Comfort noise (RFC 3389).
    ComfortNoise,
}

impl CodecKind {
    /// From the fields of `a=rtpmap` and the parameters of `a=fmtp`; `None` for what we cannot decode.
    pub fn from_sdp(name: &str, clock_rate: u32, channels: u8, fmtp: Option<&str>) -> Option<CodecKind> {
        let kind = CodecKind::from_rtpmap(name, clock_rate, channels)?;
        if let CodecKind::Ilbc { .. } = kind {
            // RFC 3952 5: 30 ms unless `mode=20` is said.
            let mode = fmtp.unwrap_or_default().split([';', ' ', ',']).find_map(|parameter| {
                let (key, value) = parameter.split_once('=')?;
                key.trim().eq_ignore_ascii_case("mode").then_some(value.trim())
            });
            return Some(CodecKind::Ilbc { frame_ms: if mode == Some("20") { 20 } else { 30 } });
        }
        match kind {
            CodecKind::Amr { .. } => Some(CodecKind::Amr { octet_aligned: amr_octet_aligned(fmtp)? }),
            CodecKind::AmrWb { .. } => Some(CodecKind::AmrWb { octet_aligned: amr_octet_aligned(fmtp)? }),
            CodecKind::Pcmu
            | CodecKind::Pcma
            | CodecKind::G722
            | CodecKind::L16 { .. }
            | CodecKind::Opus
            | CodecKind::G729
            | CodecKind::Gsm
            | CodecKind::G726 { .. }
            | CodecKind::Ilbc { .. }
            | CodecKind::ComfortNoise => Some(kind),
        }
    }

    /// From the fields of `a=rtpmap` alone; `None` for what we cannot decode.
    pub fn from_rtpmap(name: &str, clock_rate: u32, channels: u8) -> Option<CodecKind> {
        let name = name.to_ascii_uppercase();
        match (name.as_str(), clock_rate, channels.max(1)) {
            ("PCMU", 8_000, 1) => Some(CodecKind::Pcmu),
            ("PCMA", 8_000, 1) => Some(CodecKind::Pcma),
            // Some write the true 16000; both mean the same bytes.
            ("G722", 8_000 | 16_000, 1) => Some(CodecKind::G722),
            ("L16", 8_000 | 11_025 | 16_000 | 22_050 | 24_000 | 32_000 | 44_100 | 48_000, channels @ 1..=2) => {
                Some(CodecKind::L16 { rate: clock_rate, channels })
            }
            ("OPUS", 48_000, 1..=2) => Some(CodecKind::Opus),
            ("CN", _, 1) => Some(CodecKind::ComfortNoise),
            ("G729" | "G729A" | "G729B" | "G729AB", 8_000, 1) => Some(CodecKind::G729),
            ("GSM", 8_000, 1) => Some(CodecKind::Gsm),
            ("ILBC", 8_000, 1) => Some(CodecKind::Ilbc { frame_ms: 30 }),
            ("AMR", 8_000, 1) if amr::is_available(false) => Some(CodecKind::Amr { octet_aligned: false }),
            ("AMR-WB", 16_000, 1) if amr::is_available(true) => Some(CodecKind::AmrWb { octet_aligned: false }),
            ("G721", 8_000, 1) => Some(CodecKind::G726 { bits: 4, aal2: false }),
            (name, 8_000, 1) => {
                let (name, aal2) = name.strip_prefix("AAL2-").map_or((name, false), |name| (name, true));
                let bits = match name {
                    "G726-16" => 2,
                    "G726-24" => 3,
                    "G726-32" => 4,
                    "G726-40" => 5,
                    _ => return None,
                };
                Some(CodecKind::G726 { bits, aal2 })
            }
            _ => None,
        }
    }

    /// CPU that decoding a second costs, G.711 being 1.
    pub fn decode_cost(self) -> u32 {
        match self {
            CodecKind::Pcmu | CodecKind::Pcma | CodecKind::L16 { .. } | CodecKind::ComfortNoise => 1,
            CodecKind::G722 | CodecKind::Gsm => 5,
            CodecKind::G726 { .. } => 10,
            CodecKind::Opus => 15,
            CodecKind::Amr { .. } => 35,
            CodecKind::G729 => 40,
            CodecKind::Ilbc { .. } | CodecKind::AmrWb { .. } => 60,
        }
    }

    /// A payload type with a fixed meaning (RFC 3551 6; 19 is an old comfort noise).
    pub fn static_payload_type(payload_type: u8) -> Option<CodecKind> {
        match payload_type {
            0 => Some(CodecKind::Pcmu),
            2 => Some(CodecKind::G726 { bits: 4, aal2: false }),
            3 => Some(CodecKind::Gsm),
            8 => Some(CodecKind::Pcma),
            9 => Some(CodecKind::G722),
            10 => Some(CodecKind::L16 { rate: 44_100, channels: 2 }),
            11 => Some(CodecKind::L16 { rate: 44_100, channels: 1 }),
            13 | 19 => Some(CodecKind::ComfortNoise),
            18 => Some(CodecKind::G729),
            _ => None,
        }
    }

    /// The encoding name of the registry.
    pub fn name(self) -> &'static str {
        match self {
            CodecKind::Pcmu => "PCMU",
            CodecKind::Pcma => "PCMA",
            CodecKind::G722 => "G722",
            CodecKind::L16 { .. } => "L16",
            CodecKind::Opus => "opus",
            CodecKind::ComfortNoise => "CN",
            CodecKind::G729 => "G729",
            CodecKind::Gsm => "GSM",
            CodecKind::Ilbc { .. } => "iLBC",
            CodecKind::Amr { .. } => "AMR",
            CodecKind::AmrWb { .. } => "AMR-WB",
            CodecKind::G726 { bits, aal2 } => match (bits, aal2) {
                (2, false) => "G726-16",
                (3, false) => "G726-24",
                (4, false) => "G726-32",
                (_, false) => "G726-40",
                (2, true) => "AAL2-G726-16",
                (3, true) => "AAL2-G726-24",
                (4, true) => "AAL2-G726-32",
                (_, true) => "AAL2-G726-40",
            },
        }
    }

    /// Ticks of the RTP timestamp per second.
    pub fn rtp_clock_rate(self) -> u32 {
        match self {
            CodecKind::Pcmu
            | CodecKind::Pcma
            | CodecKind::G722
            | CodecKind::ComfortNoise
            | CodecKind::G729
            | CodecKind::Gsm
            | CodecKind::G726 { .. }
            | CodecKind::Ilbc { .. }
            | CodecKind::Amr { .. } => 8_000,
            CodecKind::AmrWb { .. } => 16_000,
            CodecKind::L16 { rate, .. } => rate,
            CodecKind::Opus => 48_000,
        }
    }

    /// Samples per second that its decoder gives, in Hz.
    pub fn audio_rate(self) -> u32 {
        match self {
            CodecKind::Pcmu
            | CodecKind::Pcma
            | CodecKind::ComfortNoise
            | CodecKind::G729
            | CodecKind::Gsm
            | CodecKind::G726 { .. }
            | CodecKind::Ilbc { .. }
            | CodecKind::Amr { .. } => 8_000,
            CodecKind::G722 | CodecKind::Opus | CodecKind::AmrWb { .. } => 16_000,
            CodecKind::L16 { rate, .. } => rate,
        }
    }

    /// True when it carries more than the telephone band.
    pub fn is_wideband(self) -> bool {
        self.audio_rate() > 8_000
    }
}

/// Whether `octet-align=1` is said; `None` for a payload that we do not read: with CRC, robust sorting or interleaving
/// (RFC 4867 8).
fn amr_octet_aligned(fmtp: Option<&str>) -> Option<bool> {
    let mut aligned = false;
    for parameter in fmtp.unwrap_or_default().replace(" =", "=").replace("= ", "=").split([';', ' ', ',']) {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (key.trim().to_ascii_lowercase().as_str(), value.trim()) {
            ("octet-align", value) => aligned = value == "1",
            ("crc" | "robust-sorting", "1") | ("interleaving", _) => return None,
            _ => {}
        }
    }
    Some(aligned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_in_any_case_and_unknown_ones_do_not() {
        assert_eq!(CodecKind::from_rtpmap("pcmu", 8_000, 1), Some(CodecKind::Pcmu));
        assert_eq!(CodecKind::from_rtpmap("Opus", 48_000, 2), Some(CodecKind::Opus));
        assert_eq!(CodecKind::from_rtpmap("G722", 8_000, 1).map(CodecKind::audio_rate), Some(16_000));
        assert_eq!(CodecKind::from_rtpmap("L16", 16_000, 1), Some(CodecKind::L16 { rate: 16_000, channels: 1 }));
        assert_eq!(CodecKind::from_rtpmap("EVS", 16_000, 1), None);
        assert_eq!(CodecKind::from_rtpmap("PCMU", 16_000, 1), None);
        assert_eq!(CodecKind::static_payload_type(18), Some(CodecKind::G729));
        assert_eq!(CodecKind::from_rtpmap("AAL2-G726-32", 8_000, 1), Some(CodecKind::G726 { bits: 4, aal2: true }));
        assert_eq!(CodecKind::from_rtpmap("AMR", 16_000, 1), None);
        assert_eq!(CodecKind::from_rtpmap("iLBC", 16_000, 1), None);
    }

    #[test]
    fn ilbc_has_30_ms_unless_20_are_agreed() {
        let of = |name, fmtp| CodecKind::from_sdp(name, 8_000, 1, fmtp);
        assert_eq!(CodecKind::from_rtpmap("iLBC", 8_000, 1), Some(CodecKind::Ilbc { frame_ms: 30 }));
        for (fmtp, frame_ms) in [
            (None, 30),
            (Some(""), 30),
            (Some("mode=20"), 20),
            (Some("mode=30"), 30),
            (Some("x=1; Mode = 20"), 30),
            (Some("x=1; MODE=20"), 20),
            (Some("mode=200"), 30),
        ] {
            assert_eq!(of("ilbc", fmtp), Some(CodecKind::Ilbc { frame_ms }), "{fmtp:?}");
        }
        assert_eq!(of("ILBC", Some("mode=20")).map(CodecKind::name), Some("iLBC"));
        assert_eq!(of("PCMA", Some("mode=20")), Some(CodecKind::Pcma));
        assert_eq!(of("AMR-WB", None), None);
    }

    #[test]
    fn amr_is_there_with_its_library_and_in_two_packings() {
        for (name, rate, wideband) in [("amr", 8_000, false), ("AMR", 8_000, false), ("Amr-Wb", 16_000, true)] {
            let of = |fmtp| CodecKind::from_sdp(name, rate, 1, fmtp);
            if !amr::is_available(wideband) {
                println!("no library for {name} here: it is refused");
                assert!([None, Some("octet-align=1")].into_iter().all(|fmtp| of(fmtp).is_none()));
                continue;
            }
            let kind = |octet_aligned| match wideband {
                true => Some(CodecKind::AmrWb { octet_aligned }),
                false => Some(CodecKind::Amr { octet_aligned }),
            };
            assert_eq!(CodecKind::from_rtpmap(name, rate, 1), kind(false));
            for fmtp in [None, Some(""), Some("octet-align=0"), Some("mode-set=0,2,4,7; crc=0;robust-sorting=0")] {
                assert_eq!(of(fmtp), kind(false), "{fmtp:?}");
            }
            for fmtp in [
                "octet-align=1",
                "mode-set=7;Octet-Align=1; max-red=0",
                "octet-align = 1",
                "mode-set=1,2 octet-align=1",
            ] {
                assert_eq!(of(Some(fmtp)), kind(true), "{fmtp}");
            }
            for fmtp in ["crc=1", "octet-align=1; robust-sorting=1", "octet-align=1;interleaving=30", "CRC=1"] {
                assert_eq!(of(Some(fmtp)), None, "{fmtp}");
            }
            assert_eq!(CodecKind::from_sdp(name, rate, 2, None), None);
            let kind = of(None).unwrap();
            assert_eq!((kind.rtp_clock_rate(), kind.audio_rate(), kind.is_wideband()), (rate, rate, wideband));
            assert!(kind.name().eq_ignore_ascii_case(name));
        }
    }

    #[test]
    fn fixed_payload_types_and_clocks_are_those_of_the_registry() {
        let of = |payload_type| {
            CodecKind::static_payload_type(payload_type)
                .map(|kind| (kind.name(), kind.rtp_clock_rate(), kind.audio_rate()))
        };
        assert_eq!(of(0), Some(("PCMU", 8_000, 8_000)));
        assert_eq!(of(8), Some(("PCMA", 8_000, 8_000)));
        assert_eq!(of(9), Some(("G722", 8_000, 16_000)));
        assert_eq!(CodecKind::static_payload_type(10), Some(CodecKind::L16 { rate: 44_100, channels: 2 }));
        assert_eq!(CodecKind::static_payload_type(11), Some(CodecKind::L16 { rate: 44_100, channels: 1 }));
        assert_eq!(of(13), Some(("CN", 8_000, 8_000)));
        for payload_type in [4, 34, 96, 127] {
            assert_eq!(of(payload_type), None);
        }
        assert!(CodecKind::Opus.is_wideband() && !CodecKind::Pcma.is_wideband());
    }
}
