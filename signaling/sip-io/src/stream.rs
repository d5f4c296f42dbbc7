//! One stream connection at work: bytes to messages, messages to bytes.
//!
//! Times are kept by one timer a connection that is only moved when it fires, so a
//! message costs no timer. It stands for the earliest of:
//!
//! ```text
//! an accepted connection has not brought a message   accepted + patience
//! a message has begun                                 its first byte + patience
//! otherwise                                           last byte either way + idle
//! ```
//!
//! Bytes that trickle in do not move the first two. Keep-alives (RFC 5626 3.5.1) are
//! no messages: they keep a connection from being idle, nothing more.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferric_sip::flow::Flow;
use ferric_sip::framing::{Frame, FrameError, StreamFramer};
use ferric_sip::message::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};

use crate::inbound::{Inbound, InboundKind, invite_of};
use crate::limits::{IoLimits, count};
use crate::sockets::Shared;
use crate::table::{Outgoing, Queue};

/// Bytes read at once.
const READ: usize = 16 * 1024;
/// Messages written at once.
const WRITE: usize = 32;
/// What is queued when the peer ends its side has this long to leave.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What both halves of a connection know.
struct Activity {
    began: Instant,
    /// The last byte either way, in milliseconds since it began.
    last_byte_ms: AtomicU64,
    /// A message went or came: somebody may wait for it.
    used: AtomicBool,
}

impl Activity {
    fn new() -> Activity {
        Activity { began: Instant::now(), last_byte_ms: AtomicU64::new(0), used: AtomicBool::new(false) }
    }

    fn note_byte(&self, now: Instant) {
        let since = now.saturating_duration_since(self.began).as_millis();
        self.last_byte_ms.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// What a connection's end hangs on.
struct Deadlines {
    /// No message came yet, and the connection is the peer's.
    is_new: bool,
    midway_since: Option<Instant>,
}

impl Deadlines {
    /// When the connection is over unless something happens, and whether the peer is slow then.
    fn next(&self, activity: &Activity, limits: &IoLimits) -> (Instant, bool) {
        let first = self.is_new.then_some(activity.began);
        let slow = [first, self.midway_since].into_iter().flatten().min().map(|from| from + limits.patience);
        let last_byte = activity.began + Duration::from_millis(activity.last_byte_ms.load(Ordering::Relaxed));
        let idle = last_byte + limits.idle;
        match slow {
            Some(slow) if slow <= idle => (slow, true),
            Some(_) | None => (idle, false),
        }
    }
}

/// Runs a connection until either side ends it; tells what waited for it then.
/// `opened` is true for connections that we began.
pub(crate) async fn serve<S>(shared: &Arc<Shared>, flow: Flow, stream: S, queue: &mut Queue, opened: bool) -> Left
where
    S: AsyncRead + AsyncWrite,
{
    let activity = Activity::new();
    let mut unsent = Vec::with_capacity(WRITE);
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let (pong, mut pongs) = mpsc::channel::<()>(4);
        let write = write_all(shared, &activity, &mut writer, &mut queue.messages, &mut pongs, &mut unsent);
        let read = read_all(shared, &activity, flow, opened, &mut reader, &pong);
        let mut write = pin!(write);
        tokio::select! {
            () = read => {
                // What is queued, an answer to a malformed message above all, still leaves; nothing is added.
                shared.table().remove(flow.connection);
                let _ = timeout(LAST_WORDS, &mut write).await;
            }
            () = &mut write => {}
            // Its queue was full.
            _ = &mut queue.closed => {}
        }
    }
    Left { unsent, used: activity.used.into_inner() }
}

/// What a connection leaves behind.
#[derive(Debug, Default)]
pub(crate) struct Left {
    /// Taken from the queue and perhaps not written.
    pub(crate) unsent: Vec<Outgoing>,
    /// Messages went over it, and somebody may wait for an answer.
    pub(crate) used: bool,
}

async fn write_all<W: AsyncWrite + Unpin>(
    shared: &Arc<Shared>,
    activity: &Activity,
    writer: &mut W,
    queue: &mut mpsc::Receiver<Outgoing>,
    pongs: &mut mpsc::Receiver<()>,
    batch: &mut Vec<Outgoing>,
) {
    loop {
        let bytes = tokio::select! {
            number = queue.recv_many(batch, WRITE) => {
                if number == 0 {
                    return;
                }
                activity.used.store(true, Ordering::Relaxed);
                joined(batch)
            }
            Some(()) = pongs.recv() => Bytes::from_static(b"\r\n"),
        };
        let write = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        match timeout(shared.limits.patience, write).await {
            Ok(Ok(())) => activity.note_byte(Instant::now()),
            Ok(Err(_)) => return,
            // A peer that does not read is given up.
            Err(_) => {
                count(&shared.stats.connections_slow);
                return;
            }
        }
        batch.clear();
    }
}

/// Several messages as one write.
fn joined(batch: &[Outgoing]) -> Bytes {
    match batch {
        [one] => one.bytes.clone(),
        several => {
            let mut all = Vec::with_capacity(several.iter().map(|outgoing| outgoing.bytes.len()).sum());
            for outgoing in several {
                all.extend_from_slice(&outgoing.bytes);
            }
            Bytes::from(all)
        }
    }
}

async fn read_all<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    activity: &Activity,
    flow: Flow,
    opened: bool,
    reader: &mut R,
    pong: &mpsc::Sender<()>,
) {
    let mut framer = StreamFramer::new(shared.limits.max_message);
    let mut deadlines = Deadlines { is_new: !opened, midway_since: None };
    let mut timer = pin!(sleep_until(deadlines.next(activity, &shared.limits).0.into()));
    loop {
        let read = tokio::select! {
            biased;
            read = read_some(reader, &mut framer) => read,
            () = timer.as_mut() => {
                let (deadline, slow) = deadlines.next(activity, &shared.limits);
                if deadline <= Instant::now() {
                    if slow {
                        count(&shared.stats.connections_slow);
                        tracing::debug!(source = %flow.remote.ip(), "a slow sender is cut off");
                    }
                    return;
                }
                timer.as_mut().reset(deadline.into());
                continue;
            }
        };
        if !matches!(read, Ok(1..)) {
            return;
        }
        let now = Instant::now();
        activity.note_byte(now);
        let Some(messages) = take_frames(shared, flow, now, &mut framer, pong).await else { return };
        if messages {
            deadlines.is_new = false;
            activity.used.store(true, Ordering::Relaxed);
        }
        let was = deadlines.midway_since.filter(|_| !messages);
        deadlines.midway_since = framer.is_midway().then(|| was.unwrap_or(now));
        // Only an earlier end needs the timer to be moved now.
        let (deadline, slow) = deadlines.next(activity, &shared.limits);
        if slow && tokio::time::Instant::from_std(deadline) < timer.deadline() {
            timer.as_mut().reset(deadline.into());
        }
    }
}

