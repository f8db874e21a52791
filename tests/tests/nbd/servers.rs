//! What real servers see of xblade, and what becomes of an export when they are replaced, resized, or left with work.

use lab::{Initiator, Reply};

use super::*;

/// Where the end of an image of the tests is, in bytes.
const BYTES: u64 = SECTORS * SECTOR as u64;

impl Site {
    /// Starts nbdkit on the socket. What it makes in `/tmp`, and leaves there when it is killed, it makes in the test's own folder.
    fn nbdkit(&self, words: &[&str]) -> Result<Process> {
        /// The folder keeps its name below the other `/tmp`.
        const SCRIPT: &str = "mkdir -p \"$1/tmp/$2\" && { [ -z \"$2\" ] || mount --bind \"$1\" \"$1/tmp/$2\"; } && \
             mount --rbind \"$1/tmp\" /tmp && shift 2 && exec \"$@\"";
        let socket = self.path("nbd.sock");
        let _ = fs::remove_file(&socket);
        let own = self.directory.path().to_str().context("odd path")?;
        let below = own.strip_prefix("/tmp/").unwrap_or_default();
        let nbdkit = packages::words("nbdkit");
        let nbdkit: Vec<&str> = nbdkit.iter().filter_map(|word| word.to_str()).collect();
        let words = [
            &["--mount", "sh", "-c", SCRIPT, "sh", own, below],
            &nbdkit[..],
            &["--foreground", "--unix", &socket],
            words,
        ];
        let process = Process::spawn(&self.lab.target, "unshare", &words.concat())?;
        appears(&socket)?;
        Ok(process)
    }

    /// Starts `qemu-nbd` with a plain image on the socket.
    fn plain(&self, raw: &str) -> Result<Process> {
        let socket = self.path("nbd.sock");
        let _ = fs::remove_file(&socket);
        let words = ["--persistent", "--shared=8", "-f", "raw", "-k", &socket, raw];
        let process = Process::spawn(&self.lab.target, "qemu-nbd", &words)?;
        appears(&socket)?;
        Ok(process)
    }

    /// A plain image, of this size from now on.
    fn raw(&self, bytes: u64) -> Result<String> {
        let path = self.path("plain");
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&path)?;
        file.set_len(bytes)?;
        Ok(path)
    }

    /// A daemon with the server's export as e1.1, and a healthy image as e1.2.
    fn daemon(&self, healthy: &Image) -> Result<Target> {
        let (config, address) = (self.path("xblade.toml"), self.address(""));
        let exports = [(1, address.as_str()), (2, healthy.as_str())].map(|(slot, path)| {
            format!("[[export]]\nshelf = 1\nslot = {slot}\npath = {path:?}\ninterfaces = [\"eth0\"]\n")
        });
        fs::write(&config, exports.concat())?;
        let words = ["daemon", "--config", &config, "--state-dir", &self.path("state")];
        Target::ready(&self.lab.target, &words, 2)
    }
}

/// Waits until `status` says something of the exports.
fn status_says(target: &Target, words: &str) -> Result<()> {
    eventually(words, TIMEOUT, || {
        let said = target.ask(&["status"])?.stdout;
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok(said
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .contains(words))
    })
}

/// A command that nobody may answer: it is sent once, and the other export is asked afterwards.
fn unanswered(initiator: &Initiator, command: u8, lba: u64, data: &[u8]) -> Result<()> {
    let witness = initiator.find(Address::new(1, 2))?;
    let request = Request::ata(target_mac(0), ADDRESS, command, lba, 1, data);
    let replies = initiator.answers(request, &witness)?;
    ensure!(replies.is_empty(), "{replies:?}");
    Ok(())
}

#[test]
fn a_server_sees_four_connections_flushes_and_trim() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-img"));
    for (more, released) in [(&[][..], "Zero"), (&["--filter=nozero"][..], "Trim")] {
        let site = Site::new()?;
        let (raw, log) = (site.raw(BYTES)?, site.path("log"));
        let logfile = format!("logfile={log}");
        let words = [
            &["--verbose", "--filter=log"][..],
            more,
            &["file", &raw, &logfile],
        ]
        .concat();
        let mut server = site.nbdkit(&words)?;
        let mut target = site.ready(&site.address(""))?;
        let initiator = site.lab.open(0)?;
        let disk = initiator.find(ADDRESS)?;
        let seen = || -> Result<String> { Ok(fs::read_to_string(&log)?) };
        let fourth = || Ok(seen()?.contains("connection=4 Connect"));
        eventually("four connections", TIMEOUT, fourth)?;
        server.wait_for("replying to NBD_OPT_STRUCTURED_REPLY with NBD_REP_ACK", TIMEOUT)?;

        for command in [ata::WRITE_EXT, ata::WRITE_FUA_EXT] {
            let before = seen()?.len();
            ensure!(disk.ata(command, 9, 1, &[7; SECTOR])?.status() & 1 == 0);
            let log = seen()?.split_off(before);
            let places = [" Write id", "...Write id", " Flush id", "...Flush id"].map(|line| log.find(line));
            ensure!(
                places.is_sorted() && places[0].is_some(),
                "not flushed before the answer:\n{log}"
            );
            ensure!(log.contains("offset=0x1200 count=0x200"), "{log}");
        }
        let before = seen()?.len();
        let range = (8u64 | 16 << 48).to_le_bytes();
        let ranges = [&range[..], &[0; SECTOR - 8]].concat();
        ensure!(disk.ata(ata::DATA_SET_MANAGEMENT, 0, 1, &ranges)?.status() & 1 == 0);
        let log = seen()?.split_off(before);
        ensure!(
            log.contains(&format!(" {released} id")) && log.contains("offset=0x1000 count=0x2000"),
            "{log}"
        );
        ensure!(disk.read(9, 1)? == [0; SECTOR]);
        ensure!(target.process.stop()? == 0);
        server.stop()?;
    }
    Ok(())
}

