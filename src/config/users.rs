//! users.toml: who may register.
//!
//! ```toml
//! [[user]]
//! name = "alice"                # the part before the @, as the phone sends it
//! domain = "example.com"        # optional: all domains of the registrar
//! password = "..."              # or ha1_md5 / ha1_sha256, hashes of "name:domain:password" in hex, or both of them
//! ```
//!
//! Passwords are hashed at once and not kept. Complaints name the line and never what stands in it.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ferric_registrar::{Secret, Users};
use toml::de::DeTable;

use super::document::{Collector, Complaints, Section};

/// Reads the users of a registrar for `domains`; what is odd and no mistake goes to `warnings`.
///
/// # Errors
/// All [`Complaints`] at once.
pub fn load(file: &Path, domains: &[String], warnings: &mut Vec<String>) -> Result<Users, Complaints> {
    let text = std::fs::read_to_string(file).map_err(|error| Complaints::unreadable(file, &error))?;
    let users = parse(file, &text, domains)?;
    if std::fs::metadata(file).is_ok_and(|found| found.mode() & 0o077 != 0) {
        warnings.push(format!("{} can be read by others: it holds passwords; chmod 600", file.display()));
    }
    Ok(users)
}

/// As [`load`], from text.
///
/// # Errors
/// All [`Complaints`] at once.
pub fn parse(file: &Path, text: &str, domains: &[String]) -> Result<Users, Complaints> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut errors = Collector::new(file, text).without_source();
    for error in &syntax {
        errors.complain(&error.span().unwrap_or(0..1), error.message().to_owned());
    }
    let mut users = Users::default();
    if syntax.is_empty() {
        let mut root = Section::root(document.get_ref());
        let mut seen: HashMap<(String, String), usize> = HashMap::new();
        let mut lines = Lines { text, at: 0, line: 1 };
        for section in root.sections("user", &mut errors) {
            let line = lines.of(section.span.start);
            user(section, line, domains, &mut seen, &mut users, &mut errors);
        }
        if seen.is_empty() {
            // An emptied file would make everybody who is registered unknown, and so unreachable.
            errors.complain(
                &(0..1),
                "no [[user]] stands here: nobody could register, and who is registered would be forgotten",
            );
        }
        root.finish(&mut errors);
    }
    errors.finish()?;
    Ok(users)
}

fn user(
    mut section: Section<'_, '_>,
    line: usize,
    domains: &[String],
    seen: &mut HashMap<(String, String), usize>,
    users: &mut Users,
    errors: &mut Collector<'_>,
) {
    let span = section.span.clone();
    section.required("name", "the part before the @, as in \"alice\"", errors);
    let name = section.text("name", errors).and_then(|(name, place)| {
        let fine = !name.is_empty()
            && !name
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || matches!(c, '"' | '\\' | '@' | ':' | '<' | '>'));
        if !fine {
            errors.complain(&place, "user.name is the part before the @: no blanks, quotes, backslashes, colons or @");
        }
        fine.then_some(name)
    });
    let own = section.text("domain", errors).and_then(|(domain, place)| {
        let known = domains.iter().find(|known| known.eq_ignore_ascii_case(&domain)).cloned();
        if known.is_none() {
            let list = domains.join(", ");
            errors.complain(
                &place,
                format!("user.domain = \"{domain}\" is no domain of the registrar; there are {list}"),
            );
        }
        known
    });
    let all = section.get("domain").is_none();
    let password = section.text("password", errors);
    let md5 = hash::<16>(&mut section, "ha1_md5", errors);
    let sha256 = hash::<32>(&mut section, "ha1_sha256", errors);
    let has_password = section.get("password").is_some();
    let has_hash = section.get("ha1_md5").is_some() || section.get("ha1_sha256").is_some();
    match (has_password, has_hash) {
        (true, true) => errors.complain(&start(&span), "a user has a password or hashes of it, not both"),
        (false, false) => section.missing("password", "write password = \"...\", or ha1_md5 or ha1_sha256", errors),
        _ => {}
    }
    if let Some((_, place)) = password.as_ref().filter(|(password, _)| password.is_empty()) {
        errors.complain(place, "user.password is empty");
    }
    if has_hash && all && domains.len() > 1 {
        section.missing("domain", "a hash is made for one domain", errors);
    }
    section.finish(errors);
    let Some(name) = name else { return };
    let wanted: Vec<String> = if all { domains.to_vec() } else { own.into_iter().collect() };
    for domain in wanted {
        let domain = domain.to_ascii_lowercase();
        let secret = match &password {
            Some((password, _)) => Secret::of_password(&name, &domain, password),
            None => Secret::of_hashes(md5, sha256),
        };
        if !users.add(&name, &domain, secret) {
            let first = seen.get(&(name.clone(), domain.clone())).copied().unwrap_or(0);
            errors.complain(&start(&span), format!("{name} of {domain} stands in line {first} already"));
        }
        seen.entry((name.clone(), domain)).or_insert(line);
    }
}

