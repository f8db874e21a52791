//! What `deny.toml` says of dependencies, held against the lock file: licences and duplicate versions.
//!
//! Advisories need their database from the network: `cargo deny check advisories`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use toml::Table;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every package that a build on this machine may use, ours included.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {complaint}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON of cargo metadata");
    let listed = metadata["packages"].as_array().expect("a list of packages");
    // `packages` names other platforms' too; `resolve` only what is built here.
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a resolved graph");
    let built: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let is_built = |package: &&Value| package["id"].as_str().is_some_and(|id| built.contains(id));
    listed.iter().filter(is_built).cloned().collect()
}

fn policy() -> Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

fn field<'a>(package: &'a Value, name: &str) -> &'a str {
    package[name].as_str().unwrap_or("")
}

/// Whether an SPDX expression (or cargo's older `A/B`) is satisfied by the licences of `allowed` alone.
fn is_satisfied(expression: &str, allowed: &[&str]) -> bool {
    let expression = expression.replace('/', " OR ");
    let any_of = |part: &str| {
        part.split(" OR ")
            .any(|licence| allowed.contains(&licence.trim_matches([' ', '(', ')'])))
    };
    expression.split(" AND ").all(any_of)
}

#[test]
fn every_licence_is_on_the_list() {
    let policy = policy();
    let allowed = policy["licenses"]["allow"].as_array().expect("licenses.allow");
    let allowed: Vec<&str> = allowed.iter().filter_map(|licence| licence.as_str()).collect();
    assert!(!is_satisfied("GPL-3.0-only", &allowed));
    for package in packages() {
        let (name, licence) = (field(&package, "name"), field(&package, "license"));
        assert!(
            is_satisfied(licence, &allowed),
            "{name} is under `{licence}`: not in deny.toml"
        );
    }
}

#[test]
fn a_crate_is_built_in_one_version() {
    let policy = policy();
    let skipped = policy["bans"]["skip"].as_array().expect("bans.skip");
    let mut unused: BTreeSet<&str> = skipped
        .iter()
        .filter_map(|entry| entry["crate"].as_str())
        .collect();
    let mut versions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages() {
        let of_name = versions.entry(field(&package, "name").to_owned()).or_default();
        of_name.push(field(&package, "version").to_owned());
    }
    let mut unlisted = Vec::new();
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        let known: Vec<&str> = (unused.iter().copied())
            .filter(|entry| {
                let (crate_name, version) = entry.split_once('@').expect("name@version");
                crate_name == name
                    && versions
                        .iter()
                        .any(|found| found.starts_with(&format!("{version}.")))
            })
            .collect();
        if known.len() + 1 < versions.len() {
            unlisted.push(format!("{name} {}", versions.join(", ")));
        }
        unused.retain(|entry| !known.contains(entry));
    }
    assert!(unlisted.is_empty(), "built in several versions: {unlisted:?}");
    assert!(
        unused.is_empty(),
        "in one version again, take them out of deny.toml: {unused:?}"
    );
}

/// Packages below one of ours, each with the features that it is built with there.
fn features_below(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--package", package])
        .args([
            "--edges=normal,build",
            "--prefix=none",
            "--no-dedupe",
            "--format={p} {f}",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(str::to_owned).collect()
}

/// `cargo xtask run` builds xtask and then xblade: what both use with the same features is built once.
#[test]
fn xtask_and_xblade_build_what_they_share_once() {
    let [ours, theirs] = ["xtask", "xblade"].map(features_below);
    let name = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let shared: BTreeSet<String> = theirs.iter().map(|line| name(line)).collect();
    let twice: Vec<&String> = ours
        .iter()
        .filter(|line| shared.contains(&name(line)) && !theirs.contains(*line))
        .collect();
    assert!(
        twice.is_empty(),
        "ask for their features in xtask/Cargo.toml: {twice:?}"
    );
}
