//! Registrar and location service (RFC 3261 10), sans-IO.
