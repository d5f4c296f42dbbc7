//! Where recordings go: a tenant's store, made from one URL.
//!
//! | URL | store | credentials |
//! | --- | --- | --- |
//! | `file:///path` | a folder, or a mounted network file system | the process's own |
//! | `s3://bucket[/folder]?endpoint=..&region=..` | S3; path style unless `style=virtual` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, or the machine's role |
//! | `gs://bucket[/folder]` | Google Cloud Storage | `GOOGLE_APPLICATION_CREDENTIALS` and its kin |
//! | `az://container[/folder]` | Azure Blob Storage | `AZURE_STORAGE_ACCOUNT_NAME`, `AZURE_STORAGE_ACCOUNT_KEY` and their kin |
//! | `http(s)://host/folder` | WebDAV | `WEBDAV_USERNAME`, `WEBDAV_PASSWORD` |
//!
//! `ca=/path.pem` adds a certificate authority. Credentials come from the
//! environment and never from the URL, which lands in logs and process lists.
//! Plain HTTP is spoken only where the URL or the endpoint says `http://`.
//!
//! TLS is rustls with the process's default provider: the program installs
//! `ring` once at its start (`rustls::crypto::ring::default_provider()`), and
//! request signing uses the library's own `ring`.
//!
//! The library's retries are kept short (they hide hiccups); the durable
//! queue that retries for ever is [`crate::upload`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, Checksum};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{BackoffConfig, Certificate, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use ferric_media::timestamp::Timestamp;
use uuid::Uuid;

/// Why a URL makes no store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a URL.
    #[error("`{url}` is no URL: {source}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        source: url::ParseError,
    },
    /// A scheme without a store.
    #[error("`{0}:` is no store; known are file, s3, gs, az, http and https")]
    Scheme(String),
    /// A parameter nobody reads: a typing error would silently change where recordings go.
    #[error("`{0}` is no parameter of a store URL; known are endpoint, region, style and ca")]
    Parameter(String),
    /// A parameter's value is wrong.
    #[error("store parameter `{name}`: {reason}")]
    Value {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Secrets in a URL end up in logs.
    #[error("the store URL holds a password; credentials come from the environment")]
    Credentials,
    /// The folder cannot be made.
    #[error("cannot make the folder {}: {source}", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The library refuses.
    #[error(transparent)]
    Store(#[from] object_store::Error),
}

/// A place for one tenant's recordings.
#[derive(Debug, Clone)]
pub struct Target {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Folder in it, the URL's and the tenant's prefix together.
    pub prefix: Path,
    /// Whether an existing object is never overwritten by a conditional put; see [`crate::store_probe`].
    pub put_if_absent: bool,
}

impl Target {
    /// A target in a store that was made elsewhere.
    ///
    /// # Errors
    /// The prefix is no path.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str) -> Result<Target, StoreError> {
        let prefix = Path::parse(prefix.trim_matches('/')).map_err(object_store::Error::from)?;
        Ok(Target { store, prefix, put_if_absent: false })
    }

    /// Where a recording's file lies: `{prefix}/{yyyy}/{mm}/{dd}/{id}/{file}`, the UTC day of its start.
    pub fn key(&self, started_at: Timestamp, id: Uuid, file: &str) -> Path {
        let (year, month, day) = started_at.date();
        let mut key = self.prefix.clone();
        for part in [format!("{year:04}"), format!("{month:02}"), format!("{day:02}"), id.to_string()] {
            key = key.join(part);
        }
        key.join(file)
    }
}

