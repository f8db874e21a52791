//! A Ceph cluster of one monitor and one OSD or two, for a test: some seven seconds to start, and nothing of the machine's is touched. No
//! systemd, no manager, no cephx.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::needs::Need;
use crate::net::Namespace;
use crate::packages;
use crate::process::Process;

/// What it takes.
pub const NEEDS: [Need; 5] = [
    Need::Root,
    Need::Tool("ceph-mon"),
    Need::Tool("ceph-osd"),
    Need::Tool("ceph"),
    Need::Tool("rbd"),
];

/// How long the cluster may take to store its first object.
const START: Duration = Duration::from_secs(120);

/// Where a cluster for one namespace is.
const LOOPBACK: &str = "127.0.0.1";

/// Keeps an OSD's data in a file.
const BLUESTORE: &str = "bluestore";
/// Placement groups of a pool.
const GROUPS: usize = 8;

/// What a cluster is made of.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    objectstore: &'a str,
    address: &'a str,
    keys: bool,
    osds: usize,
}

impl Default for Parts<'_> {
    fn default() -> Self {
        Parts {
            objectstore: "memstore",
            address: LOOPBACK,
            keys: false,
            osds: 1,
        }
    }
}

/// The cluster. All that talks to it is in the namespace that it was started in.
#[derive(Debug)]
pub struct Ceph {
    // Dropped in this order.
    osds: Vec<Process>,
    monitor: Process,
    directory: TempDir,
}

