//! The asking end of the control socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
#[cfg(feature = "top")]
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::args::{TargetArgs, socket};
use crate::control::api::types::{ControlReply, ControlRequest, DaemonState, SCHEMA};

/// Nobody listens.
#[derive(Debug, thiserror::Error)]
#[error("no xblade listens on {path}: {error}; is it running? (`systemctl status xblade`)")]
pub(in crate::cli) struct NoTarget {
    path: String,
    error: std::io::Error,
}

/// A connection to a target.
pub(in crate::cli) struct ControlClient {
    path: PathBuf,
    reader: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects.
    ///
    /// # Errors
    /// [`NoTarget`], or a socket that this user may not use.
    pub(crate) fn new(target: &TargetArgs) -> Result<ControlClient> {
        let path = socket(target.control.clone());
        let stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                bail!(
                    "{} may be used by root, and for reading by the group xblade: {error}",
                    path.display()
                )
            }
            Err(error) => {
                return Err(NoTarget {
                    path: path.display().to_string(),
                    error,
                }
                .into());
            }
        };
        Ok(ControlClient {
            path,
            reader: BufReader::new(stream),
        })
    }

    /// From now on waits no longer than this for each reply.
    ///
    /// # Errors
    /// When the system refuses it.
    #[cfg(feature = "top")]
    pub(crate) fn limit(&self, limit: Duration) -> Result<()> {
        Ok(self.reader.get_ref().set_read_timeout(Some(limit))?)
    }

    /// Asks something.
    ///
    /// # Errors
    /// What the target says against it.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &ControlRequest) -> Result<T> {
        let line = serde_json::to_string(request)? + "\n";
        match self.reader.get_mut().write_all(line.as_bytes()) {
            // It may have said why before it closed the connection.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.next(),
            sent => {
                sent.with_context(|| format!("cannot ask on {}", self.path.display()))?;
                self.next()
            }
        }
    }

    /// For what comes after the last reply, where that is no reply.
    pub(in crate::cli) fn into_reader(self) -> BufReader<UnixStream> {
        self.reader
    }

    /// The next reply.
    ///
    /// # Errors
    /// As [`ControlClient::ask`].
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let read = self.reader.read_line(&mut line);
        if let Err(error) = read {
            if error.kind() == ErrorKind::WouldBlock {
                bail!("the target does not answer in time");
            }
            return Err(error).with_context(|| format!("cannot read from {}", self.path.display()));
        }
        if line.is_empty() {
            bail!("the target closed the connection: it is ending");
        }
        let reply: ControlReply<T> = serde_json::from_str(&line)
            .with_context(|| format!("{} gives no reply that is understood", Path::display(&self.path)))?;
        if reply.schema != SCHEMA {
            bail!(
                "the target speaks schema {}, this command {SCHEMA}: use the xblade that runs",
                reply.schema
            );
        }
        match (reply.result, reply.error) {
            (Some(result), _) => Ok(result),
            (None, error) => bail!(error.unwrap_or_else(|| "an empty reply".into())),
        }
    }
}

/// Everything about some exports, or all.
///
/// # Errors
/// As [`ControlClient::ask`].
pub(super) fn state(target: &TargetArgs, exports: &[String]) -> Result<DaemonState> {
    ControlClient::new(target)?.ask(&ControlRequest::State {
        exports: exports.to_vec(),
        every_ms: None,
    })
}