/// Reads into a buffer on the stack: a connection at rest holds no memory for what may come.
async fn read_some<R: AsyncRead + Unpin>(reader: &mut R, framer: &mut StreamFramer) -> io::Result<usize> {
    poll_fn(|context| {
        let mut space = [const { MaybeUninit::<u8>::uninit() }; READ];
        let mut buffer = ReadBuf::uninit(&mut space);
        Pin::new(&mut *reader).poll_read(context, &mut buffer).map_ok(|()| {
            framer.push(buffer.filled());
            buffer.filled().len()
        })
    })
    .await
}

/// Hands whole messages on, and tells whether there were any; `None` when the connection must be closed.
async fn take_frames(
    shared: &Arc<Shared>,
    flow: Flow,
    now: Instant,
    framer: &mut StreamFramer,
    pong: &mpsc::Sender<()>,
) -> Option<bool> {
    let mut messages = false;
    loop {
        match framer.next_frame() {
            Ok(Some(Frame::Message(bytes))) => {
                messages = true;
                if let Some(inbound) = shared.read(flow, now, bytes) {
                    // A driver that is behind slows the peer down.
                    shared.inbound.send(inbound).await.ok()?;
                }
            }
            Ok(Some(Frame::Ping)) => {
                let _ = pong.try_send(());
            }
            Ok(Some(Frame::Pong)) => {}
            Ok(None) => {
                framer.take_pong();
                return Some(messages);
            }
            Err(error) => {
                let kind = refuse(shared, &flow, &error);
                let _ = shared.inbound.send(Inbound { flow, at: now, kind }).await;
                return None;
            }
        }
    }
}

/// Answers a stream that cannot be cut into messages.
fn refuse(shared: &Arc<Shared>, flow: &Flow, error: &FrameError) -> InboundKind {
    let (status, header) = match error {
        FrameError::HeaderTooLong { header, .. } => (513, header),
        FrameError::NoLength { header } => (400, header),
        FrameError::TooLong { header, .. } => (513, header),
    };
    let readable = match Message::parse(header.clone()) {
        Ok(request) => Some(request),
        Err(broken) => broken.into_partial(),
    };
    let request = readable.filter(|request| request.is_request() && request.header("Via").is_some());
    let (mut answered, mut invite) = (None, None);
    if let Some(request) = request {
        let mut answer = Message::response(&request, status, Some(&error.to_string()));
        invite = invite_of(&answer);
        answer.set_to_tag("malformed");
        shared.send(flow.into(), answer.to_bytes());
        answered = Some(status);
    }
    InboundKind::Malformed { error: error.to_string(), answered, invite }
}
