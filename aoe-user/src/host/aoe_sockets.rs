//! Programs of this host that speak AoE through packet sockets: vblade, ggaoed and the like.
//!
//! What they answer leaves from the interface's own address, as what xblade answers does, so that nobody on the network can tell the two
//! apart. The kernel's initiator has no socket, and a program that hears all protocols (tcpdump) is none of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;

use initiator::link_named;

use super::vlans::vlan_devices;

/// The protocol of AoE, as the kernel prints it.
const AOE: &str = "88a2";
/// `ifindex` of a socket that is bound to no interface, and so hears all.
const ALL_INTERFACES: u32 = 0;
/// Of whoever asks, too: what its sockets are for it knows itself.
const OWN_NAME: &str = "xblade";

/// The sockets of other programs that speak AoE on an interface, or on the devices over it of VLANs that matter, in the network namespace
/// of the thread: their inodes. It may block.
pub(crate) fn aoe_sockets_of_others(interface: &str, matters: impl Fn(u16) -> bool) -> BTreeSet<u64> {
    let devices = vlan_devices(interface);
    let devices = devices.iter().filter(|(vlan, _)| matters(**vlan));
    let names = std::iter::once(interface).chain(devices.map(|(_, name)| name.as_str()));
    let mut places = vec![ALL_INTERFACES];
    places.extend(names.filter_map(|name| Some(link_named(name).ok()?.header.index)));
    let table = fs::read_to_string("/proc/thread-self/net/packet").unwrap_or_default();
    let found = aoe_sockets(&table, &places);
    if found.is_empty() {
        return found;
    }
    let own: HashSet<u64> = sockets_of(Path::new("/proc/self")).collect();
    found.into_iter().filter(|inode| !own.contains(inode)).collect()
}

/// The inodes of the sockets of AoE that are bound to one of these interfaces.
fn aoe_sockets(table: &str, places: &[u32]) -> BTreeSet<u64> {
    // sk RefCnt Type Proto Iface R Rmem User Inode (net/packet/af_packet.c, packet_seq_show)
    let socket = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(3);
        let (protocol, place) = (columns.next()?, columns.next()?.parse().ok()?);
        let inode = columns.nth(3)?.parse().ok()?;
        (protocol == AOE && places.contains(&place)).then_some(inode)
    };
    table.lines().filter_map(socket).collect()
}

/// Who holds some sockets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Holders {
    /// Programs, as `NAME (pid PID)`; other xblades (`bench`, `discover`) are left out. The processes of other users are seen by root
    /// alone: a socket whose program is not found is `None`.
    pub(crate) programs: Vec<Option<String>>,
    /// Those whose program is not found may be of an xblade that only asks, and that we may not look into: it cannot be told now.
    pub(crate) may_only_ask: bool,
}

/// The programs that hold these sockets. It looks at every process, so it may block.
pub(crate) fn programs_with(sockets: &BTreeSet<u64>) -> Holders {
    holders_of(Path::new("/proc"), sockets)
}

fn holders_of(proc: &Path, sockets: &BTreeSet<u64>) -> Holders {
    let mut left = sockets.clone();
    // By number: the first one that has a socket made it, and its children inherited it.
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    let mut may_only_ask = false;
    let processes = fs::read_dir(proc).into_iter().flatten().flatten();
    let pid = |entry: &fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
    let mut pids: Vec<u32> = processes.filter_map(|entry| pid(&entry)).collect();
    pids.sort_unstable();
    for pid in pids {
        if left.is_empty() {
            break;
        }
        let process = proc.join(pid.to_string());
        let its: Vec<u64> = sockets_of(&process)
            .filter(|inode| left.contains(inode))
            .collect();
        if its.is_empty() {
            may_only_ask |= fs::read_dir(process.join("fd")).is_err() && only_asks(&process);
            continue;
        }
        its.iter().for_each(|inode| {
            left.remove(inode);
        });
        let name = name_of(&process);
        if name != OWN_NAME {
            found.insert(pid, format!("{name} (pid {pid})"));
        }
    }
    let unknown = (!left.is_empty() && !may_only_ask).then_some(None);
    Holders {
        programs: found.into_values().map(Some).chain(unknown).collect(),
        may_only_ask: !left.is_empty() && may_only_ask,
    }
}

fn name_of(process: &Path) -> String {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

/// Whether it is an xblade that serves nothing. Name and arguments of every process are there for everybody.
fn only_asks(process: &Path) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = line.split(|byte| *byte == 0);
    name_of(process) == OWN_NAME && !words.any(|word| word == b"serve" || word == b"daemon")
}

/// The inodes of a process's sockets, as far as we may see them.
fn sockets_of(process: &Path) -> impl Iterator<Item = u64> + use<> {
    let files = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.filter_map(|file| {
        let link = fs::read_link(file.path()).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
        inode.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn sockets_of_aoe_on_the_interface_or_on_all_are_found() {
        let table = "\
sk               RefCnt Type Proto  Iface R Rmem   User   Inode
00000000a1b2c3d4 3      3    88a2   2     1 0      0      101   
00000000a1b2c3d4 3      3    88a2   0     1 0      0      102   
00000000a1b2c3d4 3      3    0003   2     1 0      0      103   
00000000a1b2c3d4 3      3    88a2   3     1 0      0      104   
00000000a1b2c3d4 3      3    0800   2     1 0      0      105   
cut off 3 88a2
";
        assert_eq!(aoe_sockets(table, &[0, 2]), [101, 102].into());
        assert_eq!(aoe_sockets(table, &[0, 3]), [102, 104].into());
        assert_eq!(aoe_sockets("", &[0]), [].into());
    }

    #[test]
    fn the_program_of_a_socket_is_named() {
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode: u64 = link.to_str().unwrap()[8..].trim_end_matches(']').parse().unwrap();
        assert!(sockets_of(Path::new("/proc/self")).any(|own| own == inode));
        // That of a test is called after its file, `xblade-…`, and is no xblade.
        let pid = format!("(pid {})", std::process::id());
        match programs_with(&[inode].into()).programs.as_slice() {
            [Some(name)] => assert!(name.ends_with(&pid), "{name}"),
            other => panic!("{other:?}"),
        }
        // Nobody has it.
        let nobody = holders_of(Path::new("/no such folder"), &[u64::MAX].into());
        assert_eq!((nobody.programs, nobody.may_only_ask), (vec![None], false));
    }

    #[test]
    fn an_xblade_of_another_user_that_only_asks_is_no_target() {
        let proc = tempfile::tempdir().unwrap();
        // What we may not look into has no `fd` here.
        let process = |pid: &str, name: &str, line: &str| {
            let process = proc.path().join(pid);
            fs::create_dir(&process).unwrap();
            fs::write(process.join("comm"), format!("{name}\n")).unwrap();
            fs::write(process.join("cmdline"), line).unwrap();
        };
        let look = || {
            let found = holders_of(proc.path(), &[7].into());
            (found.programs, found.may_only_ask)
        };
        process("1", "vblade", "vblade\x000\x001\0eth1\0/a");
        process("2", "xblade", "xblade\0serve\x001\x001\0eth2\0/a");
        assert_eq!(look(), (vec![None], false));
        process("3", "xblade", "/usr/bin/xblade\0bench\0eth1\0e1.1\0");
        assert_eq!(look(), (vec![], true));
    }
}
