//! Histories of a few sectors under many clients, a bad network, killed targets and flapping links. What is shown
//! and what the wire itself cannot give: docs/durability.md. `XBLADE_SEED=N` repeats a run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Result, bail};

use checker::check::check;
use checker::client::Client;
use checker::fake::{ADDRESS, Fake, Mutant, mac};
use checker::network::{Network, Parcel, Wire};
use checker::record::{Action, History, Op};
use checker::veth::Veth;
use checker::workload::{Discipline, Outcome, Plan, disturb, paths, run};
use disks::io_engine::IoEngine;
use lab::frame::{Request, ata};
use lab::image::Random;
use lab::link::target_mac;
use lab::needs::Need;
use lab::seed;
use lab::values::{sector, value};
use lab::{Image, Lab, Target, needs};

/// Runs clients against the fake target, restarting it now and then where the discipline bears that.
fn against_fake(plan: &Plan, mutant: Mutant) -> Outcome {
    let (handle, restarter) = channel();
    let network = Network::start(plan.weather(), plan.queues, |replies| {
        let fake = Fake::start(mutant, plan.sectors as usize, 2, plan.queues, &replies);
        handle.send(fake.restarter(mutant)).unwrap();
        fake
    });
    let restart = restarter.recv().unwrap();
    let done = AtomicBool::new(false);
    let outcome = std::thread::scope(|scope| {
        if plan.discipline != Discipline::HandedOver {
            let (seed, done) = (plan.seed, &done);
            let is_done = || done.load(Ordering::Relaxed);
            scope.spawn(move || disturb(seed, Duration::from_millis(60), is_done, |_| restart()));
        }
        let outcome = run(
            plan,
            &network,
            ADDRESS,
            &paths(plan.clients, &[mac(0), mac(1)]),
            || true,
        );
        done.store(true, Ordering::Relaxed);
        outcome
    });
    let (history, tally) = (&outcome.history, network.tally());
    println!(
        "{:?}: {} operations, {} sent again, {tally:?}",
        plan.discipline,
        history.operations(),
        outcome.retransmissions
    );
    outcome
}

/// Did the clients or the checker notice anything?
fn verdict(outcome: &Outcome) -> Result<(), String> {
    if let Some(complaint) = outcome.complaints.first() {
        return Err(complaint.clone());
    }
    check(&outcome.history).map_err(|violation| violation.to_string())
}

#[test]
fn an_honest_target_passes_in_the_worst_weather() {
    for discipline in [Discipline::Owned, Discipline::Free] {
        let mut plan = Plan::new(seed(), discipline, 150);
        plan.deadline = if discipline == Discipline::Free {
            Duration::from_millis(300)
        } else {
            plan.deadline
        };
        let outcome = against_fake(&plan, Mutant::Honest);
        verdict(&outcome).unwrap();
        assert!(outcome.history.operations() > 1000, "too little happened");
        assert!(outcome.retransmissions > 20, "the network was too kind");
    }
}

/// Each mutant must be caught by at least one of a few seeds, and each of them almost always is.
fn caught(mutant: Mutant, discipline: Discipline) {
    let first = seed();
    for seed in first..first + 5 {
        let mut plan = Plan::new(seed, discipline, 100);
        plan.deadline = Duration::from_secs(2);
        if let Err(why) = verdict(&against_fake(&plan, mutant)) {
            return println!("{mutant:?} is caught: {why}");
        }
    }
    panic!("{mutant:?} was not caught by seeds {first}..{}", first + 5);
}

#[test]
fn a_target_that_acknowledges_before_it_writes_is_caught() {
    caught(Mutant::AcknowledgesBeforeWriting, Discipline::Owned);
}

#[test]
fn a_target_that_answers_stale_duplicates_is_caught() {
    caught(Mutant::AnswersStaleDuplicates, Discipline::Owned);
}

#[test]
fn a_target_that_reorders_is_caught() {
    caught(Mutant::ReordersReads, Discipline::Owned);
    caught(Mutant::ReordersWrites, Discipline::Owned);
}

#[test]
fn a_target_that_loses_writes_when_it_restarts_is_caught() {
    caught(Mutant::LosesWritesAtRestart, Discipline::Owned);
}

#[test]
fn a_target_that_tears_sectors_is_caught() {
    caught(Mutant::TearsSectors, Discipline::Owned);
}

