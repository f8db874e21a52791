//! The first days of an operator who had ggaoed, from the package's installation to its first upgrade, while an initiator writes: with
//! no commands and options but those of the package's manual pages.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::capture::dissect;
use lab::container::{self, STEP};
use lab::image::pattern;
use lab::link::initiator_mac;
use lab::needs::Need;
use lab::{Address, Initiator, Request, eventually, needs};

use super::{Site, package};

const E12: Address = Address::new(1, 2);
const E13: Address = Address::new(1, 3);

/// What ggaoed was configured with: an export for both initiators, one for the second, whose address has a name.
const GGAOED: &str = "[defaults]\ninterfaces = eth0, eth1\ndirect-io = false\nqueue-length = 32\npid-file = /run/ggaoed.pid\n\
    [acls]\nall = 02:00:00:00:00:01, second\n\
    [vm]\npath = /srv/a.raw\nshelf = 1\nslot = 1\naccept = all\n\
    [archive]\npath = /srv/b.raw\nshelf = 1\nslot = 2\naccept = second\n";

/// A site with two links and an initiator on each: the first writes, the second reads.
struct Walk {
    site: Site,
    second: Initiator,
}

impl Walk {
    fn new() -> Result<Walk> {
        let site = Site::new("bookworm", 2)?;
        let second = site.lab.open(1)?;
        Ok(Walk { site, second })
    }

    /// A call of xblade in the system. Fails where the package has no manual page for it, or where the page lacks an option.
    fn xblade(&self, words: &[&str]) -> Result<Command> {
        let folder = self.site.system.path("/usr/share/man/man8");
        let page = |count: usize| {
            let command = words.get(..count)?.join("-");
            Some(folder.join(format!("xblade-{command}.8.gz")))
        };
        let page = [2, 1].into_iter().filter_map(page).find(|page| page.exists());
        let page = page.with_context(|| format!("{words:?} has no manual page"))?;
        let text = Command::new("gzip").arg("-dc").arg(&page).output()?.stdout;
        let text = String::from_utf8(text)?.replace('\\', "");
        for option in words.iter().filter(|word| word.starts_with('-')) {
            ensure!(
                text.contains(&format!("fB{option}fR")),
                "{option} is not in {}",
                page.display()
            );
        }
        Ok(self.site.system.command(&[&["xblade"], words].concat()))
    }

    /// As [`Walk::xblade`], to its end, which must have this exit code. Gives what it printed.
    fn says(&self, words: &[&str], code: i32) -> Result<String> {
        let output = self.xblade(words)?.output()?;
        let text = String::from_utf8([output.stdout, output.stderr].concat())?;
        ensure!(
            output.status.code() == Some(code),
            "{words:?}: {}: {text}",
            output.status
        );
        Ok(text)
    }

