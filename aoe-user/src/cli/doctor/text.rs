//! An interface in words.

use std::fmt::Write as _;

use super::Finding;
use super::advice::{Advice, spread};
use crate::control::tags::TagPlace;
use crate::host::kernel::{KERNEL_JUMBO, KERNEL_MIN, KERNEL_TELLS_XDP, version};
use crate::host::{Probe, XdpFeatures};

/// What was found of an interface, and what is advised.
pub(super) fn report(finding: &Finding) -> String {
    let Probe {
        interface, kernel, ..
    } = &finding.probe;
    let driver = finding.probe.driver.as_deref().unwrap_or("unknown");
    let mut text = format!(
        "{interface}\n  driver       {driver}\n  kernel       {kernel}{}\n",
        kernel_note(kernel)
    );
    text += &link(finding);
    text += &xdp(&finding.probe);
    let _ = writeln!(
        text,
        "  VLAN         {}\n  xblade       {}",
        vlan(&finding.probe),
        finding.mode
    );
    text + &advised(&finding.advice)
}

fn link(finding: &Finding) -> String {
    let Finding {
        probe,
        sectors,
        filters,
        ..
    } = finding;
    let Probe {
        mtu_bytes,
        rx_queues,
        tx_queues,
        ..
    } = probe;
    let state = match (probe.up, probe.carrier) {
        (true, true) => "up",
        (true, false) => "up, without a carrier (is the cable in, and the other end up?)",
        (false, _) => "down",
    };
    let kib = f64::from(*sectors) / 2.0;
    let mut text = format!(
        "  link         {state}, MTU {mtu_bytes}: {sectors} sectors ({kib} KiB) a request\n  \
         queues       {rx_queues} receive, {tx_queues} transmit; {}\n",
        spread(probe)
    );
    if let Some(filters) = filters {
        let _ = writeln!(text, "  filters      {filters}");
    }
    text
}

fn xdp(probe: &Probe) -> String {
    let mut text = match probe.xdp {
        None => format!("  XDP          unknown: the kernel does not tell before {KERNEL_TELLS_XDP}\n"),
        Some(xdp) => format!(
            "  XDP          native {}, redirect {}, zero-copy {}, multi-buffer {}\n",
            yes(xdp.basic()),
            yes(xdp.redirect()),
            zero_copy(xdp),
            yes(xdp.multi_buffer())
        ),
    };
    if probe.has_program {
        text += "               a program is attached already (xblade's own, if it runs); xblade replaces no other\n";
    }
    let threaded = match probe.threaded {
        None => "unknown",
        Some(true) => "in kernel threads",
        Some(false) => "in soft interrupts",
    };
    let _ = writeln!(text, "  receive work {threaded}");
    text
}

fn vlan(probe: &Probe) -> &'static str {
    match TagPlace::of(probe.driver.as_deref(), probe.offloads.as_deref()) {
        None => "unknown whether the NIC strips tags",
        Some(TagPlace::InFrame) => "tags reach XDP",
        Some(TagPlace::StrippedByNic) => "the NIC strips tags before XDP sees them: no exports with `vlan`",
        Some(TagPlace::StrippedBelow) => {
            "the interfaces below strip tags: no exports with `vlan`; use VLAN devices on it"
        }
        Some(TagPlace::SenderDecides) => {
            "tags reach XDP where the other end puts them into the frame: `txvlan off` there"
        }
    }
}

fn advised(advice: &[Advice]) -> String {
    if advice.is_empty() {
        return "\nNothing to improve.\n".to_owned();
    }
    let mut text = String::new();
    for (bad, heading) in [(true, "This must change:"), (false, "What would help:")] {
        let of_this_kind: Vec<&Advice> = advice.iter().filter(|advice| advice.bad == bad).collect();
        if !of_this_kind.is_empty() {
            let _ = writeln!(text, "\n{heading}");
        }
        for Advice { why, commands, .. } in of_this_kind {
            let _ = writeln!(text, "\n  # {why}");
            for command in commands {
                let _ = writeln!(text, "  {command}");
            }
        }
    }
    text
}

const fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn zero_copy(xdp: XdpFeatures) -> String {
    match (xdp.zero_copy(), xdp.zero_copy_pieces) {
        (false, _) => "no".into(),
        (true, 1) => "yes (of one buffer)".into(),
        (true, pieces) => format!("yes (up to {pieces} buffers a frame)"),
    }
}

fn kernel_note(release: &str) -> String {
    match version(release) {
        Some(version) if version < KERNEL_MIN => {
            format!(": too old, {KERNEL_MIN} is the least")
        }
        Some(version) if version < KERNEL_JUMBO => {
            format!(": no jumbo frames, they need {KERNEL_JUMBO}")
        }
        Some(_) => String::new(),
        None => ": version unknown".to_owned(),
    }
}
