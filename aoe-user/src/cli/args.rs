//! Every argument of every subcommand. The man page and the completions are made from these types.

mod bench;
mod doctor;
mod import;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use aoe_common::Mac;
use clap::builder::{OsStringValueParser, PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use super::live::args as live;
use super::log;
use crate::config::values::{self, BUFFERS, LENGTH, OFFSET, SHELF, SLOT, SPIN_US};
use crate::config::{
    CephOptions, ExportConfig, ImageFormat, Mode, OnLostWrite, StoreKind, Vlan, ceph, device, interfaces,
};

pub(crate) use crate::control::state::STATE_DIR;
pub(crate) use bench::BenchArgs;
pub(crate) use doctor::DoctorArgs;
pub(crate) use import::{ImportArgs, ImportFormat};
pub(crate) use state::{StateAction, StateArgs, StatePlace, StateTarget};

/// Where `daemon` and `check` look for the config file.
pub(crate) const CONFIG_FILE: &str = "/etc/xblade/xblade.toml";

/// ATA-over-Ethernet target: exports disk images and block devices on an Ethernet
#[derive(Debug, Parser)]
#[command(name = "xblade", version, propagate_version = true, max_term_width = 100)]
#[command(
    after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not everything is served, 4 no running target."
)]
pub struct Cli {
    /// What to log: error, warn, info, debug or trace, also by module as in info,xblade::port=debug [default: $XBLADE_LOG, else
    /// $RUST_LOG, else info]
    #[arg(long, global = true, value_name = "FILTER", value_parser = log::parse)]
    pub(crate) log: Option<String>,

    /// What to do
    #[command(subcommand)]
    pub command: CliCommand,

