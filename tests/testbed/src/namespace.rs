//! A network namespace of the calling thread's own, for tests that hold sockets and programs themselves.
//!
//! It ends with its thread; nothing has to be cleaned up. Tests that run the binary want a [`crate::Lab`].

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Moves the calling thread into a new namespace.
///
/// # Panics
/// Without root.
pub fn enter() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
}

/// Makes a veth pair, both ends up. An end is given by its name and what else `ip link` takes: `near`, or
/// `near address 02:00:00:00:00:01 numrxqueues 2`.
///
/// # Panics
/// When it cannot be made.
pub fn veth(one: &str, other: &str, mtu: u32) {
    ip(&format!(
        "link add {one} mtu {mtu} type veth peer name {other} mtu {mtu}"
    ));
    for end in [one, other] {
        let name = end.split(' ').next().unwrap_or(end);
        ip(&format!("link set {name} up"));
    }
}

/// Runs `ip` with these words and returns what it printed.
///
/// # Panics
/// When `ip` fails.
pub fn ip(words: &str) -> String {
    let output = Command::new("ip")
        .args(words.split_whitespace())
        .output()
        .expect("ip runs");
    assert!(
        output.status.success(),
        "ip {words}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The kernel's number of an interface.
///
/// # Panics
/// When there is none of this name.
pub fn index_of(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("the interface exists")
}
