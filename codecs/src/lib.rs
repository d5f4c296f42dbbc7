//! Audio codecs, Ogg and signal levels: everything that touches samples.
