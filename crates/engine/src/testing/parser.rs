//! A reader of replies that shares no code with the engine: offsets and rules straight from the protocol.

/// Asserts that `reply` is a well-formed answer to `request` from one of `exports`; returns its shelf and slot.
pub fn check(request: &[u8], reply: &[u8], exports: &[(u16, u8)]) -> (u16, u8) {
    let tags = ethernet(request, reply);
    let (request, reply) = (&request[12 + tags..], &reply[12 + tags..]);
    let address = header(request, reply);
    assert!(exports.contains(&address), "one of ours, no wildcard");
    arguments(request, reply);
    address
}

/// Addresses, tags and length. Gives the length of the tags.
fn ethernet(request: &[u8], reply: &[u8]) -> usize {
    let tagged = |frame: &[u8]| -> usize {
        let mut at = 12;
        while at < 20 && matches!(frame[at..], [0x81, 0x00, ..] | [0x88, 0xa8, ..]) {
            at += 4;
        }
        at - 12
    };
    let tags = tagged(reply);
    assert_eq!(tags, tagged(request), "as many VLAN tags as the request");
    for at in (12..12 + tags).step_by(4) {
        assert_eq!(reply[at..at + 2], request[at..at + 2]);
        let (asked, given) = (request[at + 2], reply[at + 2]);
        assert_eq!(
            (given, reply[at + 3]),
            (asked & 0xef, request[at + 3]),
            "VID and PCP, DEI 0"
        );
    }
    assert_eq!(reply[..6], request[6..12], "unicast to the source");
    assert_eq!(reply[6..12], [2, 0, 0, 0, 0, 2], "from the port");
    assert!(reply.len() >= 60 + tags, "padded");
    tags
}

/// The AoE header, from the EtherType on. Gives the address that answers.
fn header(request: &[u8], reply: &[u8]) -> (u16, u8) {
    assert_eq!(reply[..2], [0x88, 0xa2]);
    assert!(
        reply[2] == 0x18 || reply[2] == 0x1c,
        "version 1, response, nothing reserved"
    );
    let error = reply[3];
    assert!(error <= 6 && (reply[2] == 0x1c) == (error != 0));
    let address = (u16::from_be_bytes([reply[4], reply[5]]), reply[6]);
    let asked = (u16::from_be_bytes([request[4], request[5]]), request[6]);
    assert!(asked.0 == 0xffff || asked.0 == address.0);
    assert!(asked.1 == 0xff || asked.1 == address.1);
    assert_eq!(reply[7..12], request[7..12], "command and tag");
    address
}

/// What follows the header, by the error and the command.
fn arguments(request: &[u8], reply: &[u8]) {
    let (error, argument) = (reply[3], &reply[12..]);
    let zero_from = |at: usize| assert!(argument[at..].iter().all(|byte| *byte == 0), "zeros from {at}");
    match (error, request[7]) {
        (1, command) => {
            assert!(command > 3);
            zero_from(0);
        }
        (5, _) => {
            assert_ne!(request[2] >> 4, 1);
            zero_from(0);
        }
        (0, 0) => ata(&request[12..24], argument),
        (2 | 3 | 6, 0) => {
            assert_eq!(argument[..10], request[12..22], "the request's registers");
            zero_from(10);
        }
        (0 | 2 | 4, 1) => {
            assert!(
                u16::from_be_bytes([argument[0], argument[1]]) >= 2,
                "Linux needs two buffers"
            );
            assert!(argument[4] >= 1);
            assert_eq!(argument[5], 0x10 | request[17] & 0x0f);
            zero_from(8 + usize::from(u16::from_be_bytes([argument[6], argument[7]])));
        }
        (0 | 2, 2) => {
            assert_eq!((argument[0], argument[1]), (0, request[13]));
            let listed = if argument[2] == 0 {
                usize::from(argument[3])
            } else {
                0
            };
            for entry in argument[4..4 + 8 * listed].chunks(8) {
                assert_eq!(entry[..2], [0, 0]);
            }
            zero_from(4 + 8 * listed);
        }
        (0 | 2 | 6, 3) => {
            assert_eq!(argument[0], request[12]);
            zero_from(2 + 6 * usize::from(argument[1]));
        }
        other => panic!("no such reply: error and command {other:?}"),
    }
}

fn ata(request: &[u8], argument: &[u8]) {
    let [aflags, error, count, status] = argument[..4] else {
        panic!("short")
    };
    assert_eq!(aflags, request[0]);
    assert_eq!(argument[10..12], [0, 0], "reserved");
    let data = match status {
        0x40 => match request[3] {
            0xec => 1,
            0x20 | 0x24 | 0x25 | 0x29 | 0xc4 | 0xc8 => usize::from(request[2]),
            _ => 0,
        },
        0x41 => {
            assert!(matches!(error, 0x04 | 0x10 | 0x40));
            0
        }
        0x61 => {
            assert_eq!(error, 0x04);
            0
        }
        other => panic!("status {other:#x}"),
    };
    if data > 0 {
        assert_eq!(
            argument.len(),
            12 + 512 * data,
            "exactly: 9front drops longer ones"
        );
        assert_eq!((error, count), (0, 0));
    } else {
        assert!(
            argument[12..].iter().all(|byte| *byte == 0),
            "nothing behind the registers"
        );
    }
}
