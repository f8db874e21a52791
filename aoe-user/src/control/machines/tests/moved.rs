//! Addresses that the configuration gives to other machines while theirs may be running.

use super::*;

fn serial(disks: &Disks, mac: Mac) -> String {
    disk(disks, mac).options().identity.serial.clone()
}

/// The second address stays that of pc17, the first is one of pc18.
fn split(room: &mut Room) {
    let machine = |name: &str, mac| Machine {
        name: name.into(),
        macs: vec![mac],
        overlay: None,
    };
    room.config.machines = Arc::new([machine("pc17", PC[1]), machine("pc18", PC[0])]);
}

#[test]
fn a_machine_whose_address_is_given_to_another_keeps_its_disk_until_it_boots() {
    let mut room = Room::new();
    let before = Arc::clone(&room.config.machines);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    split(&mut room);
    disks.configure(room.settings());
    let moved = || !disks.shared.table.read().moved.is_empty();
    until("the other table", || moved().then_some(()));
    assert_eq!(
        (serial(&disks, PC[0]).as_str(), read(&disk(&disks, PC[0]))),
        ("12.9:pc17", 1)
    );
    let states = disks.states();
    assert_eq!((states.len(), states[0].macs.as_slice()), (1, PC.as_slice()));

    boot(&disks, PC[0]);
    assert_eq!(
        (serial(&disks, PC[0]).as_str(), read(&disk(&disks, PC[0]))),
        ("12.9:pc18", 7)
    );
    assert_eq!(
        (serial(&disks, PC[1]).as_str(), read(&disk(&disks, PC[1]))),
        ("12.9:pc17", 1)
    );
    assert!(!moved());

    // There and back again changes nothing for who runs; the operator may take the disk away.
    write(&disk(&disks, PC[0]), 2);
    room.config.machines = before;
    disks.configure(room.settings());
    until("the first table", || moved().then_some(()));
    assert_eq!(read(&disk(&disks, PC[0])), 2);
    split(&mut room);
    disks.configure(room.settings());
    until("the other table again", || (!moved()).then_some(()));
    assert_eq!(read(&disk(&disks, PC[0])), 2);
    room.config.machines = Room::new().config.machines;
    disks.configure(room.settings());
    until("the first table again", || moved().then_some(()));
    disks.reset(DiskName::Machine("pc18".into()), true).unwrap();
    assert_eq!(
        (serial(&disks, PC[0]).as_str(), read(&disk(&disks, PC[0]))),
        ("12.9:pc17", 1)
    );
}
