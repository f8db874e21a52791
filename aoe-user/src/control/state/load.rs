//! The state of an export that is about to be served, or why it must stay shut.

use std::path::PathBuf;

use super::key::{OldName, StateKey};
use super::{Contents, ReadError, StateDir, StateDirError, file_path, files, read};
use crate::config::Vlan;
use crate::target::Persistent;

/// Why an export must not be served: it may have a mask or reservation, and nobody knows which.
#[derive(Debug, thiserror::Error)]
pub enum Shut {
    /// Its file is there and cannot be used.
    #[error("its state file {} is damaged ({reason}); {}", path.display(), way_out(arguments))]
    Damaged {
        /// Names the export's state to `xblade state`.
        arguments: String,
        /// The file.
        path: PathBuf,
        /// What was noticed.
        reason: String,
    },
    /// It had a file, which is gone.
    #[error("its state file {} is gone; put it back, or: {}", path.display(), way_out(arguments))]
    Lost {
        /// Names the export's state to `xblade state`.
        arguments: String,
        /// The file.
        path: PathBuf,
    },
    /// It has no file, and the list of those that had one was lost.
    #[error(
        "it has no state file, and the index that tells whether it had one was lost; {}",
        way_out(arguments)
    )]
    Unknown {
        /// Names the export's state to `xblade state`.
        arguments: String,
    },
    /// An earlier release kept its state in a file that another export has taken over.
    #[error(
        "an earlier release may have kept its state in {file}.state, which another export has taken over; {}",
        way_out(arguments)
    )]
    TakenOver {
        /// Names the export's state to `xblade state`.
        arguments: String,
        /// The file's name.
        file: String,
    },
    /// Files of an earlier release that may be its own or another export's.
    #[error(
        "{} may hold its state, and an earlier release did not say which export's it is; choose with `xblade state adopt \
         {} --from FILE`, or: {}",
        files.join(", "), arguments, way_out(arguments)
    )]
    Ambiguous {
        /// Names the export's state to `xblade state`.
        arguments: String,
        /// Names of the files.
        files: Vec<String>,
    },
    /// The file was written by a newer xblade.
    #[error("its state file {} comes from a newer xblade ({reason}); use that one, or: {}", path.display(), way_out(arguments))]
    Newer {
        /// Names the export's state to `xblade state`.
        arguments: String,
        /// The file.
        path: PathBuf,
        /// Its version and ours.
        reason: String,
    },
    /// The directory could not be read or written.
    #[error(transparent)]
    State(#[from] StateDirError),
}

fn way_out(arguments: &str) -> String {
    format!("`xblade state clear {arguments}` opens it without mask and reservation")
}

/// Where an export's state may be.
pub(super) enum StateAt {
    /// In its own file.
    Own(Persistent),
    /// In these files, by name, whose owner is not known for sure.
    Old(Vec<String>),
    /// Nowhere: it never had one.
    None,
}

impl StateDir {
    /// The state of an export that is about to be served; empty when it never had one.
    ///
    /// Takes up a file of an earlier release where it can be nobody else's, and what the operator asked for with
    /// `xblade state` meanwhile.
    ///
    /// # Errors
    /// When it may have one that is not known: see [`Shut`]. To be tried again later.
    pub fn load(&self, key: &StateKey) -> Result<Persistent, Shut> {
        self.obey_at_load(key);
        match self.find(key)? {
            StateAt::Own(state) => Ok(state),
            StateAt::Old(files) => self.take_over(key, files),
            StateAt::None => {
                self.warn_of_namesakes(key);
                Ok(Persistent::default())
            }
        }
    }