impl Ceph {
    /// Starts a cluster with a pool `rbd` that keeps its data in memory, and waits until it stores objects.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(namespace: &Namespace) -> Result<Ceph> {
        Ceph::start_with(namespace, Parts::default())
    }

    /// The same for clients of other namespaces, at an address that this one has.
    ///
    /// # Errors
    /// As [`Ceph::start`].
    pub fn start_at(namespace: &Namespace, address: &str) -> Result<Ceph> {
        let parts = Parts {
            address,
            ..Parts::default()
        };
        Ceph::start_with(namespace, parts)
    }

    /// The same with an OSD that keeps its data in a file, and may be killed and started again.
    ///
    /// # Errors
    /// As [`Ceph::start`].
    pub fn start_on_disk(namespace: &Namespace) -> Result<Ceph> {
        let parts = Parts {
            objectstore: BLUESTORE,
            ..Parts::default()
        };
        Ceph::start_with(namespace, parts)
    }

    /// The same with two of them, and each object on both. One is enough to go on.
    ///
    /// # Errors
    /// As [`Ceph::start`].
    pub fn start_with_two_osds(namespace: &Namespace) -> Result<Ceph> {
        let parts = Parts {
            objectstore: BLUESTORE,
            osds: 2,
            ..Parts::default()
        };
        Ceph::start_with(namespace, parts)
    }

    /// The same with authentication (cephx), and a client `xblade` with the least rights: to the images of the pool `rbd`.
    ///
    /// # Errors
    /// As [`Ceph::start`].
    pub fn start_with_keys(namespace: &Namespace) -> Result<Ceph> {
        let parts = Parts {
            keys: true,
            ..Parts::default()
        };
        let cluster = Ceph::start_with(namespace, parts)?;
        let conf = cluster.conf();
        let keyring = cluster.path("xblade.keyring").display().to_string();
        let words = [
            "-c",
            &conf,
            "auth",
            "get-or-create",
            "client.xblade",
            "mon",
            "profile rbd",
            "osd",
            "profile rbd pool=rbd",
            "-o",
            &keyring,
        ];
        run(namespace, "ceph", &words)?;
        Ok(cluster)
    }

    /// The same at an address that the namespace has, without any pool or client but the administrator's.
    ///
    /// # Errors
    /// As [`Ceph::start`].
    pub fn start_empty_with_keys(namespace: &Namespace, address: &str) -> Result<Ceph> {
        let parts = Parts {
            address,
            keys: true,
            ..Parts::default()
        };
        Ceph::start_daemons(namespace, parts)
    }

    fn start_with(namespace: &Namespace, parts: Parts<'_>) -> Result<Ceph> {
        let cluster = Ceph::start_daemons(namespace, parts)?;
        cluster.pool(namespace, "rbd")?;
        Ok(cluster)
    }

    fn start_daemons(namespace: &Namespace, parts: Parts<'_>) -> Result<Ceph> {
        let directory = tempfile::Builder::new().prefix("xblade-ceph-").tempdir()?;
        let at = directory.path().to_str().context("odd path")?.to_owned();
        let fsid = uuid()?;
        let mut conf = configuration(&at, &fsid, parts)?;
        if parts.keys {
            conf = conf.replace("_required = none", "_required = cephx");
            write!(
                conf,
                "keyring = {at}/keyring\n[client.xblade]\nkeyring = {at}/xblade.keyring\n"
            )?;
        }
        let file = format!("{at}/ceph.conf");
        fs::write(&file, conf)?;
        for folder in ["mon", "run"] {
            fs::create_dir(directory.path().join(folder))?;
        }
        let map = format!("{at}/monmap");
        let address = parts.address;
        let monitors = format!("[v2:{address}:3300,v1:{address}:6789]");
        let run = |program: &str, words: &[&str]| run(namespace, program, words);
        run(
            "monmaptool",
            &["--create", "--fsid", &fsid, "--addv", "a", &monitors, &map],
        )?;
        let mut making = vec!["-c", &file, "-i", "a", "--mkfs", "--monmap", &map];
        let keyring = format!("{at}/keyring");
        if parts.keys {
            make_keys(namespace, &keyring)?;
            making.extend(["--keyring", &keyring]);
        }
        run("ceph-mon", &making)?;
        let monitor = Process::spawn(namespace, "ceph-mon", &["-c", &file, "-i", "a", "-f"])?;
        let mut osds = Vec::new();
        for number in 0..parts.osds {
            fs::create_dir(directory.path().join(format!("osd-{number}")))?;
            let (id, number_word) = (uuid()?, number.to_string());
            let new = ["-c", &file, "--connect-timeout", "60", "osd", "new", &id];
            run("ceph", &new)?;
            let make = ["-c", &file, "-i", &number_word, "--mkfs", "--osd-uuid", &id];
            run("ceph-osd", &make)?;
            osds.push(start_osd(namespace, &file, number)?);
        }
        Ok(Ceph {
            osds,
            monitor,
            directory,
        })
    }

    /// Makes a pool for images, and waits until it stores one. The states of its placement groups are a manager's business, and there is
    /// none: whoever asks for them waits for ever.
    ///
    /// # Errors
    /// When it does not store anything.
    pub fn pool(&self, namespace: &Namespace, name: &str) -> Result<()> {
        self.ceph(namespace, &format!("osd pool create {name} {GROUPS}"))?;
        self.ceph(namespace, &format!("osd pool application enable {name} rbd"))?;
        let begin = Instant::now();
        self.rbd(namespace, &format!("create --size 1M {name}/probe"))?;
        self.rbd(namespace, &format!("rm --no-progress {name}/probe"))?;
        ensure!(
            begin.elapsed() < START,
            "the first image took {:?}",
            begin.elapsed()
        );
        Ok(())
    }

    /// Ceph's configuration file.
    pub fn conf(&self) -> String {
        self.path("ceph.conf").to_string_lossy().into_owned()
    }

    /// A file in the cluster's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// The cluster's folder.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The first OSD, to be stopped or killed.
    pub fn osd(&mut self) -> &mut Process {
        &mut self.osds[0]
    }

    /// All of them.
    pub fn osds(&mut self) -> &mut [Process] {
        &mut self.osds
    }

    /// The monitor, to be stopped.
    pub fn monitor(&mut self) -> &mut Process {
        &mut self.monitor
    }

    /// Kills the first OSD, and starts it again when `meanwhile` is over.
    ///
    /// # Errors
    /// When it cannot be started, or what happens meanwhile fails.
    pub fn kill_osd(&mut self, namespace: &Namespace, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        self.osds[0].kill()?;
        meanwhile()?;
        self.start_osd(namespace, 0)
    }

    /// Starts an OSD that was killed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_osd(&mut self, namespace: &Namespace, number: usize) -> Result<()> {
        self.osds[number] = start_osd(namespace, &self.conf(), number)?;
        Ok(())
    }

    /// Waits until everything in the first pool is on all OSDs that it belongs on.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_clean(&self, namespace: &Namespace) -> Result<()> {
        let begin = Instant::now();
        for group in 0..GROUPS {
            loop {
                // Asks the OSD that leads the placement group, which answers without a manager.
                let told = self.ceph(namespace, &format!("tell 1.{group} query"))?;
                let state = told.lines().find(|line| line.contains("\"state\""));
                if state.is_some_and(|line| line.contains("\"active+clean\"")) {
                    break;
                }
                ensure!(begin.elapsed() < START, "placement group {group}: {state:?}");
            }
        }
        Ok(())
    }

    /// Runs `rbd` with these words.
    ///
    /// # Errors
    /// When it fails.
    pub fn rbd(&self, namespace: &Namespace, words: &str) -> Result<String> {
        let conf = self.conf();
        let words: Vec<&str> = words.split_whitespace().collect();
        run(namespace, "rbd", &[&["-c", conf.as_str()], &words[..]].concat())
    }

    /// Runs `ceph` with these words.
    ///
    /// # Errors
    /// When it fails.
    pub fn ceph(&self, namespace: &Namespace, words: &str) -> Result<String> {
        let conf = self.conf();
        let words: Vec<&str> = words.split_whitespace().collect();
        run(
            namespace,
            "ceph",
            &[&["-c", conf.as_str(), "--connect-timeout", "60"], &words[..]].concat(),
        )
    }

    /// The addresses of the clients that have an image open for writing.
    ///
    /// # Errors
    /// When the cluster does not tell.
    pub fn watchers(&self, namespace: &Namespace, image: &str) -> Result<Vec<String>> {
        let status = self.rbd(namespace, &format!("status {image}"))?;
        let addresses = status
            .split_whitespace()
            .filter_map(|word| word.strip_prefix("watcher="));
        Ok(addresses.map(str::to_owned).collect())
    }
}

