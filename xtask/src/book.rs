//! `cargo xtask book`: the book as a site, built by mdBook, with every link on its pages followed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::sh;

/// The version that is built where there is none.
const MDBOOK: &str = "mdbook@0.5.4";
/// Pages that mdBook adds: all chapters once more, and what is shown for a page that is not there.
const ADDED: [&str; 2] = ["print.html", "404.html"];

/// Options of `cargo xtask book`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the site is built.
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
}

/// Builds the site and follows its links.
pub(crate) fn run(args: &Args) -> Result<()> {
    let root = sh::root();
    let site = match &args.to {
        Some(folder) => std::path::absolute(folder)?,
        None => root.join("target/book"),
    };
    let mut build = Command::new(mdbook()?);
    sh::run(
        build
            .arg("build")
            .arg(root.join("docs"))
            .arg("--dest-dir")
            .arg(&site),
    )?;
    let (pages, missing) = follow(&site)?;
    ensure!(
        missing.is_empty(),
        "links that lead nowhere:\n  {}",
        missing.join("\n  ")
    );
    println!(
        "{pages} pages, no link leads nowhere: {}",
        site.join("index.html").display()
    );
    Ok(())
}

/// mdBook: the one in `PATH`, or one of ours in the build directory, built first if need be.
fn mdbook() -> Result<PathBuf> {
    let tools = sh::root().join("target/tools");
    let ours = tools.join("bin/mdbook");
    if let Some(found) = sh::find("mdbook").or_else(|| ours.is_file().then(|| ours.clone())) {
        return Ok(found);
    }
    eprintln!(
        "there is no mdbook here: building it in {}, which takes a minute or two",
        tools.display()
    );
    let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    install
        .args([
            "install",
            "--debug",
            "--locked",
            "--no-default-features",
            "--root",
        ])
        .arg(&tools)
        .arg(MDBOOK);
    sh::run(&mut install)?;
    Ok(ours)
}

/// How many pages there are, and which of their links within the site lead nowhere, each as `PAGE: LINK`.
fn follow(site: &Path) -> Result<(usize, Vec<String>)> {
    let read =
        |path: &Path| std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()));
    let (mut pages, mut missing) = (0, Vec::new());
    for entry in std::fs::read_dir(site).with_context(|| format!("reading {}", site.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.extension().is_none_or(|ending| ending != "html") || ADDED.contains(&&*name) {
            continue;
        }
        pages += 1;
        let page = read(&path)?;
        let links: BTreeSet<&str> = links(&page).collect();
        for link in links {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                site.join(file)
            };
            let is_there = target.exists()
                && (anchor.is_empty() || read(&target)?.contains(&format!("id=\"{anchor}\"")));
            if !is_there {
                missing.push(format!("{name}: {link}"));
            }
        }
    }
    missing.sort();
    Ok((pages, missing))
}

/// The links of a page, those to other sites left out.
fn links(page: &str) -> impl Iterator<Item = &str> {
    ["href=\"", "src=\""]
        .into_iter()
        .flat_map(|attribute| page.split(attribute).skip(1))
        .filter_map(|rest| rest.split_once('"'))
        .map(|(link, _)| link)
        .filter(|link| !link.is_empty() && !link.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_to_a_file_and_to_an_anchor_in_it() {
        let site = tempfile::tempdir().unwrap();
        let page = |name: &str, text: &str| std::fs::write(site.path().join(name), text).unwrap();
        page(
            "a.html",
            "<h2 id=\"here\"><a href=\"#here\">x</a><a href=\"b.html#there\">y</a><img src=\"c.svg\">",
        );
        page(
            "b.html",
            "<h2 id=\"there\"><a href=\"https://elsewhere.example/#x\">z</a>",
        );
        page("c.svg", "");
        page("print.html", "<a href=\"nowhere.html\">");
        assert_eq!(follow(site.path()).unwrap(), (2, Vec::new()));
        page(
            "b.html",
            "<a href=\"a.html#her\">a</a><a href=\"d.html\">d</a><img src=\"e.svg\">",
        );
        let missing = [
            "a.html: b.html#there",
            "b.html: a.html#her",
            "b.html: d.html",
            "b.html: e.svg",
        ];
        assert_eq!(
            follow(site.path()).unwrap(),
            (2, missing.map(str::to_owned).to_vec())
        );
    }
}
