//! `[ceph]`: how the images of `store = "rbd"` are reached, the same for all exports.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::reader::{Keys, Mistake, number, text};
use super::values::Number;
use crate::store::CephOptions;

/// Clients of a Ceph cluster that images are spread over; each has some five threads.
const CLUSTERS: Number = Number::new("a number of clients", 1, 64, "");

pub(super) fn read(file: &Path, table: &DeTable<'_>, mistakes: &mut Vec<Mistake>) -> CephOptions {
    let mut ceph = CephOptions::default();
    let mut keys = Keys::new(table, mistakes);
    ceph.conf = keys.get("conf", text(|text| read_conf(file, text)));
    keys.set("user", &mut ceph.user, text(user));
    keys.set("clusters", &mut ceph.clusters, number(CLUSTERS));
    keys.finish(&[]);
    ceph
}

fn read_conf(file: &Path, text: &str) -> Result<PathBuf, String> {
    if text.is_empty() || text.contains('\0') {
        return Err("the path of Ceph's configuration file is needed".into());
    }
    Ok(file.parent().unwrap_or(Path::new("")).join(text))
}

/// The name of a Ceph client, with or without the `client.` that Ceph puts before it.
///
/// # Errors
/// When it is none.
pub(crate) fn user(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("client.").unwrap_or(text);
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_graphic()) {
        return Err("the name of a Ceph client is needed, as in \"xblade\" for client.xblade".into());
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::file::parse;
    use super::super::{ExportConfig, StoreKind};
    use super::*;

    #[test]
    fn images_in_ceph_choose_their_store_and_start_nowhere() {
        let text = "[ceph]\nconf = \"lab/ceph.conf\"\nuser = \"client.disks\"\nclusters = 3\n\
                [[export]]\nshelf = 1\nslot = 1\npath = \"rbd:p/n/i\"\ninterfaces = [\"eth0\"]\n\
                [[export]]\nshelf = 1\nslot = 2\npath = \"rbd:p/i@s\"\nstore = \"rbd\"\ninterfaces = [\"eth0\"]\n\
                [[export]]\nshelf = 1\nslot = 3\npath = \"./rbd:p\"\ninterfaces = [\"eth0\"]\n";
        let exports = parse(Path::new("/etc/xblade/xblade.toml"), text.into())
            .unwrap()
            .config
            .exports;
        let of = |export: &ExportConfig| {
            (
                export.path.to_str().unwrap().to_owned(),
                export.store,
                export.read_only,
            )
        };
        assert_eq!(of(&exports[0]), ("rbd:p/n/i".into(), StoreKind::Rbd, false));
        assert_eq!(of(&exports[1]), ("rbd:p/i@s".into(), StoreKind::Rbd, true));
        assert_eq!(
            of(&exports[2]),
            ("/etc/xblade/./rbd:p".into(), StoreKind::Mmap, false)
        );
        let ceph = &exports[0].ceph;
        assert_eq!(
            (ceph.conf.as_deref(), ceph.user.as_str(), ceph.clusters),
            (Some(Path::new("/etc/xblade/lab/ceph.conf")), "disks", 3)
        );
    }

    #[test]
    fn an_address_of_an_nbd_server_chooses_its_store() {
        let of = |path: &str| {
            let text = format!("[[export]]\nshelf = 1\nslot = 1\ninterfaces = [\"eth0\"]\npath = {path:?}\n");
            let config = parse(Path::new("/etc/xblade/xblade.toml"), text).unwrap().config;
            let export = &config.exports[0];
            (export.path.to_str().unwrap().to_owned(), export.store)
        };
        for path in ["nbd://h/disk", "nbd+unix:///?socket=/run/s"] {
            assert_eq!(of(path), (path.to_owned(), StoreKind::Nbd));
        }
        assert_eq!(of("nbd"), ("/etc/xblade/nbd".to_owned(), StoreKind::Mmap));
    }

    #[test]
    fn an_address_is_whole_and_has_the_store_that_it_needs() {
        for (line, column) in [
            ("path = \"rbd:p\"", 8),
            ("path = \"rbd:p/i\"\nstore = \"direct\"", 9),
            ("path = \"nbd+unix:///rbd:\"", 8),
            ("path = \"nbd://rbd:1/i\"\nstore = \"rbd\"", 9),
        ] {
            let text = format!("[[export]]\nshelf = 1\nslot = 1\ninterfaces = [\"eth0\"]\n{line}\n");
            let problems = parse(Path::new("x.toml"), text).unwrap_err().to_string();
            assert!(
                problems.contains(&format!(":{column}: "))
                    && (problems.contains("rbd:") || problems.contains("nbd+unix:")),
                "{problems}"
            );
        }
    }
}
