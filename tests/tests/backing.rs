//! What becomes of an image behind a running target is in its health: nobody who is served notices, so the operator is told.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::image::stamp;
use lab::needs::Need;
use lab::process::Process;
use lab::target::daemon;
use lab::{Address, Image, Lab, Options, Target, eventually, needs};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that serves an image as e1.1.
struct Site {
    lab: Lab,
    image: Image,
    target: Target,
}

impl Site {
    fn new() -> Result<Site> {
        let lab = Lab::new(Options::default())?;
        let image = Image::stamped(64)?;
        let text = format!(
            "[[export]]\nshelf = 1\nslot = 1\npath = {:?}\ninterfaces = [\"eth0\"]\n",
            image.as_str()
        );
        std::fs::write(image.directory().join("xblade.toml"), text)?;
        let target = Target::ready(&lab.target, &daemon(image.directory())?, 1)?;
        Ok(Site { lab, image, target })
    }

    fn ask(&self, args: &[&str]) -> Result<(Option<i32>, String)> {
        let output = self.target.ask(args)?;
        Ok((
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        ))
    }

    /// Waits until `xblade status` ends with this code and says all of this, then looks whether the others say the same.
    fn told(&self, code: i32, said: &[&str]) -> Result<()> {
        let mut last = (None, String::new());
        eventually("what status says", LIMIT, || {
            last = self.ask(&["status"])?;
            Ok(last.0 == Some(code) && said.iter().all(|said| last.1.contains(said)))
        })
        .with_context(|| format!("not {code}, {said:?}: {last:?}"))?;
        let (ls, table) = self.ask(&["ls"])?;
        ensure!(ls == Some(code), "{table}");
        ensure!(code == 0 || table.contains("FAILED-DEGRADED"), "{table}");
        let (_, metrics) = self.ask(&["metrics"])?;
        let healthy = format!("xblade_healthy {}", u8::from(code == 0));
        ensure!(metrics.contains(&healthy), "{metrics}");
        Ok(())
    }

    fn reads(&self, lba: u64) -> Result<Vec<u8>> {
        self.lab.open(0)?.find(Address::new(1, 1))?.read(lba, 1)
    }
}

#[test]
fn an_image_that_is_deleted_or_replaced_is_told_until_it_is_back_or_reloaded() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new()?;
    site.told(0, &[])?;
    let aside = site.image.directory().join("aside");
    std::fs::rename(site.image.path(), &aside)?;
    site.told(3, &["e1.1", site.image.as_str(), "deleted"])?;
    ensure!(site.reads(5)? == stamp(5), "it is served on");
    std::fs::rename(&aside, site.image.path())?;
    site.told(0, &[])?;

    let other = Image::sparse(64)?;
    std::fs::rename(other.path(), site.image.path())?;
    site.told(3, &["e1.1", site.image.as_str(), "replaced", "xblade reload"])?;
    ensure!(site.reads(5)? == stamp(5), "the old one is served on");
    let (reloaded, said) = site.ask(&["reload"])?;
    let renewed = format!("~ e1.1  {} was replaced\n= 0 unchanged\n", site.image.as_str());
    ensure!((reloaded, &said) == (Some(0), &renewed), "{said}");
    site.told(0, &[])?;
    ensure!(site.reads(5)? == [0; 512], "the new one is served");
    ensure!(site.ask(&["reload"])? == (Some(0), "= 1 unchanged\n".to_owned()));

    // One that cannot be served: the reload says so, and fails.
    let mut qcow2 = b"QFI\xfb\0\0\0\x03".to_vec();
    qcow2.resize(64 * 512, 0);
    std::fs::write(&aside, qcow2)?;
    std::fs::rename(&aside, site.image.path())?;
    let (reloaded, said) = site.ask(&["reload"])?;
    ensure!(
        reloaded == Some(3)
            && said.starts_with(&renewed)
            && said.contains("FAILED e1.1: ")
            && said.contains("qcow2"),
        "{said}"
    );
    Ok(())
}

#[test]
fn an_image_that_is_cut_short_is_told_while_it_is_only_read() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new()?;
    ensure!(site.reads(40)? == stamp(40));
    site.image.file().set_len(32 * 512)?;
    ensure!(site.reads(5)? == stamp(5));
    site.told(3, &["e1.1", "lost", "cut short"])?;
    let (_, metrics) = site.ask(&["metrics"])?;
    ensure!(
        metrics.contains("xblade_export_lost_writes{export=\"e1.1\"} 1"),
        "{metrics}"
    );
    ensure!(site.reads(5)? == stamp(5));
    site.image.file().set_len(64 * 512)?;
    let (cleared, said) = site.ask(&["state", "clear", "--lost-writes", "1", "1"])?;
    ensure!(cleared == Some(0), "{said}");
    site.told(0, &[])
}

/// Who watches is not sent away by a reload; who asks anew is told.
#[test]
fn stat_goes_on_when_a_reload_takes_its_export_out() -> Result<()> {
    needs!(Need::Root);
    let site = Site::new()?;
    let config = site.image.directory().join("xblade.toml");
    let text = std::fs::read_to_string(&config)?.replace("slot = 1", "slot = 2");
    let args = ["stat", "200ms", "e1.1", "--count", "40"];
    let control = site.target.control();
    let mut watching = Process::spawn_with(
        &site.lab.target,
        &lab::target::binary()?,
        &args,
        &[("XBLADE_CONTROL", control.to_str().context("odd path")?)],
    )?;
    watching.wait_for("e1.1", LIMIT)?;
    std::fs::write(&config, text)?;
    let (reloaded, said) = site.ask(&["reload"])?;
    ensure!(reloaded == Some(0), "{said}");
    watching.wait_for("e1.1 is not exported any more", LIMIT)?;
    let status = watching.wait(LIMIT)?;
    ensure!(status.success(), "{status}: {}", watching.log());
    let anew = site.target.ask(&["stat", "200ms", "e1.1", "--count", "1"])?;
    let told = String::from_utf8_lossy(&anew.stderr);
    ensure!(
        !anew.status.success() && told.contains("matches no export"),
        "{told}"
    );
    Ok(())
}
