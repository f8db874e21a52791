//! VLAN tags that XDP never sees: some drivers and all stacked devices hold them beside the frame. A frame of VLAN 5 then looks
//! untagged to the filter.

use crate::config::Vlan;
use crate::host::{kind, offloads, vlan_devices};

/// The offload that takes tags out of received frames, as the kernel calls it.
pub(crate) const STRIPS_TAGS: &str = "rx-vlan-hw-parse";

/// Kinds of devices that get their frames from devices below them, behind the point where the kernel takes tags away.
const STACKED: [&str; 6] = ["bond", "team", "bridge", "macvlan", "macvtap", "ipvlan"];

/// Where the tags of received frames are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagPlace {
    /// In the frame.
    InFrame,
    /// Beside it, because the NIC takes them out.
    StrippedByNic,
    /// Beside it, because the device stands on others.
    StrippedBelow,
    /// That is up to the sending end (veth): a VLAN device there leaves them beside the frame.
    SenderDecides,
}

impl TagPlace {
    /// By the kind of a virtual device and the offloads that are on; `None` where the kernel tells neither.
    pub(crate) fn of(kind: Option<&str>, offloads: Option<&[String]>) -> Option<TagPlace> {
        match kind {
            Some("veth") => Some(TagPlace::SenderDecides),
            Some(kind) if STACKED.contains(&kind) => Some(TagPlace::StrippedBelow),
            _ if offloads?.iter().any(|on| on == STRIPS_TAGS) => Some(TagPlace::StrippedByNic),
            _ => Some(TagPlace::InFrame),
        }
    }

    /// Of an interface that is there.
    pub(crate) fn on(interface: &str, index: u32) -> Option<TagPlace> {
        let kind = kind(interface);
        let on = offloads(index).map(|(on, _)| on);
        TagPlace::of(kind.as_deref(), on.as_deref())
    }

    /// Why an export of this VLAN rule cannot be served there, and what to do.
    pub(crate) fn refusal(self, interface: &str, vlan: Vlan) -> Option<String> {
        if vlan == Vlan::Untagged {
            return None;
        }
        let what = match vlan {
            Vlan::Id(vid) => format!("frames of VLAN {vid} look untagged to XDP on {interface}"),
            Vlan::Untagged | Vlan::Any => format!("frames of all VLANs look untagged to XDP on {interface}"),
        };
        let device = || match vlan {
            Vlan::Id(vid) => format!(
                "export it untagged on a VLAN device (`ip link add link {interface} name {interface}.{vid} type vlan id {vid}`)"
            ),
            Vlan::Untagged | Vlan::Any => "export it untagged on VLAN devices".to_owned(),
        };
        match self {
            TagPlace::InFrame | TagPlace::SenderDecides => None,
            TagPlace::StrippedByNic => Some(format!(
                "{what}, because the NIC takes the tags out: `ethtool -K {interface} rxvlan off`, or {}",
                device()
            )),
            TagPlace::StrippedBelow => Some(format!(
                "{what}, because it stands on other interfaces: {}",
                device()
            )),
        }
    }

    /// What the operator should know of exports that are served.
    pub(crate) fn warning(self, interface: &str, vlan: Vlan) -> Option<String> {
        match (self, vlan) {
            (TagPlace::SenderDecides, Vlan::Id(_) | Vlan::Any) => Some(format!(
                "{interface} is a veth: tags reach XDP only if the other end puts them into the frame; where frames come from a \
                 VLAN device there, `ethtool -K PEER txvlan off` on it (rxvlan here changes nothing)"
            )),
            (TagPlace::StrippedByNic | TagPlace::StrippedBelow, Vlan::Untagged)
                if !vlan_devices(interface).is_empty() =>
            {
                Some(format!(
                    "{interface} carries VLANs whose frames look untagged to XDP: its untagged exports answer them, too; \
                     `ethtool -K {interface} rxvlan off` keeps them apart where the NIC has that"
                ))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_in_vlans_are_refused_where_tags_do_not_reach_xdp() {
        let strips = [STRIPS_TAGS.to_owned()];
        let of = |kind, on: &[String]| TagPlace::of(kind, Some(on)).unwrap();
        for (kind, on, expected) in [
            (None, &strips[..], Some("`ethtool -K eth1 rxvlan off`")),
            (
                Some("bond"),
                &[],
                Some("`ip link add link eth1 name eth1.5 type vlan id 5`"),
            ),
            (Some("bridge"), &strips, Some("VLAN device")),
            (None, &[], None),
            (Some("veth"), &strips, None),
        ] {
            let tags = of(kind, on);
            assert_eq!(tags.refusal("eth1", Vlan::Untagged), None);
            let refusal = tags.refusal("eth1", Vlan::Id(5));
            match expected {
                None => assert_eq!(refusal, None, "{kind:?}"),
                Some(text) => assert!(refusal.as_ref().unwrap().contains(text), "{refusal:?}"),
            }
            assert_eq!(tags.refusal("eth1", Vlan::Any).is_some(), expected.is_some());
        }
        assert_eq!(TagPlace::of(None, None), None);
        assert!(
            of(Some("veth"), &[])
                .warning("eth1", Vlan::Id(5))
                .unwrap()
                .contains("txvlan off"),
            "a veth cannot tell"
        );
    }
}
