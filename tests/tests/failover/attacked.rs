//! What is done to two gateways on purpose or by mistake while somebody writes: at any of it a write may wait, and none may be lost.

use lab::needs;

use super::*;

/// Two gateways and somebody who writes to the group all the time.
struct Trial {
    site: Site,
    gateways: [Target; 2],
    writer: Writer,
}

impl Trial {
    fn new() -> Result<Trial> {
        let site = Site::new()?;
        let first = site.start(0)?;
        wait_for_role(&first, "active")?;
        let second = site.start(1)?;
        wait_for_role(&second, "standby")?;
        Ok(Trial {
            writer: writer(&site.net)?,
            gateways: [first, second],
            site,
        })
    }

    /// Writes go on; all that were answered are there.
    fn goes_on(&mut self, after: &str) -> Result<()> {
        self.writer.longest_wait = Duration::ZERO;
        self.writer
            .run_till(200, TIMEOUT)
            .with_context(|| self.log(after))?;
        println!("{after}: the longest wait was {:.1?}", self.writer.longest_wait);
        self.writer.settle(TIMEOUT)?;
        self.writer
            .judge_by_reading()?
            .nothing_lost()
            .with_context(|| self.log(after))
    }

    fn log(&self, after: &str) -> String {
        let [a, b] = self.gateways.each_ref().map(|target| target.process.log());
        format!("{after}\na:\n{a}\nb:\n{b}")
    }

    /// The gateway that is active, and the other one.
    fn roles(&self) -> Result<(usize, usize)> {
        let mut active = None;
        eventually("one gateway that is active", TIMEOUT, || {
            let roles: Vec<String> = self
                .gateways
                .iter()
                .map(|target| role(target).map(|(role, _)| role))
                .collect::<Result<_>>()?;
            active = match [roles[0] == "active", roles[1] == "active"] {
                [true, false] => Some(0),
                [false, true] => Some(1),
                _ => None,
            };
            Ok(active.is_some())
        })
        .with_context(|| self.log("roles"))?;
        let active = active.context("none")?;
        Ok((active, 1 - active))
    }

    /// Starts the one that stands by anew, so that nothing of before keeps it from the group.
    fn renew(&mut self, number: usize) -> Result<()> {
        self.gateways[number].process.kill()?;
        self.gateways[number] = self.site.start(number)?;
        let target = &self.gateways[number];
        wait_for_role(target, "standby")?;
        eventually("the other one heard", TIMEOUT, || Ok(role(target)?.1.is_empty()))
    }
}

#[test]
fn whatever_is_done_to_two_gateways_loses_nothing() -> Result<()> {
    needs!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let mut trial = Trial::new()?;
    trial.goes_on("begin")?;

    // Killed while it takes over, in the quiet time.
    let (active, standby) = trial.roles()?;
    let mark = trial.gateways[standby].process.mark();
    trial.gateways[active].process.kill()?;
    let quiet = |line: &str| line.contains("answering in a moment");
    trial.gateways[standby]
        .process
        .wait_for_after(mark, quiet, TIMEOUT)?;
    trial.gateways[standby].process.kill()?;
    for number in [active, standby] {
        trial.gateways[number] = trial.site.start(number)?;
    }
    trial.goes_on("both killed, one in the quiet time")?;

    // Both stand still, and go on together.
    for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
        for target in &trial.gateways {
            target.process.signal(signal)?;
        }
        if signal == Signal::SIGSTOP {
            trial.writer.run_for(Duration::from_secs(6))?;
        }
    }
    trial.goes_on("both stopped for six seconds")?;

    // The group is moved from one gateway to the other and back, again and again.
    let (active, standby) = trial.roles()?;
    for number in [standby, active, standby, active] {
        let taken = trial.gateways[number].ask(&["failover", "take", "san1"])?;
        ensure!(taken.status.success(), "{taken:?}");
        wait_for_role(&trial.gateways[number], "active").with_context(|| trial.log("take"))?;
        trial.writer.run_till(20, TIMEOUT)?;
    }
    trial.goes_on("moved to and fro")?;
    trial.renew(standby)?;
    what_administrators_do(&mut trial)
}

fn what_administrators_do(trial: &mut Trial) -> Result<()> {
    // The lock is removed by hand.
    let (active, _) = trial.roles()?;
    trial.site.remove_lock()?;
    trial.goes_on("the lock removed by hand")?;
    trial.renew(active)?;

    // The cluster stands still, for longer than the detector waits.
    trial.site.osd().signal(Signal::SIGSTOP)?;
    trial.writer.run_for(Duration::from_secs(8))?;
    trial.site.osd().signal(Signal::SIGCONT)?;
    trial.goes_on("the OSD stopped for eight seconds")?;

    // The active one dies while nobody can be shut out, because the monitor stands still.
    let (active, _) = trial.roles()?;
    trial.site.monitor().signal(Signal::SIGSTOP)?;
    trial.gateways[active].process.kill()?;
    trial.writer.run_for(Duration::from_secs(6))?;
    trial.site.monitor().signal(Signal::SIGCONT)?;
    trial.goes_on("killed, and the monitor stopped for six seconds")?;
    trial.gateways[active] = trial.site.start(active)?;

    // The export is opened anew by a reload, on the active one and on the other.
    let (active, standby) = trial.roles()?;
    for number in [active, standby] {
        let config = trial.site.config("length = \"32MiB\"\n");
        trial.site.net.gateways[number].reload(&mut trial.gateways[number], &config)?;
    }
    trial.goes_on("the export changed")?;

    // It leaves the group, on the active one alone, and is put back. The whole image is served again: a gateway that would serve another part than
    // the one before does not take it.
    let (active, standby) = trial.roles()?;
    let config = trial.site.config("");
    trial.site.net.gateways[standby].reload(&mut trial.gateways[standby], &config)?;
    let alone = trial.site.config("").replace("failover = \"san1\"\n", "");
    trial.site.net.gateways[active].reload(&mut trial.gateways[active], &alone)?;
    // It has the image for itself now: only the operator takes that away.
    eventually("a gateway that leaves the image to its owner", TIMEOUT, || {
        let (_, reason) = role(&trial.gateways[standby])?;
        Ok(reason.contains("no gateway of a failover group"))
    })?;
    let taken = trial.gateways[standby].ask(&["failover", "take", "san1"])?;
    ensure!(taken.status.success(), "{taken:?}");
    trial.goes_on("taken out of the group on one gateway, and taken by the other")?;
    trial.site.net.gateways[active].reload(&mut trial.gateways[active], &config)?;
    trial.gateways[standby].process.kill()?;
    trial.goes_on("put back, and the other one killed")
}
