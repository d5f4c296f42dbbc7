//! What JetStream keeps of soft state, and reading it back when a whole cluster starts.
//!
//! ```text
//! ferric.CLUSTER.kept.NODE.ID     u64 big endian: milliseconds the record waited here | record
//! ferric.CLUSTER.kept.NODE.clock  nothing: its time is the store's
//! ```
//!
//! Each node keeps the last record of a name on a subject of its own, so a slow writer never replaces what another wrote
//! later: reading merges them by their stamps. The age of a record is the difference of two times of the store; no node's
//! clock takes part.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::OrderedConfig;
use async_nats::{Client, HeaderMap, header, jetstream};
use bytes::{BufMut as _, Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::sync::mpsc;

use super::link::{Link, down, up};
use super::{AGAIN_AFTER, last_of_each, within};
use crate::health::Gauges;
use crate::keeper::{Keeper, Record};
use crate::memory::Memory;

/// Records on their way at once.
const AT_ONCE: usize = 128;

/// What both tasks work with.
#[derive(Clone)]
pub(crate) struct Keep {
    pub(crate) keeper: Arc<Keeper>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) gauges: Arc<Gauges>,
    /// `FERRIC-CLUSTER-KEPT`
    pub(crate) stream: String,
    /// `ferric.CLUSTER.kept.`
    pub(crate) prefix: String,
    pub(crate) node: String,
    pub(crate) replicas: usize,
}

impl Keep {
    /// Writes behind, for as long as the node runs.
    pub(crate) async fn run_writing(self, mut link: Link) {
        while let Some(client) = up(&mut link).await {
            tokio::select! {
                result = self.write(&client) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, waiting = self.keeper.waiting(), "soft state is not kept for now");
                    }
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                () = down(link.clone()) => {}
            }
        }
    }

    async fn stream(&self, client: &Client) -> Result<jetstream::stream::Stream, String> {
        last_of_each(client, self.stream.clone(), format!("{}>", self.prefix), self.replicas).await
    }

    async fn write(&self, client: &Client) -> Result<(), String> {
        self.stream(client).await?;
        let context = jetstream::new(client.clone());
        loop {
            let batch = self.keeper.take(AT_ONCE);
            if batch.is_empty() {
                self.keeper.woken().await;
                continue;
            }
            let mut on_the_way = Returned { keeper: &self.keeper, batch };
            let sending = on_the_way.batch.iter().map(|(id, record)| self.send(&context, *id, record));
            let results = futures::future::join_all(sending).await;
            let mut failed = None;
            let mut outcome = results.into_iter();
            on_the_way.batch.retain(|_| match outcome.next() {
                Some(Err(error)) => {
                    failed = Some(error);
                    true
                }
                Some(Ok(())) | None => {
                    self.gauges.kept.add(1);
                    false
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    async fn send(&self, context: &jetstream::Context, id: u128, record: &Record) -> Result<(), String> {
        let waited = record.made.elapsed();
        let Some(left) = record.life.checked_sub(waited).filter(|left| !left.is_zero()) else { return Ok(()) };
        let mut payload = BytesMut::with_capacity(8 + record.bytes.len());
        payload.put_u64(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX));
        payload.put_slice(&record.bytes);
        let subject = format!("{}{}.{id:032x}", self.prefix, self.node);
        self.publish(context, subject, left, payload.freeze()).await.map(|_| ())
    }

    async fn publish(
        &self,
        context: &jetstream::Context,
        subject: String,
        life: Duration,
        payload: Bytes,
    ) -> Result<u64, String> {
        let mut headers = HeaderMap::new();
        headers.insert(header::NATS_MESSAGE_TTL, (life.as_secs() + 1).to_string());
        let publishing = async {
            let acknowledged = context.publish_with_headers(subject, headers, payload).await?;
            acknowledged.await
        };
        Ok(within(publishing).await?.sequence)
    }

    /// Reads everything back whenever it is asked for.
    pub(crate) async fn run_reading(self, mut link: Link, mut asked: mpsc::Receiver<()>) {
        while asked.recv().await.is_some() {
            while let Some(client) = up(&mut link).await {
                match self.read(&client).await {
                    Ok(records) => {
                        tracing::info!(records, "registrations were read back from JetStream");
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "what was kept cannot be read yet"),
                }
                tokio::time::sleep(AGAIN_AFTER).await;
            }
        }
    }

    async fn read(&self, client: &Client) -> Result<u64, String> {
        let stream = self.stream(client).await?;
        let context = jetstream::new(client.clone());
        let clock = format!("{}{}.clock", self.prefix, self.node);
        let last = self.publish(&context, clock, Duration::from_secs(60), Bytes::new()).await?;
        let now = within(stream.get_raw_message(last)).await?.time;
        let consumer = within(stream.create_consumer(OrderedConfig::default())).await?;
        let mut messages = within(consumer.messages()).await?;
        let mut records = 0;
        loop {
            let next = async { messages.next().await.ok_or("the list ended early") };
            let message = within(next).await?.map_err(|error| error.to_string())?;
            let info = message.info().map_err(|error| error.to_string())?;
            if let Some((waited, record)) = message.payload.split_first_chunk::<8>()
                && info.stream_sequence < last
            {
                let stored = u64::try_from((now - info.published).whole_milliseconds()).unwrap_or(0);
                let age = Duration::from_millis(stored.saturating_add(u64::from_be_bytes(*waited)));
                self.memory.restore(record, age);
                self.gauges.restored.add(1);
                records += 1;
            }
            // The clock's own message is the last one that is of interest; it may have been replaced since.
            if info.stream_sequence >= last || info.pending == 0 {
                return Ok(records);
            }
        }
    }
}

/// Records on their way: they wait again when their task ends or fails.
struct Returned<'a> {
    keeper: &'a Keeper,
    batch: Vec<(u128, Record)>,
}

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        for (id, record) in self.batch.drain(..).rev() {
            self.keeper.give_back(id, record);
        }
    }
}