/// nbdkit's connections know the size from when they began.
#[test]
fn what_grows_is_served_and_what_shrinks_is_not() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-nbd"));
    let site = Site::new()?;
    let raw = site.raw(BYTES)?;
    let mut server = site.nbdkit(&["file", &raw])?;
    let healthy = Image::stamped(64)?;
    let target = site.daemon(&healthy)?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(ADDRESS)?;
    let grows = |to: u64| {
        eventually("the new size", TIMEOUT, || Ok(disk.identify()?.sectors() == to))?;
        disk.write(to - 1, &[1; SECTOR])?;
        ensure!(disk.read(to - 1, 1)? == [1; SECTOR]);
        Ok(())
    };
    ensure!(disk.identify()?.sectors() == SECTORS);
    site.raw(2 * BYTES)?;
    grows(2 * SECTORS)?;

    // Another server, with more.
    server.kill()?;
    site.raw(3 * BYTES)?;
    server = site.plain(&raw)?;
    grows(3 * SECTORS)?;

    // One with less gets nothing: it may have another image.
    server.kill()?;
    site.raw(BYTES)?;
    server = site.plain(&raw)?;
    status_says(&target, "the one that is served has 201326592")?;
    unanswered(&initiator, ata::WRITE_EXT, 5, &[9; SECTOR])?;
    ensure!(fs::read(&raw)?[5 * SECTOR..6 * SECTOR] == [0; SECTOR]);
    server.kill()?;
    site.raw(3 * BYTES)?;
    let _server = site.plain(&raw)?;
    disk.write(6, &[8; SECTOR])?;
    ensure!(disk.read(5, 2)? == [[9; SECTOR], [8; SECTOR]].concat());
    ensure!(target.ask(&["status"])?.status.code() == Some(0));
    Ok(())
}

#[test]
fn a_server_without_what_was_promised_gets_nothing() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-img"));
    let site = Site::new()?;
    let raw = site.raw(BYTES)?;
    let mut server = site.nbdkit(&["file", &raw])?;
    let healthy = Image::stamped(64)?;
    let target = site.daemon(&healthy)?;
    let initiator = site.lab.open(0)?;
    let disk = initiator.find(ADDRESS)?;
    disk.write(9, &[7; SECTOR])?;
    for (words, reason) in [
        (&["--filter=nozero", "file", &raw][..], "it cannot write zeros"),
        (&["--readonly", "file", &raw], "its export is read-only"),
    ] {
        server.kill()?;
        server = site.nbdkit(words)?;
        status_says(&target, reason)?;
        unanswered(&initiator, ata::READ_EXT, 9, &[])?;
    }
    server.kill()?;
    let _server = site.nbdkit(&["file", &raw])?;
    ensure!(disk.read(9, 1)? == [7; SECTOR]);
    ensure!(target.ask(&["status"])?.status.code() == Some(0));
    Ok(())
}

