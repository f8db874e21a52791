//! Asks the target again and again, and goes on asking while there is none.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::change::TopChange;
use crate::cli::live::args::TopArgs;
use crate::cli::live::change::told;
use crate::cli::live::client::ControlClient;
use crate::control::api::types::{ControlRequest, DaemonState, LogLines};

/// How long a target may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How long it may take to finish and commit what is in flight: longer than the target itself gives that.
const CHANGE_LIMIT: Duration = Duration::from_secs(90);
/// When to look again for a target that has gone.
const AGAIN: Duration = Duration::from_secs(1);

/// What is new.
#[derive(Debug)]
pub(super) enum Update {
    /// Everything about the exports, and the lines logged since the last of these.
    State(Box<DaemonState>, LogLines),
    /// The target does not answer, for this reason.
    Gone(String),
}

/// A thread that asks.
pub(super) struct TopSource {
    /// What it hears.
    pub(crate) updates: Receiver<Update>,
    /// What came of changes, in words.
    pub(crate) told: Receiver<String>,
    tell: Sender<String>,
    args: TopArgs,
}

struct Poller {
    args: TopArgs,
    updates: SyncSender<Update>,
    /// The process and its last log line that was told.
    told: (u32, u64),
}

impl TopSource {
    /// Starts asking, once the target has answered.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn start(args: &TopArgs) -> Result<TopSource> {
        // Nobody takes them while the user has stopped the process.
        let (sender, updates) = sync_channel(2);
        let mut poller = Poller {
            args: args.clone(),
            updates: sender,
            told: (0, 0),
        };
        let mut client = connect(args, LIMIT)?;
        let first = poller.ask(&mut client)?;
        let _ = poller.updates.send(first);
        thread::Builder::new()
            .name("top".into())
            .spawn(move || poller.run(client))
            .context("cannot start a thread")?;
        let (tell, told_of) = channel();
        Ok(TopSource {
            updates,
            told: told_of,
            tell,
            args: args.clone(),
        })
    }

    /// Has the target change an export, and does not wait: what is in flight may take a while to be committed.
    pub(super) fn change(&self, change: &TopChange) {
        let (args, request, tell) = (self.args.clone(), change.request(), self.tell.clone());
        let ask = move || {
            // A connection of its own: the other one may be waiting for a reply.
            let result = connect(&args, CHANGE_LIMIT).and_then(|mut client| client.ask::<Value>(&request));
            let text = match result {
                Ok(result) => told(&result).join("; "),
                Err(error) => format!("{error:#}"),
            };
            let _ = tell.send(text);
        };
        let begun = thread::Builder::new().name("change".into()).spawn(ask);
        if let Err(error) = begun {
            let _ = self.tell.send(format!("cannot start a thread: {error}"));
        }
    }
}

fn connect(args: &TopArgs, limit: Duration) -> Result<ControlClient> {
    let mut client = ControlClient::new(&args.target)?;
    client.limit(limit);
    Ok(client)
}

impl Poller {
    fn ask(&mut self, client: &mut ControlClient) -> Result<Update> {
        let state: DaemonState = client.ask(&ControlRequest::State {
            exports: self.args.exports.clone(),
            every_ms: None,
        })?;
        if self.told.0 != state.pid {
            self.told = (state.pid, 0);
        }
        let log: LogLines = client.ask(&ControlRequest::LogLines { after: self.told.1 })?;
        self.told.1 = log.last;
        Ok(Update::State(Box::new(state), log))
    }

    /// Until nobody listens any more.
    fn run(mut self, client: ControlClient) {
        let mut client = Some(client);
        loop {
            thread::sleep(if client.is_some() {
                self.args.interval
            } else {
                AGAIN
            });
            let mut answer = || -> Result<Update> {
                let mut connection = match client.take() {
                    Some(connection) => connection,
                    None => connect(&self.args, LIMIT)?,
                };
                let update = self.ask(&mut connection)?;
                client = Some(connection);
                Ok(update)
            };
            let update = answer().unwrap_or_else(|error| Update::Gone(format!("{error:#}")));
            if self.updates.send(update).is_err() {
                return;
            }
        }
    }
}
