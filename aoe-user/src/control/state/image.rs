//! What initiators changed, kept with an image in Ceph: whichever gateway has the image has it, too.

use std::io;
use std::sync::Arc;

use engine::StateStore;

use super::format::{Contents, decode, encode};
use super::key::StateKey;
use super::told::{Told, completes};
use super::writer::{Medium, StateWriter};
use crate::store::{CompletionQueue, Metadata, QueueHandle, Token};
use crate::target::{Address, Persistent};

/// The name of the metadata, as `rbd image-meta list` shows it.
const NAME: &str = "xblade.state";

/// What an image keeps.
///
/// # Errors
/// When it cannot be read, or what is there is no state: then the export must stay shut.
pub(crate) fn load(metadata: &dyn Metadata) -> Result<Option<Persistent>, String> {
    let text = metadata
        .get(NAME)
        .map_err(|error| format!("cannot read the metadata {NAME} of the image: {error}"))?;
    let Some(text) = text else { return Ok(None) };
    let contents = decode(text.as_bytes()).map_err(|error| {
        format!(
            "the metadata {NAME} of the image is damaged ({error}); `rbd image-meta remove IMAGE {NAME}` opens the export \
             without mask and reservation"
        )
    })?;
    Ok(Some(contents.state))
}

/// Puts a state on the image and waits until it is there.
///
/// # Errors
/// When the cluster refuses.
pub(crate) fn store(metadata: &dyn Metadata, state: &Persistent) -> io::Result<()> {
    // Whose it is is the image's to say: another gateway may have another name for the export.
    let contents = Contents {
        export: None,
        state: state.clone(),
    };
    let text = String::from_utf8(encode(&contents)).map_err(io::Error::other)?;
    metadata.set(NAME, &text)
}

/// Saves the state of one export with its image. Waiting for the cluster is a thread's of its own, which ends with this.
#[derive(Debug)]
pub(crate) struct ImageKeeper {
    key: StateKey,
    writer: StateWriter,
}

impl ImageKeeper {
    /// Starts the thread for the image of this export.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn start(key: StateKey, metadata: Arc<dyn Metadata>) -> io::Result<ImageKeeper> {
        let writer = StateWriter::start("rbd-state", Image(metadata))?;
        Ok(ImageKeeper { key, writer })
    }

    /// Saves a state after all that were to be saved before.
    pub(crate) fn save(&self, state: &Persistent, told: Told) {
        self.writer.save(&self.key, state, told);
    }
}

/// One image keeps one state.
struct Image(Arc<dyn Metadata>);

impl Medium for Image {
    fn store_all(&self, states: &[(&StateKey, &Persistent)]) -> Vec<io::Result<()>> {
        states.iter().map(|(_, state)| store(&*self.0, state)).collect()
    }

    fn describe(&self, key: &StateKey) -> String {
        format!("{key}: cannot write the metadata {NAME} of its image")
    }
}

impl StateStore<CompletionQueue> for ImageKeeper {
    fn save(&self, _address: Address, state: &Persistent, handle: QueueHandle, token: Token) {
        ImageKeeper::save(self, state, completes(handle, token));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::mpsc::channel;

    use aoe_common::Mac;
    use parking_lot::Mutex;

    use super::*;

    /// Metadata in memory.
    #[derive(Debug, Default)]
    struct Kept(Mutex<HashMap<String, String>>);

    impl Metadata for Kept {
        fn get(&self, name: &str) -> io::Result<Option<String>> {
            Ok(self.0.lock().get(name).cloned())
        }

        fn set(&self, name: &str, text: &str) -> io::Result<()> {
            self.0.lock().insert(name.to_owned(), text.to_owned());
            Ok(())
        }
    }

    #[test]
    fn what_is_kept_comes_back_and_damage_shuts() {
        let kept = Arc::new(Kept::default());
        assert_eq!(load(&*kept), Ok(None));
        let state = Persistent {
            string: vec![0, 255, b'x'],
            mask: vec![Mac([2, 0, 0, 0, 0, 1])],
            reserve: vec![Mac([2, 0, 0, 0, 0, 2])],
        };
        let keeper = ImageKeeper::start("1.1".parse().unwrap(), Arc::clone(&kept) as _).unwrap();
        let (done, ended) = channel();
        keeper.save(&state, Box::new(move |result| done.send(result.is_ok()).unwrap()));
        assert!(ended.recv().unwrap());
        assert_eq!(load(&*kept), Ok(Some(state)));
        kept.0.lock().get_mut(NAME).unwrap().push('x');
        assert!(load(&*kept).unwrap_err().contains("image-meta remove"));
    }
}
