//! SIP over UDP, TCP and TLS sockets.
