//! The decoders of OpenCORE (Apache-2.0), out of the system's shared libraries: Debian's `libopencore-amrnb0` and
//! `libopencore-amrwb0`.
//!
//! Each library is looked for once, at the first question, and stays loaded. It is not linked: where it is missing the
//! program runs as ever and the codec is not offered. The calls are those of its `interf_dec.h` and `dec_if.h`, which have
//! not changed since 2009.
//!
//! All of the crate's `unsafe` is here. What it relies on: the signatures below; frames of the right form, which
//! [`Frame`] warrants; room for a whole frame of samples, which the types warrant.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fmt;
use std::ptr::NonNull;
use std::sync::OnceLock;

use libloading::Library;

use super::payload::{Content, Frame};

/// Samples of the longest frame: 20 ms at 16 kHz.
const FRAME_MOST: usize = 320;

type Init = unsafe extern "C" fn() -> *mut c_void;
type Decode = unsafe extern "C" fn(*mut c_void, *const u8, *mut i16, c_int);
type Exit = unsafe extern "C" fn(*mut c_void);

/// File and symbols.
struct Names {
    file: &'static str,
    init: &'static [u8],
    decode: &'static [u8],
    exit: &'static [u8],
}

const NARROW: Names = Names {
    file: "libopencore-amrnb.so.0",
    init: b"Decoder_Interface_init\0",
    decode: b"Decoder_Interface_Decode\0",
    exit: b"Decoder_Interface_exit\0",
};
const WIDE: Names =
    Names { file: "libopencore-amrwb.so.0", init: b"D_IF_init\0", decode: b"D_IF_decode\0", exit: b"D_IF_exit\0" };

/// The calls of a library that is loaded.
struct Calls {
    init: Init,
    decode: Decode,
    exit: Exit,
    /// Held so that the calls stay where they are.
    _library: Library,
}

impl Calls {
    fn load(names: &Names) -> Option<Calls> {
        // SAFETY: the system's own library; its initialisers are those of the C++ runtime and have no conditions.
        let library = unsafe { Library::new(names.file) }.ok()?;
        // SAFETY: the three functions have these signatures in every release with this soname. The copies of the pointers
        // are used only while `_library` lives, which is as long as the program.
        unsafe {
            let init = *library.get::<Init>(names.init).ok()?;
            let decode = *library.get::<Decode>(names.decode).ok()?;
            let exit = *library.get::<Exit>(names.exit).ok()?;
            Some(Calls { init, decode, exit, _library: library })
        }
    }
}

/// The library of AMR-WB or of AMR, if the system has it.
fn calls(wideband: bool) -> Option<&'static Calls> {
    static LOADED: [OnceLock<Option<Calls>>; 2] = [OnceLock::new(), OnceLock::new()];
    let (slot, names) = if wideband { (&LOADED[1], &WIDE) } else { (&LOADED[0], &NARROW) };
    slot.get_or_init(|| Calls::load(names)).as_ref()
}

/// Whether the system has the library of AMR-WB, or of AMR.
pub fn is_available(wideband: bool) -> bool {
    calls(wideband).is_some()
}

/// A decoder of the library.
pub(super) struct Decoder {
    state: NonNull<c_void>,
    calls: &'static Calls,
    wideband: bool,
}

// SAFETY: the state is memory of its own, without ties to a thread; calls on it need `&mut`, so one at a time.
unsafe impl Send for Decoder {}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("amr::library::Decoder").field("wideband", &self.wideband).finish_non_exhaustive()
    }
}

impl Decoder {
    /// `None` without the library, or without memory.
    pub(super) fn new(wideband: bool) -> Option<Decoder> {
        let calls = calls(wideband)?;
        // SAFETY: no conditions; null when memory is short.
        let state = NonNull::new(unsafe { (calls.init)() })?;
        Some(Decoder { state, calls, wideband })
    }

    /// Appends the samples of a frame: 160, or 320 of AMR-WB.
    pub(super) fn decode(&mut self, frame: &Frame, out: &mut Vec<i16>) {
        // The library leaves alone what it cannot decode.
        let mut samples = [0_i16; FRAME_MOST];
        let bad = c_int::from(frame.content() == Content::Bad);
        // SAFETY: `state` is from this library's `init` and not yet given to `exit`. The library reads the header byte and
        // at most 60 bytes after it, `stored` has 64; the frame type is one of 0 to 9 or 15. It writes 160 (AMR) or 320
        // (AMR-WB) samples, for which there is room, and keeps neither pointer.
        unsafe { (self.calls.decode)(self.state.as_ptr(), frame.stored().as_ptr(), samples.as_mut_ptr(), bad) };
        out.extend_from_slice(if self.wideband { &samples } else { &samples[..FRAME_MOST / 2] });
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: from this library's `init`, and never used again.
        unsafe { (self.calls.exit)(self.state.as_ptr()) };
    }
}
