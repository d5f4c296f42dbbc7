//! Capture shards, spool, upload and catalogue.
