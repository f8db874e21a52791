//! The filter on real interfaces: attaching, detaching, errors, and frames that come in by a driver.
//!
//! Every test has a network namespace of its own, that of its thread, which ends with it. Needs root.

use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use aoe_common::rules::Counter;
use lab::initiator::TIMEOUT;
use lab::namespace::{self, index_of, ip, veth};
use lab::needs;
use lab::needs::Need;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};
use xblade::config::Vlan;
use xblade::filter::{Attach, ExportRule, Filter, FilterError, Rules};

const PORT: Mac = Mac([2, 0, 0, 0, 0, 0xaa]);
const FRIEND: Mac = Mac([2, 0, 0, 0, 0, 1]);
const STRANGER: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// Set for a copy of this program that only attaches a filter to the interface it names, and waits.
const HOLDER: &str = "XBLADE_TEST_HOLDS_FILTER_ON";

/// Runs the test in a thread and a namespace of its own.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        namespace::enter();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The link `port`, with the port's address — `peer`.
fn link(mtu: u32) {
    veth(&format!("port address {PORT}"), "peer", mtu);
}

/// What `ip` says about an interface.
fn shown(interface: &str) -> String {
    ip(&format!("-details link show {interface}"))
}

fn has_program(interface: &str) -> bool {
    shown(interface).contains("prog/xdp")
}

/// Export 1.1 for one initiator.
fn rules() -> Rules {
    let allow = Some([(FRIEND, None)].into());
    Rules::of(vec![ExportRule {
        shelf: 1,
        slot: 1,
        vlan: Vlan::Untagged,
        allow,
        rate_limit: None,
    }])
}

fn load() -> Filter {
    Filter::load(PORT, &rules()).expect("the filter loads")
}

fn attached(interface: &str, attach: Attach) -> Filter {
    let mut filter = load();
    filter
        .attach(interface, index_of(interface), attach)
        .expect("the filter attaches");
    filter
}

#[test]
fn a_filter_comes_and_goes_without_a_trace() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        // 9000: only a program that says it can take fragments gets in there.
        for (mtu, attach) in [
            (1500, Attach::Native),
            (9000, Attach::Native),
            (9000, Attach::Generic),
        ] {
            link(mtu);
            let mut filter = attached("port", attach);
            assert_eq!(filter.attached(), Some(attach));
            assert!(has_program("port"), "{}", shown("port"));
            assert_eq!(shown("port").contains("xdpgeneric"), attach == Attach::Generic);
            filter.detach();
            assert!(!has_program("port"));
            filter.attach("port", index_of("port"), attach).unwrap();
            assert!(has_program("port"));
            drop(filter);
            assert!(!has_program("port"));
            ip("link del port");
        }
    });
    Ok(())
}

#[test]
fn frames_of_a_link_are_judged_and_strangers_reported() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        for attach in [Attach::Native, Attach::Generic] {
            link(1500);
            let mut filter = attached("port", attach);
            let request = |source: Mac, shelf: u16| {
                let mut frame = [[0xff; 6], source.0].concat();
                frame.extend([0x88, 0xa2, 0x10, 0]);
                frame.extend(shelf.to_be_bytes());
                frame.extend([1, 1, 0, 0, 0, 7]);
                frame
            };
            for _ in 0..5 {
                send("peer", &request(STRANGER, 1));
            }
            send("peer", &request(FRIEND, 1));
            send("peer", &request(FRIEND, 7));
            let expected = [
                (Counter::Denied, 5),
                (Counter::NoSocket, 1),
                (Counter::NotOurs, 1),
            ];
            let start = Instant::now();
            let counters = loop {
                let counters = filter.counters().unwrap();
                let done = expected
                    .iter()
                    .all(|(counter, count)| counters[*counter] == *count);
                if done || start.elapsed() > TIMEOUT {
                    break counters;
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            for (counter, count) in expected {
                assert_eq!(
                    counters[counter], count,
                    "{counter:?} in {attach} mode: {counters:?}"
                );
            }
            let denied = filter.denied().unwrap();
            assert_eq!(denied.len(), 1, "{denied:?}");
            let denied = denied[0];
            assert_eq!(
                (denied.source, denied.shelf, denied.slot, denied.frames),
                (STRANGER, 1, 1, 5)
            );
            drop(filter);
            ip("link del port");
        }
    });
    Ok(())
}

fn send(interface: &str, frame: &[u8]) {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).expect("a packet socket");
    let to = link_address(interface);
    sendto(socket.as_raw_fd(), frame, &to, MsgFlags::empty()).expect("the frame is sent");
}

fn link_address(interface: &str) -> LinkAddr {
    nix::ifaddrs::getifaddrs()
        .expect("interfaces")
        .filter(|address| address.interface_name == interface)
        .find_map(|address| address.address?.as_link_addr().copied())
        .expect("the interface has a link address")
}