/// Makes the target of a store URL and a tenant's prefix. Does no input or output, except that a
/// `file:` folder is made and a `ca` file is read.
///
/// # Errors
/// The URL is wrong; the text says how.
pub fn open_target(url: &str, prefix: &str) -> Result<Target, StoreError> {
    let parsed = Url::parse(url).map_err(|source| StoreError::Url { url: url.to_owned(), source })?;
    if parsed.password().is_some() {
        return Err(StoreError::Credentials);
    }
    let mut parameters = Parameters::read(&parsed)?;
    let scheme = parsed.scheme();
    if scheme == "file" {
        let path = parsed.to_file_path().map_err(|()| StoreError::Value {
            name: "file",
            reason: "write file:///absolute/path, with three slashes".to_owned(),
        })?;
        std::fs::create_dir_all(&path).map_err(|source| StoreError::Folder { path: path.clone(), source })?;
        let store = LocalFileSystem::new_with_prefix(path)?.with_fsync(true).with_automatic_cleanup(false);
        return Target::new(Arc::new(store), prefix);
    }
    let folder = match scheme {
        // The URL of a WebDAV store carries its folder itself.
        "http" | "https" => String::new(),
        _ => parsed.path().trim_matches('/').to_owned(),
    };
    let prefix = [folder.as_str(), prefix.trim_matches('/')]
        .iter()
        .filter(|part| !part.is_empty())
        .copied()
        .collect::<Vec<_>>()
        .join("/");
    let bucket = parsed.host_str().unwrap_or_default().to_owned();
    let plain_http = match &parameters.endpoint {
        Some(endpoint) => endpoint.starts_with("http://"),
        None => scheme == "http",
    };
    let client = client_options(&mut parameters, plain_http)?;
    let store: Arc<dyn ObjectStore> = match scheme {
        "s3" => {
            let mut builder = AmazonS3Builder::from_env()
                .with_bucket_name(bucket)
                .with_virtual_hosted_style_request(parameters.virtual_style)
                .with_checksum_algorithm(Checksum::SHA256)
                .with_client_options(client)
                .with_retry(retries());
            if let Some(region) = parameters.region {
                builder = builder.with_region(region);
            }
            if let Some(endpoint) = parameters.endpoint {
                builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
            }
            Arc::new(builder.build()?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_bucket_name(bucket);
            Arc::new(builder.with_client_options(client).with_retry(retries()).build()?)
        }
        "az" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_container_name(bucket);
            if let Some(endpoint) = parameters.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Arc::new(builder.with_client_options(client).with_retry(retries()).build()?)
        }
        "http" | "https" => {
            let mut base = parsed.clone();
            base.set_query(None);
            Arc::new(HttpBuilder::new().with_url(base).with_client_options(client).with_retry(retries()).build()?)
        }
        other => return Err(StoreError::Scheme(other.to_owned())),
    };
    Target::new(store, &prefix)
}

#[derive(Debug, Default)]
struct Parameters {
    endpoint: Option<String>,
    region: Option<String>,
    virtual_style: bool,
    ca: Option<PathBuf>,
}

impl Parameters {
    fn read(url: &Url) -> Result<Parameters, StoreError> {
        let mut parameters = Parameters::default();
        for (name, value) in url.query_pairs() {
            match name.as_ref() {
                "endpoint" => {
                    let endpoint = Url::parse(&value).map_err(|error| StoreError::Value {
                        name: "endpoint",
                        reason: format!("`{value}`: {error}"),
                    })?;
                    if !matches!(endpoint.scheme(), "http" | "https") || endpoint.host_str().is_none() {
                        let reason = format!("`{value}` is not like https://s3.example.com");
                        return Err(StoreError::Value { name: "endpoint", reason });
                    }
                    if endpoint.password().is_some() {
                        return Err(StoreError::Credentials);
                    }
                    parameters.endpoint = Some(value.into_owned());
                }
                "region" => parameters.region = Some(value.into_owned()),
                "style" => {
                    parameters.virtual_style = match value.as_ref() {
                        "virtual" => true,
                        "path" => false,
                        _ => {
                            return Err(StoreError::Value {
                                name: "style",
                                reason: "write path or virtual".to_owned(),
                            });
                        }
                    }
                }
                "ca" => parameters.ca = Some(PathBuf::from(value.as_ref())),
                other => return Err(StoreError::Parameter(other.to_owned())),
            }
        }
        Ok(parameters)
    }
}