/// The keys of the daemons and of the administrator.
fn make_keys(namespace: &Namespace, keyring: &str) -> Result<()> {
    for (name, rights) in [
        ("mon.", &["--cap", "mon", "allow *"][..]),
        (
            "client.admin",
            &["--cap", "mon", "allow *", "--cap", "osd", "allow *"],
        ),
        (
            "osd.0",
            &["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *"],
        ),
    ] {
        let words = [
            &["--create-keyring", keyring][usize::from(name != "mon.")..],
            &["--gen-key", "-n", name],
            rights,
        ]
        .concat();
        run(namespace, "ceph-authtool", &words)?;
    }
    Ok(())
}

fn start_osd(namespace: &Namespace, conf: &str, number: usize) -> Result<Process> {
    let number = number.to_string();
    Process::spawn(namespace, "ceph-osd", &["-c", conf, "-i", &number, "-f"])
}

fn run(namespace: &Namespace, program: &str, words: &[&str]) -> Result<String> {
    // However it hangs, the test has an end.
    let mut command = Command::new("timeout");
    command.arg(START.as_secs().to_string());
    command.args(words_of(program)).args(words);
    namespace
        .output(command)
        .with_context(|| format!("{program} {}", words.join(" ")))
}

/// The words that start a program of Ceph's, wherever its packages are.
pub fn words_of(program: &str) -> Vec<OsString> {
    let mut words = packages::words(program);
    let modules = packages::find_file("/usr/lib/python3/dist-packages/ceph_argparse.py");
    if let Some(modules) = modules.as_deref().and_then(Path::parent) {
        let mut path = OsString::from("PYTHONPATH=");
        path.push(modules);
        words.splice(0..0, ["env".into(), path]);
    }
    words
}

fn uuid() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?
        .trim()
        .to_owned())
}

fn configuration(at: &str, fsid: &str, parts: Parts<'_>) -> Result<String> {
    let Parts {
        objectstore,
        address,
        osds,
        ..
    } = parts;
    // However full the disk of the test's machine is: else the monitor ends where less than a twentieth of it is free.
    let mut conf = format!(
        "[global]\n\
         fsid = {fsid}\n\
         mon_host = [v2:{address}:3300,v1:{address}:6789]\n\
         public_addr = {address}\n\
         auth_cluster_required = none\n\
         auth_service_required = none\n\
         auth_client_required = none\n\
         run_dir = {at}/run\n\
         admin_socket = {at}/run/$name.$pid.asok\n\
         pid_file =\n\
         log_file = {at}/$name.log\n\
         log_to_stderr = false\n\
         mon_data = {at}/mon\n\
         osd_data = {at}/osd-$id\n\
         osd_objectstore = {objectstore}\n\
         memstore_device_bytes = 1073741824\n\
         bluestore_block_size = 2147483648\n\
         bluestore_block_db_create = false\n\
         bluestore_block_wal_create = false\n\
         osd_memory_target = 939524096\n\
         osd_pool_default_size = {osds}\n\
         osd_pool_default_min_size = 1\n\
         osd_pool_default_pg_num = 8\n\
         osd_pool_default_pg_autoscale_mode = off\n\
         osd_crush_chooseleaf_type = 0\n\
         osd_class_update_on_start = false\n\
         mon_osd_min_down_reporters = 1\n\
         mon_allow_pool_size_one = true\n\
         mon_allow_pool_delete = true\n\
         mon_warn_on_pool_no_redundancy = false\n\
         mon_data_avail_crit = 0\n"
    );
    if objectstore == BLUESTORE {
        // After a kill nothing is served for four fifths of it, since a dead OSD might still think that it may answer. Not where an OSD is stopped and goes
        // on: with one replica a placement group whose lease ended meanwhile was seen to wait for minutes (16.2).
        conf.push_str("osd_heartbeat_grace = 6\n");
    }
    // Plugins lie where the packages were unpacked.
    let libraries = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    for (option, folder) in [
        ("plugin_dir", "ceph"),
        ("erasure_code_dir", "ceph/erasure-code"),
        ("osd_class_dir", "rados-classes"),
    ] {
        let found = packages::find_file(&format!("{libraries}/{folder}"));
        let found = found.with_context(|| format!("no {libraries}/{folder}"))?;
        writeln!(conf, "{option} = {}", found.canonicalize()?.display())?;
    }
    Ok(conf)
}
