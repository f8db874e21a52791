//! Settings of the process that a reload changes.

use super::*;

#[test]
fn a_reload_tells_of_other_cpus() {
    let mut world = World::new(&["eth0"]);
    let exports = [export(1, 1, "/a", &["eth0"])];
    world.want(&exports);
    let mut wanted = config(&exports);
    wanted.cpus = vec![2, 3];
    let told = world.plan.difference(&wanted);
    assert_eq!(told.settings, [("cpus".into(), "all".into(), "2,3".into())]);
    assert_eq!((told.unchanged, told.changed), (1, Vec::new()));
    world.plan.want(wanted.clone(), world.now);
    world.run();
    assert_eq!(
        (world.said("cpus changed"), world.said("nothing changed")),
        (1, 0)
    );
    assert_eq!(world.plan.difference(&wanted).settings, []);
}
