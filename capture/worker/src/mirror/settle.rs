//! Which of two twins is stored, and when the other one may go.
//!
//! An original that ended as it should is stored at once and waits for nobody. Its copy waits in `held`; so does an original
//! that a crash cut off, because its copy may have all of it. Each of them looks for its twin:
//!
//! | the twin | then |
//! | --- | --- |
//! | is in the store and covers these files | these are deleted |
//! | is in the store and lacks something that these have | these are stored as well |
//! | is not there; its node has it and will store it | wait |
//! | is not there; its node holds it for us | the better of the two is stored, the other waits |
//! | is not there; its node has nothing of it | these are stored |
//! | is not there; its node is silent | wait, but not for ever ([`Patience`]); then these are stored |
//!
//! # Invariants
//!
//! - Files are deleted only after the *store itself* has shown the twin: its manifest, and its audio by length and by hash.
//!   What a node says only ever makes files wait or be stored.
//! - So no crash, no lost message and no wrong answer loses a recording. What they can cost is that both are stored; both
//!   say which part of which recording they are, and one says that it is a copy.
//! - Every step is a `rename`, and everything that decides lies in the folder or in the store: it works after restarts of
//!   either node, when the other one never comes back, and without any third party.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use ferric_media::manifest::RecordingState;
use ferric_media::part::Part;
use ferric_media::timestamp::Timestamp;

use super::twin::{Outcome, Role, Twin};
use crate::recover::release_held;
use crate::spool::{Spool, Stage, recording_id};
use crate::spool_writer::FinishedRecording;
use crate::store_lookup::{Found, look_up};
use crate::upload::{Stores, WallClock};
use crate::upload_transfer::Verify;

/// What two timelines may differ by and still be the same.
const TOLERANCE: Duration = Duration::from_millis(500);
/// Between two looks into the spool, and for one recording: first and longest.
const PERIOD: Duration = Duration::from_secs(5);
const AGAIN: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(120));

/// How long files wait for a twin whose node is silent, since they ended.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A copy for its original.
    pub copy: Duration,
    /// An original that was cut off for its copy: longer, so that they do not go at the same time.
    pub original: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { copy: Duration::from_secs(600), original: Duration::from_secs(1_200) }
    }
}

/// What the twin's node says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It is being recorded, or waits for the store.
    Coming,
    /// It waits for us.
    Held(Option<Outcome>),
    /// There is nothing of it, or it was set aside: nobody waits for a person while these files are whole.
    Gone,
    /// The node does not answer.
    Silent,
}

impl Word {
    /// What this spool has to say of some files.
    pub fn of(spool: &Spool, file: Uuid) -> Word {
        let folder = |stage| spool.folder(stage, file);
        if folder(Stage::Held).exists() {
            return Word::Held(Twin::load(&folder(Stage::Held)).and_then(|twin| twin.outcome));
        }
        let coming = [Stage::Recording, Stage::Ready].into_iter().any(|stage| folder(stage).exists());
        if coming { Word::Coming } else { Word::Gone }
    }
}

/// What is to become of held files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The twin has it all, and is safe.
    Drop,
    /// Store them; why.
    Release(&'static str),
    /// Not yet.
    Wait,
}

/// Judges held files; `held_for` is how long they wait, `word` is asked only if the store has no twin.
pub fn judge(role: Role, mine: &Outcome, held_for: Duration, found: &Found, word: Word, patience: Patience) -> Verdict {
    match found {
        Found::Unknown => Verdict::Wait,
        Found::Stored(twin) if covers(twin, mine) => Verdict::Drop,
        Found::Stored(_) => Verdict::Release("they hold what the stored twin lacks"),
        Found::Absent => match word {
            Word::Coming => Verdict::Wait,
            Word::Held(Some(theirs)) if goes_first(role, mine, &theirs) => {
                Verdict::Release("they hold more than their twin")
            }
            Word::Held(_) => Verdict::Wait,
            Word::Gone => Verdict::Release("there is no twin"),
            Word::Silent => {
                let patience = match role {
                    Role::Copy => patience.copy,
                    Role::Original => patience.original,
                };
                if held_for >= patience { Verdict::Release("the twin did not come") } else { Verdict::Wait }
            }
        },
    }
}

fn covers(twin: &Outcome, mine: &Outcome) -> bool {
    let worse = twin.state == RecordingState::Partial && mine.state != RecordingState::Partial;
    twin.started_at <= mine.started_at.plus(TOLERANCE) && twin.ended_at.plus(TOLERANCE) >= mine.ended_at && !worse
}

/// Of two that wait for each other exactly one goes first, whichever of them asks.
fn goes_first(role: Role, mine: &Outcome, theirs: &Outcome) -> bool {
    let rank =
        |outcome: &Outcome| (outcome.state == RecordingState::Complete, outcome.ended_at.since(outcome.started_at));
    match rank(mine).cmp(&rank(theirs)) {
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => role == Role::Original,
    }
}

/// Asks a node about some files.
pub type Ask = Arc<dyn Fn(String, Uuid) -> BoxFuture<'static, Word> + Send + Sync>;
/// Takes files that are to be stored.
pub type Submit = Box<dyn Fn(FinishedRecording) + Send + Sync>;

