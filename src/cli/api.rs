//! A small client of a node's HTTP API, for commands that check a node.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;

/// Longest wait for a node on the loopback or in the next rack.
const PATIENCE: Duration = Duration::from_secs(30);

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

    /// The newest thousand recordings.
    pub(crate) fn recordings(&self) -> anyhow::Result<Vec<Value>> {
        let page: Value = serde_json::from_slice(&self.get("/api/v1/recordings?limit=1000")?)?;
        Ok(page["recordings"].as_array().cloned().unwrap_or_default())
    }

    /// A sealed object.
    pub(crate) fn object(&self, id: &str, what: &str) -> anyhow::Result<Vec<u8>> {
        self.get(&format!("/api/v1/recordings/{id}/{what}"))
    }

    fn get(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        let address = self.host.to_socket_addrs()?.next().context("the host has no address")?;
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("{} does not answer", self.host))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
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
            bail!("{path}: HTTP {status}: {}", String::from_utf8_lossy(&body));
        }
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            bail!("{path}: an answer in chunks was not expected");
        }
        Ok(body)
    }
}