/// The operator takes an export out whose server does not answer, or is gone, or ends xblade: who waits for it hears nothing.
#[test]
fn what_a_removed_export_cannot_carry_out_gets_no_answer() -> Result<()> {
    needs!(Need::Root, Need::Tool("qemu-nbd"));
    for (is_gone, is_removed) in [(false, true), (true, true), (false, false)] {
        let site = Site::new()?;
        let mut server = site.qemu_nbd()?;
        let healthy = Image::stamped(64)?;
        let mut target = site.daemon(&healthy)?;
        let initiator = site.lab.open(0)?;
        initiator.find(ADDRESS)?.write(9, &[7; SECTOR])?;
        match is_gone {
            true => server.kill()?,
            false => server.signal(Signal::SIGSTOP)?,
        }
        let tags = [0x8100_0000, 0x8100_0001];
        let commands = [(ata::WRITE_EXT, &[8; SECTOR][..]), (ata::READ_EXT, &[])];
        for (tag, (command, data)) in tags.into_iter().zip(commands) {
            let mut request = Request::ata(target_mac(0), ADDRESS, command, 20, 1, data);
            (request.src, request.tag) = (initiator.mac(), tag);
            initiator.send(&request.bytes())?;
        }
        let witness = initiator.find(Address::new(1, 2))?;
        let mut heard = witness.barrier()?;
        if is_removed {
            ensure!(target.ask(&["export", "rm", "e1.1"])?.status.success());
            // The thread of such a store is called so.
            let is_closed = || Ok(!target.process.threads().contains("(nbd)"));
            eventually("the export is closed", TIMEOUT, is_closed)?;
            heard.extend(witness.barrier()?);
        }
        // A worker may be about to say what it has just heard.
        ensure!(target.process.stop()? == 0);
        if !is_gone {
            let left = "1 writes, none of which was acknowledged, are left to the server";
            target.process.wait_for(left, TIMEOUT)?;
        }
        while let Some(frame) = initiator.receive(Duration::ZERO)? {
            heard.push(frame);
        }
        // xblade's own questions are among the frames.
        for reply in heard.iter().filter_map(|frame| Reply::parse(frame).ok()) {
            ensure!(
                !tags.contains(&reply.tag),
                "is_gone {is_gone}, is_removed {is_removed}: {reply:?}"
            );
        }
        if !is_gone {
            server.signal(Signal::SIGCONT)?;
        }
    }
    Ok(())
}

/// nbdkit keeps what it has answered in memory here, and loses it.
#[test]
fn what_a_server_answers_from_memory_is_not_lost_with_it() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-img"));
    let site = Site::new()?;
    let raw = site.raw(BYTES)?;
    let cached = ["--filter=cache", "file", &raw];
    let mut server = site.nbdkit(&cached)?;
    let mut target = site.ready(&site.address(""))?;
    let mut writer = site.writer()?;
    for _ in 0..3 {
        writer.run_till(100, TIMEOUT)?;
        server.kill()?;
        server = site.nbdkit(&cached)?;
    }
    writer.run_till(100, TIMEOUT)?;
    writer.settle(TIMEOUT)?;
    writer.judge_by_reading()?.nothing_lost()?;
    ensure!(target.process.is_running());
    Ok(())
}

/// xblade is killed with a write at a server that is slow and lives: the server ends that before the next xblade begins anything.
#[test]
fn an_old_write_of_a_killed_xblade_does_not_come_after_newer_ones() -> Result<()> {
    needs!(Need::Root, Need::Tool("nbdkit"), Need::Tool("qemu-img"));
    let site = Site::new()?;
    let raw = site.raw(BYTES)?;
    let [hold, held, go] = ["hold", "held", "go"].map(|name| site.path(name));
    let pwrite = format!(
        "pwrite=if mv {hold} {held} 2>/dev/null; then while [ -e {held} ] && ! [ -e {go} ]; do sleep 0.05; done; fi; \
         dd of={raw} oflag=seek_bytes conv=notrunc seek=$4 bs=1M iflag=fullblock status=none"
    );
    let pread = format!(
        "pread=dd if={raw} iflag=count_bytes,skip_bytes,fullblock skip=$4 count=$3 bs=1M status=none"
    );
    let size = format!("get_size=echo {BYTES}");
    let _server = site.nbdkit(&[
        "eval",
        "thread_model=echo parallel",
        &size,
        &pread,
        &pwrite,
        "can_flush=exit 0",
        "flush=exit 0",
        "can_multi_conn=exit 0",
    ])?;
    // It has its scripts in a folder, which it leaves when it is killed.
    ensure!(
        fs::read_dir(site.path("tmp"))?.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("nbdkit"))
        })
    );
    let mut target = site.ready(&site.address(""))?;
    let initiator = site.lab.open(0)?;
    initiator.find(ADDRESS)?.write(5, &[1; SECTOR])?;
    fs::write(&hold, "")?;
    let send = |tag, data| {
        let mut request = Request::ata(target_mac(0), ADDRESS, ata::WRITE_EXT, 5, 1, &[data; SECTOR]);
        (request.src, request.tag) = (initiator.mac(), tag);
        initiator.send(&request.bytes())
    };
    send(0x8100_0000, 2)?;
    let is_held = || Ok(Path::new(&held).exists());
    eventually("the write is at the server", TIMEOUT, is_held)?;
    target.process.kill()?;

    let mut target = site.ready(&site.address(""))?;
    send(0x8100_0001, 3)?;
    target
        .process
        .wait_for("connections of clients that have ended", TIMEOUT)?;
    let content = || -> Result<Vec<u8>> { Ok(fs::read(&raw)?[5 * SECTOR..6 * SECTOR].to_vec()) };
    ensure!(
        content()? == [1; SECTOR],
        "the newer one went before the older one"
    );
    fs::write(&go, "")?;
    let disk = initiator.find(ADDRESS)?;
    disk.write(6, &[4; SECTOR])?;
    ensure!(disk.read(5, 1)? == [3; SECTOR]);
    ensure!(target.process.stop()? == 0);
    ensure!(content()? == [3; SECTOR]);
    Ok(())
}
