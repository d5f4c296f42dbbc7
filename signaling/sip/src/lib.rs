//! SIP messages, transactions, dialogs, SDP and SIPREC bodies, sans-IO.
