//! The asking end of the control socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::de::DeserializeOwned;

use super::args::{TargetArgs, socket};
use crate::control::api::types::{ControlReply, ControlRequest, DaemonState, SCHEMA};

/// How long a target that works takes at the most to say how it is. It waits for no disk to do so.
const ANSWER_LIMIT: Duration = match cfg!(test) {
    true => Duration::from_millis(10),
    false => Duration::from_secs(30),
};

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum NoTarget {
    /// Nobody listens.
    #[error("no xblade listens on {path}: {error}; is it running? (`systemctl status xblade`)")]
    Absent { path: String, error: std::io::Error },
    /// Somebody listens and says nothing.
    #[error(
        "xblade has not answered on {path} for {limit:?}: its process is stopped, or hangs (`systemctl status xblade`)"
    )]
    Silent { path: String, limit: Duration },
}

/// A connection to a target.
pub(in crate::cli) struct ControlClient {
    path: PathBuf,
    reader: BufReader<UnixStream>,
    /// For each reply, whatever is asked.
    limit: Option<Duration>,
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
                return Err(NoTarget::Absent {
                    path: path.display().to_string(),
                    error,
                }
                .into());
            }
        };
        Ok(ControlClient {
            path,
            reader: BufReader::new(stream),
            limit: None,
        })
    }

    /// From now on waits no longer than this for each reply, also to what takes its time.
    #[cfg(feature = "top")]
    pub(crate) fn limit(&mut self, limit: Duration) {
        self.limit = Some(limit);
    }

    /// Asks something. A question has to be answered in half a minute; a change takes the time that it takes.
    ///
    /// # Errors
    /// What the target says against it; [`NoTarget`].
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, request: &ControlRequest) -> Result<T> {
        let of_question =
            || (!request.is_for_root()).then(|| ANSWER_LIMIT + request.every().unwrap_or_default());
        let limit = self.limit.or_else(of_question);
        self.reader.get_ref().set_read_timeout(limit)?;
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
            if let (ErrorKind::WouldBlock, Some(limit)) =
                (error.kind(), self.reader.get_ref().read_timeout()?)
            {
                return Err(NoTarget::Silent {
                    path: self.path.display().to_string(),
                    limit,
                }
                .into());
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

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use serde_json::Value;

    use super::*;

    #[test]
    fn a_target_that_says_nothing_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let _hangs = UnixListener::bind(&path).unwrap();
        let target = TargetArgs { control: Some(path) };
        for every_ms in [None, Some(5)] {
            let request = ControlRequest::State {
                exports: Vec::new(),
                every_ms,
            };
            let answer: Result<Value> = ControlClient::new(&target).unwrap().ask(&request);
            let error = answer.unwrap_err();
            assert!(error.is::<NoTarget>(), "exit code 4");
            assert!(error.to_string().contains("has not answered"), "{error}");
        }
    }
}
