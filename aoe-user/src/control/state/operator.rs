//! What the operator decides about kept states with `xblade state`: a decision is carried out by whoever holds the directory,
//! the tool itself or the daemon that runs, which finds it as `NAME.request` and leaves its answer as `NAME.answer`. While it
//! carries it out it is `NAME.taken`: it cannot be taken back any more, and nobody carries it out a second time.

use std::hash::{BuildHasher as _, RandomState};
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::claim::{Claim, TIMEOUT, VERSION, answer_path, is_awaited, request_path, taken_path};
use super::files::{self, FoundFile};
use super::image::ImageKeeper;
use super::key::StateKey;
use super::load::StateAt;
use super::operator_error::{OperatorError, hint};
use super::sealed::{seal, unseal};
use super::{Before, Contents, ReadError, Shut, StateDir, StateDirError, file_path, names_in, read};
use crate::store::Health;
use crate::target::{Export, Persistent};

const FILE_BYTES_MAX: u64 = 64 << 10;

/// How often to look for its answer.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A decision about one export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
pub(crate) enum OperatorAction {
    /// Forget these parts.
    Clear(Parts),
    /// Take the state in this file of an earlier release, by its name without the extension.
    Adopt(String),
    /// Go on although acknowledged writes are lost.
    AcceptLostWrites,
}

/// Parts of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parts {
    /// The config string.
    pub(crate) string: bool,
    /// The MAC mask.
    pub(crate) mask: bool,
    /// The reservation.
    pub(crate) reserve: bool,
}

impl Parts {
    /// All of it.
    pub(crate) const ALL: Parts = Parts {
        string: true,
        mask: true,
        reserve: true,
    };

    /// Empties these parts of a state.
    pub(crate) fn clear(self, state: &mut Persistent) {
        if self.string {
            state.string.clear();
        }
        if self.mask {
            state.mask.clear();
        }
        if self.reserve {
            state.reserve.clear();
        }
    }
}

/// Carries out a decision in a directory, by way of the daemon where one uses it.
///
/// # Errors
/// When it was not carried out.
pub(crate) fn decide(dir: &Path, key: &StateKey, action: &OperatorAction) -> Result<(), OperatorError> {
    match StateDir::open(dir, Before::Unknown) {
        Ok(state) => state.perform(key, action).map(|_| ()),
        Err(StateDirError::InUse { holder, .. }) => ask_daemon(dir, key, action, holder),
        Err(error) => Err(error.into()),
    }
}

/// Asks the process that holds the directory, which may be this one, and waits until it has done it.
///
/// # Errors
/// As [`decide`].
pub(crate) fn ask(dir: &Path, key: &StateKey, action: &OperatorAction) -> Result<(), OperatorError> {
    ask_daemon(dir, key, action, "the target".into())
}

fn ask_daemon(
    dir: &Path,
    key: &StateKey,
    action: &OperatorAction,
    holder: String,
) -> Result<(), OperatorError> {
    ask_within(TIMEOUT, dir, key, action, holder)
}

