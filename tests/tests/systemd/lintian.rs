//! Debian's own judge of packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::{container, needs, packages};

use super::package;

/// Runs lintian in a tree that is not written to. Arguments: an empty folder, the tree, the package.
const LINTIAN: &str = r#"
set -e
place=$1 tree=$2 package=$3
mount --make-rprivate /
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" "$place/root"
mount -t proc proc "$place/root/proc"
cp "$package" "$place/root/tmp/xblade.deb"
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 chroot "$place/root" \
    lintian --allow-root --no-cfg --fail-on error --tag-display-limit 0 /tmp/xblade.deb
"#;

fn tree() -> Result<PathBuf> {
    // The second is what provides perl-openssl-abi-3: debootstrap does not see what packages provide.
    let include = ["lintian", "perl-openssl-defaults"];
    packages::debian("bookworm-lintian", "bookworm", &include)
}

fn judge(package: &Path) -> Result<(bool, String)> {
    let place = tempfile::Builder::new().prefix("xblade-lintian-").tempdir()?;
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", LINTIAN, "sh"])
        .args([place.path(), &tree()?, package])
        .output()
        .context("starting unshare")?;
    let said = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

#[test]
fn lintian_finds_no_errors() -> Result<()> {
    needs!(container::NEEDS[0], container::NEEDS[1]);
    let folder = tempfile::Builder::new().prefix("xblade-package-").tempdir()?;
    let (good, said) = judge(&package::build(folder.path(), "0.1.0")?)?;
    ensure!(good && !said.lines().any(|line| line.starts_with("E:")), "{said}");
    // It has looked: a package without a copyright has an error.
    let tree = folder.path().join("0.1.0");
    std::fs::remove_file(tree.join("usr/share/doc/xblade/copyright"))?;
    let bad = folder.path().join("bad.deb");
    let made = Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
        .args([&tree, &bad])
        .output()?;
    ensure!(made.status.success(), "{made:?}");
    let (good, said) = judge(&bad)?;
    ensure!(!good && said.contains("no-copyright-file"), "{said}");
    Ok(())
}
