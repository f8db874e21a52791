//! Commits that would take the image away from below persistent copies which nobody has open.

use super::committing::{neighbour, pc};
use super::*;
use crate::control::state::Before;

fn configure(rooms: &[&Room]) {
    let exports: Vec<_> = rooms.iter().map(|room| room.config.clone()).collect();
    rooms[0].overlay_exports.configure(&exports);
}

/// A machine with a persistent copy at another export of the same image, which is closed again.
fn closed(room: &Room, other: &Room) {
    let others = other.open();
    write(&disk(&others, PC[0]), 2);
    others.close();
    configure(&[room, other]);
}

#[test]
fn a_commit_waits_for_a_configured_export_on_the_same_image_that_is_not_open() {
    let room = Room::new();
    let mut other = neighbour(&room);
    closed(&room, &other);
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let refused = disks.commit(&pc(), true).unwrap_err();
    assert!(
        refused.contains("e12.10") && refused.contains("is not open"),
        "{refused}"
    );
    let others = other.open();
    assert_eq!(read(&disk(&others, PC[0])), 2);
    others.close();
    // By another name; and of an image that is another one nothing is asked.
    let link = other.dir.path().join("link");
    std::os::unix::fs::symlink(&room.config.path, &link).unwrap();
    other.config.path = link;
    configure(&[&room, &other]);
    assert!(disks.commit(&pc(), true).unwrap_err().contains("e12.10"));
    other.config.path = other.dir.path().join("golden");
    configure(&[&room, &other]);
    disks.commit(&pc(), true).unwrap();
}

/// The one that it is merged with is looked for once more when the new image is there.
#[test]
fn a_new_image_is_thrown_away_when_exports_have_come_while_it_was_made() {
    let room = Room::new();
    let other = neighbour(&room);
    let others = other.open();
    write(&disk(&others, PC[0]), 2);
    others.close();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let left = disks.have(|answer| Order::Leave(pc(), true, answer)).unwrap();
    let Left::Copy(store, files) = left else {
        panic!("{left:?}")
    };
    let looked_at = disks.overlay_exports.on_image(store.golden()).unwrap();
    let new = store.merge(&files).unwrap();
    configure(&[&room, &other]);
    // What is left there is not opened either: it would be lost with the image.
    let others = other.open();
    let problem = others.states()[0].problem.clone().unwrap();
    assert!(problem.contains("making a new image"), "{problem}");
    let new = Some(Replacement { new, looked_at });
    let refused = disks.have(|answer| Order::Return(pc(), store, new, answer));
    assert!(refused.unwrap_err().contains("try again"));
    assert_eq!(image(&room.config.path)[5 * 512], 7);
    assert_eq!((read(&disk(&disks, PC[0])), read(&disk(&others, PC[0]))), (1, 2));
    let refused = disks.commit(&pc(), true).unwrap_err();
    assert!(refused.contains("pc17 (e12.10)"), "{refused}");
}

#[test]
fn a_commit_spares_a_closed_copy_of_an_export_with_another_part_of_the_image() {
    let room = Room::new();
    for (offset, length) in [(0, 32), (8, 0), (8, 16)] {
        let mut other = neighbour(&room);
        (other.config.offset, other.config.length) = (offset, length);
        let others = other.open();
        write(&disk(&others, PC[0]), 2);
        let disks = room.open();
        write(&disk(&disks, PC[0]), 1);
        for served in [true, false] {
            if !served {
                drop(others.have(|answer| Order::Leave(pc(), true, answer)));
            }
            let refused = disks.commit(&pc(), true).unwrap_err();
            assert!(refused.contains("pc17 (e12.10)"), "{refused}");
        }
        others.close();
        disks.close();
    }
}

#[test]
fn a_commit_spares_a_persistent_copy_whose_files_are_missing() {
    let room = Room::new();
    let mut other = neighbour(&room);
    other.state = Some(StateDir::open(&other.dir.path().join("state"), Before::Unknown).unwrap());
    closed(&room, &other);
    let copies = naming::directory(&other.config).unwrap();
    let aside = other.dir.path().join("aside");
    std::fs::rename(&copies, &aside).unwrap();
    let others = other.open();
    let disks = room.open();
    write(&disk(&disks, PC[0]), 1);
    let refused = disks.commit(&pc(), true).unwrap_err();
    assert!(
        refused.contains("pc17 (e12.10)") && refused.contains("missing"),
        "{refused}"
    );
    others.close();
    std::fs::remove_dir_all(&copies).unwrap();
    std::fs::rename(aside, copies).unwrap();
    let others = other.open();
    assert_eq!(read(&disk(&others, PC[0])), 2, "they are back");
    others.reset(pc(), true, true).unwrap();
    disks.commit(&pc(), true).unwrap();
}
