//! Why a client does not get into its cluster. librados tells a number only, and the same one for different causes: it is looked for what
//! the client's keyring, or the cluster's address, has to do with it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::error::Errno;
use super::ffi::Rados;

/// What is to be said, and done.
pub(super) fn explain(rados: &Rados, user: &str, errno: Errno) -> String {
    let monitors = rados.get("mon_host").unwrap_or_default();
    match errno.0 {
        libc::ETIMEDOUT if monitors.is_empty() => unreached("its monitors"),
        libc::ETIMEDOUT => unreached(&format!("its monitors (mon_host = {monitors})")),
        libc::ENOENT if monitors.is_empty() => format!(
            "{errno}: Ceph's configuration names no monitors: it needs `mon_host`, as on a node of the cluster"
        ),
        _ => match of_key(rados, user, errno) {
            Some(why) => format!("{errno}: {why}"),
            None if monitors.is_empty() => errno.to_string(),
            None => format!("{errno} (mon_host = {monitors})"),
        },
    }
}

fn unreached(monitors: &str) -> String {
    format!(
        "the cluster is not reached: {monitors} do not answer; look at the network, and at IPAddressAllow= and RestrictAddressFamilies= \
         where systemd runs xblade"
    )
}

/// What is wrong with the client's key; `None`: it needs none, or gives it elsewhere.
fn of_key(rados: &Rados, user: &str, errno: Errno) -> Option<String> {
    let get = |option: &str| rados.get(option).unwrap_or_default();
    let methods = [get("auth_supported"), get("auth_client_required")];
    let method = methods.iter().find(|method| !method.is_empty())?;
    if !method.contains("cephx") || !get("key").is_empty() || !get("keyfile").is_empty() {
        return None;
    }
    // As Ceph splits lists.
    let files = get("keyring");
    let files = files.split([',', ';', ' ', '\t', '\n']);
    let files: Vec<PathBuf> = files.filter(|file| !file.is_empty()).map(PathBuf::from).collect();
    judge(&files, user, errno)
}

/// The first keyring that can be opened is the one that counts.
fn judge(files: &[PathBuf], user: &str, errno: Errno) -> Option<String> {
    let first = files.first()?;
    let mut unreadable = None;
    for file in files {
        match File::open(file) {
            Ok(opened) => return of_keyring(file, opened, user, errno),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                unreadable.get_or_insert((file, error));
            }
        }
    }
    let uid = rustix::process::geteuid().as_raw();
    Some(match unreadable {
        Some((file, error)) => format!(
            "the keyring {} cannot be read by the user that xblade runs as (id {uid}): {error}; give it to that user alone (`chown {uid} {}`, \
             `chmod 600`), and let the user into its directory",
            file.display(),
            file.display()
        ),
        None => {
            let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
            format!(
                "there is no keyring of client.{user}: none of {} is there; make one on a node of the cluster (`ceph auth get-or-create \
                 client.{user} mon 'profile rbd' osd 'profile rbd'`) and put it to {}, or name another user (`user` of [ceph], --ceph-user)",
                names.join(", "),
                first.display()
            )
        }
    })
}

fn of_keyring(file: &Path, opened: File, user: &str, errno: Errno) -> Option<String> {
    const MOST: u64 = 1 << 20;
    let mut text = Vec::new();
    if let Err(error) = opened.take(MOST).read_to_end(&mut text) {
        return Some(format!("the keyring {} cannot be read: {error}", file.display()));
    }
    let text = String::from_utf8_lossy(&text);
    let clients: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix('[')?.strip_suffix(']'))
        .map(str::trim)
        .collect();
    let own = format!("client.{user}");
    let file = file.display();
    if clients.is_empty() {
        return Some(format!(
            "{file} is no keyring: it has no line such as [{own}] with a key below"
        ));
    }
    if !clients.contains(&own.as_str()) {
        return Some(format!(
            "the keyring {file} has no key of {own}, only of {}; name that user (`user` of [ceph], --ceph-user), or put the key of {own} there",
            clients.join(", ")
        ));
    }
    matches!(errno.0, libc::EACCES | libc::EPERM | libc::EOPNOTSUPP).then(|| {
        format!(
            "the cluster refuses the key of {own} in {file}: compare it with `ceph auth get {own}` on a node of the cluster"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "key = AQBJd4FlAAAAABAAJ7N4yKZcVn0Q0dJj0p6J8g==\n";

    #[test]
    fn a_keyring_that_is_no_use_is_named_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let files = [first.clone(), second.clone()];
        let says = |errno, words: &[&str]| {
            let said = judge(&files, "vm", Errno(errno)).unwrap_or_default();
            for word in words {
                assert!(said.contains(word), "{word:?} in: {said}");
            }
        };
        let path = first.display().to_string();
        says(libc::ENOENT, &["no keyring of client.vm", &path, "get-or-create"]);
        std::fs::write(&second, "nonsense").unwrap();
        says(libc::EIO, &["second is no keyring", "[client.vm]"]);
        std::fs::write(&second, format!("[client.admin]\n\t{KEY}")).unwrap();
        says(
            libc::EACCES,
            &["no key of client.vm", "client.admin", "--ceph-user"],
        );
        std::fs::write(&first, format!("[client.vm]\n\t{KEY}")).unwrap();
        says(libc::EACCES, &["refuses the key of client.vm", &path]);
        assert_eq!(
            judge(&files, "vm", Errno(libc::EIO)),
            None,
            "it is something else"
        );
        std::fs::remove_file(&first).unwrap();
        // No right is needed to follow a link, and nobody may follow this one.
        std::os::unix::fs::symlink(&first, &first).unwrap();
        std::fs::remove_file(&second).unwrap();
        says(libc::EACCES, &["cannot be read by the user", &path, "chown"]);
    }
}
