//! What happens to a card while it is served.

use anyhow::{Result, ensure};
use lab::vm::machine::Shell;

/// An event.
#[derive(Debug, Clone, Copy)]
pub(super) enum Event {
    /// The cable is pulled out and put back.
    Cable,
    /// A command in the guest that succeeds.
    Command(&'static str),
    /// A command in the guest after which the driver gives the program no frame any more: it is told, and mended.
    Deafens(&'static str),
    /// A command in the guest that the driver, or the kernel for it, refuses while it is served.
    Refused(&'static str),
}

/// Which makes a new interface.
const BOUND_AGAIN: &str = "device=$(readlink -f /sys/class/net/eth0/device); driver=$(readlink -f $device/driver); device=${device##*/}; \
    echo $device >$driver/unbind && echo $device >$driver/bind && ip link set eth0 mtu 1500 up";

/// The driver lets go of the card and takes it again.
pub(super) const UNBIND: Event = Event::Command(BOUND_AGAIN);
/// The interface is down for a moment.
pub(super) const SET_DOWN_AND_UP: &str = "ip link set eth0 down && ip link set eth0 up";
/// The same.
pub(super) const DOWN_AND_UP: Event = Event::Command(SET_DOWN_AND_UP);
/// It is so again and again.
pub(super) const SHAKEN: &str = "for n in 1 2 3 4 5; do ip link set eth0 down; ip link set eth0 up; done";
/// Another MTU for a moment.
pub(super) const OTHER_MTU: Event = Event::Command("ip link set eth0 mtu 1400 && ip link set eth0 mtu 1500");

/// Those that every driver knows.
pub(super) const OF_ALL_CARDS: &[Event] = &[
    Event::Cable,
    DOWN_AND_UP,
    OTHER_MTU,
    Event::Command(SHAKEN),
    UNBIND,
];

impl Event {
    /// Lets it happen to `eth0`.
    pub(super) fn happen(self, shell: &mut Shell) -> Result<()> {
        match self {
            Event::Cable => {
                // It may still be on its way from the event before.
                let link = "ip link show eth0";
                shell.until(link, |said| said.contains("LOWER_UP"))?;
                shell.set_link("card0", false)?;
                shell.until(link, |said| said.contains("NO-CARRIER"))?;
                shell.set_link("card0", true)
            }
            Event::Command(command) => shell.must(command).map(drop),
            Event::Deafens(command) => {
                // Counted, since the traffic of the test ends that state as soon as it is mended.
                let times = "/opt/xblade metrics --control /tmp/control | grep ^xblade_interface_deaf_total";
                let before = shell.must(times)?;
                shell.must(command)?;
                shell
                    .until(times, |said| said.starts_with("xblade_") && said != before)
                    .map(drop)
            }
            Event::Refused(command) => {
                let (code, said) = shell.run(command)?;
                ensure!(code != 0, "{command:?} is not refused: {said}");
                Ok(())
            }
        }
    }
}
