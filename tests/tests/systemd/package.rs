//! The Debian package, put together by dpkg-deb from what cargo-deb reads: `[package.metadata.deb]` of the binary's manifest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lab::target;

/// Where the manifest is.
fn manifest_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../aoe-user")
}

/// Builds the package with this version in its name and control file, into `folder`.
pub(crate) fn build(folder: &Path, version: &str) -> Result<PathBuf> {
    let text = fs::read_to_string(manifest_folder().join("Cargo.toml"))?;
    let manifest: toml::Table = text.parse()?;
    let deb = manifest["package"]["metadata"]["deb"]
        .as_table()
        .context("no [package.metadata.deb]")?;
    let made = folder.join("made");
    make_generated_files(&made)?;
    let tree = folder.join(version);
    for asset in deb["assets"].as_array().context("no assets")? {
        let field = |n: usize| asset.get(n).and_then(toml::Value::as_str).context("an odd asset");
        add(&tree, &made, field(0)?, field(1)?, field(2)?)?;
    }
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let field = |name: &str| {
        deb.get(name)
            .and_then(toml::Value::as_str)
            .with_context(|| format!("no {name}"))
    };
    let workspace: toml::Table = fs::read_to_string(manifest_folder().join("../Cargo.toml"))?.parse()?;
    let summary = workspace["workspace"]["package"]["description"].as_str();
    let described: String = field("extended-description")?
        .lines()
        .map(|line| format!(" {line}\n"))
        .collect();
    fs::write(
        control.join("control"),
        format!(
            "Package: {}\nVersion: {version}\nArchitecture: amd64\nMaintainer: {}\nSection: {}\nPriority: {}\nDepends: libc6\n\
             Description: {}\n{described}",
            field("name")?,
            field("maintainer")?,
            field("section")?,
            field("priority")?,
            summary.context("no description")?
        ),
    )?;
    let changelog = manifest_folder().join(field("changelog")?);
    copy(
        &changelog,
        &tree.join("usr/share/doc/xblade/changelog.Debian"),
        0o644,
    )?;
    finish(&tree)?;
    let conffiles = deb["conf-files"].as_array().context("no conf-files")?;
    let conffiles: String = conffiles
        .iter()
        .filter_map(toml::Value::as_str)
        .map(|file| format!("{file}\n"))
        .collect();
    fs::write(control.join("conffiles"), conffiles)?;
    for script in ["postinst", "prerm", "postrm"] {
        let from = manifest_folder().join(field("maintainer-scripts")?).join(script);
        copy(&from, &control.join(script), 0o755)?;
    }
    let package = folder.join(format!("xblade_{version}.deb"));
    run(Command::new("dpkg-deb")
        .args(["--root-owner-group", "-Zgzip", "-z1", "--build"])
        .arg(&tree)
        .arg(&package))?;
    Ok(package)
}

/// What cargo-deb does to the files by itself: binaries are stripped, what is read by eye is packed.
fn finish(tree: &Path) -> Result<()> {
    run(Command::new("strip").arg(tree.join("usr/sbin/xblade")))?;
    let mut texts = vec![tree.join("usr/share/doc/xblade/changelog.Debian")];
    for section in ["man5", "man8"] {
        let pages = fs::read_dir(tree.join("usr/share/man").join(section))?;
        texts.extend(pages.flatten().map(|page| page.path()));
    }
    run(Command::new("gzip").args(["--best", "--no-name"]).args(texts))
}

/// Man pages and completions, by the binary.
fn make_generated_files(made: &Path) -> Result<()> {
    let binary = target::binary()?;
    fs::create_dir_all(made.join("completions"))?;
    run(Command::new(&binary).arg("man").arg(made.join("man")))?;
    for (shell, file) in [("bash", "xblade"), ("zsh", "_xblade"), ("fish", "xblade.fish")] {
        let output = Command::new(&binary).args(["completions", shell]).output()?;
        fs::write(made.join("completions").join(file), output.stdout)?;
    }
    Ok(())
}

/// Adds the files that a pattern means (a name, or `*` and an ending as the last part) under `to`: a folder, or the file itself.
fn add(tree: &Path, made: &Path, pattern: &str, to: &str, mode: &str) -> Result<()> {
    let mode = u32::from_str_radix(mode, 8)?;
    let source = match (pattern, pattern.strip_prefix("../target/")) {
        ("target/release/xblade", _) => PathBuf::from(target::binary()?),
        (_, Some(rest)) => made.join(rest),
        _ => manifest_folder().join(pattern),
    };
    let name = source
        .file_name()
        .and_then(|name| name.to_str())
        .context("no name")?;
    let folder = source.parent().context("no folder")?;
    let files = match name.strip_prefix('*') {
        Some(ending) => fs::read_dir(folder)?
            .map(|entry| Ok(entry?.path()))
            .filter(|path| {
                path.as_ref()
                    .map_or(true, |path| path.to_string_lossy().ends_with(ending))
            })
            .collect::<Result<Vec<PathBuf>>>()?,
        None => vec![source.clone()],
    };
    ensure!(!files.is_empty(), "{pattern} means no file");
    for file in files {
        let mut at = tree.join(to);
        if to.ends_with('/') {
            at.push(file.file_name().context("no name")?);
        }
        copy(&file, &at, mode)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(to.parent().context("no folder")?)?;
    fs::copy(from, to).with_context(|| format!("copying {}", from.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {output:?}");
    Ok(())
}
