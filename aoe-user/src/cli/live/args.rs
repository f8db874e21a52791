//! Arguments of the commands that talk to a running target.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::config::interfaces;
use crate::config::values::{self, SHELF, SLOT};
use crate::control::api::SOCKET;
use crate::control::api::dumps::whole_frames;

/// Says where the socket is, for `daemon` and for those who ask it.
const VARIABLE: &str = "XBLADE_CONTROL";

/// The socket: as given, else of the environment, else the usual one.
pub(in crate::cli) fn socket(given: Option<PathBuf>) -> PathBuf {
    let set = || std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
    given
        .or_else(|| set().map(PathBuf::from))
        .unwrap_or_else(|| SOCKET.into())
}

/// Which target is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct TargetArgs {
    /// The target's control socket [default: $XBLADE_CONTROL, else /run/xblade/control.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

/// How a table is shown.
#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Columns to show, in this order
    #[arg(short = 'o', long, value_name = "COLUMN[,COLUMN…]", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
    /// Leave the headings out
    #[arg(long)]
    pub(crate) no_header: bool,
}

/// `xblade status`, `metrics`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `xblade metrics`
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How they are written: text is Prometheus' older format, for node_exporter's textfile collector and promtool
    #[arg(long, value_parser = ["openmetrics", "text"], default_value = "openmetrics", conflicts_with = "http")]
    pub(crate) format: String,
    /// Read an HTTP request from standard input and answer it: for a systemd socket, as in packaging/
    #[arg(long)]
    pub(crate) http: bool,
}

