//! Addresses that the configuration gives to other machines while theirs may be running.

mod started;

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
    let moved = || !disks.shared.table.read().kept.is_empty();
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
    disks.reset(DiskName::Machine("pc18".into()), true, true).unwrap();
    assert_eq!(
        (serial(&disks, PC[0]).as_str(), read(&disk(&disks, PC[0]))),
        ("12.9:pc17", 1)
    );
}

fn of(kind: Overlay, machines: &[(&str, &[Mac])]) -> Room {
    let mut room = Room::new();
    room.config.overlay = kind;
    name(&mut room, machines);
    room
}

pub(super) fn name(room: &mut Room, machines: &[(&str, &[Mac])]) {
    let machine = |(name, macs): &(&str, &[Mac])| Machine {
        name: (*name).into(),
        macs: macs.to_vec(),
        overlay: None,
    };
    room.config.machines = machines.iter().map(machine).collect();
}

/// Waits until the thread has dealt with everything that was asked for before.
pub(super) fn wait_for_thread(disks: &Disks) {
    let nobody = DiskName::Machine("nobody".into());
    assert!(disks.pin(nobody, true).is_err());
}

fn reload(disks: &Disks, room: &mut Room, machines: &[(&str, &[Mac])]) {
    name(room, machines);
    disks.configure(room.settings());
    wait_for_thread(disks);
}

/// Asks for a disk, or boots, and is not served when that has been dealt with.
fn gets_nothing(disks: &Disks, mac: Mac) -> bool {
    disks.shared.asking.lock().clear();
    let asked = disks.instance(mac).is_none();
    wait_for_thread(disks);
    disks.shared.asking.lock().clear();
    let booted = !disks.boots(mac);
    wait_for_thread(disks);
    asked && booted && disks.instance(mac).is_none()
}

/// The serial number and the content of a machine's disk.
fn has(disks: &Disks, mac: Mac) -> (String, u8) {
    disks.shared.asking.lock().clear();
    (serial(disks, mac), read(&disk(disks, mac)))
}

fn after_boot(disks: &Disks, mac: Mac) -> (String, u8) {
    disks.shared.asking.lock().clear();
    boot(disks, mac);
    has(disks, mac)
}