    /// Looks for the state of an export; changes nothing but the index.
    pub(super) fn find(&self, key: &StateKey) -> Result<StateAt, Shut> {
        let path = self.files.path(key);
        let arguments = || self.arguments(key);
        match read(&path) {
            Ok(Contents {
                export: Some(owner),
                state,
            }) if owner == *key => {
                // A crash may have come between file and index.
                match self.files.enlist([owner].iter()) {
                    // It is listed when the directory can be written again, before anything else is.
                    Err(error) if files::may_be_read(&error) => {}
                    listed => listed.map_err(StateDirError::io("list the export in the index of", &path))?,
                }
                Ok(StateAt::Own(state))
            }
            Ok(Contents {
                export: Some(owner), ..
            }) => Err(Shut::Damaged {
                reason: format!("it holds the state of {owner}"),
                arguments: arguments(),
                path,
            }),
            Ok(Contents { export: None, .. }) => {
                let mut files = vec![key.to_string()];
                files.extend(self.old_files(key));
                Ok(StateAt::Old(files))
            }
            Err(ReadError::Damaged(reason)) => Err(Shut::Damaged {
                arguments: arguments(),
                path,
                reason,
            }),
            Err(ReadError::Newer(reason)) => Err(Shut::Newer {
                arguments: arguments(),
                path,
                reason,
            }),
            Err(ReadError::Io(error)) => Err(StateDirError::io("read", &path)(error).into()),
            Err(ReadError::Absent) if self.files.is_listed(key) => Err(Shut::Lost {
                arguments: arguments(),
                path,
            }),
            Err(ReadError::Absent) => match self.old_files(key) {
                files if !files.is_empty() => Ok(StateAt::Old(files)),
                _ if !self.files.index_is_complete() => Err(Shut::Unknown {
                    arguments: arguments(),
                }),
                _ => match self.files.taken_over_by_another(key) {
                    Some(file) => Err(Shut::TakenOver {
                        arguments: arguments(),
                        file,
                    }),
                    None => Ok(StateAt::None),
                },
            },
        }
    }

    /// Files under other names by which an earlier release may have kept the state of this export.
    fn old_files(&self, key: &StateKey) -> Vec<String> {
        let mut files: Vec<String> = self
            .old
            .lock()
            .iter()
            .filter(|(name, old)| key.may_have_been(old) && file_path(&self.files.dir, name).exists())
            .map(|(name, _)| name.clone())
            .collect();
        // The name of the address alone was every export's.
        let plain = StateKey::new(key.address(), Vlan::Untagged);
        let unclaimed = || match read(&self.files.path(&plain)) {
            Err(ReadError::Absent) | Ok(Contents { export: Some(_), .. }) => false,
            Ok(Contents { export: None, .. }) | Err(_) => true,
        };
        if *key != plain && !self.files.is_listed(&plain) && unclaimed() {
            files.insert(0, plain.to_string());
        }
        files
    }

    /// Makes the state of an earlier release's file that of this export.
    fn take_over(&self, key: &StateKey, files: Vec<String>) -> Result<Persistent, Shut> {
        let [file] = files.as_slice() else {
            return Err(Shut::Ambiguous {
                arguments: self.arguments(key),
                files,
            });
        };
        if self.others_may_own(key, file) {
            return Err(Shut::Ambiguous {
                arguments: self.arguments(key),
                files,
            });
        }
        let noted = self.files.note_taking_over(file);
        noted.map_err(StateDirError::io(
            "note in the index of",
            &file_path(&self.files.dir, file),
        ))?;
        let state = self.adopt(key, file)?;
        tracing::info!("{key}: took over its state from {file}.state, as an earlier release called it");
        Ok(state)
    }

    /// True when another export of the configuration that has no state of its own may own the file.
    fn others_may_own(&self, key: &StateKey, file: &str) -> bool {
        let Some(old) = OldName::parse(file) else {
            return false;
        };
        self.configured
            .lock()
            .iter()
            .any(|other| other != key && other.may_have_been(&old) && !self.files.is_listed(other))
    }

    /// Moves the state in an old file to this export's own.
    pub(super) fn adopt(&self, key: &StateKey, file: &str) -> Result<Persistent, Shut> {
        let path = file_path(&self.files.dir, file);
        let state = match read(&path) {
            Ok(contents) => contents.state,
            Err(ReadError::Newer(reason)) => {
                return Err(Shut::Newer {
                    arguments: self.arguments(key),
                    path,
                    reason,
                });
            }
            Err(ReadError::Io(error)) => return Err(StateDirError::io("read", &path)(error).into()),
            Err(other) => {
                return Err(Shut::Damaged {
                    arguments: self.arguments(key),
                    path,
                    reason: other.to_string(),
                });
            }
        };
        self.files.store(key, &state)?;
        if file != key.to_string() {
            // The state is safe already. A copy that stays behind only keeps exports shut that need not be.
            std::fs::remove_file(&path).map_err(StateDirError::io("remove", &path))?;
        }
        Ok(state)
    }

    /// An export that starts without a state where another of its address has one: the operator may have meant the same.
    fn warn_of_namesakes(&self, key: &StateKey) {
        let index = self.files.index.lock();
        let others: Vec<String> = index
            .index
            .exports
            .iter()
            .filter(|other| other.address() == key.address() && *other != key)
            .map(StateKey::to_string)
            .collect();
        if !others.is_empty() {
            tracing::warn!(
                "{key} starts without mask and reservation; what is kept for {} belongs to another VLAN or state_name",
                others.join(" and ")
            );
        }
    }
}
