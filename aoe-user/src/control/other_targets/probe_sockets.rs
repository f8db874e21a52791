//! The sockets that other targets on an interface are asked by, untagged and in VLANs, and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use anyhow::Result;
use aoe_common::Mac;
use aoe_common::wire::ata::command;
use aoe_common::wire::{SECTOR_BYTES, aoe, eth, query};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockFilter, SockRef};

use super::{OtherTarget, ProbedExport};
use crate::host::vlan_devices;
use crate::initiator::frame::{self, ATA_DATA, AtaRequest};
use crate::initiator::{DiskIdentity, InitiatorError, PacketSocket, Route, Transport as _};
use crate::target::Address;

/// Most frames that one call of a socket moves.
const BATCH: usize = 64;
/// Bytes looked at of a frame: its headers, and what an answer to IDENTIFY tells.
const HEAD_BYTES: usize = ATA_DATA + SECTOR_BYTES;
/// The command's number in an untagged frame.
const COMMAND: usize = eth::HEADER_LEN + aoe::COMMAND;
const FLAGS: usize = eth::HEADER_LEN + aoe::VER_FLAGS;
const TAG: usize = eth::HEADER_LEN + aoe::TAG;

/// Sockets that receive all AoE responses which concern us, and what to ask with.
pub(in crate::control) struct ProbeSockets {
    sockets: Vec<ProbeSocket>,
    /// The upper bits of all tags of our requests.
    nonce: u32,
    /// VLAN (`None`: untagged) → its number in tags and the socket that speaks there.
    vlans: BTreeMap<Option<u16>, (u8, usize)>,
    /// VLANs that have a device on the interface.
    with_device: Vec<u16>,
}

/// A socket, and whether it is on the interface itself.
struct ProbeSocket {
    packets: PacketSocket,
    /// It is on the device of a VLAN: frames come and go without the tag.
    of_vlan: Option<u16>,
}

/// A response.
#[derive(Debug, Clone)]
pub(in crate::control) struct HeardResponse {
    /// Who sent it.
    pub(crate) mac: Mac,
    /// The address it speaks for.
    pub(crate) address: Address,
    /// It answers a question of ours.
    pub(crate) is_answer: bool,
    /// The code of an error.
    pub(crate) error: Option<u8>,
    /// It answers our IDENTIFY.
    is_identify: bool,
    /// What it then tells of itself.
    pub(crate) identity: Option<DiskIdentity>,
    /// The config string that it answers our question with.
    pub(crate) string: Option<Vec<u8>>,
    /// Where it was heard.
    place: Place,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    /// It answers what we asked there.
    On(Option<u16>),
    /// An advertisement; the kernel takes tags away.
    Unknown,
}

impl HeardResponse {
    /// False when it is known to be from another VLAN.
    pub(crate) fn may_be_on(&self, vlan: Option<u16>) -> bool {
        match self.place {
            Place::On(place) => place == vlan,
            Place::Unknown => true,
        }
    }

    /// A response of an untagged target.
    #[cfg(test)]
    pub(in crate::control) fn of_test(mac: Mac, is_answer: bool, error: Option<u8>) -> HeardResponse {
        HeardResponse {
            mac,
            address: Address { shelf: 7, slot: 3 },
            is_answer,
            error,
            is_identify: false,
            identity: None,
            string: None,
            place: Place::On(None),
        }
    }

    /// The target that answered our IDENTIFY.
    pub(crate) fn identified(&self) -> impl Iterator<Item = OtherTarget> + use<> {
        let other = match self.place {
            Place::On(vlan) if self.is_identify => Some(OtherTarget {
                address: self.address,
                vlan,
                mac: self.mac,
            }),
            _ => None,
        };
        other.into_iter()
    }
}

impl ProbeSockets {
    /// Opens what it takes to ask for these exports. Where a VLAN has a device of its own on the interface, the kernel hands the
    /// VLAN's frames to that alone.
    pub(crate) fn open(interface: &str, probed: &[ProbedExport]) -> Result<ProbeSockets> {
        // Not another's: its keys are others for each call.
        let run = RandomState::new().hash_one(interface) as u32;
        let mut opened = ProbeSockets {
            sockets: Vec::new(),
            nonce: aoe::TAG_OF_USER_SPACE | (run & 0x3f_ffff) << 9,
            vlans: BTreeMap::new(),
            with_device: Vec::new(),
        };
        opened.add_socket(interface, None)?;
        let devices = vlan_devices(interface);
        opened.with_device = devices.keys().copied().collect();
        let of_exports: BTreeSet<Option<u16>> = probed
            .iter()
            .flat_map(|probed| probed.asked_in(&opened.with_device))
            .collect();
        for vlan in of_exports {
            opened.add_vlan(vlan, &devices)?;
        }
        Ok(opened)
    }

