//! The SRS's end, in the signalling task: the switchboard, and what it wants done.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use ferric_assurance::Ledger;
use ferric_fabric::NodeId;
use ferric_srs::placement::{Directory, Owned, Policy, Switchboard, SwitchboardOutput, ToServer, ToWorker, WorkerId};
use ferric_srs::port::{CaptureEvent, Command, RecordingId};

use super::Heard;
use super::local::Local;
use super::post::{Post, TO_WORKER};
use super::serve::{Load, Serve};
use crate::config::{Config, Placement};
use crate::metrics;
use crate::node::cluster::{Cluster, Topic};

/// What signalling is told of other nodes.
#[derive(Debug)]
#[allow(dead_code)]
pub(in crate::node) enum News {
    /// A worker can be reached.
    Up { node: NodeId, site: String },
    /// Its link is another one; that it is up follows.
    Replaced(NodeId),
    /// A worker cannot be reached.
    Down(NodeId),
    /// A worker says something.
    Message(NodeId, Box<ToServer>),
    /// So many SRS nodes place calls, this one included.
    Servers(usize),
    /// The calls of a dead SRS node are this one's now: where are they recorded?
    Adopt(Vec<Owned>),
    /// Some of them are recorded here; the others are not.
    FoundHere { have: Vec<Owned>, missing: Vec<Owned> },
    /// Another node has these calls.
    Forget(Vec<RecordingId>),
    /// The SBC sends to where this recording is now.
    Moved(RecordingId),
}

/// The way to all workers.
pub(in crate::node) struct Remote {
    switchboard: Switchboard,
    post: Post,
    /// The worker of this node, and its load.
    local: Option<(Arc<Local>, Load)>,
    serve: Option<Serve>,
    node: String,
    ledger: Ledger,
}

impl Remote {
    /// `None` where there are no other nodes.
    pub(in crate::node) fn new(
        config: &Config,
        cluster: &Cluster,
        local: Option<(Arc<Local>, Load)>,
        serve: Option<Serve>,
        ledger: Ledger,
    ) -> Option<Remote> {
        let fabric = cluster.fabric()?.clone();
        let policy = match config.recording.placement {
            Placement::RoundRobin => Policy::RoundRobin,
            Placement::LeastLoaded => Policy::LeastLoaded,
        };
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let run = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let (node, site) = (cluster.node().as_str(), cluster.site().as_str());
        let mut directory = Directory::new(node, site, policy, run);
        let own = local.as_ref().map(|_| WorkerId::new(node));
        if let Some(own) = &own {
            directory.up(own.clone(), site);
        }
        let (node, post) = (node.to_owned(), Post::new(fabric, Topic::Capture.kind(TO_WORKER)));
        Some(Remote {
            switchboard: Switchboard::new(directory, own, run).with_mirrors(config.mirrors().next().is_some()),
            post,
            local,
            serve,
            node,
            ledger,
        })
    }

    pub(super) fn command(&mut self, now: Instant, command: Command) -> Vec<Heard> {
        if matches!(command, Command::Assign { .. })
            && let Some((_, load)) = &mut self.local
        {
            let report = load.report(Default::default());
            self.switchboard.directory_mut().report_own(now, &WorkerId::new(&self.node), report);
        }
        self.switchboard.handle_command(now, command);
        self.drain(now)
    }

    pub(super) fn news(&mut self, now: Instant, news: News) -> Vec<Heard> {
        let worker = |node: &NodeId| WorkerId::new(node.as_str());
        match news {
            News::Up { node, site } => self.switchboard.handle_up(worker(&node), &site),
            News::Replaced(node) => {
                self.post.forget(&node);
                self.switchboard.handle_replaced(now, &worker(&node));
            }
            News::Down(node) => {
                self.post.forget(&node);
                let before = self.switchboard.lost();
                self.switchboard.handle_down(now, &worker(&node));
                let lost = self.switchboard.lost() - before;
                if lost > 0 {
                    tracing::warn!(%node, recordings = lost, "a worker is lost with what it recorded");
                }
            }
            News::Message(node, message) => self.switchboard.handle_message(now, &worker(&node), *message),
            News::Servers(count) => self.switchboard.directory_mut().set_servers(count),
            News::Adopt(recordings) => {
                self.switchboard.adopt(now, &recordings);
                if let Some(serve) = &self.serve {
                    serve.take_over(recordings);
                }
            }
            News::FoundHere { have, missing } => self.switchboard.found_here(now, &have, &missing),
            News::Forget(recordings) => self.switchboard.forget(&recordings),
            News::Moved(recording) => self.switchboard.moved(recording),
        }
        self.drain(now)
    }

    pub(super) fn poll_timeout(&mut self) -> Option<Instant> {
        [self.switchboard.poll_timeout(), self.post.poll_timeout()].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Heard> {
        self.switchboard.handle_timeout(now);
        self.post.handle_timeout(now);
        self.drain(now)
    }

    fn drain(&mut self, now: Instant) -> Vec<Heard> {
        let mut heard = Vec::new();
        while let Some(output) = self.switchboard.poll_output() {
            match output {
                SwitchboardOutput::Local(command) => {
                    let answer = self.local.as_ref().and_then(|(local, _)| local.perform(*command));
                    if let Some(event) = answer {
                        self.switchboard.handle_local(now, event);
                    }
                }
                SwitchboardOutput::Promote(recordings) => {
                    let Some((local, _)) = &self.local else { continue };
                    let (promoted, without) = local.promote(&recordings);
                    for (Owned { recording, part, .. }, _, streams) in promoted {
                        self.switchboard.handle_local(now, CaptureEvent::Promoted { recording, part, streams });
                    }
                    self.switchboard.no_local_copy(&without);
                }
                SwitchboardOutput::Send { to, message } => self.send(now, &to, message),
                SwitchboardOutput::Tell(event) => {
                    if matches!(event, CaptureEvent::Promoted { .. }) {
                        metrics::failovers("mirror", 1);
                    }
                    if let CaptureEvent::Refused { recording, .. } = &event
                        && self.switchboard.place(*recording).is_none()
                    {
                        metrics::call("refused");
                    }
                    heard.push(Heard::Event(event));
                }
                SwitchboardOutput::Stop(recording) => heard.push(Heard::Stop(recording)),
                SwitchboardOutput::Placed { recording, part, worker } => {
                    tracing::debug!(%recording, part, %worker, "recorded by");
                    self.ledger.placed(recording.0, part, worker.as_str());
                }
            }
        }
        heard
    }

    fn send(&mut self, now: Instant, to: &WorkerId, message: ToWorker) {
        let Ok(node) = NodeId::new(to.as_str()) else { return };
        if self.post.send(now, &node, &message) {
            return;
        }
        // An assignment that cannot go is refused here, so that the next worker is asked at once.
        if let ToWorker::Command { part, command, .. } = message
            && let Command::Assign { recording, .. } | Command::Change { recording, .. } = *command
        {
            let reason = ferric_srs::port::RefuseReason::NoWorker;
            let event = CaptureEvent::Refused { recording, part, reason };
            self.switchboard.handle_message(now, to, ToServer::Event { event, load: None });
        }
    }
}
