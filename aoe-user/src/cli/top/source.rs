//! Asks the target again and again, and goes on asking while there is none.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cli::live::args::TopArgs;
use crate::cli::live::client::Client;
use crate::control::api::types::{LogLines, Request, State};

/// How long a target may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// When to look again for a target that has gone.
const AGAIN: Duration = Duration::from_secs(1);

/// What is new.
#[derive(Debug)]
pub(super) enum Update {
    /// Everything about the exports, and the lines logged since the last of these.
    State(Box<State>, LogLines),
    /// The target does not answer, for this reason.
    Gone(String),
}

/// A thread that asks.
pub(super) struct Source {
    /// What it hears.
    pub updates: Receiver<Update>,
}

struct Asker {
    args: TopArgs,
    updates: SyncSender<Update>,
    /// The process and its last log line that was told.
    told: (u32, u64),
}

impl Source {
    /// Starts asking, once the target has answered.
    ///
    /// # Errors
    /// When it does not.
    pub(super) fn start(args: &TopArgs) -> Result<Source> {
        // Nobody takes them while the user has stopped the process.
        let (sender, updates) = sync_channel(2);
        let mut asker = Asker {
            args: args.clone(),
            updates: sender,
            told: (0, 0),
        };
        let mut client = asker.connect()?;
        let first = asker.ask(&mut client)?;
        let _ = asker.updates.send(first);
        thread::Builder::new()
            .name("top".into())
            .spawn(move || asker.run(client))
            .context("cannot start a thread")?;
        Ok(Source { updates })
    }
}

impl Asker {
    fn connect(&self) -> Result<Client> {
        let client = Client::new(&self.args.target)?;
        client.limit(LIMIT)?;
        Ok(client)
    }

    fn ask(&mut self, client: &mut Client) -> Result<Update> {
        let state: State = client.ask(&Request::State {
            exports: self.args.exports.clone(),
            every_ms: None,
        })?;
        if self.told.0 != state.pid {
            self.told = (state.pid, 0);
        }
        let log: LogLines = client.ask(&Request::LogLines { after: self.told.1 })?;
        self.told.1 = log.last;
        Ok(Update::State(Box::new(state), log))
    }

    /// Until nobody listens any more.
    fn run(mut self, client: Client) {
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
                    None => self.connect()?,
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
