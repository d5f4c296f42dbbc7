//! Range requests for one range of bytes (RFC 9110 14).

/// What a Range header asks of an object of `length` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it: no range, or one that is not understood.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// Beyond the end.
    Unsatisfiable,
}

pub(super) fn wanted(header: Option<&str>, length: u64) -> Wanted {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Wanted::Whole };
    let Some((first, last)) = range.split_once('-').filter(|_| !range.contains(',')) else { return Wanted::Whole };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= length => Wanted::Unsatisfiable,
        (Ok(first), Ok(last)) if last >= first => Wanted::Part(first, last.min(length - 1)),
        (Ok(first), Err(_)) if last.trim().is_empty() => Wanted::Part(first, length - 1),
        (Err(_), Ok(0)) if first.trim().is_empty() => Wanted::Unsatisfiable,
        (Err(_), Ok(tail)) if first.trim().is_empty() && length > 0 => {
            Wanted::Part(length.saturating_sub(tail), length - 1)
        }
        _ => Wanted::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_the_rfc_gives_them() {
        assert_eq!(wanted(None, 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-3"), 10), Wanted::Part(0, 3));
        assert_eq!(wanted(Some("bytes=4-"), 10), Wanted::Part(4, 9));
        assert_eq!(wanted(Some("bytes=-3"), 10), Wanted::Part(7, 9));
        assert_eq!(wanted(Some("bytes=8-99"), 10), Wanted::Part(8, 9));
        assert_eq!(wanted(Some("bytes=10-"), 10), Wanted::Unsatisfiable);
        assert_eq!(wanted(Some("bytes=5-2"), 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=0-1,4-5"), 10), Wanted::Whole);
        assert_eq!(wanted(Some("lines=1-2"), 10), Wanted::Whole);
        assert_eq!(wanted(Some("bytes=-0"), 10), Wanted::Unsatisfiable);
    }
}