    /// VLANs that have a device on the interface.
    pub(crate) fn with_device(&self) -> &[u16] {
        &self.with_device
    }

    fn add_vlan(&mut self, vlan: Option<u16>, devices: &BTreeMap<u16, String>) -> Result<()> {
        // 255 VLANs find a place in the tags; nobody has as many on one port.
        let Ok(number) = u8::try_from(self.vlans.len()) else {
            return Ok(());
        };
        if self.vlans.contains_key(&vlan) {
            return Ok(());
        }
        let socket = match vlan.and_then(|vid| devices.get(&vid)) {
            // One that is down hears nothing; then the tag goes into the frame.
            Some(device) if self.add_socket(device, vlan).is_ok() => self.sockets.len() - 1,
            _ => 0,
        };
        self.vlans.insert(vlan, (number, socket));
        Ok(())
    }

    fn add_socket(&mut self, interface: &str, of_vlan: Option<u16>) -> Result<(), InitiatorError> {
        let mut socket = PacketSocket::open(interface)?;
        socket.receive_heads(HEAD_BYTES);
        // Without it more is heard than concerns us, which costs time only.
        let _ = SockRef::from(&socket).attach_filter(&responses_that_concern_us(self.nonce));
        self.sockets.push(ProbeSocket {
            packets: socket,
            of_vlan,
        });
        Ok(())
    }

    /// The address that is asked from.
    pub(crate) fn mac(&self) -> Option<Mac> {
        Some(self.sockets.first()?.packets.mac())
    }

    /// The sockets, to be waited for.
    pub(crate) fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(|socket| socket.packets.as_fd())
    }

    /// Asks for everybody and for each of these addresses.
    pub(crate) fn ask(&mut self, probed: &[ProbedExport]) -> Result<()> {
        self.query(Mac::BROADCAST, &[(aoe::SHELF_ANY, aoe::SLOT_ANY)], probed)
    }

    /// Asks one station for each of these addresses.
    pub(crate) fn ask_station(&mut self, station: Mac, probed: &[ProbedExport]) -> Result<()> {
        self.query(station, &[], probed)
    }

    fn query(&mut self, destination: Mac, first: &[(u16, u8)], probed: &[ProbedExport]) -> Result<()> {
        let vlans: Vec<Option<u16>> = self.vlans.keys().copied().collect();
        for vlan in vlans {
            let mut addresses = first.to_vec();
            let of_vlan = probed
                .iter()
                .filter(|probed| probed.asked_in(&self.with_device).contains(&vlan));
            addresses.extend(of_vlan.map(|probed| (probed.address.shelf, probed.address.slot)));
            let Some((tag, socket, source)) = self.way(vlan, false) else {
                continue;
            };
            let query = |(shelf, slot)| {
                let route = Route {
                    source,
                    destination,
                    shelf,
                    slot,
                };
                frame::query_read(&route, tag).to_vec()
            };
            let frames: Vec<Vec<u8>> = addresses.into_iter().map(query).collect();
            self.send(socket, vlan, frames)?;
        }
        Ok(())
    }

    /// Asks a target that claims an address who it is.
    pub(crate) fn identify(&mut self, claim: &OtherTarget) -> Result<()> {
        let Some((tag, socket, source)) = self.way(claim.vlan, true) else {
            return Ok(());
        };
        let route = Route {
            source,
            destination: claim.mac,
            shelf: claim.address.shelf,
            slot: claim.address.slot,
        };
        let request = AtaRequest {
            opcode: command::IDENTIFY,
            sectors: 1,
            lba: 0,
        };
        let mut bytes = vec![0; request.frame_bytes()];
        frame::put_ata(&mut bytes, &route, tag, request);
        self.send(socket, claim.vlan, vec![bytes])
    }

    /// The tag of a request on a VLAN, and the socket with its address.
    fn way(&self, vlan: Option<u16>, is_identify: bool) -> Option<(u32, usize, Mac)> {
        let (number, socket) = *self.vlans.get(&vlan)?;
        let tag = self.nonce | u32::from(is_identify) << 8 | u32::from(number);
        Some((tag, socket, self.sockets.get(socket)?.packets.mac()))
    }

    fn send(&mut self, socket: usize, vlan: Option<u16>, mut frames: Vec<Vec<u8>>) -> Result<()> {
        let socket = &mut self.sockets[socket];
        if socket.of_vlan.is_none()
            && let Some(vid) = vlan
        {
            frames.iter_mut().for_each(|frame| put_tag(frame, vid));
        }
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        for batch in frames.chunks(BATCH) {
            // What finds no room is asked the next time.
            socket.packets.send(batch)?;
        }
        Ok(())
    }

    /// Hands what arrives until then to `each`, until that says false.
    pub(crate) fn receive_until(
        &mut self,
        end: Instant,
        mut each: impl FnMut(HeardResponse) -> bool,
    ) -> Result<()> {
        let mut go_on = true;
        while go_on && Instant::now() < end {
            wait(self.fds(), end.saturating_duration_since(Instant::now()));
            self.receive(|heard| go_on &= each(heard))?;
        }
        Ok(())
    }

    /// Hands what has arrived to `each`.
    pub(crate) fn receive(&mut self, mut each: impl FnMut(HeardResponse)) -> Result<()> {
        let (nonce, vlans) = (self.nonce, &self.vlans);
        let place = |number: u8| {
            vlans
                .iter()
                .find(|(_, (other, _))| *other == number)
                .map(|(vlan, _)| *vlan)
        };
        for socket in &mut self.sockets {
            socket.packets.receive(BATCH, |bytes, _| {
                if let Some(heard) = parse(bytes, nonce, place, socket.of_vlan) {
                    each(heard);
                }
            })?;
        }
        Ok(())
    }
}