/// The same, with another timeout.
pub(super) fn ask_within(
    timeout: Duration,
    dir: &Path,
    key: &StateKey,
    action: &OperatorAction,
    holder: String,
) -> Result<(), OperatorError> {
    let deadline = Instant::now() + timeout;
    leave_request(dir, key, action)?;
    while Instant::now() < deadline {
        if let Some(said) = take_answer(dir, key) {
            return said;
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    // What nobody waits for any more is not to be carried out weeks later, when much else may have changed.
    let request = request_path(dir, key);
    let withdrawn = std::fs::remove_file(&request);
    if let Some(said) = take_answer(dir, key) {
        return said;
    }
    match withdrawn {
        Ok(()) => Err(OperatorError::NoAnswer(holder)),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(OperatorError::UnderWay(holder)),
        Err(error) => Err(StateDirError::io("remove", &request)(error).into()),
    }
}

/// Leaves a request for the daemon, which is nobody else's.
fn leave_request(dir: &Path, key: &StateKey, action: &OperatorAction) -> Result<(), OperatorError> {
    let request = request_path(dir, key);
    remove_old(&request, key)?;
    // However long that takes: the daemon that carries it out removes it, or the next one at its start.
    if taken_path(dir, key).exists() {
        return Err(OperatorError::Busy(key.clone()));
    }
    remove_old(&answer_path(dir, key), key)?;
    // No two of a process have one name either: the hasher's keys are others for each call.
    let number = RandomState::new().hash_one(&request);
    let own = request.with_added_extension(format!("{}-{number:x}", std::process::id()));
    let body = serde_json::to_string(action).expect("an action has a JSON form");
    files::replace(&own, &seal("request", VERSION, &body)).map_err(StateDirError::io("write", &own))?;
    let left = renameat_with(CWD, &own, CWD, &request, RenameFlags::NOREPLACE);
    if left.is_err() {
        let _ = std::fs::remove_file(&own);
    }
    match left {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(OperatorError::Busy(key.clone())),
        Err(error) => Err(StateDirError::io("write", &request)(error.into()).into()),
    }
}

/// Removes what somebody left who was killed, not what somebody has yet to read.
fn remove_old(path: &Path, key: &StateKey) -> Result<(), OperatorError> {
    if is_awaited(path) {
        return Err(OperatorError::Busy(key.clone()));
    }
    let _ = std::fs::remove_file(path);
    Ok(())
}

/// What the daemon said, once.
fn take_answer(dir: &Path, key: &StateKey) -> Option<Result<(), OperatorError>> {
    let answer = answer_path(dir, key);
    let FoundFile::Bytes(bytes) = files::read(&answer, FILE_BYTES_MAX) else {
        return None;
    };
    let _ = std::fs::remove_file(&answer);
    let said = unseal("answer", VERSION, &bytes).map_or_else(
        |error| Some(error.to_string()),
        |(_, body)| serde_json::from_str::<Option<String>>(body).unwrap_or(None),
    );
    Some(said.map_or(Ok(()), |why| Err(OperatorError::Refused(why))))
}

/// The decision in a request.
fn action_in(path: &Path) -> Option<OperatorAction> {
    let FoundFile::Bytes(bytes) = files::read(path, FILE_BYTES_MAX) else {
        return None;
    };
    let (_, body) = unseal("request", VERSION, &bytes).ok()?;
    serde_json::from_str(body).ok()
}

impl StateDir {
    /// Decisions that wait for the process which holds the directory.
    pub(crate) fn requests(&self) -> Vec<(StateKey, OperatorAction)> {
        let names = names_in(&self.files.dir).unwrap_or_default();
        let request = |(_, name): (std::path::PathBuf, String)| {
            let key: StateKey = name.strip_suffix(".request")?.parse().ok()?;
            let action = self.request(&key)?;
            Some((key, action))
        };
        names.into_iter().filter_map(request).collect()
    }

    fn request(&self, key: &StateKey) -> Option<OperatorAction> {
        let path = request_path(&self.files.dir, key);
        let action = action_in(&path)?;
        if is_awaited(&path) {
            return Some(action);
        }
        tracing::warn!(
            "{key}: a request of `xblade state` is too old to be carried out: whoever left it is gone"
        );
        let _ = std::fs::remove_file(&path);
        None
    }

    /// Takes a request: from here on whoever left it cannot take it back, and nobody else has it.
    pub(super) fn claim(
        &self,
        key: &StateKey,
        is_meant: impl Fn(&OperatorAction) -> bool,
    ) -> Option<(Claim, OperatorAction)> {
        self.request(key).filter(&is_meant)?;
        let claim = Claim::of(&self.files, key)?;
        // It may be another one by now. What is not meant goes back.
        let action = action_in(&taken_path(&self.files.dir, key)).filter(is_meant)?;
        Some((claim, action))
    }

    /// Carries out what the operator asked for an export that is in service. An initiator's change that is under way comes first:
    /// to be called again from time to time.
    /// `kept_with_image`: what saves its state in the place of the directory.
    pub(crate) fn obey_in_service(
        &self,
        key: &StateKey,
        action: &OperatorAction,
        export: &Export,
        kept_with_image: Option<&ImageKeeper>,
    ) {
        let Some((claim, _)) = self.claim(key, |asked| asked == action) else {
            return;
        };
        let parts = match action {
            OperatorAction::Clear(parts) => parts,
            OperatorAction::Adopt(_) => {
                return claim.answer(Err(format!("{key} is in service with a state of its own")));
            }
            OperatorAction::AcceptLostWrites => {
                let outcome = self.accept_in_service(key, export);
                return claim.answer(outcome.map_err(|error| error.to_string()));
            }
        };
        // Where nothing is saved, the claim goes back with this.
        let told = Box::new(move |result: std::io::Result<()>| {
            claim.answer(result.map_err(|error| format!("cannot save it: {error}")));
        });
        let save = |state: &Persistent| match kept_with_image {
            Some(keeper) => keeper.save(state, told),
            None => self.writer.save(key, state, told),
        };
        match export.change_persistent(|state| parts.clear(state), save) {
            Ok(()) => tracing::warn!("{key}: by the operator's order, {action}"),
            Err(busy) => tracing::debug!("{busy}"),
        }
    }

    fn accept_in_service(&self, key: &StateKey, export: &Export) -> Result<(), OperatorError> {
        let stands = matches!(export.store().health(), Health::LostWrites(_));
        // First the mark: a loss that comes now leaves another one.
        if !self.accept_lost(key)? && !stands {
            return Err(OperatorError::NothingLost(key.clone()));
        }
        export.store().accept_lost_writes();
        tracing::warn!(
            "{key}: by the operator's order, {}",
            OperatorAction::AcceptLostWrites
        );
        Ok(())
    }

    /// Tells whoever asked why it is not done here.
    pub(crate) fn refuse(&self, key: &StateKey, reason: String) {
        if let Some((claim, _)) = self.claim(key, |_| true) {
            claim.answer(Err(reason));
        }
    }

    /// Carries out what the operator asked for an export that is not in service.
    /// Returns what was done.
    pub(crate) fn obey_request(&self, key: &StateKey) -> Option<OperatorAction> {
        self.obey_where(key, |_| true)
    }

    /// The same for an export that is being opened. What was lost of it has been read by then: to accept that is for when it is in
    /// service.
    pub(super) fn obey_at_load(&self, key: &StateKey) {
        self.obey_where(key, |action| !matches!(action, OperatorAction::AcceptLostWrites));
    }

    fn obey_where(
        &self,
        key: &StateKey,
        is_meant: impl Fn(&OperatorAction) -> bool,
    ) -> Option<OperatorAction> {
        // Whoever opens the export waits until another thread has done it.
        let _alone = self.obeying.lock();
        let (claim, action) = self.claim(key, is_meant)?;
        let outcome = self.perform(key, &action);
        let done = outcome.is_ok().then_some(action);
        claim.answer(outcome.map(|_| ()).map_err(|error| error.to_string()));
        done
    }

    /// Carries out a decision about an export that is not in service, and logs it.
    ///
    /// # Errors
    /// When nothing was decided about, or a file could not be read or written.
    pub(crate) fn perform(
        &self,
        key: &StateKey,
        action: &OperatorAction,
    ) -> Result<Persistent, OperatorError> {
        let state = match action {
            OperatorAction::Adopt(file) => self.adopt_named(key, file)?,
            OperatorAction::Clear(parts) => self.clear(key, *parts)?,
            OperatorAction::AcceptLostWrites if self.accept_lost(key)? => Persistent::default(),
            OperatorAction::AcceptLostWrites => return Err(OperatorError::NothingLost(key.clone())),
        };
        tracing::warn!("{key}: by the operator's order, {action}");
        Ok(state)
    }

    /// Only from the directory itself: the file is removed when its state is this export's.
    fn adopt_named(&self, key: &StateKey, file: &str) -> Result<Persistent, OperatorError> {
        if file.is_empty() || file.starts_with('.') || file.contains(['/', '\0']) {
            return Err(OperatorError::NoName(file.to_owned()));
        }
        let path = file_path(&self.files.dir, file);
        match read(&path) {
            Err(ReadError::Absent) => Err(OperatorError::NoFile(path)),
            _ => Ok(self.adopt(key, file)?),
        }
    }

    fn clear(&self, key: &StateKey, parts: Parts) -> Result<Persistent, OperatorError> {
        let mut state = match self.find(key) {
            Ok(StateAt::Own(state)) => state,
            Ok(StateAt::None) => {
                return Err(OperatorError::Nothing {
                    key: key.clone(),
                    dir: self.files.dir.clone(),
                    hint: hint(&self.files.dir, key),
                });
            }
            Ok(StateAt::Old(_)) if parts == Parts::ALL => Persistent::default(),
            Ok(StateAt::Old(files)) => {
                let shut = Shut::Ambiguous {
                    arguments: self.arguments(key),
                    files,
                };
                return Err(unreadable(key, shut));
            }
            Err(Shut::State(error @ StateDirError::Io { .. })) if parts != Parts::ALL => {
                return Err(error.into());
            }
            Err(shut) if parts != Parts::ALL => return Err(unreadable(key, shut)),
            Err(_) => Persistent::default(),
        };
        parts.clear(&mut state);
        self.set_aside(key)?;
        self.files.store(key, &state)?;
        Ok(state)
    }

    /// Keeps what is in the way of a new file: a damaged one for the operator's eyes, one of an earlier release for the
    /// exports that may still own it.
    fn set_aside(&self, key: &StateKey) -> Result<(), StateDirError> {
        let path = self.files.path(key);
        match read(&path) {
            Err(ReadError::Absent) => Ok(()),
            Ok(Contents {
                export: Some(owner), ..
            }) if owner == *key => Ok(()),
            Ok(Contents { export: None, .. }) => {
                let name = format!("{}.{}@", key.address().shelf, key.address().slot);
                let other = file_path(&self.files.dir, &name);
                match renameat_with(CWD, &path, CWD, &other, RenameFlags::NOREPLACE) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => files::move_aside(&path, "unused").map(|_| ())?,
                    Err(error) => return Err(StateDirError::io("rename", &path)(error.into())),
                }
                self.look_for_old_names()
            }
            Ok(_) | Err(_) => files::move_aside(&path, "damaged").map(|_| ()),
        }
    }
}

fn unreadable(key: &StateKey, shut: Shut) -> OperatorError {
    OperatorError::Unreadable {
        key: key.clone(),
        shut,
    }
}

impl std::fmt::Display for OperatorAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OperatorAction::Adopt(file) => write!(f, "the state in {file}.state is its own now"),
            OperatorAction::AcceptLostWrites => f.write_str("the loss of acknowledged writes is accepted"),
            OperatorAction::Clear(parts) => {
                let names = [
                    (parts.mask, "MAC mask"),
                    (parts.reserve, "reservation"),
                    (parts.string, "config string"),
                ];
                let cleared: Vec<&str> = names
                    .iter()
                    .filter(|(cleared, _)| *cleared)
                    .map(|(_, name)| *name)
                    .collect();
                write!(f, "{} cleared", cleared.join(", "))
            }
        }
    }
}
