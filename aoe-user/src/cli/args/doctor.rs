//! Arguments of `xblade doctor`.

use std::path::PathBuf;

use aoe_common::Mac;
use clap::Args;

use crate::config::values;

/// `xblade doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The interfaces
    #[arg(value_name = "NETIF", required = true)]
    pub(crate) interfaces: Vec<String>,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Write all that tells how the card behaves into one file, to be sent in [default: standard output]
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", conflicts_with = "json")]
    pub(crate) report: Option<PathBuf>,
    /// With --report: whole addresses and the host's name, too
    #[arg(long, requires = "report")]
    pub(crate) full: bool,
    /// Show the card's filters that would give each of these initiators a receive queue, by turns
    #[arg(long, value_name = "MAC[,MAC…]", value_delimiter = ',', num_args = 1, value_parser = values::initiator)]
    #[arg(conflicts_with_all = ["json", "report"])]
    pub(crate) steer: Vec<Mac>,
    /// With --steer: set them
    #[arg(long, requires = "steer")]
    pub(crate) apply: bool,
    /// With --steer: take those for these initiators away
    #[arg(long, requires = "steer", conflicts_with = "apply")]
    pub(crate) undo: bool,
}
