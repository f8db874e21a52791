use super::*;

const M: Mac = Mac([2; 6]);

fn wrote(sector: &mut Sector, value: Value, from: Tick, to: Tick) -> Result<bool, Value> {
    sector.write_arrives(value, value, from, M);
    sector.write_answered(value, from, to, 0, false)
}

#[test]
fn a_read_sees_the_latest_write() {
    let mut sector = Sector::default();
    wrote(&mut sector, 10, 1, 2).unwrap();
    assert!(sector.read_answered(10, 3, 4).is_ok());
    assert_eq!(sector.read_answered(INITIAL, 5, 6), Err(Some(10)));
    assert_eq!(sector.read_answered(99, 5, 6), Err(None));
}

#[test]
fn concurrent_writes_end_one_way_only() {
    let mut sector = Sector::default();
    sector.write_arrives(10, 10, 1, M);
    sector.write_arrives(11, 11, 2, M);
    sector.write_answered(10, 1, 8, 0, false).unwrap();
    sector.write_answered(11, 2, 9, 0, false).unwrap();
    assert!(sector.read_answered(10, 10, 11).is_ok());
    assert!(sector.read_answered(11, 12, 13).is_err());
    assert!(sector.read_answered(10, 14, 15).is_ok());
}

#[test]
fn a_new_value_seen_by_one_is_seen_by_all_after() {
    let mut sector = Sector::default();
    sector.write_arrives(10, 10, 1, M);
    assert!(sector.read_answered(10, 2, 3).is_ok());
    assert!(sector.read_answered(INITIAL, 4, 5).is_err());
}

#[test]
fn a_copy_that_arrives_after_the_answer_is_another_write() {
    let mut sector = Sector::default();
    wrote(&mut sector, 10, 1, 2).unwrap();
    wrote(&mut sector, 11, 3, 4).unwrap();
    sector.write_arrives(10, 10, 5, M);
    assert!(sector.read_answered(11, 6, 7).is_ok());
    assert!(sector.read_answered(10, 8, 9).is_ok());
    assert!(
        sector.read_answered(11, 10, 11).is_err(),
        "it does not go back again"
    );
}

#[test]
fn a_copy_that_arrived_before_the_answer_is_the_same_write() {
    let mut sector = Sector::default();
    sector.write_arrives(10, 10, 1, M);
    sector.write_arrives(10, 10, 2, M);
    sector.write_answered(10, 2, 3, 0, false).unwrap();
    wrote(&mut sector, 11, 4, 5).unwrap();
    assert!(
        sector.read_answered(10, 6, 7).is_err(),
        "the first copy was done after all"
    );
}

#[test]
fn a_young_copy_that_is_carried_out_after_the_answer_is_another_write() {
    let mut sector = Sector::default();
    sector.write_arrives(10, 10, 1, M);
    sector.write_arrives(10, 10, 2, M);
    sector.write_answered(10, 1, 3, 0, false).unwrap();
    wrote(&mut sector, 11, 4, 5).unwrap();
    sector.carried_out(&Copy {
        value: 10,
        key: 10,
        arrived: 2,
        source: M,
    });
    assert!(sector.read_answered(10, 6, 7).is_ok());
    assert!(sector.read_answered(11, 8, 9).is_err(), "it stays");
}

#[test]
fn a_read_from_before_the_medium_changed_may_show_what_was_there() {
    let mut sector = Sector::default();
    wrote(&mut sector, 10, 1, 2).unwrap();
    sector.settle(INITIAL, 5);
    assert!(sector.read_answered(10, 3, 6).is_ok());
    assert!(sector.read_answered(10, 6, 7).is_err());
    assert!(sector.read_answered(INITIAL, 6, 7).is_ok());
}

#[test]
fn a_late_copy_is_known_until_the_process_ends() {
    let answered_again = |between: fn(&mut Sector)| {
        let mut sector = Sector::default();
        wrote(&mut sector, 10, 1, 2).unwrap();
        wrote(&mut sector, 11, 3, 4).unwrap();
        between(&mut sector);
        sector.write_arrives(10, 10, 6, M);
        sector.write_answered(10, 6, 7, 0, true).unwrap()
    };
    assert!(!answered_again(|_| {}), "it may have been remembered");
    assert!(!answered_again(|sector| sector.settle(11, 5)), "also now");
    assert!(answered_again(Sector::process_gone), "nobody remembers it");
}

#[test]
fn what_must_survive_does() {
    let mut sector = Sector::default();
    wrote(&mut sector, 10, 1, 2).unwrap();
    sector.write_arrives(11, 11, 3, M);
    let must = |cluster: &Cluster| cluster.answered != NEVER;
    assert!(sector.survives(10, must).is_ok());
    assert!(sector.survives(11, must).is_ok(), "unanswered: either way");
    assert_eq!(sector.survives(INITIAL, must), Err(Some(10)));
}

#[test]
fn pruning_keeps_what_may_be_seen() {
    let mut sector = Sector::default();
    wrote(&mut sector, 10, 1, 2).unwrap();
    wrote(&mut sector, 11, 3, 4).unwrap();
    sector.write_arrives(12, 12, 5, M);
    sector.prune(6);
    let values: Vec<Value> = sector.clusters.iter().map(|cluster| cluster.value).collect();
    assert_eq!(values, [11, 12]);
}
