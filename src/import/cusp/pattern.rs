//! Regular expressions: Java's, which CUSP takes, into those of Rust's `regex`.

use super::lexer::shortened;

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
            '+' if !in_class && matches!(before, '+' | '*' | '?' | '}') => {
                return Some("it has a possessive quantifier");
            }
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

/// The expression if it means the same in Rust's syntax, or why not.
pub(super) fn checked(pattern: &str) -> Result<&str, String> {
    let refuse = |why: &str| Err(format!("the expression `{}` is none of Rust's: {why}", shortened(pattern, 60)));
    if let Some(why) = unsupported(pattern) {
        return refuse(why);
    }
    match regex::Regex::new(pattern) {
        Ok(_) => Ok(pattern),
        Err(_) => refuse("it is not understood, or too large"),
    }
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
    let from = literal(from)
        .filter(|literal| !from.ends_with('$') && !from.replace("\\.", "").contains('.') && !literal.is_empty())?;
    (!to.contains(['\\', '$'])).then(|| (from, to.to_owned()))
}

/// An expression over one part of a URI as one over a whole URI or the header field around it.
pub(super) fn over_uri(part: &str, pattern: &str) -> Option<String> {
    if part == "uri" {
        return Some(pattern.to_owned());
    }
    let (start, inner) = pattern.strip_prefix('^').map_or((false, pattern), |inner| (true, inner));
    let (end, inner) = match inner.strip_suffix('$') {
        Some(inner) if !inner.ends_with('\\') => (true, inner),
        _ => (false, inner),
    };
    // `^a|b$` binds otherwise than it looks, and an anchor in the middle has no counterpart.
    if has_anchor(inner) || (start || end) && inner.contains('|') && !inner.starts_with("(?:") {
        return None;
    }
    Some(match part {
        "user" | "phone" => {
            let any = "[^@;>]*";
            let value = format!("{}(?:{inner}){}", if start { "" } else { any }, if end { "" } else { any });
            format!("(?:sips?:{value}@|tel:{value}(?:[;>]|$))")
        }
        "host" => {
            let any = "[^:;>@]*";
            let value = format!("{}(?:{inner}){}", if start { "" } else { any }, if end { "" } else { any });
            format!("sips?:(?:[^@;>]*@)?{value}(?:[:;>]|$)")
        }
        _ => return None,
    })
}

fn has_anchor(pattern: &str) -> bool {
    let (mut in_class, mut escaped, mut before) = (false, false, ' ');
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '^' if !in_class => return true,
            '$' if !in_class => return true,
            _ => {}
        }
        before = c;
    }
    before == '\\' && escaped
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
        for (pattern, replaced) in
            [("9", ""), ("^9$", ""), ("^9.", ""), ("^9(.*)$", "1"), ("^[89]", ""), ("^9(.)", "\\1")]
        {
            assert_eq!(swap(pattern, replaced), None, "{pattern}");
        }
    }

    #[test]
    fn a_part_of_a_uri_is_found_in_a_header() {
        let finds = |part: &str, pattern: &str, text: &str| {
            let made = over_uri(part, pattern).unwrap_or_default();
            regex::Regex::new(&made).is_ok_and(|regex| regex.is_match(text))
        };
        let value = "\"1000\" <sip:+1408@pbx.example.com:5070;user=phone>";
        assert!(finds("user", "^\\+1", value) && finds("user", "08$", value) && finds("user", "40", value));
        assert!(!finds("user", "^1000$", value) && !finds("user", "^1", value) && !finds("user", "pbx", value));
        assert!(finds("host", "^pbx\\.example\\.com$", value) && !finds("host", "^example", value));
        assert!(finds("host", "^192", "sip:192.0.2.1") && !finds("user", "^192", "sip:192.0.2.1"));
        assert!(finds("user", "^\\+1408$", "tel:+1408;x=y"));
        for odd in ["^a|b$", "a^b", "a$b"] {
            assert_eq!(over_uri("user", odd), None, "{odd}");
        }
        assert!(checked("^[0-9]{1,100000}{100}$").is_err());
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