/// Hears that files were deleted because others have what they had.
pub type Dropped = Box<dyn Fn(Part) + Send + Sync>;

/// What became of held files.
#[derive(Debug, Default)]
pub struct SettleStats {
    /// Files that wait.
    pub held: std::sync::atomic::AtomicU64,
    /// Files deleted, their twin being stored.
    pub dropped: std::sync::atomic::AtomicU64,
    /// Files stored in their twin's place, or besides it.
    pub released: std::sync::atomic::AtomicU64,
}

/// Settles what lies in `held`.
pub struct Settler {
    /// The spool.
    pub spool: Spool,
    /// Where twins are looked for.
    pub stores: Stores,
    /// How thoroughly.
    pub verify: Verify,
    /// This node.
    pub node: String,
    /// How long to wait for silent ones.
    pub patience: Patience,
    /// Asks other nodes.
    pub ask: Ask,
    /// Where released files go.
    pub submit: Submit,
    /// Hears of deleted ones.
    pub dropped: Dropped,
    /// The wall clock.
    pub clock: WallClock,
    /// What became of them.
    pub stats: Arc<SettleStats>,
}

impl std::fmt::Debug for Settler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settler").field("node", &self.node).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Settler {
    /// Runs until `stop`; `nudge` makes it look at everything at once (a twin was stored, a node came back).
    pub async fn run(self, nudge: Arc<Notify>, stop: CancellationToken) {
        let mut due: HashMap<Uuid, (Instant, Duration)> = HashMap::new();
        loop {
            let held = self.held();
            self.stats.held.store(held.len() as u64, std::sync::atomic::Ordering::Relaxed);
            due.retain(|id, _| held.contains(id));
            for id in held {
                let (at, pause) = due.get(&id).copied().unwrap_or((Instant::now(), AGAIN.0));
                if Instant::now() < at || stop.is_cancelled() {
                    continue;
                }
                if self.settle(id).await == Verdict::Wait {
                    due.insert(id, (Instant::now() + pause, (pause * 2).min(AGAIN.1)));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = nudge.notified() => due.clear(),
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    fn held(&self) -> Vec<Uuid> {
        let entries = self.spool.entries(Stage::Held).unwrap_or_default();
        entries.iter().filter_map(|folder| recording_id(folder)).collect()
    }

    /// Looks at one recording once, and does what is to be done.
    pub async fn settle(&self, id: Uuid) -> Verdict {
        let verdict = self.verdict(id).await;
        let (spool, node) = (self.spool.clone(), self.node.clone());
        match verdict {
            Verdict::Wait => {}
            Verdict::Drop => match tokio::task::spawn_blocking(move || {
                let part = crate::recover::part_of(&spool.folder(Stage::Held, id));
                spool.remove_held(id).map(|()| part)
            })
            .await
            {
                Ok(Ok(part)) => {
                    part.into_iter().for_each(&self.dropped);
                    self.stats.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    tracing::info!(file = %id, "dropped: its twin is verified in the store");
                }
                Ok(Err(error)) => tracing::warn!(file = %id, %error, "a twin that is stored cannot be deleted here"),
                Err(_) => {}
            },
            Verdict::Release(why) => match tokio::task::spawn_blocking(move || release_held(&spool, id, &node)).await {
                Ok(Ok(finished)) => {
                    self.stats.released.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    tracing::warn!(file = %id, recording = %finished.start.part.recording, why, "held files are stored");
                    (self.submit)(finished);
                }
                Ok(Err(error)) => tracing::error!(file = %id, %error, "held files cannot be stored"),
                Err(_) => {}
            },
        }
        verdict
    }

    async fn verdict(&self, id: Uuid) -> Verdict {
        let folder = self.spool.folder(Stage::Held, id);
        let read = tokio::task::spawn_blocking(move || {
            let tenant = crate::recover::tenant_of(&folder);
            Twin::load(&folder).zip(tenant)
        });
        let Ok(Some((twin, tenant))) = read.await else {
            // Nothing tells what it waits for: it is stored.
            return Verdict::Release("nothing tells of a twin");
        };
        let Some(mine) = twin.outcome else { return Verdict::Release("nothing tells how they ended") };
        let Some(target) = self.stores.get(&tenant) else { return Verdict::Wait };
        let found = look_up(&target, twin.started_at, twin.file, self.verify).await;
        let word = match found {
            Found::Absent => (self.ask)(twin.node.clone(), twin.file).await,
            Found::Stored(_) | Found::Unknown => Word::Silent,
        };
        let held_for = (self.clock)().since(self.held_since(id, &mine));
        judge(twin.role, &mine, held_for, &found, word, self.patience)
    }

    /// A copy waits since its call ended; an original that was cut off since its node came back.
    fn held_since(&self, id: Uuid, mine: &Outcome) -> Timestamp {
        let folder = self.spool.folder(Stage::Held, id);
        let written = std::fs::metadata(folder.join(super::twin::TWIN)).and_then(|file| file.modified());
        written.map_or(mine.ended_at, |written| mine.ended_at.max(Timestamp::from(written)))
    }
}

#[cfg(test)]
mod tests;