/// `xblade ls`, `initiators`
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Exports, as in e1.2 or e1.* [default: all]
    #[arg(value_name = "EXPORT")]
    pub(crate) exports: Vec<String>,
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How it is shown
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `xblade denied`
#[derive(Debug, Args)]
pub struct DeniedArgs {
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How it is shown
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `xblade stat`
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Time between two tables, such as 1s; then the exports, as in e1.2 or e1.* [default: one second, once, all]
    #[arg(value_name = "INTERVAL] [EXPORT")]
    pub(crate) words: Vec<String>,
    /// Stop after this many tables
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How it is shown
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl StatArgs {
    /// The interval, where one is given, and the exports.
    pub(crate) fn split(&self) -> (Option<Duration>, &[String]) {
        let first = self.words.split_first();
        match first.and_then(|(first, rest)| Some((values::some_time(first).ok()?, rest))) {
            Some((interval, rest)) => (Some(interval), rest),
            None => (None, &self.words),
        }
    }
}

/// `xblade top`
#[cfg(feature = "top")]
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// Exports, as in e1.2 or e1.* [default: all]
    #[arg(value_name = "EXPORT")]
    pub(crate) exports: Vec<String>,
    /// How often to ask the target
    #[arg(short, long, value_name = "TIME", default_value = "1s", value_parser = values::some_time)]
    pub(crate) interval: Duration,
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// `xblade reload`
#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Only say what would change
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `xblade export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: ExportAction,
}

/// Values of one word, in which commas part them.
type Patterns = Vec<String>;

/// The actions of `xblade export`.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportAction {
    /// Serve one more export: until the next reload or restart, or for good
    Add {
        /// Major address
        #[arg(value_parser = |text: &str| SHELF.parse::<u16>(text), allow_negative_numbers = true)]
        shelf: u16,
        /// Minor address
        #[arg(value_parser = |text: &str| SLOT.parse::<u8>(text), allow_negative_numbers = true)]
        slot: u8,
        /// Network interfaces, names or globs
        #[arg(value_name = "NETIF[,NETIF…]", value_parser = interfaces::patterns)]
        interfaces: Patterns,
        /// Image file or block device
        file: PathBuf,
        /// Any other key of an export in the config file, as in read_only=true
        #[arg(short, long, value_name = "KEY=VALUE")]
        set: Vec<String>,
        /// Write it to a file of its own in the config folder, as in /etc/xblade/conf.d/e1.2.toml: a reload or restart does not
        /// forget it
        #[arg(long)]
        save: bool,
        /// How it is asked and shown
        #[command(flatten)]
        ask: Ask,
    },
    /// Serve exports no more: until the next reload or restart, or for good
    Rm {
        /// Delete their files in the config folder, too: a reload or restart does not bring them back. Refused where a file has
        /// other things
        #[arg(long)]
        save: bool,
        /// Which
        #[command(flatten)]
        chosen: ChosenExports,
    },
    /// Finish what is in flight, commit it, and answer nobody: for snapshots and moves
    Pause {
        /// Serve them again by itself after this time, as in 30s
        #[arg(long = "for", value_name = "TIME", value_parser = values::some_time)]
        limit: Option<Duration>,
        /// Which
        #[command(flatten)]
        chosen: ChosenExports,
    },
    /// Serve paused exports again
    Resume(ChosenExports),
}

/// Some exports.
#[derive(Debug, Args)]
pub(crate) struct ChosenExports {
    /// Exports, as in e1.2 or e1.*
    #[arg(value_name = "EXPORT", required = true)]
    pub(crate) exports: Vec<String>,
    /// How it is asked and shown
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Which target, and whether JSON is wanted.
#[derive(Debug, Clone, Args)]
pub(crate) struct Ask {
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
}

/// `xblade discover`
#[derive(Debug, Args)]
pub struct DiscoverArgs {
    /// The interface to ask on
    #[arg(value_name = "NETIF")]
    pub(crate) interface: String,
    /// How long to wait for answers
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = values::some_time)]
    pub(crate) wait: Duration,
    /// How it is shown
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// `xblade dump`
#[derive(Debug, Args)]
pub struct DumpArgs {
    /// Interfaces, then exports as in e1.2 or e1.* [default: all]
    #[arg(value_name = "NETIF] [EXPORT")]
    pub(crate) words: Vec<String>,
    /// Write pcapng to this file; - is standard output, for a pipe to tshark
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub(crate) write: PathBuf,
    /// Keep so many bytes of each frame; 128 have all headers and little of what is on the disks [default: all]
    #[arg(short, long, value_name = "BYTES", default_value_t = whole_frames(), hide_default_value = true)]
    pub(crate) snaplen: u32,
    /// Stop after this many frames
    #[arg(short, long, value_name = "FRAMES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

impl DumpArgs {
    /// The interfaces, and the exports.
    pub(crate) fn split(&self) -> (Vec<String>, Vec<String>) {
        self.words.iter().cloned().partition(|word| !is_export(word))
    }
}

/// Two numbers or globs with a point between them, and perhaps the `e` that initiators say; `eth0.5` is none.
fn is_export(word: &str) -> bool {
    let address = word.strip_prefix('e').unwrap_or(word);
    let is_part = |c: char| c.is_ascii_digit() || "*?[]!-{},.".contains(c);
    address.contains('.') && address.chars().all(is_part)
}

/// `xblade log`
#[derive(Debug, Args)]
pub struct LogArgs {
    /// What to log from now on, as for --log [default: print the last lines]
    #[arg(value_name = "FILTER")]
    pub(crate) filter: Option<String>,
    /// How it is asked and shown
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// `xblade overlay`
#[derive(Debug, Args)]
pub struct OverlayArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: OverlayAction,
}

/// The actions of `xblade overlay`.
#[derive(Debug, Subcommand)]
pub(crate) enum OverlayAction {
    /// List the machines' copies and what they hold
    List(ListArgs),
    /// Take away what machines wrote; they see the golden image again at once, so they must not be running
    Reset(MachinesToReset),
    /// Take the copies of machines away that are gone for good
    Discard(MachinesToReset),
    /// Have volatile copies stay as they are, on the image they are on, when their machines boot
    Pin(ChosenMachines),
    /// Have copies begin anew again when their machines boot
    Unpin(ChosenMachines),
    /// Make a new golden image of the old one and what a machine wrote; the machine must be off
    Commit(OneMachine),
}

/// A machine of an export.
#[derive(Debug, Args)]
pub(crate) struct OneMachine {
    /// The export, as in e1.2
    #[arg(value_name = "EXPORT")]
    pub(crate) export: String,
    /// Name of the machine, or its address if it has none
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: String,
    /// Also if the machine was heard within the last two minutes
    #[arg(long)]
    pub(crate) force: bool,
    /// How it is asked and shown
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// `xblade failover`
#[derive(Debug, Args)]
pub struct FailoverArgs {
    /// What to do
    #[command(subcommand)]
    pub(crate) action: FailoverAction,
}

/// The actions of `xblade failover`.
#[derive(Debug, Subcommand)]
pub(crate) enum FailoverAction {
    /// List the failover groups and what this gateway does for each
    Status(GroupsArgs),
    /// Take a group from the gateway that serves it, alive or dead, and wait until it is served here
    Take(GroupArgs),
    /// Leave a group to another gateway; where none takes it, this one does after ten seconds
    Release(GroupArgs),
}

/// `xblade failover status`
#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Which target
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// How it is shown
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// A failover group.
#[derive(Debug, Args)]
pub(crate) struct GroupArgs {
    /// The group's name in the config file
    #[arg(value_name = "GROUP")]
    pub(crate) group: String,
    /// How it is asked and shown
    #[command(flatten)]
    pub(crate) ask: Ask,
}

/// Some machines of an export, whose copies are to go.
#[derive(Debug, Args)]
pub(crate) struct MachinesToReset {
    /// Which
    #[command(flatten)]
    pub(crate) chosen: ChosenMachines,
    /// Also of machines that were heard within the last two minutes
    #[arg(long)]
    pub(crate) force: bool,
}

/// Some machines of an export.
#[derive(Debug, Args)]
pub(crate) struct ChosenMachines {
    /// The export, as in e1.2
    #[arg(value_name = "EXPORT")]
    pub(crate) export: String,
    /// Names of machines, or addresses of those without a name
    #[arg(value_name = "MACHINE", required = true)]
    pub(crate) machines: Vec<String>,
    /// How it is asked and shown
    #[command(flatten)]
    pub(crate) ask: Ask,
}

#[cfg(test)]
mod tests {
    use super::is_export;

    #[test]
    fn exports_are_told_from_interfaces() {
        for word in ["e1.1", "1.1", "e1.*", "*.*", "e[1-3].{1,2}", "e?.255"] {
            assert!(is_export(word), "{word}");
        }
        for word in ["eth0", "eth0.5", "e1", "enp1s0f0.100", "br-lan", "*", "vlan.7"] {
            assert!(!is_export(word), "{word}");
        }
    }
}
