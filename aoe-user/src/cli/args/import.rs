//! Arguments of `xblade import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// `xblade import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The other target
    #[arg(value_enum)]
    pub(crate) format: ImportFormat,
    /// Its config file; for vblade also its directory, such as /etc/vblade.conf.d
    pub(crate) path: PathBuf,
}

/// Whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ImportFormat {
    /// Shell fragments of Debian's package, or lines of interface, shelf, slot, file and addresses
    Vblade,
    /// ggaoed.conf
    Ggaoed,
    /// qaoed.conf
    Qaoed,
}