/// Sleeps until one of them is readable, at most `limit`.
pub(in crate::control) fn wait<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>, limit: Duration) {
    let mut fds: Vec<PollFd<'_>> = fds
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(limit).ok();
    // EINTR only makes the caller look once more.
    let _ = poll(&mut fds, timeout.as_ref());
}

fn parse(
    frame: &[u8],
    nonce: u32,
    place: impl Fn(u8) -> Option<Option<u16>>,
    of_vlan: Option<u16>,
) -> Option<HeardResponse> {
    let (ethernet, aoe_header) = frame.split_at_checked(eth::HEADER_LEN)?;
    let header = aoe_header.get(..aoe::HEADER_LEN)?;
    // The version does not matter: vblade advertises with 0.
    if ethernet[eth::TYPE..] != eth::TYPE_AOE.to_be_bytes()
        || header[aoe::VER_FLAGS] & aoe::FLAG_RESPONSE == 0
    {
        return None;
    }
    let mac = Mac(ethernet[eth::SRC..eth::SRC + 6].try_into().ok()?);
    let address = Address {
        shelf: u16::from_be_bytes([header[aoe::SHELF], header[aoe::SHELF + 1]]),
        slot: header[aoe::SLOT],
    };
    let tag = u32::from_be_bytes(header[aoe::TAG..aoe::TAG + 4].try_into().ok()?);
    let [.., number] = tag.to_be_bytes();
    let is_identify = tag & 0x100 != 0;
    let is_error = header[aoe::VER_FLAGS] & aoe::FLAG_ERROR != 0;
    let error = is_error.then_some(header[aoe::ERROR]);
    let is_answer = tag & !0x1ff == nonce;
    let heard = |is_identify, place| HeardResponse {
        mac,
        address,
        is_answer,
        error,
        is_identify,
        identity: is_identify.then(|| identity(frame)).flatten(),
        string: (is_answer && !is_identify && !is_error)
            .then(|| config_string(header, aoe_header))
            .flatten(),
        place,
    };
    match (is_answer, header[aoe::COMMAND]) {
        (true, aoe::CMD_QUERY) if !is_identify => Some(heard(false, Place::On(place(number)?))),
        (true, aoe::CMD_ATA) if is_identify => Some(heard(true, Place::On(place(number)?))),
        (false, aoe::CMD_QUERY) => {
            let place = of_vlan.map_or(Place::Unknown, |vid| Place::On(Some(vid)));
            Some(heard(false, place))
        }
        _ => None,
    }
}

/// What a whole answer to IDENTIFY tells.
fn identity(frame: &[u8]) -> Option<DiskIdentity> {
    Some(DiskIdentity::parse(frame.get(ATA_DATA..)?.first_chunk()?))
}

/// The string of a Query Config response, as far as it was looked at.
fn config_string(header: &[u8], aoe_header: &[u8]) -> Option<Vec<u8>> {
    let argument = aoe_header.get(aoe::HEADER_LEN..)?;
    let (fixed, rest) = argument.split_at_checked(query::HEADER_LEN)?;
    let length = usize::from(u16::from_be_bytes([fixed[6], fixed[7]]));
    (header[aoe::COMMAND] == aoe::CMD_QUERY).then(|| rest[..length.min(rest.len())].to_vec())
}