/// A copy of an old write that the network held back undoes a newer one, on a target that does everything right:
/// the reason for [`Discipline`], and the limit of what any target can promise.
#[test]
fn a_late_copy_of_a_write_undoes_a_newer_one_and_no_target_can_know() {
    let (replies, answers) = channel();
    let mut fake = Fake::start(Mutant::Honest, 1, 1, 1, &replies);
    let mut history = History::default();
    let mut ask = |request: &Request, moment: u64, action: Option<Action>| {
        fake.send(0, 0, &request.bytes());
        let Parcel::ToClient(reply) = answers.recv().unwrap() else {
            panic!("no reply")
        };
        let action = action
            .or_else(|| value(0, &reply[36..]).map(Action::Read))
            .unwrap();
        history.push(
            0,
            Op {
                client: 0,
                action,
                invoked: moment,
                returned: Some(moment + 1),
            },
        );
    };
    let write = |value, tag| {
        let mut request = Request::ata(mac(0), ADDRESS, ata::WRITE_EXT, 0, 1, &sector(0, value));
        request.tag = tag;
        request
    };
    let read = Request::ata(mac(0), ADDRESS, ata::READ_EXT, 0, 1, &[]);
    // Tag 1 is held back by the network, its retransmission as tag 2 is not.
    ask(&write(100, 2), 0, Some(Action::Write(100)));
    ask(&write(200, 3), 2, Some(Action::Write(200)));
    ask(&read, 4, None);
    fake.send(0, 0, &write(100, 1).bytes());
    answers.recv().unwrap();
    fake.send(0, 0, &read.bytes());
    let Parcel::ToClient(reply) = answers.recv().unwrap() else {
        panic!("no reply")
    };
    let seen = value(0, &reply[36..]).unwrap();
    history.push(
        0,
        Op {
            client: 0,
            action: Action::Read(seen),
            invoked: 6,
            returned: Some(7),
        },
    );
    assert_eq!(seen, 100);
    check(&history).unwrap_err();
}

/// The same seed gives the same network: a failure can be run again.
#[test]
fn the_weather_repeats_with_its_seed() {
    struct Arrivals(std::sync::mpsc::Sender<(usize, Vec<u8>)>);
    impl Wire for Arrivals {
        fn send(&mut self, _: usize, queue: usize, frame: &[u8]) {
            let _ = self.0.send((queue, frame[28..34].to_vec()));
        }
    }
    let weather = Plan::new(77, Discipline::Owned, 0).weather();
    let runs: Vec<Vec<_>> = (0..2)
        .map(|_| {
            let (arrived, arrivals) = channel();
            let network = Network::start(weather, 2, |_| Arrivals(arrived));
            let mut client = Client::new(&network, ADDRESS, paths(1, &[mac(0)]).remove(0));
            (client.patience, client.deadline) = (Duration::from_millis(1), Duration::from_millis(1));
            (0..200).for_each(|lba| drop(client.read(lba, 1)));
            // It delivers what is under way before it ends.
            drop(network);
            let mut arrived: Vec<_> = arrivals.iter().collect();
            arrived.sort();
            arrived
        })
        .collect();
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].len() != 200 || runs[0].iter().any(|(queue, _)| *queue == 1));
}

/// What happens to the real target during a run.
#[derive(Clone, Copy)]
struct Disruptions {
    kills: bool,
    flaps: bool,
}

/// Runs clients against `xblade` on two ports of two queues, until it was disrupted three times at least.
fn against_xblade(plan: &Plan, disruptions: Disruptions, extra: &[&str]) -> Result<Outcome> {
    against_xblade_by(IoEngine::Uring, plan, disruptions, extra)
}

