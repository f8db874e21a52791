//! Arguments of `xblade state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::live::args::TargetArgs;
use crate::config::Vlan;
use crate::config::values::{self, SHELF, SLOT};

/// `xblade state`
#[derive(Debug, Args)]
pub struct StateArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: StateAction,
}

/// The actions of `xblade state`.
#[derive(Debug, Subcommand)]
pub(crate) enum StateAction {
    /// One line for each export that has something kept
    List(StatePlace),
    /// All that is kept for one export
    Show(StateTarget),
    /// Forget what is named, or all of it; opens an export that is kept shut because its state is damaged or gone
    Clear {
        /// The export
        #[command(flatten)]
        target: StateTarget,
        /// Forget the MAC mask
        #[arg(long)]
        mask: bool,
        /// Forget the reservation
        #[arg(long)]
        reserve: bool,
        /// Forget the config string
        #[arg(long)]
        string: bool,
        /// Accept that acknowledged writes are lost: the export takes writes again
        #[arg(long, conflicts_with_all = ["mask", "reserve", "string"])]
        lost_writes: bool,
    },
    /// Say which export a state file of an earlier release belongs to
    Adopt {
        /// The export
        #[command(flatten)]
        target: StateTarget,
        /// The file's name, as `state list` shows it
        #[arg(long, value_name = "NAME")]
        from: String,
    },
}

/// The export whose state is meant.
#[derive(Debug, Args)]
pub(crate) struct StateTarget {
    /// Major address
    #[arg(value_parser = |text: &str| SHELF.parse::<u16>(text), allow_negative_numbers = true)]
    pub(crate) shelf: u16,
    /// Minor address
    #[arg(value_parser = |text: &str| SLOT.parse::<u8>(text), allow_negative_numbers = true)]
    pub(crate) slot: u8,
    /// Its `vlan` in the config file, where it has one
    #[arg(long, value_name = "N|any", value_parser = values::vlan, allow_negative_numbers = true)]
    pub(crate) vlan: Option<Vlan>,
    /// Its `state_name` in the config file, where it has one
    #[arg(long, value_name = "NAME", value_parser = values::state_name)]
    pub(crate) state_name: Option<String>,
    /// Where it is
    #[command(flatten)]
    pub(crate) place: StatePlace,
}

/// Whom to ask about states.
#[derive(Debug, Args)]
pub(crate) struct StatePlace {
    /// Where the states are [default: what the running target has, else /var/lib/xblade]
    #[arg(long, value_name = "DIR", conflicts_with = "control")]
    pub(crate) state_dir: Option<PathBuf>,
    /// The running target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}
