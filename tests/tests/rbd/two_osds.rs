//! A cluster of two OSDs, each with everything: one is killed under writes, then the other, and both stand still for a minute.

use super::*;

/// For so long Ceph stands still: several times what its parts wait for each other.
const STILL: Duration = Duration::from_secs(60);

#[test]
fn one_osd_of_two_is_killed_and_nothing_is_lost_or_answered_with_an_error() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut site = Site::on(Ceph::start_with_two_osds)?;
    let _target = site.ready("eth0", "rbd:rbd/vm")?;
    // It takes no error for an answer.
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    // What was answered before the third kill and not sent again is on what the first one has got back from the second, and the other way round.
    for number in [0, 1, 0] {
        site.ceph.osds()[number].kill()?;
        writer.longest_wait = Duration::ZERO;
        writer.run_till(200, TIMEOUT)?;
        println!("OSD {number} killed: a write waited {:.1?}", writer.longest_wait);
        writer.settle(TIMEOUT)?;
        writer.judge_by_reading()?.nothing_lost()?;
        // It comes back while writes go on.
        site.ceph.start_osd(&site.lab.target, number)?;
        writer.run_till(200, TIMEOUT)?;
        site.ceph.wait_clean(&site.lab.target)?;
        writer.run_till(200, TIMEOUT)?;
    }
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()
}

#[test]
fn osds_that_stand_still_for_a_minute_are_waited_for() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut site = Site::on(Ceph::start_with_two_osds)?;
    let mut target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    for osd in site.ceph.osds() {
        osd.signal(Signal::SIGSTOP)?;
    }
    // What was answered on the way is taken first; then there is nobody who could store anything.
    writer.run_for(Duration::from_secs(1))?;
    let stuck = writer.acknowledged;
    writer.run_for(STILL)?;
    ensure!(
        writer.acknowledged == stuck,
        "{} writes were acknowledged without a disk",
        writer.acknowledged - stuck
    );
    for osd in site.ceph.osds() {
        osd.signal(Signal::SIGCONT)?;
    }
    writer.run_till(200, TIMEOUT)?;
    println!("a write waited {:.1?}", writer.longest_wait);
    ensure!(
        writer.longest_wait > STILL,
        "writes were under way all the time: {:?}",
        writer.longest_wait
    );
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.is_running());
    Ok(())
}