fn only_the_keeper_has_it(kind: Overlay, is_named: bool) {
    let mut room = of(kind, &[("pc17", &PC[..1])]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let named: [(&str, &[Mac]); 2] = [("pc17", &[STRANGER]), ("pc18", &PC[..1])];
    reload(&disks, &mut room, &named[..1 + usize::from(is_named)]);
    assert!(gets_nothing(&disks, STRANGER));
    write(&disk(&disks, PC[0]), 2);
    // Other settings end nothing.
    disks.configure(room.settings());
    wait_for_thread(&disks);
    assert!(gets_nothing(&disks, STRANGER));
    assert_eq!(has(&disks, PC[0]), ("12.9:pc17".into(), 2));

    let own = if is_named {
        "12.9:pc18"
    } else {
        "12.9:020000000001"
    };
    assert_eq!(after_boot(&disks, PC[0]), (own.into(), 7));
    assert_eq!(has(&disks, STRANGER), ("12.9:pc17".into(), 2));
    assert_eq!(has(&disks, PC[0]), (own.into(), 7));
}

#[test]
fn a_volatile_disk_that_an_address_keeps_is_nobody_else_s_until_that_boots() {
    only_the_keeper_has_it(Overlay::Volatile, false);
    only_the_keeper_has_it(Overlay::Volatile, true);
}

#[test]
fn a_persistent_disk_that_an_address_keeps_is_nobody_else_s_until_that_boots() {
    only_the_keeper_has_it(Overlay::Persistent, false);
    only_the_keeper_has_it(Overlay::Persistent, true);
}

fn a_boot_leaves_it_to_the_keeper(kind: Overlay) {
    let mut room = of(kind, &[("pc17", &PC)]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    reload(&disks, &mut room, &[("pc17", &PC[1..]), ("pc18", &PC[..1])]);
    assert_eq!(has(&disks, PC[1]).1, 1, "it may be the same machine that runs");
    assert!(gets_nothing_at_boot(&disks, PC[1]));
    assert_eq!(has(&disks, PC[0]), ("12.9:pc17".into(), 1));
    write(&disk(&disks, PC[0]), 2);
    assert!(gets_nothing(&disks, PC[1]));
    assert_eq!(has(&disks, PC[0]), ("12.9:pc17".into(), 2));
    assert_eq!(after_boot(&disks, PC[0]), ("12.9:pc18".into(), 7));
    let left = if kind == Overlay::Persistent { 2 } else { 7 };
    assert_eq!(after_boot(&disks, PC[1]), ("12.9:pc17".into(), left));
}

#[test]
fn a_boot_takes_no_volatile_disk_away_that_another_address_keeps() {
    a_boot_leaves_it_to_the_keeper(Overlay::Volatile);
}

#[test]
fn a_boot_shares_no_persistent_disk_that_another_address_keeps() {
    a_boot_leaves_it_to_the_keeper(Overlay::Persistent);
}

/// Boots, and is not served when that has been dealt with.
fn gets_nothing_at_boot(disks: &Disks, mac: Mac) -> bool {
    disks.shared.asking.lock().clear();
    let booted = !disks.boots(mac);
    wait_for_thread(disks);
    booted && disks.instance(mac).is_none()
}

fn a_swap_waits_for_both(kind: Overlay) {
    let mut room = of(kind, &[("pc17", &PC[..1]), ("pc18", &PC[1..])]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    write(&disk(&disks, PC[1]), 2);
    reload(&disks, &mut room, &[("pc18", &PC[..1]), ("pc17", &PC[1..])]);
    assert!(gets_nothing_at_boot(&disks, PC[0]));
    assert_eq!(has(&disks, PC[1]), ("12.9:pc18".into(), 2));
    let left = |byte| if kind == Overlay::Persistent { byte } else { 7 };
    assert_eq!(after_boot(&disks, PC[1]), ("12.9:pc17".into(), left(1)));
    assert_eq!(after_boot(&disks, PC[0]), ("12.9:pc18".into(), left(2)));
}

#[test]
fn machines_whose_names_are_swapped_change_volatile_disks_when_both_have_booted() {
    a_swap_waits_for_both(Overlay::Volatile);
}

#[test]
fn machines_whose_names_are_swapped_change_persistent_disks_when_both_have_booted() {
    a_swap_waits_for_both(Overlay::Persistent);
}

#[test]
fn a_machine_that_has_been_silent_for_long_keeps_no_disk_that_another_asks_for() {
    let mut room = of(Overlay::Persistent, &[("pc17", &PC[..1])]);
    let limit = Duration::from_secs(3);
    room.config.overlay_reset = OverlayReset::Idle(limit);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    reload(&disks, &mut room, &[("pc17", &[STRANGER])]);
    disks.set_paused(true);
    std::thread::sleep(limit + Duration::from_millis(100));
    assert!(gets_nothing(&disks, STRANGER), "nobody can be heard");
    disks.set_paused(false);
    let began = Instant::now();
    until("three times the limit without silence", || {
        let heard = Instant::now();
        let kept = disks.instance(PC[0]).is_some();
        let alone = gets_nothing(&disks, STRANGER);
        // A machine that was slow here was silent itself.
        assert!(heard.elapsed() >= limit || (kept && alone));
        (began.elapsed() >= 3 * limit).then_some(())
    });
    assert_eq!(has(&disks, STRANGER), ("12.9:pc17".into(), 1));
    assert_eq!(has(&disks, PC[0]), ("12.9:020000000001".into(), 7));
}

#[test]
fn an_address_of_a_machine_s_own_that_is_heard_keeps_no_other_one_of_it_from_its_disk() {
    let mut room = of(Overlay::Persistent, &[("pc17", &PC)]);
    room.config.overlay_reset = OverlayReset::Idle(Duration::from_secs(1));
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    reload(&disks, &mut room, &[("pc17", &[PC[1], STRANGER])]);
    let export = until("the silence of the address that left", || {
        assert_eq!(has(&disks, PC[1]), ("12.9:pc17".into(), 1));
        disks.instance(STRANGER)
    });
    assert_eq!(
        (export.options().identity.serial.as_str(), read(&export)),
        ("12.9:pc17", 1)
    );
    assert_eq!(has(&disks, PC[1]), ("12.9:pc17".into(), 1));
}

#[test]
fn a_disk_is_kept_that_is_not_served_while_the_configuration_changes() {
    let pc17 = || DiskName::Machine("pc17".into());
    let mut room = of(Overlay::Volatile, &[("pc17", &PC)]);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    // As a commit that fails in the end.
    let left = disks.have(|answer| Order::Leave(pc17(), true, answer)).unwrap();
    let Left::Copy(store, _) = left else {
        panic!("{left:?}")
    };
    reload(&disks, &mut room, &[("pc17", &PC[1..]), ("pc18", &PC[..1])]);
    disks
        .have(|answer| Order::Return(pc17(), store, None, answer))
        .unwrap();
    assert_eq!(has(&disks, PC[0]), ("12.9:pc17".into(), 1));
    // As a clone that Ceph shut out.
    disks.shared.table.write().remove(&pc17());
    disks.configure(room.settings());
    disks.shared.table.write().remove(&pc17());
    wait_for_thread(&disks);
    assert_eq!(has(&disks, PC[0]), ("12.9:pc17".into(), 1));
    assert_eq!(has(&disks, PC[1]), ("12.9:pc17".into(), 1));
}

#[test]
fn a_disk_that_could_never_be_opened_is_kept_by_nobody() {
    let mut room = Room::new();
    let disks = room.open();
    write(&disk(&disks, STRANGER), 1);
    let mut machines = room.config.machines.to_vec();
    machines[0].overlay = Some(Overlay::None);
    room.config.machines = machines.into();
    disks.configure(room.settings());
    assert!(disks.instance(PC[0]).is_none());
    wait_for_thread(&disks);
    let states = disks.states();
    let waits = states
        .iter()
        .find(|state| state.name == DiskName::Machine("pc17".into()));
    let problem = waits.and_then(|state| state.problem.clone()).unwrap();
    assert!(problem.contains("waits until the copies of"), "{problem}");
    reload(&disks, &mut room, &[("pc17", &PC[1..]), ("pc18", &PC[..1])]);
    assert_eq!(has(&disks, PC[0]), ("12.9:pc18".into(), 7));
}