    /// Whether the command was called with `--json`, for who tells what kept it from being done.
    #[arg(skip)]
    pub(crate) json: bool,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Serve one export
    Serve(Box<ServeArgs>),
    /// Serve every export of a config file
    Daemon(DaemonArgs),
    /// Say how a running target is: exit code 0 healthy, 3 not everything is served, 4 no target
    Status(live::StatusArgs),
    /// List the exports of a running target; exit code 3 where one is not served
    Ls(live::ListArgs),
    /// Show rates and latencies of a running target
    Stat(live::StatArgs),
    /// Watch a running target: exports, initiators, interfaces, who is denied, log
    #[cfg(feature = "top")]
    Top(live::TopArgs),
    /// List what each initiator did
    Initiators(live::ListArgs),
    /// List sources that were turned away by access lists
    Denied(live::DeniedArgs),
    /// Have the daemon read its config file again, and say what came of it
    Reload(live::ReloadArgs),
    /// Add, remove, pause or resume exports of a running target
    Export(live::ExportArgs),
    /// List, reset, discard or commit the copies of golden images that machines write to
    Overlay(live::OverlayArgs),
    /// See and change which of several gateways serves a failover group
    Failover(live::FailoverArgs),
    /// Print the last lines of a running target's log, or change what it logs
    Log(live::LogArgs),
    /// Show the frames that a running target receives and sends, as pcapng for Wireshark and tshark
    Dump(live::DumpArgs),
    /// List the targets on an interface, of whatever make; exit code 1 where there is none
    Discover(live::DiscoverArgs),
    /// Print all counters of a running target for Prometheus
    Metrics(live::MetricsArgs),
    /// Validate a config file and print what would be served; touches nothing
    Check(CheckArgs),
    /// Make an image file
    Create(CreateArgs),
    /// Make a config file of another target's; exit code 3 where something of it is not taken over
    Import(ImportArgs),
    /// See and clear what initiators left behind: config string, MAC mask, reservation
    State(StateArgs),
    /// Measure and verify any AoE target, from an initiator's side
    Bench(Box<BenchArgs>),
    /// Say what this host and its interfaces can do, and what would help; exit code 1 where something is bad
    Doctor(DoctorArgs),
    /// Print the completions for a shell
    #[command(hide = true)]
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page, or write one for each subcommand
    #[command(hide = true)]
    Man {
        /// Write xblade.8, xblade-serve.8 and so on into this directory
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

impl CliCommand {
    /// Whether it takes signals up itself, those from its first moments included.
    pub fn handles_signals(&self) -> bool {
        matches!(self, CliCommand::Serve(_) | CliCommand::Daemon(_))
    }
}

/// Values of one word, in which commas part them.
type Patterns = Vec<String>;
/// The CPUs of one word.
type Cpus = Vec<usize>;

/// `xblade serve`: vblade's order and letters.
#[derive(Debug, Args)]
#[command(override_usage = "xblade serve [OPTIONS] <SHELF> <SLOT> <NETIF[,NETIF…]> <FILE>")]
pub struct ServeArgs {
    /// Major address, 0 to 65534
    #[arg(value_parser = |text: &str| SHELF.parse::<u16>(text), allow_negative_numbers = true)]
    pub(crate) shelf: u16,
    /// Minor address, 0 to 254
    #[arg(value_parser = |text: &str| SLOT.parse::<u8>(text), allow_negative_numbers = true)]
    pub(crate) slot: u8,
    /// Network interfaces to serve on, names or globs
    #[arg(value_name = "NETIF[,NETIF…]", value_parser = interfaces::patterns)]
    pub(crate) interfaces: Patterns,
    /// Image file or block device (also PARTUUID=…), an image in Ceph (rbd:POOL/IMAGE), or an NBD server's (nbd+unix:///NAME?socket=PATH, nbd://HOST/NAME)
    #[arg(value_parser = OsStringValueParser::new().try_map(device::path))]
    pub(crate) file: PathBuf,

    /// Refuse writes
    #[arg(short, long)]
    pub(crate) read_only: bool,
    /// Serve these initiators only [default: everyone]
    #[arg(
        short = 'm',
        long,
        value_name = "MAC[,MAC…]",
        value_delimiter = ',',
        num_args = 1
    )]
    #[arg(value_parser = values::initiator)]
    pub(crate) allow: Vec<Mac>,
    /// First sector of the file to export, or where it starts as in 1GiB
    #[arg(
        short,
        long,
        value_name = "SECTORS",
        default_value = "0",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = values::sectors(OFFSET))]
    pub(crate) offset: u64,
    /// Number of sectors to export, or their size as in 1GiB; 0: to the end of the file
    #[arg(
        short,
        long,
        value_name = "SECTORS",
        default_value = "0",
        allow_negative_numbers = true
    )]
    #[arg(value_parser = values::sectors(LENGTH))]
    pub(crate) length: u64,
    /// Requests that an initiator may have under way
    #[arg(short, long, value_name = "N", default_value_t = ExportConfig::BUFFERS, allow_negative_numbers = true)]
    #[arg(value_parser = |text: &str| BUFFERS.parse::<u16>(text))]
    pub(crate) buffers: u16,
    /// Acknowledge a write only when it is on the medium
    #[arg(short, long)]
    pub(crate) sync: bool,
    /// Bypass the page cache: the same as --store direct
    #[arg(short, long, conflicts_with = "store")]
    pub(crate) direct: bool,

    /// How to attach to the interface: the best that works, or only this
    #[arg(long, default_value = "auto", value_parser = one_of(&Mode::NAMES, &Mode::OTHER_NAMES))]
    pub(crate) mode: Mode,
    /// Where sectors live: mapped file, O_DIRECT, an image in Ceph, an NBD server's export, or for measuring memory or nowhere
    #[arg(long, default_value = "mmap", value_parser = one_of(&StoreKind::NAMES, &[]))]
    pub(crate) store: StoreKind,
    /// Export the file's bytes as they are (raw), or refuse what looks like qcow2, VMDK, gzip and so on
    #[arg(long, default_value = "detect", value_parser = one_of(&ImageFormat::NAMES, &[]))]
    pub(crate) format: ImageFormat,
    /// How long an idle worker spins before it sleeps, in microseconds
    #[arg(long, value_name = "N", default_value_t = ExportConfig::SPIN_US, allow_negative_numbers = true)]
    #[arg(value_parser = |text: &str| SPIN_US.parse::<u32>(text))]
    pub(crate) spin_us: u32,
    /// CPUs to pin workers to, by turns, as in 0-3,5 [default: the scheduler decides]
    #[arg(long, value_name = "LIST", value_parser = values::cpus)]
    pub(crate) cpus: Option<Cpus>,
    /// Serial number to show, at most 20 characters [default: made from address and host]
    #[arg(long, value_name = "TEXT", value_parser = values::serial)]
    pub(crate) serial: Option<String>,
    /// Answer frames of this VLAN, or any [default: untagged frames only]
    #[arg(long, value_name = "N|any", value_parser = values::vlan, allow_negative_numbers = true)]
    pub(crate) vlan: Option<Vlan>,
    /// Frames that each initiator may send, such as 50k/s [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = values::rate, allow_hyphen_values = true)]
    pub(crate) rate_limit: Option<u32>,
    /// Without --sync, what a power cut may take away: the writes of this time, such as 500ms [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = values::flush_interval, allow_hyphen_values = true)]
    pub(crate) flush_interval: Option<Duration>,
    /// Take no writes any more when acknowledged ones were lost, until `xblade state clear --lost-writes`, or go on
    #[arg(long, default_value = "stop", value_parser = one_of(&OnLostWrite::NAMES, &[]))]
    pub(crate) on_lost_write: OnLostWrite,
    /// Reserve all of the file's space at start
    #[arg(long)]
    pub(crate) prealloc: bool,
    /// The file or device has other writers: take no lock; needs --direct
    #[arg(long)]
    pub(crate) shared: bool,
    /// Ceph's configuration file, for rbd: images [default: $CEPH_CONF, else /etc/ceph/ceph.conf]
    #[arg(long, value_name = "FILE")]
    pub(crate) ceph_conf: Option<PathBuf>,
    /// The Ceph client to be, for rbd: images
    #[arg(long, value_name = "NAME", default_value = CephOptions::USER, value_parser = ceph::user)]
    pub(crate) ceph_user: String,
    /// Let initiators change MAC mask and reservation without an access list, too [default: only the config string]
    #[arg(long)]
    pub(crate) wire_admin: bool,
    /// Refuse changes of config string, MAC mask and reservation by initiators
    #[arg(long, conflicts_with = "wire_admin")]
    pub(crate) no_wire_admin: bool,
    /// Answer the minimal SMART commands
    #[arg(long)]
    pub(crate) smart: bool,
    /// Drop writes that look like late duplicates from a slow path (a heuristic for Linux initiators)
    #[arg(long)]
    pub(crate) late_duplicates: bool,
    /// Keep config string, MAC mask and reservation here [default: in memory only]
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Wait for what is missing or in use (interface, file, address) instead of failing at once
    #[arg(long)]
    pub(crate) wait: bool,
    /// Serve although shelf 4095 is refused by Linux, or another target has this address
    #[arg(long)]
    pub(crate) force: bool,
    /// Listen here for `xblade status` and others [default: nowhere]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