    /// Runs the initiators till a command has ended well. Gives what it printed.
    fn meanwhile(&mut self, mut child: Child) -> Result<String> {
        let begin = Instant::now();
        while child.try_wait()?.is_none() {
            self.site.writer.run_for(Duration::from_millis(10))?;
            self.second.find(E12)?.identify()?;
            ensure!(begin.elapsed() < STEP, "a command does not end");
        }
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn imports_the_configuration(&mut self) -> Result<()> {
        let system = &self.site.system;
        system.write("/etc/ggaoed.conf", GGAOED)?;
        system.write("/etc/ethers", &format!("{} second\n", initiator_mac(1)))?;
        let second = File::create_new(system.path("/srv/b.raw"))?;
        second.set_len(1 << 20)?;
        let made = self.says(&["import", "ggaoed", "/etc/ggaoed.conf"], 0)?;
        ensure!(made.contains("systemd knows the process"), "{made}");
        system.write("/etc/xblade/xblade.toml", &made)?;
        let table = self.says(&["check"], 0)?;
        let row = |name: &str| table.lines().find(|line| line.starts_with(name));
        let row = |name: &str| row(name).with_context(|| format!("no {name} in {table}"));
        ensure!(
            row("1.1 ")?.contains("rw for 2") && row("1.2 ")?.contains("rw for 1"),
            "{table}"
        );

        self.site.systemctl(&["enable", "--now", "xblade"])?;
        let status = self.says(&["status"], 0)?;
        ensure!(status.contains("2 of 2 ready"), "{status}");
        self.site.goes_on("the start")
    }

    /// What each initiator did, by its address: reads and writes of an export.
    fn row(&self, export: &str, initiator: u32) -> Result<(u64, u64)> {
        let columns = "initiator,reads,writes";
        let table = self.says(&["initiators", export, "--no-header", "-o", columns], 0)?;
        let mac = initiator_mac(initiator).to_string();
        let row = table.lines().find_map(|line| line.strip_prefix(&mac));
        let mut numbers = row.unwrap_or("0 0").split_whitespace().map(str::parse);
        let mut next = || numbers.next().context("no number");
        Ok((next()??, next()??))
    }

    fn watches_two_initiators(&mut self) -> Result<()> {
        let before = [self.row("e1.1", 0)?, self.row("e1.2", 1)?];
        ensure!(before[0].1 > 0 && before[1].0 == 0, "{before:?}");
        self.site.goes_on("a look at the initiators")?;
        let disk = self.second.find(E12)?;
        for lba in 0..7 {
            disk.read(lba, 1)?;
        }
        let after = [self.row("e1.1", 0)?, self.row("e1.2", 1)?];
        ensure!(
            after[0].1 >= before[0].1 + 50 && after[1] == (7, 0),
            "{before:?} {after:?}"
        );
        Ok(())
    }

    fn adds_and_pauses_an_export(&mut self) -> Result<()> {
        self.says(&["create", "/srv/c.raw", "1M"], 0)?;
        let add = ["export", "add", "1", "3", "eth0,eth1", "/srv/c.raw", "--save"];
        let said = self.says(&add, 0)?;
        ensure!(said.starts_with("+ e1.3\n= 2 unchanged\n"), "{said}");
        let disk = self.second.find(E13)?;
        let data = pattern(9, *b"a word 3");
        disk.write(9, &data)?;

        let said = self.says(&["export", "pause", "e1.3"], 0)?;
        ensure!(said == "paused e1.3\n", "{said}");
        ensure!(fs::read(self.site.system.path("/srv/c.raw"))?[9 * 512..][..512] == data);
        let witness = self.second.find(E12)?;
        let query = Request::query(disk.mac, E13, 0, b"");
        ensure!(
            self.second.answers(query, &witness)?.is_empty(),
            "paused, and answers"
        );
        let list = self.says(&["ls", "e1.3", "--no-header", "-o", "state"], 3)?;
        ensure!(list.trim() == "paused", "{list}");
        self.site.goes_on("a pause of another export")?;
        self.says(&["export", "resume", "e1.3"], 0)?;
        ensure!(self.second.find(E13)?.read(9, 1)? == data);
        Ok(())
    }

    fn breaks_a_file(&mut self) -> Result<()> {
        let path = |name: &str| self.site.system.path(&format!("/srv/{name}.raw"));
        let row = |wanted: &str, code: i32| {
            eventually(&format!("e1.2 is {wanted}"), STEP, || {
                let output = self.xblade(&["ls", "e1.2", "-o", "state,reason"])?.output()?;
                let said = String::from_utf8(output.stdout)?;
                Ok(output.status.code() == Some(code) && said.contains(wanted))
            })
        };
        // Of a daemon that is told to open it anew it is FAILED; of one that has it open it is told as well.
        fs::rename(path("b"), path("away"))?;
        row("FAILED-DEGRADED", 3)?;
        self.says(&["export", "rm", "e1.2"], 0)?;
        self.says(&["reload"], 3)?;
        row("FAILED ", 3)?;
        let status = self.says(&["status"], 3)?;
        ensure!(
            status.contains("e1.2: /srv/b.raw: no such file") && status.contains("2 of 3 ready"),
            "{status}"
        );
        fs::rename(path("away"), path("b"))?;
        row("ready", 0)?;
        self.second.find(E12)?.read(0, 1)?;
        self.says(&["status"], 0)?;
        self.site.goes_on("a broken file of another export")
    }

    fn reads_a_p99(&mut self) -> Result<()> {
        let words = [
            "stat",
            "100ms",
            "e1.1",
            "--count",
            "3",
            "-o",
            "export,w/s,lat-p99",
        ];
        let child = self.xblade(&words)?.stdout(Stdio::piped()).spawn()?;
        let said = self.meanwhile(child)?;
        let rows: Vec<Vec<&str>> = said
            .lines()
            .map(|line| line.split_whitespace().collect())
            .filter(|row: &Vec<&str>| row.first() == Some(&"e1.1"))
            .collect();
        let is_busy =
            |row: &Vec<&str>| row[1].parse::<f64>().is_ok_and(|rate| rate > 0.0) && row[2].ends_with('s');
        ensure!(rows.len() == 3 && rows.iter().any(is_busy), "{said}");
        Ok(())
    }

    fn dumps_a_handshake(&mut self) -> Result<()> {
        let file = "/root/handshake.pcapng";
        let words = ["dump", "eth1", "e1.2", "--count", "12", "-w", file];
        let mut child = self.xblade(&words)?.stderr(Stdio::piped()).spawn()?;
        let said = child.stderr.take().context("piped")?;
        let begun = BufReader::new(said)
            .lines()
            .find(|line| line.as_ref().map_or(true, |line| line.contains("frames on eth1")));
        begun.context("the dump ended")??;
        self.meanwhile(child)?;
        let copy = tempfile::NamedTempFile::new()?;
        fs::copy(self.site.system.path(file), copy.path())?;
        for step in [
            "aoe.cmd == 1 && eth.dst == ff:ff:ff:ff:ff:ff",
            "aoe.cmd == 1 && aoe.response == 1",
            "aoe.ata.cmd == 0xec && aoe.response == 0",
            "aoe.cmd == 0 && aoe.response == 1",
        ] {
            let rows = dissect(copy.path(), step, &["aoe.major", "aoe.minor"])?;
            ensure!(!rows.is_empty(), "{step}");
        }
        Ok(())
    }
}

#[test]
fn an_operator_of_ggaoed_finds_the_way_by_the_manual_pages() -> Result<()> {
    needs!(container::NEEDS[0], container::NEEDS[1], Need::Tool("tshark"));
    let mut walk = Walk::new()?;
    let folder = tempfile::Builder::new().prefix("xblade-package-").tempdir()?;
    walk.site.install(&package::build(folder.path(), "0.1.0")?)?;
    walk.site.may_lock_memory()?;
    let image = walk.site.image()?;
    walk.imports_the_configuration()?;
    walk.watches_two_initiators()?;
    walk.adds_and_pauses_an_export()?;
    walk.breaks_a_file()?;
    walk.reads_a_p99()?;
    walk.dumps_a_handshake()?;
    walk.site.is_upgraded(&package::build(folder.path(), "0.1.1")?)?;
    let status = walk.says(&["status"], 0)?;
    ensure!(status.contains("3 of 3 ready"), "{status}");
    for address in [E12, E13] {
        walk.second.find(address)?.read(0, 1)?;
    }
    walk.site.has_kept_all(&image)
}
