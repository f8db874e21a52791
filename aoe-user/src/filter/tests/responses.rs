//! The load generator's program.

use super::*;
use crate::filter::responses::PROGRAM;

/// What a target sends in answer to the generator.
fn answer() -> Vec<u8> {
    let frame = Frame {
        ver_flags: 0x18,
        ..Frame::to(1, 2, ALICE)
    };
    with_tag(frame.bytes(), 0x8000_0001)
}

/// With another tag in the AoE header of an untagged frame.
fn with_tag(mut bytes: Vec<u8>, tag: u32) -> Vec<u8> {
    bytes[20..24].copy_from_slice(&tag.to_be_bytes());
    bytes
}

/// The program with a socket on queue 0; `None`, with a printed reason, where it may not be loaded.
fn load() -> Option<(Responses, OwnedFd)> {
    if !rustix::process::geteuid().is_root() {
        crate::skip("needs root");
        return None;
    }
    let mut responses = Responses::load(PORT).expect("the program loads");
    let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
    responses
        .set_socket(0, socket.as_fd())
        .expect("the map takes the socket");
    Some((responses, socket))
}

fn verdict(responses: &Responses, bytes: &[u8]) -> Verdict {
    run_program(&responses.ebpf, PROGRAM, bytes, 1).0
}

#[test]
fn answers_go_to_the_generator() {
    let Some((responses, _socket)) = load() else {
        return;
    };
    assert_eq!(verdict(&responses, &answer()), Verdict::Redirect);
    let mut error = answer();
    error[14] |= 0x04;
    assert_eq!(verdict(&responses, &error), Verdict::Redirect);
}

#[test]
fn everything_else_is_passed() {
    let Some((responses, socket)) = load() else { return };
    let reply = Frame {
        ver_flags: 0x18,
        ..Frame::to(1, 2, ALICE)
    };
    let with = |frame: Frame| with_tag(frame.bytes(), 0x8000_0001);
    let mut tagged = reply.clone().tagged(5).bytes();
    tagged[24..28].copy_from_slice(&0x8000_0001u32.to_be_bytes());
    for (what, bytes) in [
        ("a request", with(Frame::to(1, 2, ALICE))),
        (
            "an answer to the kernel's initiator",
            with_tag(answer(), 0x7fff_ffff),
        ),
        ("an answer on a VLAN", tagged),
        (
            "an answer to another address",
            with(Frame {
                destination: BOB,
                ..reply.clone()
            }),
        ),
        (
            "an advertisement",
            with(Frame {
                destination: Mac::BROADCAST,
                ..reply.clone()
            }),
        ),
        (
            "another EtherType",
            with(Frame {
                ether_type: 0x0800,
                ..reply.clone()
            }),
        ),
        ("a runt", answer()[..23].to_vec()),
    ] {
        assert_eq!(verdict(&responses, &bytes), Verdict::Pass, "{what}");
    }
    // Without a socket on its queue the network stack gets it, and an initiator there may.
    drop(socket);
    assert_eq!(verdict(&responses, &answer()), Verdict::Pass, "no socket");
}
