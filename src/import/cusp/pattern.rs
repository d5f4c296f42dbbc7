//! Regular expressions: Java's, which CUSP takes, into those of Rust's `regex`.

/// `value` as an expression that means just itself.
pub(super) fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for c in value.chars() {
        if ".+*?()|[]{}^$\\".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// What a Java expression has and Rust's has not.
pub(super) fn unsupported(pattern: &str) -> Option<&'static str> {
    let (mut depth, mut in_class, mut before) = (0_i32, false, ' ');
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                None => return Some("it ends in a backslash"),
                Some('0'..='9' | 'k') => return Some("it refers back to a group"),
                Some('Q' | 'E' | 'G' | 'Z' | 'X' | 'R') => return Some("it uses an escape of Java's alone"),
                Some(_) => {}
            },
            '[' if !in_class => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => {
                depth += 1;
                let next: String = chars.clone().take(3).collect();
                if ["?=", "?!", "?>"].iter().any(|look| next.starts_with(look)) || next == "?<=" || next == "?<!" {
                    return Some("it looks ahead or behind");
                }
            }
            ')' if !in_class => {
                depth -= 1;
                if depth < 0 {
                    return Some("its brackets do not match");
                }
            }
            '+' if !in_class && matches!(before, '+' | '*' | '?' | '}') => return Some("it has a possessive quantifier"),
            '*' | '+' | '?' if !in_class && (before == ' ' || before == '|') => return Some("it repeats nothing"),
            _ => {}
        }
        before = match c {
            '\\' => '\\',
            ' ' => '_',
            c => c,
        };
    }
    (depth != 0 || in_class).then_some("its brackets do not match")
}

/// `\1` and `$1` of a replacement as `${1}`, and other `$` as themselves.
pub(super) fn replacement(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek().copied()) {
            ('\\' | '$', Some(digit)) if digit.is_ascii_digit() => {
                chars.next();
                result.push_str("${");
                result.push(digit);
                result.push('}');
            }
            ('\\', Some(other)) => {
                chars.next();
                result.push_str(if other == '$' { "$$" } else { "" });
                if other != '$' {
                    result.push(other);
                }
            }
            ('$', _) => result.push_str("$$"),
            (c, _) => result.push(c),
        }
    }
    result
}

/// The text that an expression stands for if it stands for just one: `example\.com`, also with `^` and `$`.
pub(super) fn literal(pattern: &str) -> Option<String> {
    let inner = pattern.strip_prefix('^').unwrap_or(pattern);
    let inner = inner.strip_suffix('$').unwrap_or(inner);
    let mut text = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.push(chars.next().filter(char::is_ascii_punctuation)?),
            // In a host name a dot is meant as one.
            '.' => text.push('.'),
            c if c.is_ascii_alphanumeric() || "-_#@:%".contains(c) => text.push(c),
            _ => return None,
        }
    }
    (!text.is_empty() && !text.contains("..")).then_some(text)
}

/// Some text at the beginning that is taken off, and what comes in its place: `^9` to nothing, `^00(.*)$` to `+\1`.
pub(super) fn prefix_swap(pattern: &str, replaced: &str) -> Option<(String, String)> {
    let inner = pattern.strip_prefix('^')?;
    let (from, to) = match ["(.*)$", "(.+)$", "(.*)", "(.+)"].iter().find_map(|rest| inner.strip_suffix(rest)) {
        Some(from) => (from, replaced.strip_suffix("\\1").or_else(|| replaced.strip_suffix("$1"))?),
        None => (inner, replaced),
    };
    let from = literal(from).filter(|literal| !from.ends_with('$') && !from.replace("\\.", "").contains('.') && !literal.is_empty())?;
    (!to.contains(['\\', '$'])).then(|| (from, to.to_owned()))
}

/// An expression over one part of a URI as one over the whole URI.
pub(super) fn over_uri(part: &str, pattern: &str) -> Option<String> {
    let (start, inner) = pattern.strip_prefix('^').map_or((false, pattern), |inner| (true, inner));
    let (end, inner) = match inner.strip_suffix('$') {
        Some(inner) if !inner.ends_with('\\') => (true, inner),
        _ => (false, inner),
    };
    Some(match part {
        "user" | "phone" => {
            let before = if start { "" } else { "[^@]*" };
            let after = if end { "" } else { "[^@]*" };
            format!("sips?:{before}(?:{inner}){after}@")
        }
        "host" => {
            let before = if start { "[@:]" } else { "[@:][^;>]*" };
            let after = if end { "(?:[:;>]|$)" } else { "" };
            format!("sips?:[^;>]*{before}(?:{inner}){after}")
        }
        "uri" => pattern.to_owned(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rust_has_not_is_named() {
        for fine in ["^9(.*)$", "[0-9+]{3,5}", "a|b", "\\+1\\d*", "(?:a)+", "x*?", "[(]"] {
            assert_eq!(unsupported(fine), None, "{fine}");
        }
        for (wrong, why) in [
            ("(?!9)1", "ahead"),
            ("(?<=9)1", "behind"),
            ("(a)\\1", "back"),
            ("a++", "possessive"),
            ("(a", "brackets"),
            ("*", "nothing"),
            ("\\Qa\\E", "Java"),
            ("a\\", "backslash"),
        ] {
            assert!(unsupported(wrong).is_some_and(|said| said.contains(why)), "{wrong}");
        }
    }

    #[test]
    fn replacements_speak_of_groups_in_rusts_way() {
        assert_eq!(replacement("+49\\1"), "+49${1}");
        assert_eq!(replacement("$12"), "${1}2");
        assert_eq!(replacement("a$\\$\\."), "a$$$$.");
    }

    #[test]
    fn a_prefix_that_goes_is_told_from_other_edits() {
        let swap = |a: &str, b: &str| prefix_swap(a, b).map(|(from, to)| format!("{from}>{to}"));
        assert_eq!(swap("^9", "").as_deref(), Some("9>"));
        assert_eq!(swap("^00(.*)$", "+\\1").as_deref(), Some("00>+"));
        assert_eq!(swap("^\\+1(.+)", "1$1").as_deref(), Some("+1>1"));
        for (pattern, replaced) in [("9", ""), ("^9$", ""), ("^9.", ""), ("^9(.*)$", "1"), ("^[89]", ""), ("^9(.)", "\\1")] {
            assert_eq!(swap(pattern, replaced), None, "{pattern}");
        }
    }

    #[test]
    fn literals_are_escaped_and_found_again() {
        assert_eq!(escape("+1*"), "\\+1\\*");
        assert_eq!(literal("^example\\.com$").as_deref(), Some("example.com"));
        assert_eq!(literal("example.com").as_deref(), Some("example.com"));
        assert_eq!(literal("exa.*"), None);
        assert_eq!(literal("[a]"), None);
    }
}
