//! Which limit keeps the process from having another thread or more addresses, for messages: the system says only "Resource temporarily
//! unavailable" and "Cannot allocate memory".

use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

/// So near to a limit it is taken to be the one: threads come and go while this looks.
const NEAR: u64 = 4;
/// Address space that a thread may take: its stack, and the allocator's for it.
const THREAD_BYTES: u64 = 64 << 20;

/// What the failure to start a thread comes from and what to do about it, in words.
#[must_use]
pub fn no_thread(error: &io::Error) -> String {
    let root = Path::new("/");
    let reached = [cgroup(root), processes(root), system(root), address_space(root)];
    let reached: Vec<String> = reached.into_iter().flatten().collect();
    match reached.is_empty() {
        true => format!(
            "the system gives no further thread ({error}): look at pids.max of its cgroup (TasksMax= of a systemd unit), RLIMIT_NPROC \
             (ulimit -u) and RLIMIT_AS (ulimit -v)"
        ),
        false => format!(
            "the system gives no further thread ({error}): {}; raise it",
            reached.join(", and ")
        ),
    }
}

/// The failure to start a thread, with these words.
#[must_use]
pub fn refused(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), no_thread(error))
}

/// Words for the end of a message: the limit of this process, where it has one and the failure may come from it.
pub(crate) fn of_failure(error: &io::Error) -> String {
    match (error.raw_os_error(), getrlimit(Resource::As).current) {
        (Some(libc::ENOMEM), Some(limit)) => format!(" ({}: raise it)", named_address_space(limit)),
        _ => String::new(),
    }
}

fn named_address_space(limit: u64) -> String {
    format!("RLIMIT_AS is {limit} bytes (ulimit -v, LimitAS= of a systemd unit)")
}

fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

fn number(path: &Path) -> Option<u64> {
    read(path)?.trim().parse().ok()
}

fn field(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    value.split_whitespace().next()?.parse().ok()
}

/// The cgroup, of either version, that has no further task to give: the process's own or one above it.
fn cgroup(root: &Path) -> Option<String> {
    let groups = read(&root.join("proc/self/cgroup"))?;
    let places = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or("/"));
        let mounts: &[&str] = match controllers {
            "" => &["sys/fs/cgroup", "sys/fs/cgroup/unified"],
            some if some.split(',').any(|one| one == "pids") => &["sys/fs/cgroup/pids"],
            _ => &[],
        };
        mounts
            .iter()
            .map(move |mount| (root.join(mount), PathBuf::from(path.trim_start_matches('/'))))
    });
    places.into_iter().find_map(|(mount, path)| {
        path.ancestors().find_map(|group| {
            let group = mount.join(group);
            let limit = number(&group.join("pids.max"))?;
            let tasks = number(&group.join("pids.current"))?;
            (tasks + NEAR > limit).then(|| {
                format!(
                    "{}/pids.max is {limit} (TasksMax= of a systemd unit)",
                    group.display()
                )
            })
        })
    })
}

/// RLIMIT_NPROC, which counts the threads of all processes of a user.
fn processes(root: &Path) -> Option<String> {
    let limit = getrlimit(Resource::Nproc).current?;
    let own = field(&read(&root.join("proc/self/status"))?, "Uid:")?;
    if own == 0 {
        // Whoever may administer the system is not held to it.
        return None;
    }
    let tasks: u64 = std::fs::read_dir(root.join("proc"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let status = read(&entry.path().join("status"))?;
            (field(&status, "Uid:")? == own).then(|| field(&status, "Threads:"))?
        })
        .sum();
    (tasks + NEAR > limit).then(|| {
        format!("RLIMIT_NPROC is {limit} (ulimit -u, LimitNPROC= of a systemd unit), for all threads of user {own} together")
    })
}

/// What the kernel has for all processes.
fn system(root: &Path) -> Option<String> {
    let load = read(&root.join("proc/loadavg"))?;
    let tasks: u64 = load.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok()?;
    ["kernel/threads-max", "kernel/pid_max"]
        .into_iter()
        .find_map(|name| {
            let limit = number(&root.join("proc/sys").join(name))?;
            (tasks + NEAR > limit).then(|| format!("{} is {limit} (sysctl)", name.replace('/', ".")))
        })
}

/// RLIMIT_AS: a thread's stack is address space.
fn address_space(root: &Path) -> Option<String> {
    addresses_for(root, THREAD_BYTES)
}

/// The limit that leaves the process no room to map so many bytes.
pub(crate) fn no_room_to_map(bytes: u64) -> Option<String> {
    addresses_for(Path::new("/"), bytes)
}

fn addresses_for(root: &Path, bytes: u64) -> Option<String> {
    let limit = getrlimit(Resource::As).current?;
    let used = field(&read(&root.join("proc/self/status"))?, "VmSize:")? << 10;
    (used.saturating_add(bytes) > limit).then(|| named_address_space(limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn the_cgroup_that_is_full_is_named_be_it_the_own_one_or_one_above() {
        for (groups, mount) in [
            ("0::/system.slice/xblade.service\n", "sys/fs/cgroup"),
            (
                "9:pids:/system.slice/xblade.service\n0::/\n",
                "sys/fs/cgroup/pids",
            ),
        ] {
            let root = tempfile::tempdir().unwrap();
            let root = root.path();
            write(root, "proc/self/cgroup", groups);
            let (slice, unit) = (
                format!("{mount}/system.slice"),
                format!("{mount}/system.slice/xblade.service"),
            );
            write(root, &format!("{slice}/pids.max"), "max\n");
            write(root, &format!("{slice}/pids.current"), "90\n");
            write(root, &format!("{unit}/pids.max"), "12\n");
            write(root, &format!("{unit}/pids.current"), "5\n");
            assert_eq!(cgroup(root), None, "{groups}");
            write(root, &format!("{unit}/pids.current"), "12\n");
            let told = cgroup(root).unwrap();
            assert!(
                told.contains("xblade.service/pids.max is 12 (TasksMax="),
                "{told}"
            );
            write(root, &format!("{unit}/pids.max"), "max\n");
            write(root, &format!("{slice}/pids.max"), "91\n");
            let told = cgroup(root).unwrap();
            assert!(told.contains("system.slice/pids.max is 91"), "{told}");
        }
    }

    #[test]
    fn the_limit_of_the_whole_system_is_named() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "proc/loadavg", "0.1 0.2 0.3 2/700 4711\n");
        write(root, "proc/sys/kernel/threads-max", "9000\n");
        write(root, "proc/sys/kernel/pid_max", "9000\n");
        assert_eq!(system(root), None);
        write(root, "proc/sys/kernel/threads-max", "701\n");
        assert_eq!(system(root).unwrap(), "kernel.threads-max is 701 (sysctl)");
    }
}
