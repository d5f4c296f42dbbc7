//! What commands tell a person: lines on standard output and standard error.
//!
//! `println!` panics when nobody takes the line: a reader that is gone
//! (`ferric verify ... | head`), a log on a full disk. For a node that would cost
//! the running calls, so nothing here fails. A result that could not be written
//! is still no success: [`is_lost`] tells so at the end.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static LOST: AtomicBool = AtomicBool::new(false);

/// A line of the result, on standard output.
macro_rules! say {
    () => { $crate::cli::output::result(format_args!("")) };
    ($($text:tt)+) => { $crate::cli::output::result(format_args!($($text)+)) };
}

/// A line about what went wrong, on standard error.
macro_rules! complain {
    ($($text:tt)+) => { $crate::cli::output::complaint(format_args!($($text)+)) };
}

pub(crate) use {complain, say};

pub(crate) fn result(line: fmt::Arguments<'_>) {
    if is_loss(&write(&mut io::stdout().lock(), line)) {
        LOST.store(true, Ordering::Relaxed);
    }
}

pub(crate) fn complaint(line: fmt::Arguments<'_>) {
    // There is no other place to tell it.
    let _ = write(&mut io::stderr().lock(), line);
}

fn write(to: &mut impl Write, line: fmt::Arguments<'_>) -> io::Result<()> {
    writeln!(to, "{line}").and_then(|()| to.flush())
}

/// A reader that has seen enough is no loss; a full disk is.
fn is_loss(written: &io::Result<()>) -> bool {
    written.as_ref().is_err_and(|error| error.kind() != ErrorKind::BrokenPipe)
}

/// True when a line of the result could not be written although somebody wanted it.
pub(crate) fn is_lost() -> bool {
    LOST.load(Ordering::Relaxed)
}

/// Standard error for the log: what cannot be written is dropped. A log on a full
/// disk must not take the node with it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Refuses(ErrorKind);

    impl Write for Refuses {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_is_gone_is_no_loss_and_a_full_disk_is() {
        assert!(!is_loss(&write(&mut Refuses(ErrorKind::BrokenPipe), format_args!("x"))));
        assert!(is_loss(&write(&mut Refuses(ErrorKind::StorageFull), format_args!("x"))));
        assert!(!is_loss(&write(&mut Vec::new(), format_args!("x"))));
    }
}
