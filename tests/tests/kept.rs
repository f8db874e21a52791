//! `xblade state` about exports that are not served: it is done at once, or not at all.

use std::process::Output;

use anyhow::{Context, Result, ensure};
use lab::needs::Need;
use lab::{Address, Image, Lab, Options, Target, needs};

struct Site {
    // Dropped in this order.
    target: Target,
    image: Image,
    lab: Lab,
}

impl Site {
    /// Serves e1.1 over eth0, and what else `more` says.
    fn new(more: &str) -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        configure(&image, &(export(1, image.as_str()) + more))?;
        let (config, state) = (file(&image, "xblade.toml")?, file(&image, "state")?);
        let args = ["daemon", "--config", &config, "--state-dir", &state];
        let target = Target::ready(&lab.target, &args, 1)?;
        Ok(Site { target, image, lab })
    }

    /// Runs a command that must end with this code; returns all that it printed.
    fn ask(&self, args: &[&str], code: i32) -> Result<String> {
        let output = self.target.ask(args)?;
        ensure!(output.status.code() == Some(code), "{args:?}: {}", told(&output));
        Ok(told(&output))
    }
}

fn file(image: &Image, name: &str) -> Result<String> {
    let path = image.directory().join(name);
    path.to_str().map(str::to_owned).context("odd path")
}

fn configure(image: &Image, text: &str) -> Result<()> {
    Ok(std::fs::write(file(image, "xblade.toml")?, text)?)
}

fn export(slot: u8, path: &str) -> String {
    format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n")
}

fn told(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

#[test]
fn the_state_of_an_export_whose_store_does_not_open_is_cleared_at_once() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new("")?;
    site.lab.open(0)?.find(Address::new(1, 1))?.query(4, b"a label")?;
    configure(&site.image, &export(1, "/nonexistent/image"))?;
    site.ask(&["reload"], 3)?;
    ensure!(site.ask(&["state", "list"], 0)?.contains("a label"));
    site.ask(&["state", "clear", "1", "1", "--string"], 0)?;
    ensure!(!site.ask(&["state", "list"], 0)?.contains("a label"));
    let nothing = site.ask(&["state", "clear", "1", "1", "--lost-writes"], 1)?;
    ensure!(nothing.contains("no lost writes of 1.1"), "{nothing}");
    Ok(())
}

#[test]
fn what_another_gateway_serves_is_decided_there() -> Result<()> {
    needs!(Need::Root);
    let standby = Image::stamped(64)?;
    let group = "[[failover]]\nname = \"san1\"\nmac = \"02:78:62:00:00:01\"\npeers = [\"02:00:00:00:00:07\"]\n\
                 command = \"/bin/false\"\n";
    let member = export(2, standby.as_str()) + "failover = \"san1\"\nsync = true\n";
    let site = Site::new(&format!("{member}{group}"))?;
    let refused = site.ask(&["state", "clear", "1", "2"], 1)?;
    ensure!(
        refused.contains("e1.2 is not served here") && refused.contains("san1"),
        "{refused}"
    );
    Ok(())
}