/// `xblade daemon`
#[derive(Debug, Args)]
pub struct DaemonArgs {
    /// The config file
    #[arg(short, long, value_name = "FILE", default_value = CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Keep config strings, MAC masks and reservations here
    #[arg(long, value_name = "DIR", default_value = STATE_DIR)]
    pub(crate) state_dir: PathBuf,
    /// Serve nothing while the state directory is empty: it was used before, so what it kept is lost or not mounted
    #[arg(long)]
    pub(crate) state_required: bool,
    /// Serve although shelf 4095 is refused by Linux, or another target has an address
    #[arg(long)]
    pub(crate) force: bool,
    /// Listen here for `xblade status` and others [default: $XBLADE_CONTROL, else /run/xblade/control.sock]
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
}

/// `xblade check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The config file
    #[arg(short, long, value_name = "FILE", default_value = CONFIG_FILE)]
    pub(crate) config: PathBuf,
    /// Accept shelf 4095, which Linux refuses
    #[arg(long)]
    pub(crate) force: bool,
    /// Look at the file alone and not at this machine: fail where the daemon would refuse it, print nothing
    #[arg(long)]
    pub(crate) file_only: bool,
}

/// `xblade create`
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The file to make; must not be there yet
    pub(crate) file: PathBuf,
    /// Its size: 512M, 1.5G, 2TiB (powers of 1024), sectors as in 2097152s, or bytes without a unit
    #[arg(value_parser = values::size_bytes, allow_hyphen_values = true)]
    pub(crate) size: u64,
    /// Reserve the space now, so that writes never find the disk full [default: sparse]
    #[arg(long)]
    pub(crate) prealloc: bool,
}

/// One of `names`; `others` are taken too, but not told.
fn one_of<T: Copy + Send + Sync>(
    names: &'static [(&'static str, T)],
    others: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    let shown = names.iter().map(|(name, _)| PossibleValue::new(*name));
    let hidden = others
        .iter()
        .map(|(name, _)| PossibleValue::new(*name).hide(true));
    PossibleValuesParser::new(shown.chain(hidden)).try_map(move |given| {
        let known = names.iter().chain(others).find(|(name, _)| *name == given);
        known.map(|(_, value)| *value).ok_or("unknown name")
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn serve(line: &str) -> ServeArgs {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        match cli.command {
            CliCommand::Serve(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn lines_of_vblade_users_keep_their_meaning() {
        let args = serve(
            "xblade serve -b 32 -o 8 -l 16 -d -s -r -m 020000000001,02:00:00:00:00:02 1 2 eth0 /dev/sdb",
        );
        assert_eq!((args.shelf, args.slot, args.buffers), (1, 2, 32));
        assert_eq!((args.offset, args.length), (8, 16));
        assert!(args.direct && args.sync && args.read_only);
        assert_eq!(args.allow, [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])]);
        assert_eq!(args.interfaces, ["eth0"]);
        assert_eq!(args.file, PathBuf::from("/dev/sdb"));
    }

    #[test]
    fn a_list_takes_one_word_and_leaves_the_next() {
        let args = serve("xblade serve 1 1 eth0,eth1 file -m 020000000001 --cpus 0,1");
        assert_eq!(args.interfaces, ["eth0", "eth1"]);
        assert_eq!((args.allow.len(), args.cpus), (1, Some(vec![0, 1])));
    }

    #[test]
    fn options_may_stand_anywhere() {
        for line in [
            "-r 1 2 t0 a.raw",
            "1 -r 2 t0 a.raw",
            "1 2 -r t0 a.raw",
            "1 2 t0 -r a.raw",
            "1 2 t0 a.raw -r",
        ] {
            let args = serve(&format!("xblade serve {line}"));
            assert!(args.read_only && (args.shelf, args.slot) == (1, 2), "{line}");
            assert_eq!(
                (args.interfaces, args.file),
                (vec!["t0".to_owned()], "a.raw".into()),
                "{line}"
            );
        }
        let args = serve("xblade serve 1 2 t0 -b 16 -m 020000000001 a.raw -o 1");
        assert_eq!((args.buffers, args.offset, args.file), (16, 1, "a.raw".into()));
    }
}