/// Query Config responses, asked for or not, and answers to our own IDENTIFY: in the kernel, so that the traffic of an
/// initiator on this host wakes nobody.
fn responses_that_concern_us(nonce: u32) -> [SockFilter; 9] {
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_WORD: u16 = 0x20;
    const AND: u16 = 0x54;
    const JUMP_EQUAL: u16 = 0x15;
    const JUMP_SET: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let at = |offset: usize| u32::try_from(offset).unwrap_or(0);
    let head = at(HEAD_BYTES);
    [
        SockFilter::new(LOAD_BYTE, 0, 0, at(FLAGS)),
        SockFilter::new(JUMP_SET, 0, 6, aoe::FLAG_RESPONSE.into()),
        SockFilter::new(LOAD_BYTE, 0, 0, at(COMMAND)),
        SockFilter::new(JUMP_EQUAL, 3, 0, aoe::CMD_QUERY.into()),
        SockFilter::new(LOAD_WORD, 0, 0, at(TAG)),
        SockFilter::new(AND, 0, 0, !0x1ff),
        SockFilter::new(JUMP_EQUAL, 0, 1, nonce),
        SockFilter::new(RETURN, 0, 0, head),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

/// Puts an 802.1Q tag behind the addresses.
fn put_tag(frame: &mut Vec<u8>, vid: u16) {
    let [t0, t1] = eth::TYPE_VLAN.to_be_bytes();
    let [v0, v1] = vid.to_be_bytes();
    frame.splice(eth::TYPE..eth::TYPE, [t0, t1, v0, v1]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCE: u32 = 0x8123_4600;

    fn response(command: u8, tag: u32) -> Vec<u8> {
        let route = Route {
            source: Mac([2, 0, 0, 0, 0, 9]),
            destination: Mac::BROADCAST,
            shelf: 7,
            slot: 3,
        };
        let mut frame = frame::query_read(&route, tag).to_vec();
        frame[FLAGS] |= aoe::FLAG_RESPONSE;
        frame[COMMAND] = command;
        frame
    }

    fn heard(frame: &[u8]) -> Option<HeardResponse> {
        parse(frame, NONCE, |number| (number == 1).then_some(Some(5)), None)
    }

    #[test]
    fn answers_tell_their_vlan_and_advertisements_do_not() {
        let answer = heard(&response(1, NONCE | 1)).unwrap();
        assert!(answer.may_be_on(Some(5)) && !answer.may_be_on(None));
        assert_eq!(answer.identified().count(), 0);
        // Also one of vblade, which has version 0.
        let mut advertisement = response(1, 0);
        advertisement[FLAGS] &= 0x0f;
        let advertisement = heard(&advertisement).unwrap();
        assert!(advertisement.may_be_on(Some(5)) && advertisement.may_be_on(None));
        assert_eq!(advertisement.address, Address { shelf: 7, slot: 3 });
    }

    #[test]
    fn what_answers_us_is_known_by_our_tag() {
        for (tag, is_answer) in [(NONCE | 1, true), (0, false)] {
            let mut refusal = response(1, tag);
            refusal[FLAGS] |= aoe::FLAG_ERROR;
            refusal[eth::HEADER_LEN + aoe::ERROR] = 3;
            let heard_both = [&response(1, tag), &refusal].map(|frame| heard(frame).unwrap());
            assert_eq!(heard_both.each_ref().map(|heard| heard.is_answer), [is_answer; 2]);
            assert_eq!(heard_both.each_ref().map(|heard| heard.error), [None, Some(3)]);
        }
    }

    #[test]
    fn the_string_of_an_answer_is_what_its_length_says() {
        let with = |length: u8, string: &[u8], tag| {
            let mut answer = response(1, tag);
            answer.truncate(eth::HEADER_LEN + aoe::HEADER_LEN);
            answer.extend([0, 16, 0, 0, 2, 0x10, 0, length]);
            answer.extend(string);
            heard(&answer).unwrap().string
        };
        assert_eq!(with(3, b"abc\0\0\0", NONCE | 1).unwrap(), b"abc");
        assert_eq!(with(0, b"", NONCE | 1).unwrap(), b"");
        // Cut on its way.
        assert_eq!(with(9, b"abc", NONCE | 1).unwrap(), b"abc");
        assert_eq!(with(3, b"abc", 0), None, "an advertisement");
    }

    #[test]
    fn only_an_answer_to_our_own_question_identifies() {
        let answer = heard(&response(0, NONCE | 0x101)).unwrap();
        let expected = OtherTarget {
            address: Address { shelf: 7, slot: 3 },
            vlan: Some(5),
            mac: Mac([2, 0, 0, 0, 0, 9]),
        };
        assert_eq!(answer.identified().collect::<Vec<_>>(), [expected]);
        for tag in [0, 0x8000_0101, NONCE | 1, NONCE | 0x102] {
            assert!(heard(&response(0, tag)).is_none(), "{tag:#x}");
        }
        let mut request = response(1, NONCE | 1);
        request[FLAGS] &= !aoe::FLAG_RESPONSE;
        assert!(heard(&request).is_none());
    }
}
