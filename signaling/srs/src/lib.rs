//! The session recording server, sans-IO.
