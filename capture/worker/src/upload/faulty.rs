//! An object store in memory that fails on command.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// What happens to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Refused, nothing stored (500, 503 SlowDown).
    Refuse,
    /// Half of the body is stored and the connection breaks.
    Half,
    /// All of it is stored and the answer is lost.
    LoseAnswer,
    /// Another body of the same length is stored, and the answer is 200.
    Spoil,
    /// Nothing is stored and no answer ever comes.
    Hang,
    /// Goes well.
    None,
}

#[derive(Debug, Default)]
struct State {
    faults: VecDeque<Fault>,
    down: bool,
    refused_part: Option<String>,
    puts: BTreeMap<String, usize>,
    order: Vec<String>,
    parallel: usize,
    most_parallel: usize,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty {
    pub(crate) inner: Arc<InMemory>,
    state: Arc<Mutex<State>>,
}

impl Faulty {
    /// The next puts (and parts) meet these.
    pub(crate) fn then(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// Whether nothing can be reached.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().unwrap().down = down;
    }

    /// Keys that hold this text are always refused.
    pub(crate) fn refuse_keys_with(&self, part: &str) {
        self.state.lock().unwrap().refused_part = Some(part.to_owned());
    }

    /// Puts that stored something, in order.
    pub(crate) fn order(&self) -> Vec<String> {
        self.state.lock().unwrap().order.clone()
    }

    /// How often a key was put, faults included.
    pub(crate) fn puts(&self, key: &str) -> usize {
        self.state.lock().unwrap().puts.get(key).copied().unwrap_or(0)
    }

    pub(crate) fn most_parallel(&self) -> usize {
        self.state.lock().unwrap().most_parallel
    }

    /// Everything stored.
    pub(crate) async fn objects(&self) -> BTreeMap<String, Bytes> {
        use futures::TryStreamExt as _;
        let list: Vec<ObjectMeta> = self.inner.list(None).try_collect().await.unwrap();
        let mut objects = BTreeMap::new();
        for meta in list {
            let body = self.inner.get(&meta.location).await.unwrap().bytes().await.unwrap();
            objects.insert(meta.location.to_string(), body);
        }
        objects
    }

    fn reachable(&self) -> Result<()> {
        if self.state.lock().unwrap().down { Err(refused("connection refused")) } else { Ok(()) }
    }

    fn fault(&self, key: &Path) -> Fault {
        let mut state = self.state.lock().unwrap();
        *state.puts.entry(key.to_string()).or_default() += 1;
        if state.refused_part.as_ref().is_some_and(|part| key.as_ref().contains(part)) {
            return Fault::Refuse;
        }
        state.faults.pop_front().unwrap_or(Fault::None)
    }
}

fn refused(text: &'static str) -> Error {
    Error::Generic { store: "faulty", source: text.into() }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.reachable()?;
        let fault = self.fault(location);
        {
            let mut state = self.state.lock().unwrap();
            state.parallel += 1;
            state.most_parallel = state.most_parallel.max(state.parallel);
        }
        tokio::task::yield_now().await;
        self.state.lock().unwrap().parallel -= 1;
        let body: Bytes = payload.iter().flat_map(|part| part.iter().copied()).collect::<Vec<u8>>().into();
        let store = |body: Bytes| async move {
            let result = self.inner.put_opts(location, body.into(), options).await;
            if result.is_ok() {
                self.state.lock().unwrap().order.push(location.to_string());
            }
            result
        };
        match fault {
            Fault::None => store(body).await,
            Fault::Refuse => Err(refused("503 SlowDown")),
            Fault::Half => {
                store(body.slice(..body.len() / 2)).await?;
                Err(refused("connection reset"))
            }
            Fault::LoseAnswer => {
                store(body).await?;
                Err(refused("connection reset"))
            }
            Fault::Spoil => {
                let mut spoiled = body.to_vec();
                let at = spoiled.len() / 2;
                spoiled[at] ^= 1;
                store(spoiled.into()).await
            }
            Fault::Hang => std::future::pending().await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.reachable()?;
        let upload = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(FaultyParts { upload, store: self.clone(), key: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.reachable()?;
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[derive(Debug)]
struct FaultyParts {
    upload: Box<dyn MultipartUpload>,
    store: Faulty,
    key: Path,
}

#[async_trait::async_trait]
impl MultipartUpload for FaultyParts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.store.fault(&self.key) {
            Fault::None => self.upload.put_part(data),
            Fault::Hang => Box::pin(std::future::pending()),
            Fault::Refuse | Fault::Half | Fault::LoseAnswer | Fault::Spoil => {
                Box::pin(std::future::ready(Err(refused("503 SlowDown"))))
            }
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        self.store.state.lock().unwrap().order.push(self.key.to_string());
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
