//! Published test vectors (RFC 3711 B.2 and B.3, RFC 6188 7, RFC 7714 16).
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::cipher::Transform;
use super::keys::{apply, derive};
use super::{SrtpKey, SrtpSuite};

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn counter_mode_of_rfc_3711() {
    let key = hex("2B7E151628AED2A6ABF7158809CF4F3C");
    let iv: [u8; 16] = hex("F0F1F2F3F4F5F6F7F8F9FAFBFCFD0000").try_into().unwrap();
    let mut stream = vec![0; 48];
    apply(&key, &iv, &mut stream);
    assert_eq!(
        stream,
        hex("E03EAD0935C95E80E166B16DD92B4EB4 D23513162B02D0F72A43A2FE4A5F97AB 41E95B3BB0A2E8DD477901E4FCA894C0")
    );
}

#[test]
fn key_derivation_of_rfc_3711() {
    let master = hex("E1F97A0D3E018BE0D64FA32C06DE4139 0EC675AD498AFEEBB6960B3AABE6");
    let (rtp, _) = derive(SrtpSuite::AesCm128HmacSha1_80, &master).unwrap();
    assert_eq!(rtp.encryption, hex("C61E7A93744F39EE10734AFE3FF7A087"));
    assert_eq!(rtp.salt, hex("30CBBC08863D8C85D49DB34A9AE1"));
    assert_eq!(rtp.authentication, hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
}

#[test]
fn key_derivation_of_rfc_6188() {
    let master = hex("f0f04914b513f2763a1b1fa130f10e2998f6f6e43e4309d1e622a0e332b9f1b6 3b04803de51ee7c96423ab5b78d2");
    let (rtp, _) = derive(SrtpSuite::AesCm256HmacSha1_80, &master).unwrap();
    assert_eq!(rtp.encryption, hex("5ba1064e30ec51613cad926c5a28ef731ec7fb397f70a960653caf06554cd8c4"));
    assert_eq!(rtp.salt, hex("fa31791685ca444a9e07c6c64e93"));
    assert_eq!(rtp.authentication, hex("fd9c32d39ed5fbb5a9dc96b30818454d1313dc05"));
}

/// RFC 7714 gives session keys; AES-GCM itself is the library's. What is ours is the nonce, the associated data and
/// the order of the parts: seen here by a packet that was built by hand.
#[test]
fn aead_packets_have_the_layout_of_rfc_7714() {
    use aes_gcm::aead::{AeadInOut, KeyInit};
    let master = SrtpKey { key_salt: (0..28).collect(), mki: None };
    let (rtp, _) = derive(SrtpSuite::AeadAes128Gcm, &master.key_salt).unwrap();
    let mut packet = hex("8040f17b 8041f8d3 5501a0b2");
    packet.extend_from_slice(b"Gallia est omnis divisa in partes tres");
    let (rollover, sequence, ssrc) = (5_u64, 0xf17b_u64, 0x5501_a0b2_u32);
    let mut nonce = [0_u8; 12];
    nonce[2..6].copy_from_slice(&ssrc.to_be_bytes());
    nonce[6..12].copy_from_slice(&(rollover << 16 | sequence).to_be_bytes()[2..]);
    nonce.iter_mut().zip(&rtp.salt).for_each(|(byte, salt)| *byte ^= salt);
    let gcm = aes_gcm::Aes128Gcm::new_from_slice(&rtp.encryption).unwrap();
    let mut expected = packet.clone();
    let (aad, payload) = expected.split_at_mut(12);
    let tag = gcm.encrypt_inout_detached(&aes_gcm::Nonce::from(nonce), aad, payload.into()).unwrap();
    expected.extend_from_slice(&tag);
    let transform = Transform::new(SrtpSuite::AeadAes128Gcm, &master).unwrap();
    assert_eq!(transform.seal_rtp(&packet, rollover << 16 | sequence).unwrap(), expected);
}
