//! The figures that a plan rests on. Change one here, and every line that uses it says so.

/// Calls that a core of a worker is planned for: half of the 807 that were measured, because two threads of one
/// core are no two cores, uploads and searches go on beside, and nobody plans a machine full.
pub const CALLS_PER_CORE: u64 = 400;
/// Ports of a call: RTP and RTCP of two streams.
pub const PORTS_PER_CALL: u64 = 4;
/// Ports in the default `[capture] rtp_ports`, 39500-43500.
pub const RTP_PORTS: u64 = 4_001;
/// New calls a second that a core of a SIP node is planned for: about half of what 5.3 ms a call leave room for, which is
/// what setting up, closing and storing a call cost on a node that does everything (measured).
pub const SETUPS_PER_CORE: u64 = 100;
/// RTP packets a second of one stream with frames of 20 ms.
pub const PACKETS_PER_SECOND: u64 = 50;
/// Streams of a call: the two parties.
pub const STREAMS_PER_CALL: u64 = 2;
/// Ethernet (18), IPv4 (20), UDP (8) and RTP (12) around each payload, bytes.
pub const RTP_OVERHEAD: u64 = 58;
/// What the fabric adds to a mirrored packet: 9 to 15 bytes, and a fifth of the 120 around a frame of five (its own header, QUIC,
/// UDP, IPv4 and Ethernet).
pub const MIRROR_OVERHEAD: u64 = 40;
/// A sealed conversation with `[opus] bitrate = 20000`, bit/s: silence costs next to nothing, so it is less than two such streams (measured).
pub const SEALED_BITS_PER_SECOND: u64 = 17_000;
/// `metadata.ejson` and `manifest.json` of a recording, bytes (measured).
pub const DOCUMENTS_BYTES: u64 = 6_000;
/// Free share of a worker's disk past which it takes no calls (`[upload] spool_high_water = "90%"`).
pub const SPOOL_FILL_PERCENT: u64 = 90;
/// Memory of a node without calls, bytes (measured: 35 MiB).
pub const NODE_BYTES: u64 = 35 << 20;
/// Memory of a recorded call in the process, bytes (measured: 103 KiB).
pub const CALL_BYTES: u64 = 103 << 10;
/// Most that the kernel holds for the sockets of a call while a worker is slow for a second: 100 packets of 1.25 KiB.
pub const SOCKET_BYTES: u64 = 125 << 10;
/// What the source of a mirror keeps to send again: two seconds of two streams, bytes.
pub const MIRROR_RING_BYTES: u64 = 50 << 10;
/// Memory of a call in a SIP node: its dialog, its metadata, its lingering transactions, and what a partner holds of it; a generous guess, bytes.
pub const SESSION_BYTES: u64 = 64 << 10;
/// Memory of a registration, bytes (measured: 1.4 KiB).
pub const REGISTRATION_BYTES: u64 = 1_434;
/// A recording in a PostgreSQL catalogue with its indexes, bytes (measured).
pub const CATALOG_ROW_BYTES: u64 = 2_000;
/// Writes to the catalogue for each recording (measured: about five).
pub const CATALOG_WRITES: u64 = 5;
/// NATS servers: the smallest number of which one may be lost.
pub const NATS_SERVERS: u64 = 3;