fn client_options(parameters: &mut Parameters, plain_http: bool) -> Result<ClientOptions, StoreError> {
    let mut options = ClientOptions::new()
        .with_allow_http(plain_http)
        .with_connect_timeout(Duration::from_secs(5))
        // Each operation has a time limit by its size, see `upload_transfer`; this one only ends what that forgot.
        .with_timeout(Duration::from_secs(900));
    if plain_http {
        // No machine needs certificates to talk plain HTTP.
        options = options.with_no_system_certificates(true);
    }
    if let Some(path) = parameters.ca.take() {
        let wrong = |reason: String| StoreError::Value { name: "ca", reason: format!("{}: {reason}", path.display()) };
        let pem = std::fs::read(&path).map_err(|error| wrong(error.to_string()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| wrong(error.to_string()))?;
        if certificates.is_empty() {
            return Err(wrong("there is no certificate in it".to_owned()));
        }
        for certificate in certificates {
            options = options.with_root_certificate(certificate);
        }
    }
    if let (Ok(user), Ok(password)) = (std::env::var("WEBDAV_USERNAME"), std::env::var("WEBDAV_PASSWORD")) {
        options = webdav_credentials(options, &user, &password)?;
    }
    Ok(options)
}

fn webdav_credentials(options: ClientOptions, user: &str, password: &str) -> Result<ClientOptions, StoreError> {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let mut value = reqwest::header::HeaderValue::from_str(&format!("Basic {encoded}"))
        .map_err(|error| StoreError::Value { name: "WEBDAV_PASSWORD", reason: error.to_string() })?;
    value.set_sensitive(true);
    Ok(options.with_default_headers([(reqwest::header::AUTHORIZATION, value)].into_iter().collect()))
}

fn retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 2, retry_timeout: Duration::from_secs(10) }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation,
        clippy::wildcard_enum_match_arm
    )]
    use super::*;

    fn refused(url: &str) -> String {
        open_target(url, "acme").unwrap_err().to_string()
    }

    #[test]
    fn each_kind_of_url_makes_a_store() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let file = format!("file://{}/store", dir.path().display());
        assert_eq!(open_target(&file, "/acme/").unwrap().prefix.as_ref(), "acme");
        assert!(dir.path().join("store").is_dir());
        let s3 = open_target("s3://bucket/all?endpoint=http://127.0.0.1:1&region=eu-1", "acme").unwrap();
        assert_eq!(s3.prefix.as_ref(), "all/acme");
        assert!(s3.store.to_string().contains("bucket"));
        assert_eq!(open_target("http://127.0.0.1:1/dav", "acme").unwrap().prefix.as_ref(), "acme");
    }

    #[test]
    fn wrong_urls_say_what_would_be_right() {
        assert!(refused("bucket").contains("is no URL"));
        assert!(refused("ftp://host/x").contains("known are file, s3"));
        assert!(refused("s3://b?endpont=http://h").contains("`endpont` is no parameter"));
        assert!(refused("s3://b?endpoint=h:9000").contains("not like https://s3.example.com"));
        assert!(refused("s3://b?style=web").contains("write path or virtual"));
        assert!(refused("https://user:secret@dav.example.com/").contains("environment"));
        assert!(refused("s3://b?endpoint=https://h&ca=/no/such.pem").contains("/no/such.pem"));
        assert!(refused("file://relative/path").contains("three slashes"));
    }

    #[test]
    fn keys_carry_the_utc_day_of_the_start() {
        let target = Target::new(Arc::new(object_store::memory::InMemory::new()), "acme").unwrap();
        let key = target.key("2026-01-02T23:59:59.999Z".parse().unwrap(), Uuid::from_u128(5), "audio.eopus");
        assert_eq!(key.as_ref(), "acme/2026/01/02/00000000-0000-0000-0000-000000000005/audio.eopus");
        let bare = Target::new(Arc::new(object_store::memory::InMemory::new()), "").unwrap();
        assert!(bare.key(Timestamp::default(), Uuid::nil(), "f").as_ref().starts_with("1970/01/01/"));
    }
}
