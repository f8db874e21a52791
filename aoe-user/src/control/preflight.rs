//! What the host must offer before anything is attached: a new enough kernel, the right to use it, enough memory that
//! may be locked.

use std::fmt;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::config::{Config, interfaces};
use crate::host;
use crate::host::descriptors;
use crate::host::kernel::{KERNEL_JUMBO, KERNEL_MIN, release, version};

/// The largest MTU whose frames fit one descriptor.
const MTU_PLAIN: u32 = 3506;
/// What the four rings and the frames of a queue lock, at least.
const LOCKED_BYTES_PER_QUEUE: u64 = 16 << 20;

/// File descriptors of an export, at most: the file, the file again past the page cache, a block device's claim.
const DESCRIPTORS_PER_EXPORT: u64 = 3;
/// What one export on one interface of a few queues takes.
const DESCRIPTORS_LEAST: u64 = 64;

/// Something that keeps xblade from serving on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PreflightError {
    /// AF_XDP of this kernel is not enough.
    #[error("this is Linux {release}; xblade needs {KERNEL_MIN} or newer")]
    KernelTooOld {
        /// As uname(2) tells it.
        release: String,
    },
    /// The process may not do what it must.
    #[error("missing capability: {}; run as root, or grant it (in a systemd unit: AmbientCapabilities=)", .0.join(", "))]
    Capabilities(Vec<&'static str>),
    /// Not even an idle process could open what it needs.
    #[error(
        "only {0} files may be open at a time, and xblade needs {DESCRIPTORS_LEAST} at least: raise the hard limit (ulimit -Hn, or \
         LimitNOFILE= in a systemd unit)"
    )]
    Descriptors(u64),
}

/// Something that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Warning {
    /// The MTU is larger than what this kernel can give to AF_XDP.
    NoJumbo {
        /// The interface.
        interface: String,
        /// As uname(2) tells it.
        release: String,
    },
    /// Frames may not all be lockable.
    LockedMemory {
        /// RLIMIT_MEMLOCK.
        limit_bytes: u64,
    },
    /// Pinning to CPUs that the process may not use.
    NoSuchCpus(Vec<usize>),
    /// Not every file may be opened.
    Descriptors {
        /// How many are needed.
        need: u64,
        /// RLIMIT_NOFILE, which nobody but the administrator can raise.
        hard_limit: u64,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::NoJumbo { interface, release } => write!(
                f,
                "{interface}: an MTU above {MTU_PLAIN} needs Linux {KERNEL_JUMBO} or newer, and this is {release}: lower it, \
                 or frames may be lost"
            ),
            Warning::LockedMemory { limit_bytes } => write!(
                f,
                "without CAP_IPC_LOCK only {limit_bytes} bytes may be locked, and each queue locks some \
                 {LOCKED_BYTES_PER_QUEUE}; raise it (ulimit -l, or LimitMEMLOCK= in a systemd unit)"
            ),
            Warning::Descriptors { need, hard_limit } => write!(
                f,
                "these exports may need {need} file descriptors, and only {hard_limit} may be had: raise the limit \
                 (ulimit -Hn, or LimitNOFILE= in a systemd unit)"
            ),
            Warning::NoSuchCpus(missing) => {
                let (noun, are) = if missing.len() == 1 {
                    ("CPU", "is")
                } else {
                    ("CPUs", "are")
                };
                let missing = host::cpus::ranges(missing);
                write!(
                    f,
                    "cpus: {noun} {missing} {are} not among those that xblade may use"
                )
            }
        }
    }
}

/// Asks the host whether `config` can be served at all, before anything is opened or attached.
///
/// # Errors
/// What is missing.
pub(crate) fn preflight(config: &Config) -> Result<Vec<Warning>, PreflightError> {
    let mut warnings = Vec::new();
    let release = release();
    if judge_kernel(&release)? == Jumbo::No {
        let no_jumbo = |interface| Warning::NoJumbo {
            interface,
            release: release.clone(),
        };
        warnings.extend(jumbo_interfaces(config).map(no_jumbo));
    }

    // A process can always read its own capabilities; if not, the attach will tell.
    let held = capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective);
    let limit = getrlimit(Resource::Memlock).current;
    warnings.extend(judge_rights(held, limit)?);

    let allowed = rustix::thread::sched_getaffinity(None);
    if let Ok(allowed) = allowed {
        warnings.extend(judge_cpus(&config.cpus, |cpu| allowed.is_set(cpu)));
    }
    warnings.extend(descriptors(config));
    Ok(warnings)
}

fn judge_cpus(wanted: &[usize], may_use: impl Fn(usize) -> bool) -> Option<Warning> {
    let missing: Vec<usize> = wanted.iter().copied().filter(|cpu| !may_use(*cpu)).collect();
    (!missing.is_empty()).then_some(Warning::NoSuchCpus(missing))
}

/// Takes as many file descriptors as the process may have. The usual 1024 are for programs that use select(2).
pub(crate) fn raise_descriptors() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!("the limit of open files stays as it was: {error}");
    }
}

/// Whether the process may open what it needs before it knows what it serves.
///
/// # Errors
/// When the limit is too low.
pub(crate) fn enough_descriptors() -> Result<(), PreflightError> {
    judge_least_descriptors(getrlimit(Resource::Nofile).current)
}

