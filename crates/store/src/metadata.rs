//! Small texts that are kept with the sectors, where the storage has room for them.

use std::fmt::Debug;
use std::io;

/// Texts by name, kept where the sectors are: whoever has the image has them, too. All calls block.
pub trait Metadata: Debug + Send + Sync {
    /// The text of this name; `None`: there is none.
    ///
    /// # Errors
    /// When the storage refuses.
    fn get(&self, name: &str) -> io::Result<Option<String>>;

    /// Keeps a text. It is as safe as a write when this returns.
    ///
    /// # Errors
    /// When the storage refuses, as after another client has taken the image.
    fn set(&self, name: &str, text: &str) -> io::Result<()>;
}