fn against_xblade_by(
    engine: IoEngine,
    plan: &Plan,
    disruptions: Disruptions,
    extra: &[&str],
) -> Result<Outcome> {
    let lab = Lab::new(lab::Options {
        queues: 2,
        links: 2,
        ..Default::default()
    })?;
    engine.choose(&lab.target)?;
    let image = Image::sparse(plan.sectors)?;
    let mut args = vec!["serve", "7", "3", "eth0,eth1", image.as_str()];
    args.extend(extra);
    let mut target = Target::ready(&lab.target, &args, 1)?;
    let network = Network::start(plan.weather(), plan.queues, |replies| {
        Veth::open(&lab, 2, plan.queues, &replies).expect("the lab has two links")
    });
    let (done, times) = (AtomicBool::new(false), AtomicUsize::new(0));
    let outcome = std::thread::scope(|scope| {
        let is_done = || done.load(Ordering::Relaxed);
        let (lab, times) = (&lab, &times);
        let troublemaker = scope.spawn(move || {
            let step = |random: &mut Random| {
                if disruptions.kills && (!disruptions.flaps || random.below(2) == 0) {
                    target.process.kill().expect("it runs");
                    target = Target::ready_again(&lab.target, &args, 1).expect("it starts again");
                } else {
                    let link = random.below(2) as u32;
                    lab.set_carrier(link, false).expect("the link is there");
                    std::thread::sleep(Duration::from_millis(random.below(100)));
                    lab.set_carrier(link, true).expect("the link is there");
                }
                times.fetch_add(1, Ordering::Relaxed);
            };
            disturb(plan.seed, Duration::from_millis(700), is_done, step);
            target
        });
        let outcome = run(
            plan,
            &network,
            ADDRESS,
            &paths(plan.clients, &[target_mac(0), target_mac(1)]),
            || times.load(Ordering::Relaxed) >= 3 || troublemaker.is_finished(),
        );
        done.store(true, Ordering::Relaxed);
        // The target lives till here.
        let _target = troublemaker
            .join()
            .expect("no disruptions beyond what was asked for");
        println!("{} kills and flaps", times.load(Ordering::Relaxed));
        outcome
    });
    let (history, tally) = (&outcome.history, network.tally());
    let (operations, pending) = (history.operations(), history.pending());
    println!(
        "{operations} operations, {pending} unanswered, {} sent again, {tally:?}",
        outcome.retransmissions
    );
    assert!(operations > 2000, "too little happened");
    Ok(outcome)
}

fn passes(outcome: &Outcome) -> Result<()> {
    verdict(outcome).map_err(anyhow::Error::msg)
}

fn real_plan(discipline: Discipline) -> Plan {
    Plan {
        patience: Duration::from_millis(40),
        ..Plan::new(seed(), discipline, 600)
    }
}

const ALL_DISRUPTIONS: Disruptions = Disruptions {
    kills: true,
    flaps: true,
};

#[test]
fn one_writer_a_sector_sees_one_disk_through_kills_and_flaps() -> Result<()> {
    needs!(Need::Root);
    passes(&against_xblade(
        &real_plan(Discipline::Owned),
        ALL_DISRUPTIONS,
        &[],
    )?)
}

#[test]
fn one_writer_a_sector_sees_one_disk_in_sync_mode() -> Result<()> {
    needs!(Need::Root);
    passes(&against_xblade(
        &real_plan(Discipline::Owned),
        ALL_DISRUPTIONS,
        &["--sync"],
    )?)
}

#[test]
fn one_writer_a_sector_sees_one_disk_with_the_direct_store() -> Result<()> {
    needs!(Need::Root);
    passes(&against_xblade(
        &real_plan(Discipline::Owned),
        ALL_DISRUPTIONS,
        &["--direct"],
    )?)
}

#[test]
fn one_writer_a_sector_sees_one_disk_with_the_direct_store_without_io_uring() -> Result<()> {
    needs!(Need::Root);
    let plan = real_plan(Discipline::Owned);
    let outcome = against_xblade_by(IoEngine::Threads, &plan, ALL_DISRUPTIONS, &["--direct"]);
    passes(&outcome?)
}

#[test]
fn writers_in_each_others_way_see_one_disk() -> Result<()> {
    needs!(Need::Root);
    let plan = Plan {
        deadline: Duration::from_millis(700),
        ..real_plan(Discipline::Free)
    };
    passes(&against_xblade(&plan, ALL_DISRUPTIONS, &[])?)
}

#[test]
fn late_duplicates_do_no_harm_to_a_target_that_knows_them() -> Result<()> {
    needs!(Need::Root);
    let disruptions = Disruptions {
        kills: false,
        flaps: true,
    };
    passes(&against_xblade(
        &real_plan(Discipline::HandedOver),
        disruptions,
        &["--late-duplicates"],
    )?)
}

/// The control: the same network and clients undo writes of a target that is not told to look out for late copies.
/// It shows that a violation on the real wire would be seen.
#[test]
fn the_same_late_duplicates_undo_writes_of_a_target_that_does_not_know_them() -> Result<()> {
    needs!(Need::Root);
    let disruptions = Disruptions {
        kills: false,
        flaps: true,
    };
    for _ in 0..5 {
        let outcome = against_xblade(&real_plan(Discipline::HandedOver), disruptions, &[])?;
        if let Err(violation) = check(&outcome.history) {
            println!("{violation}");
            return Ok(());
        }
    }
    bail!("five runs and no write came back: the network is too kind to show anything")
}