#[test]
fn one_program_fits_on_an_interface() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        link(1500);
        let first = attached("port", Attach::Native);
        for attach in [Attach::Native, Attach::Generic] {
            let error = load().attach("port", index_of("port"), attach).unwrap_err();
            assert!(matches!(error, FilterError::Busy { .. }), "{error:?}");
            assert!(!error.generic_may_work());
            assert!(
                error.to_string().contains("port already has an XDP program"),
                "{error}"
            );
        }
        drop(first);
        attached("port", Attach::Native);
    });
    Ok(())
}

#[test]
fn what_a_driver_cannot_do_leads_to_generic_mode() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        // Loopback has no native XDP.
        ip("link set lo up");
        let mut filter = load();
        let error = filter.attach("lo", index_of("lo"), Attach::Native).unwrap_err();
        assert!(matches!(error, FilterError::NoNativeXdp { .. }), "{error:?}");
        assert!(error.generic_may_work());
        filter.attach("lo", index_of("lo"), Attach::Generic).unwrap();
        drop(filter);

        // A veth with fewer receive queues than its peer has transmit queues.
        veth(
            "port numrxqueues 1 numtxqueues 1",
            "peer numrxqueues 2 numtxqueues 2",
            1500,
        );
        let mut filter = load();
        let error = filter
            .attach("port", index_of("port"), Attach::Native)
            .unwrap_err();
        assert!(matches!(error, FilterError::TooFewQueues { .. }), "{error:?}");
        assert!(error.generic_may_work());
        filter.attach("port", index_of("port"), Attach::Generic).unwrap();
    });
    Ok(())
}

#[test]
fn an_interface_may_go_away() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        link(1500);
        let gone = index_of("port");
        let mut filter = attached("port", Attach::Native);
        ip("link del port");
        filter.set_rules(&rules()).unwrap();
        filter.counters().unwrap();
        drop(filter);
        let error = load().attach("port", gone, Attach::Native).unwrap_err();
        assert!(matches!(error, FilterError::NoInterface { .. }), "{error:?}");
        assert!(!error.generic_may_work());
    });
    Ok(())
}

#[test]
fn without_capabilities_the_error_says_which() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        link(1500);
        let output = Command::new("setpriv")
            .args(["--inh-caps=-all", "--bounding-set=-all"])
            .args(holder_command())
            .env(HOLDER, "port")
            .output()
            .expect("setpriv (util-linux) runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("no permission to load the filter"), "{said}");
        assert!(said.contains("CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW"), "{said}");
    });
    Ok(())
}

/// Without CAP_PERFMON the verifier takes no arithmetic on packet pointers.
#[test]
fn what_the_verifier_says_is_said_once() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        link(1500);
        let output = Command::new("setpriv")
            .args(["--inh-caps=-all", "--bounding-set=-perfmon,-sys_admin"])
            .args(holder_command())
            .env(HOLDER, "port")
            .output()
            .expect("setpriv (util-linux) runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("the kernel refuses the filter: "), "{said}");
        for once in ["verifier's log ends with", "processed "] {
            assert_eq!(said.matches(once).count(), 1, "{once:?} in {said}");
        }
        assert!(said.lines().count() < 40, "{said}");
    });
    Ok(())
}

#[test]
fn a_killed_process_leaves_an_ordinary_interface() -> Result<()> {
    needs!(Need::Root);
    in_namespace(|| {
        for attach in [Attach::Native, Attach::Generic] {
            link(1500);
            let mut command = holder_command();
            let mut holder = Command::new(command.remove(0))
                .args(command)
                .env(HOLDER, format!("port {attach}"))
                .stdout(Stdio::null())
                .spawn()
                .expect("this program runs again");
            wait_until("the program is attached", || has_program("port"));
            holder.kill().unwrap();
            holder.wait().unwrap();
            wait_until("the program is gone", || !has_program("port"));
            ip("link del port");
        }
    });
    Ok(())
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < TIMEOUT, "{TIMEOUT:?} passed before {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// This program again, to run [`holds_a_filter`] alone.
fn holder_command() -> Vec<String> {
    let this = std::env::current_exe().expect("this program has a path");
    let this = this.to_str().expect("a path in UTF-8").to_owned();
    vec![
        this,
        "--exact".into(),
        // Without the name of this program, which the harness does not know.
        module_path!()
            .split_once("::")
            .map_or_else(String::new, |(_, module)| format!("{module}::"))
            + "holds_a_filter",
        "--nocapture".into(),
    ]
}

/// Not a test of its own: what the other process of two tests does.
#[test]
fn holds_a_filter() {
    let Ok(wanted) = std::env::var(HOLDER) else { return };
    let (interface, attach) = match wanted.split_once(' ') {
        Some((interface, "generic")) => (interface, Attach::Generic),
        Some((interface, _)) => (interface, Attach::Native),
        None => (wanted.as_str(), Attach::Native),
    };
    let attached = Filter::load(PORT, &rules()).and_then(|mut filter| {
        filter.attach(interface, index_of(interface), attach)?;
        Ok(filter)
    });
    match attached {
        // Whoever started this kills it; if not, it ends by itself.
        Ok(_filter) => std::thread::sleep(Duration::from_secs(600)),
        // As main prints it.
        Err(error) => println!("{:#}", anyhow::Error::new(error)),
    }
}
