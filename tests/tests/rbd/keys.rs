//! A cluster with authentication, and a client that may do what the book says and no more.

use super::*;

#[test]
fn a_client_with_the_rights_of_the_book_serves_images_of_its_pool_and_no_others() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let site = Site::on(Ceph::start_with_keys)?;
    let mut target = site.ready("eth0", "rbd:rbd/vm")?;
    let mut writer = site.writer()?;
    writer.run_till(200, TIMEOUT)?;
    // It breaks the lock of the process that died, for which it has to shut that out.
    target.process.kill()?;
    target = site.serve("eth0", "rbd:rbd/vm", &["--wait"])?;
    writer.run_till(200, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.stop()? == 0, "{}", target.process.log());

    site.ceph.pool(&site.lab.target, "other")?;
    site.rbd("create --size 64M other/vm")?;
    let mut refused = site.serve("eth1", "rbd:other/vm", &[])?;
    ensure!(!refused.process.wait(TIMEOUT)?.success());
    let said = refused.process.log();
    ensure!(said.contains("not permitted"), "{said}");

    // Who has no key is told so, and where one was looked for.
    let mut nobody = site.serve("eth1", "rbd:rbd/vm", &["--ceph-user", "nobody"])?;
    ensure!(!nobody.process.wait(TIMEOUT)?.success());
    let said = nobody.process.log();
    let keyring = site.ceph.path("keyring").display().to_string();
    ensure!(
        said.contains("has no key of client.nobody") && said.contains(&keyring),
        "{said}"
    );
    Ok(())
}
