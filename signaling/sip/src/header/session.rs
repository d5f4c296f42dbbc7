//! Session-Expires (RFC 4028 4).

use std::fmt;

use super::Params;

/// Who refreshes the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresher {
    /// The side that sent the request.
    Uac,
    /// The side that answers it.
    Uas,
}

/// A session interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// Seconds without a refresh after which the session ends.
    pub seconds: u32,
    /// Who refreshes, once agreed.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    /// Reads the value; `None` when it is no number.
    pub fn parse(text: &str) -> Option<SessionExpires> {
        let (seconds, params) = text.split_once(';').unwrap_or((text, ""));
        let refresher = match Params::parse(params).get("refresher").map(str::to_ascii_lowercase).as_deref() {
            Some("uac") => Some(Refresher::Uac),
            Some("uas") => Some(Refresher::Uas),
            Some(_) | None => None,
        };
        Some(SessionExpires { seconds: seconds.trim().parse().ok()?, refresher })
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds)?;
        match self.refresher {
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refresher_is_optional() {
        let read = SessionExpires::parse;
        assert_eq!(read("1800"), Some(SessionExpires { seconds: 1800, refresher: None }));
        assert_eq!(read(" 90 ;refresher=UAS"), Some(SessionExpires { seconds: 90, refresher: Some(Refresher::Uas) }));
        assert_eq!(read("soon"), None);
    }
}
