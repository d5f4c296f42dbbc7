//! Checks that look outside of the file: keys, certificates, stores.

use std::ops::Range;
use std::path::{Path, PathBuf};

use ferric_media::keys::Recipient;

use super::document::{Collector, Section};
use super::sections::file_store;

/// A file that must be named and readable.
pub(super) fn file(
    section: &mut Section<'_, '_>,
    key: &'static str,
    folder: &Path,
    errors: &mut Collector<'_>,
) -> Option<PathBuf> {
    let found = optional_file(section, key, folder, errors);
    if section.get(key).is_none() {
        section.missing(key, "name a PEM file", errors);
    }
    found
}

/// A file that must be readable if it is named.
pub(super) fn optional_file(
    section: &mut Section<'_, '_>,
    key: &'static str,
    folder: &Path,
    errors: &mut Collector<'_>,
) -> Option<PathBuf> {
    let (text, span) = section.text(key, errors)?;
    let path = folder.join(text);
    match std::fs::read(&path) {
        Ok(_) => Some(path),
        Err(error) => {
            errors.complain(&span, format!("{} cannot be read: {error}", path.display()));
            None
        }
    }
}

/// A tenant's public key: RSA, at least 2048 bits, and public.
pub(super) fn public_key(path: &Path, span: &Range<usize>, errors: &mut Collector<'_>) -> Option<PathBuf> {
    let pem = match std::fs::read_to_string(path) {
        Ok(pem) => pem,
        Err(error) => {
            errors.complain(span, format!("{} cannot be read: {error}", path.display()));
            return None;
        }
    };
    if pem.contains("PRIVATE KEY") {
        let text = format!("{} is a private key: it stays with the tenant; name the public key here", path.display());
        errors.complain(span, text);
        return None;
    }
    match Recipient::from_pem(&pem) {
        Ok(_) => Some(path.to_owned()),
        Err(error) => {
            errors.complain(span, format!("{}: {error}", path.display()));
            None
        }
    }
}

/// A store's URL.
pub(super) fn store(text: &str, folder: &Path, span: &Range<usize>, errors: &mut Collector<'_>) -> Option<String> {
    let right = "write file:///path, s3://bucket?endpoint=...&region=..., gs://bucket, az://container or https://host/path (WebDAV)";
    if let Some(path) = text.strip_prefix("file://") {
        if path.is_empty() || path.contains(['?', '#']) {
            errors
                .complain(span, format!("store = \"{text}\" names no folder: write file:///path, without parameters"));
            return None;
        }
        return Some(file_store(path, folder));
    }
    let Ok(url) = url::Url::parse(text) else {
        errors.complain(span, format!("store = \"{text}\" is no URL: {right}"));
        return None;
    };
    let known = ["s3", "gs", "az", "http", "https"].contains(&url.scheme());
    if !known {
        errors.complain(span, format!("store: \"{}\" is no known scheme: {right}", url.scheme()));
        return None;
    }
    if url.host_str().is_none_or(str::is_empty) {
        errors.complain(span, format!("store = \"{text}\" names no bucket or host: {right}"));
        return None;
    }
    if !url.username().is_empty() || url.password().is_some() || text.to_ascii_lowercase().contains("secret") {
        errors.complain(
            span,
            "store: credentials do not belong into the file; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        );
        return None;
    }
    for (name, value) in url.query_pairs() {
        if let Some(problem) = parameter(&name, &value) {
            errors.complain(span, format!("store: {problem}"));
            return None;
        }
    }
    Some(text.to_owned())
}

/// What is wrong with a parameter of a store's URL.
fn parameter(name: &str, value: &str) -> Option<String> {
    let is_http =
        || url::Url::parse(value).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some());
    match name {
        "endpoint" if !is_http() => Some(format!("endpoint=\"{value}\" is no address: write https://s3.example.com")),
        "region" if value.is_empty() => Some("region is empty: write for example region=us-east-1".to_owned()),
        "style" if !matches!(value, "path" | "virtual") => {
            Some(format!("style=\"{value}\" is not known: write path or virtual"))
        }
        "ca" => std::fs::read(value).err().map(|error| format!("ca: {value} cannot be read: {error}")),
        "endpoint" | "region" | "style" => None,
        _ => Some(format!("\"{name}\" is no parameter of a store; known are endpoint, region, style and ca")),
    }
}