fn judge_least_descriptors(limit: Option<u64>) -> Result<(), PreflightError> {
    match limit {
        Some(limit) if limit < DESCRIPTORS_LEAST => Err(PreflightError::Descriptors(limit)),
        _ => Ok(()),
    }
}

/// Whether the files of all exports may be too many to be open at the same time.
pub(crate) fn descriptors(config: &Config) -> Option<Warning> {
    judge_descriptors(config.exports.len() as u64, getrlimit(Resource::Nofile).maximum)
}

fn judge_descriptors(exports: u64, hard_limit: Option<u64>) -> Option<Warning> {
    let need = descriptors::BESIDE.saturating_add(exports.saturating_mul(DESCRIPTORS_PER_EXPORT));
    let hard_limit = hard_limit?;
    // A few exports get by with much less.
    (exports > 1 && hard_limit < need).then_some(Warning::Descriptors { need, hard_limit })
}

/// Whether a kernel gives frames of several descriptors to AF_XDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jumbo {
    Yes,
    No,
}

fn judge_kernel(release: &str) -> Result<Jumbo, PreflightError> {
    // A release that starts with no number is some future's scheme, not an old kernel.
    let Some(version) = version(release) else {
        return Ok(Jumbo::Yes);
    };
    if version < KERNEL_MIN {
        return Err(PreflightError::KernelTooOld {
            release: release.to_owned(),
        });
    }
    Ok(if version < KERNEL_JUMBO {
        Jumbo::No
    } else {
        Jumbo::Yes
    })
}

/// Interfaces of the config whose MTU is now too large for one descriptor.
fn jumbo_interfaces(config: &Config) -> impl Iterator<Item = String> {
    let all = host::interfaces().unwrap_or_default().into_iter();
    let wanted = all.filter(|interface| {
        config
            .exports
            .iter()
            .any(|export| interfaces::chosen(&export.interfaces, interface))
    });
    wanted
        .filter(|interface| interface.mtu_bytes > MTU_PLAIN)
        .map(|interface| interface.name)
}

fn judge_rights(held: CapabilitySet, locked_limit: Option<u64>) -> Result<Option<Warning>, PreflightError> {
    let mut missing = Vec::new();
    if !held.contains(CapabilitySet::NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !held.contains(CapabilitySet::NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if !held.intersects(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    // Without it the verifier takes no arithmetic on packet pointers.
    if !held.intersects(CapabilitySet::PERFMON | CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_PERFMON");
    }
    if !missing.is_empty() {
        return Err(PreflightError::Capabilities(missing));
    }
    let limit = locked_limit.unwrap_or(u64::MAX);
    let tight = !held.contains(CapabilitySet::IPC_LOCK) && limit < LOCKED_BYTES_PER_QUEUE;
    Ok(tight.then_some(Warning::LockedMemory { limit_bytes: limit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_judged_by_their_number() {
        for old in [
            "3.10.0-1160.el7.x86_64",
            "4.19.0-26-amd64",
            "5.10.0-28-amd64",
            "5.17.9",
        ] {
            let message = judge_kernel(old).unwrap_err().to_string();
            assert!(
                message.contains(old) && message.contains("needs 5.18"),
                "{message}"
            );
        }
        for middle in ["5.18.0", "6.1.0-18-amd64", "6.5"] {
            assert_eq!(judge_kernel(middle), Ok(Jumbo::No), "{middle}");
        }
        for new in ["6.6.0", "6.18.44", "10.0", "odd"] {
            assert_eq!(judge_kernel(new), Ok(Jumbo::Yes), "{new}");
        }
    }

    #[test]
    fn descriptors_are_counted_against_the_hard_limit() {
        assert_eq!(judge_descriptors(1500, None), None);
        assert_eq!(judge_descriptors(1500, Some(524_288)), None);
        assert_eq!(judge_descriptors(100, Some(1024)), None);
        let message = judge_descriptors(1500, Some(1024)).unwrap().to_string();
        assert!(
            message.contains("need 5012") && message.contains("1024") && message.contains("LimitNOFILE"),
            "{message}"
        );
    }

    #[test]
    fn cpus_that_are_missing_are_told_once() {
        let told = |wanted: &[usize]| judge_cpus(wanted, |cpu| cpu < 2).map(|warning| warning.to_string());
        assert_eq!(told(&[0, 1, 1]), None);
        let many: Vec<usize> = (0..1024).collect();
        let line = "cpus: CPUs 2-1023 are not among those that xblade may use";
        assert_eq!(told(&many).as_deref(), Some(line));
        let line = "cpus: CPU 7 is not among those that xblade may use";
        assert_eq!(told(&[0, 7]).as_deref(), Some(line));
    }

    #[test]
    fn missing_rights_are_named() {
        let new_style = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let needed = CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW | new_style;
        let message = judge_rights(CapabilitySet::empty(), None)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_PERFMON"),
            "{message}"
        );
        assert_eq!(judge_rights(needed, None), Ok(None));
        assert_eq!(judge_rights(needed | CapabilitySet::IPC_LOCK, Some(1)), Ok(None));
        let warning = judge_rights(needed, Some(64 << 10)).unwrap().unwrap().to_string();
        assert!(
            warning.contains("65536") && warning.contains("LimitMEMLOCK"),
            "{warning}"
        );
        let old_style = needed.difference(new_style) | CapabilitySet::SYS_ADMIN;
        assert_eq!(judge_rights(old_style, None), Ok(None));
    }
}
