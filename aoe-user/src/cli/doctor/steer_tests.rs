use super::*;

/// A card that keeps filters, as far as it has room, and prints them as `ethtool` does.
#[derive(Default)]
struct Card {
    filters: Vec<(u32, String)>,
    room: usize,
    ntuple: bool,
    next: u32,
    /// It takes filters, and forgets them.
    forgets: bool,
    /// It has none at all.
    refuses: bool,
}

impl Ethtool for Card {
    fn run(&mut self, words: &[&str]) -> Result<String, EthtoolFailure> {
        match words {
            _ if self.refuses => Err(EthtoolFailure::Refused("Operation not supported".into())),
            ["-n", "eth0"] => {
                let filters = self
                    .filters
                    .iter()
                    .map(|(id, text)| format!("Filter: {id}\n{text}\n"));
                Ok(format!(
                    "4 RX rings available\nTotal rules\n\n{}",
                    filters.collect::<String>()
                ))
            }
            ["-K", "eth0", "ntuple", turn] => {
                self.ntuple = *turn == "on";
                Ok(String::new())
            }
            ["-N", "eth0", "delete", id] => {
                self.filters.retain(|(own, _)| own.to_string() != *id);
                Ok(String::new())
            }
            [
                "-N",
                "eth0",
                "flow-type",
                "ether",
                "src",
                source,
                "m",
                "00:00:00:00:00:00",
                rest @ ..,
            ] => {
                let (kind, queue) = match rest {
                    ["proto", "0x88a2", "action", queue] => ("0x88A2 mask: 0x0", queue),
                    ["action", queue] => ("0x0 mask: 0xFFFF", queue),
                    _ => panic!("{rest:?}"),
                };
                if !self.ntuple || self.filters.len() >= self.room {
                    return Err(EthtoolFailure::Refused(
                        "rmgr: Cannot insert RX class rule".into(),
                    ));
                }
                self.next += 1;
                if !self.forgets {
                    let source = source.to_uppercase();
                    self.filters.push((
                        self.next,
                        format!(
                            "\tFlow Type: Raw Ethernet\n\tSrc MAC addr: {source} mask: 00:00:00:00:00:00\n\
                             \tEthertype: {kind}\n\tAction: Direct to queue {queue}\n"
                        ),
                    ));
                }
                Ok(format!("Added rule with ID {}", self.next))
            }
            other => panic!("{other:?}"),
        }
    }
}

fn card(room: usize) -> Card {
    Card {
        room,
        ..Card::default()
    }
}

fn nic(driver: &str) -> Probe {
    Probe {
        interface: "eth0".into(),
        driver: Some(driver.into()),
        rx_queues: 2,
        offloads: Some(Vec::new()),
        switchable: vec![FILTERS.into()],
        one_queue: Some("ethtool -L eth0 combined 1".into()),
        ..Probe::default()
    }
}

fn sources(count: u8) -> Vec<Mac> {
    (1..=count).map(|n| Mac([2, 0, 0, 0, 0, n])).collect()
}

#[test]
fn each_initiator_gets_a_queue_and_loses_it_again() {
    let (mut card, three) = (card(8), sources(3));
    let other = ("\tRule Type: TCP over IPv4\n\tAction: Direct to queue 1\n").to_owned();
    card.filters.push((900, other));
    run(&mut card, &nic("ice"), &three, Intent::Show).unwrap();
    assert_eq!((card.filters.len(), card.ntuple), (1, false), "only shown");
    run(&mut card, &nic("ice"), &three, Intent::Apply).unwrap();
    let Filters::Set(set) = read(&mut card, "eth0") else {
        panic!()
    };
    let queues: Vec<_> = three
        .iter()
        .map(|source| set.iter().find(|filter| filter.steers(*source)).unwrap())
        .map(|filter| (filter.queue, filter.ethertype))
        .collect();
    assert_eq!(queues, [0, 1, 0].map(|queue| (Some(queue), Some(0x88a2))));
    run(&mut card, &nic("ice"), &three, Intent::Apply).unwrap();
    assert_eq!(card.filters.len(), 4, "none twice");
    run(&mut card, &nic("ice"), &three[..2], Intent::Undo).unwrap();
    let ids: Vec<u32> = card.filters.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, [900, 3], "of these two, and of nobody else");
}

#[test]
fn igb_matches_by_source_alone() {
    let mut card = card(8);
    run(&mut card, &nic("igb"), &sources(2), Intent::Apply).unwrap();
    assert!(card.filters.iter().all(|(_, text)| text.contains("mask: 0xFFFF")));
}

#[test]
fn a_card_that_is_full_is_left_as_it_was() {
    let mut card = card(2);
    let error = run(&mut card, &nic("ice"), &sources(3), Intent::Apply).unwrap_err();
    let said = format!("{error:#}");
    assert!(
        said.contains("Cannot insert RX class rule") && said.contains("combined 1"),
        "{said}"
    );
    assert!(card.filters.is_empty() && !card.ntuple);
}

#[test]
fn what_a_driver_refuses_is_said_and_not_tried() {
    let says = |card: &mut Card, probe: &Probe| {
        let error = run(card, probe, &sources(1), Intent::Apply).unwrap_err();
        assert!(card.filters.is_empty());
        format!("{error:#}")
    };
    let mut without = Card {
        refuses: true,
        ..card(8)
    };
    assert!(
        says(&mut without, &nic("e1000e")).contains("e1000e does not spread AoE over queues: Operation not")
    );
    assert!(says(&mut card(8), &nic("ixgbe")).contains("no filter that would spread AoE"));
    let fixed = Probe {
        switchable: Vec::new(),
        ..nic("igb")
    };
    assert!(says(&mut card(8), &fixed).contains("cannot be switched on"));
    let one_queue = Probe {
        rx_queues: 1,
        ..nic("ice")
    };
    assert!(says(&mut card(8), &one_queue).contains("one receive queue"));
    let mut forgets = Card {
        forgets: true,
        ..card(8)
    };
    assert!(says(&mut forgets, &nic("ice")).contains("does not show it"));
}