/// Line numbers of places that come in order, counted in one pass.
#[derive(Debug)]
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    fn of(&mut self, place: usize) -> usize {
        if place < self.at {
            (self.at, self.line) = (0, 1);
        }
        self.line += self.text.get(self.at..place).unwrap_or("").matches('\n').count();
        self.at = place;
        self.line
    }
}

/// The place of a `[[user]]`, and not all of its lines.
fn start(span: &Range<usize>) -> Range<usize> {
    span.start..span.start + span.len().min(1)
}

/// A hash in hexadecimal digits.
fn hash<const N: usize>(
    section: &mut Section<'_, '_>,
    key: &'static str,
    errors: &mut Collector<'_>,
) -> Option<[u8; N]> {
    let (text, place) = section.text(key, errors)?;
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let bytes = digits.map(|digits| {
        digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect::<Vec<u8>>()
    });
    let bytes = bytes.filter(|_| text.len() == 2 * N).and_then(|bytes| bytes.try_into().ok());
    if bytes.is_none() {
        errors.complain(
            &place,
            format!("user.{key} is {} hexadecimal digits: the hash of \"name:domain:password\"", 2 * N),
        );
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn domains() -> Vec<String> {
        vec!["example.com".to_owned(), "example.net".to_owned()]
    }

    fn complaints(text: &str) -> String {
        parse(Path::new("users.toml"), text, &domains()).unwrap_err().to_string()
    }

    #[test]
    fn a_user_without_a_domain_is_one_of_all() {
        let text = "[[user]]\nname = \"alice\"\npassword = \"secret\"\n[[user]]\nname = \"bob\"\ndomain = \"Example.NET\"\n\
                    ha1_md5 = \"939e7578ed9e3c518a452acee763bce9\"\n";
        assert_eq!(parse(Path::new("users.toml"), text, &domains()).unwrap().len(), 3);
    }

    #[test]
    fn what_is_wrong_is_named_by_line_and_passwords_are_not_repeated() {
        let text = "[[user]]\nname = \"alice\"\npassword = \"hunter2\"\n\
                    [[user]]\nname = \"alice\"\ndomain = \"example.net\"\npassword = \"hunter2\"\n\
                    [[user]]\nname = \"a b\"\npasword = \"hunter2\"\n\
                    [[user]]\nname = \"carol\"\ndomain = \"example.org\"\nha1_md5 = \"hunter2\"\n\
                    [[user]]\nname = \"dave\"\nha1_sha256 = \"00\"\npassword = \"hunter2\"\n\
                    [[user]]\npassword = 7\n";
        let said = complaints(text);
        assert!(!said.contains("hunter2"), "{said}");
        for (at, what) in [
            ("users.toml:4:1", "alice of example.net stands in line 1 already"),
            ("users.toml:9:8", "the part before the @"),
            ("users.toml:10:1", "user.pasword is not a setting; did you mean password?"),
            ("users.toml:8:1", "user.password is missing"),
            ("users.toml:13:10", "example.org"),
            ("users.toml:14:11", "32 hexadecimal digits"),
            ("users.toml:15:1", "not both"),
            ("users.toml:17:14", "64 hexadecimal digits"),
            ("users.toml:19:1", "user.name is missing"),
            ("users.toml:20:12", "user.password is a text in quotes"),
        ] {
            let line = said.lines().find(|line| line.starts_with(&format!("{at}:")) && line.contains(what));
            assert!(line.is_some(), "{at} {what} in\n{said}");
        }
    }

    #[test]
    fn lines_are_counted_on_from_the_last_place() {
        let mut lines = Lines { text: "a\nb\n\nc", at: 0, line: 1 };
        assert_eq!([0, 2, 3, 5, 5, 2, 99].map(|place| lines.of(place)), [1, 2, 2, 4, 4, 2, 2]);
    }

    #[test]
    fn broken_toml_does_not_show_its_line_either() {
        let said = complaints("[[user]]\nname = \"alice\"\npassword = \"hunter2\n");
        assert!(said.starts_with("users.toml:3:") && !said.contains("hunter2"), "{said}");
    }

    #[test]
    fn a_file_that_others_can_read_is_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("users.toml");
        std::fs::write(&file, "[[user]]\nname = \"alice\"\npassword = \"secret\"\n").unwrap();
        for (mode, warned) in [(0o644, 1), (0o640, 1), (0o600, 0)] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            assert_eq!(load(&file, &domains(), &mut warnings).unwrap().len(), 2);
            assert_eq!(warnings.len(), warned, "{mode:o}: {warnings:?}");
        }
    }
}
