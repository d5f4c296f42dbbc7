//! A small client of a node's HTTP API, for commands that check a node.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use ferric_media::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::Value;

/// Longest wait for a node on the loopback or in the next rack.
const PATIENCE: Duration = Duration::from_secs(30);

/// A catalogue that goes on for longer than this is not read to its end.
const MAX_PAGES: usize = 1_000;

#[derive(Deserialize)]
struct Page {
    recordings: Vec<Value>,
    next_cursor: Option<String>,
}

/// What an error says (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: String,
}

/// Which node to ask, and with what right.
#[derive(Debug, Args)]
pub(super) struct ApiArguments {
    /// The node's API.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    api: String,
    /// The file that holds the admin token.
    #[arg(long, value_name = "FILE", default_value = "ferric-data/admin.token")]
    token_file: PathBuf,
}

impl ApiArguments {
    pub(super) fn open(&self) -> anyhow::Result<Api> {
        let token = std::fs::read_to_string(&self.token_file).with_context(|| {
            format!("{} cannot be read: name the node's admin token with --token-file", self.token_file.display())
        })?;
        Api::new(&self.api, token.trim())
    }
}

/// A node's API. Plain HTTP: the console listens on loopback or behind a proxy.
pub(crate) struct Api {
    host: String,
    token: String,
}

impl Api {
    pub(crate) fn new(url: &str, token: &str) -> anyhow::Result<Api> {
        let url = url::Url::parse(url).with_context(|| format!("{url} is no URL: write http://127.0.0.1:8080"))?;
        if url.scheme() != "http" {
            bail!("only http:// URLs are understood here");
        }
        let host = url.host_str().context("the URL names no host")?;
        let port = url.port_or_known_default().unwrap_or(80);
        Ok(Api { host: format!("{host}:{port}"), token: token.to_owned() })
    }

    /// All recordings that began at `from` or later, newest first.
    pub(crate) fn recordings(&self, from: Timestamp) -> anyhow::Result<Vec<Value>> {
        let mut found = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("limit", "1000").append_pair("from", &from.to_string());
            if let Some(cursor) = &cursor {
                query.append_pair("cursor", cursor);
            }
            let page: Page = serde_json::from_slice(&self.get(&format!("/api/v1/recordings?{}", query.finish()))?)?;
            found.extend(page.recordings);
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        bail!("more than {MAX_PAGES} pages of recordings since {from}");
    }

    /// A sealed object.
    pub(crate) fn object(&self, id: &str, what: &str) -> anyhow::Result<Vec<u8>> {
        self.get(&format!("/api/v1/recordings/{id}/{what}"))
    }

    /// What lies at a path.
    pub(crate) fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask("GET", path)
    }

    /// Has something done.
    pub(crate) fn post(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        self.ask("POST", path)
    }

    fn ask(&self, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
        let address = self.host.to_socket_addrs()?.next().context("the host has no address")?;
        let mut stream =
            TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{} does not answer", self.host))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            self.host, self.token
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").context("the answer is no HTTP")?;
        let head = String::from_utf8_lossy(answer.get(..end).unwrap_or(&[])).into_owned();
        let status = head.split_ascii_whitespace().nth(1).unwrap_or("");
        let body = answer.split_off(end + 4);
        if status != "200" {
            let problem: Option<Problem> = serde_json::from_slice(&body).ok();
            let said = problem.map_or_else(|| String::from_utf8_lossy(&body).into_owned(), |problem| problem.detail);
            bail!("{path}: HTTP {status}: {said}");
        }
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            bail!("{path}: an answer in chunks was not expected");
        }
        Ok(body)
    }
}
