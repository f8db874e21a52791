//! The lab bench: a target's namespace and an initiator's, joined by veth pairs.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aoe_common::Mac;

use crate::initiator::Initiator;
use crate::net::Namespace;

/// How to build a [`Lab`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// MTU of every link, both ends.
    pub mtu: u32,
    /// Receive and transmit queues of every end.
    pub queues: u32,
    /// Number of links.
    pub links: u32,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            mtu: 1500,
            queues: 1,
            links: 1,
        }
    }
}

/// Two namespaces and the links between them. Link `n` is `eth{n}` on both sides.
#[derive(Debug)]
pub struct Lab {
    /// Where the target runs.
    pub target: Namespace,
    /// Where initiators run.
    pub initiator: Namespace,
    options: Options,
}

impl Lab {
    /// Builds namespaces and links, everything up.
    ///
    /// # Errors
    /// Without root, or without `ip`.
    pub fn new(options: Options) -> Result<Lab> {
        let lab = Lab {
            target: Namespace::new("target")?,
            initiator: Namespace::new("initiator")?,
            options,
        };
        for n in 0..options.links {
            lab.plug(n)?;
        }
        Ok(lab)
    }

    /// Makes link `n`: at the start, or again after [`Lab::unplug`].
    ///
    /// # Errors
    /// When it exists.
    pub fn plug(&self, n: u32) -> Result<()> {
        let Options { mtu, queues, .. } = self.options;
        let (ours, theirs) = (target_mac(n), initiator_mac(n));
        let peer = self.initiator.path();
        self.target.ip(&format!(
            "link add eth{n} address {ours} mtu {mtu} numrxqueues {queues} numtxqueues {queues} type veth \
             peer name eth{n} address {theirs} mtu {mtu} numrxqueues {queues} numtxqueues {queues} netns {peer}"
        ))?;
        self.initiator.ip(&format!("link set eth{n} up"))?;
        self.target.ip(&format!("link set eth{n} up"))?;
        self.wait_for_carrier(n)
    }

    /// Destroys link `n`, as a card that is pulled.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn unplug(&self, n: u32) -> Result<()> {
        self.target.ip(&format!("link del eth{n}")).map(drop)
    }

    /// Sets the initiator's end of link `n` up or down, which the target sees as carrier.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_carrier(&self, n: u32, up: bool) -> Result<()> {
        self.initiator
            .ip(&format!("link set eth{n} {}", if up { "up" } else { "down" }))
            .map(drop)
    }

    /// Changes the MTU of both ends of link `n`, the initiator's first: it must never get frames it cannot take.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn set_mtu(&self, n: u32, mtu: u32) -> Result<()> {
        self.initiator.ip(&format!("link set eth{n} mtu {mtu}"))?;
        self.target.ip(&format!("link set eth{n} mtu {mtu}")).map(drop)
    }

    /// Opens a raw initiator on link `n`.
    ///
    /// # Errors
    /// When there is no such link.
    pub fn open(&self, n: u32) -> Result<Initiator> {
        Initiator::open(&self.initiator, &format!("eth{n}"))
    }

    fn wait_for_carrier(&self, n: u32) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self
            .target
            .read(&format!("/sys/class/net/eth{n}/operstate"))?
            .trim()
            != "up"
        {
            ensure!(Instant::now() < deadline, "link {n} does not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// Address of the target's end of link `n`; 02:00:00:00:00:02 for link 0, as in the protocol's vectors.
pub fn target_mac(n: u32) -> Mac {
    Mac([2, 0, 0, 0, n as u8, 2])
}

/// Address of the initiator's end of link `n`.
pub fn initiator_mac(n: u32) -> Mac {
    Mac([2, 0, 0, 0, n as u8, 1])
}
