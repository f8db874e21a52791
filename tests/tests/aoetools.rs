//! aoetools, the programs that Linux users have: they want replies of 60 bytes or more on links that do not pad.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lab::needs::{Need, find};
use lab::{Image, Lab, Options, Target, needs};

/// Runs a tool on the initiator's side; `timeout` ends it where it would wait for ever.
fn tool(lab: &Lab, line: &str) -> Result<Output> {
    let mut words = line.split_whitespace();
    let program = find(words.next().context("no program")?).context("not installed")?;
    let mut command = Command::new("timeout");
    command.arg("20").arg(program).args(words);
    lab.initiator.run(move || command.output()).context("starting it")
}

fn says(lab: &Lab, line: &str) -> Result<String> {
    let output = tool(lab, line)?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{line}: {}: {text}", output.status);
    Ok(text)
}

fn served(mtu: u32) -> Result<(Lab, Image, Target)> {
    let lab = Lab::new(Options {
        mtu,
        ..Options::default()
    })?;
    let image = Image::stamped(64)?;
    let target = Target::ready(
        &lab.target,
        &["serve", "1", "1", "eth0", image.as_str(), "--serial", "lab-0001"],
        1,
    )?;
    Ok((lab, image, target))
}

#[test]
fn aoeping_gets_config_and_identity() -> Result<()> {
    needs!(Need::Root, Need::Tool("aoeping"));
    let (lab, _image, _target) = served(1500)?;
    ensure!(
        says(&lab, "aoeping -s 5 1 1 eth0")?.is_empty(),
        "aoeping is silent when all is well"
    );
    let found = says(&lab, "aoeping -v -s 5 1 1 eth0")?;
    ensure!(
        found.to_lowercase().contains("02:00:00:00:00:02") || found.contains("020000000002"),
        "{found}"
    );
    ensure!(!says(&lab, "aoeping -i -s 5 1 1 eth0")?.is_empty());
    let identity = says(&lab, "aoeping -I -s 5 1 1 eth0")?;
    ensure!(identity.contains("lab-0001"), "{identity}");
    // SMART is off: the tool reads that from IDENTIFY.
    let smart = tool(&lab, "aoeping -s 5 -S return_status 1 1 eth0")?;
    let text = String::from_utf8_lossy(&smart.stderr).into_owned() + &String::from_utf8_lossy(&smart.stdout);
    ensure!(text.contains("does not support SMART"), "{text}");
    // Nobody has this address: the tool ends itself by SIGALRM.
    ensure!(!tool(&lab, "aoeping -s 1 1 9 eth0")?.status.success());
    Ok(())
}

#[test]
fn aoecfg_reads_tests_and_sets_the_string() -> Result<()> {
    needs!(Need::Root, Need::Tool("aoecfg"));
    let (lab, _image, _target) = served(1500)?;
    let at = "1 1 eth0";
    ensure!(
        says(&lab, &format!("aoecfg -t 2 -c read {at}"))?
            .trim()
            .is_empty()
    );
    says(&lab, &format!("aoecfg -t 2 -c set -s hello {at}"))?;
    ensure!(says(&lab, &format!("aoecfg -t 2 -c read {at}"))?.contains("hello"));
    ensure!(says(&lab, &format!("aoecfg -t 2 -c test -s hello {at}"))?.contains("hello"));
    ensure!(
        says(&lab, &format!("aoecfg -t 2 -c test -s other {at}"))?
            .trim()
            .is_empty()
    );
    ensure!(says(&lab, &format!("aoecfg -t 2 -c prefix -s hel {at}"))?.contains("hello"));
    ensure!(
        says(&lab, &format!("aoecfg -t 2 -c prefix -s hex {at}"))?
            .trim()
            .is_empty()
    );
    let conflict = says(&lab, &format!("aoecfg -t 2 -c set -s other {at}"))?;
    ensure!(conflict.contains("badcfg"), "{conflict:?}");
    says(&lab, &format!("aoecfg -t 2 -c fset -s other {at}"))?;
    ensure!(says(&lab, &format!("aoecfg -t 2 -c read {at}"))?.contains("other"));
    let all = says(&lab, "aoecfg -t 1 eth0")?;
    ensure!(all.contains("1.1\tother"), "{all:?}");
    Ok(())
}

#[test]
fn aoe_sancheck_sees_the_whole_frame() -> Result<()> {
    needs!(Need::Root, Need::Tool("aoe-sancheck"));
    for (mtu, payload) in [(1500, "1024"), (9000, "8704")] {
        let (lab, _image, _target) = served(mtu)?;
        let table = says(&lab, "aoe-sancheck")?;
        let line = table
            .lines()
            .find(|line| line.contains("e1.1"))
            .with_context(|| format!("no e1.1 in {table}"))?;
        ensure!(
            line.contains(payload) && line.contains("eth0"),
            "at MTU {mtu}: {table}"
        );
    }
    Ok(())
}
