//! What can be tried without a cluster.

use std::path::Path;

use super::cluster::new_client;
use super::ffi::load;
use super::options::CephOptions;
use super::path::RbdPath;

#[test]
fn a_missing_library_is_named_with_the_package_that_brings_it() {
    let missing = load("librados.so.2", "librbd-that-nobody-has.so.1")
        .unwrap_err()
        .to_string();
    assert!(
        missing.starts_with("librbd-that-nobody-has.so.1 cannot be loaded (")
            && missing.ends_with("install the package librbd1"),
        "{missing}"
    );
}

#[test]
fn a_library_without_the_functions_is_told() {
    let old = load("libc.so.6", "libc.so.6").unwrap_err().to_string();
    assert!(old.starts_with("libc.so.6 has no ra"), "{old}");
}

#[test]
fn long_operations_are_cut() {
    let pieces: Vec<_> = super::cut(100, 25, 10).collect();
    assert_eq!(pieces, [(100, 10), (110, 10), (120, 5)]);
}

#[test]
fn a_client_without_a_key_and_a_cluster_that_is_away_are_told_apart() {
    if let Err(error) = super::available() {
        return crate::skip(&error.to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    let (conf, keyring) = (dir.path().join("ceph.conf"), dir.path().join("vm.keyring"));
    let options = CephOptions {
        conf: Some(conf.clone()),
        user: "vm".into(),
        clusters: 1,
    };
    let path = RbdPath::parse(Path::new("rbd:pool/image")).unwrap();
    let says = |more: &str, word: &str| {
        let text = format!(
            "[global]\nauth_client_required = cephx\nkeyring = {}\n{more}",
            keyring.display()
        );
        std::fs::write(&conf, text).unwrap();
        // Nobody is asked for longer than is needed here.
        let said = new_client(&options, &path, &[("client_mount_timeout", "1")]).unwrap_err();
        assert!(said.to_string().contains(word), "{word:?} in: {said}");
    };
    let nobody = "mon_host = 127.0.0.1:1\n";
    says(nobody, "there is no keyring of client.vm");
    says(nobody, &keyring.display().to_string());
    says("", "names no monitors");
    std::fs::write(
        &keyring,
        "[client.vm]\n\tkey = AQBJd4FlAAAAABAAJ7N4yKZcVn0Q0dJj0p6J8g==\n",
    )
    .unwrap();
    says(nobody, "the cluster is not reached");
}
