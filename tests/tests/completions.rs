//! The completions are loaded by the shells that they are for, which then complete.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use lab::needs::Need;
use lab::{needs, packages, target};

/// What is typed, and the only word that it can become.
const TYPED: [(&str, &str); 3] = [
    ("xblade export pa", "pause"),
    ("xblade ls --no-h", "--no-header"),
    ("xblade failover re", "release"),
];

/// Completes $2 … as bash does at the tab key, with the completions in the file $1.
const BASH: &str = r#"
source "$1"
[[ $(complete -p xblade) == *_xblade* ]] || exit 1
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_xblade xblade "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// The tab key itself, typed into a zsh in a terminal, with the completions in the folder $1.
const ZSH: &str = r#"
zmodload zsh/zpty || exit 1
zpty shell "TERM=dumb zsh -f -i"
zpty -w shell "PS1= ; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; echo loaded[\$_comps[xblade]]"
zpty -r -m shell seen '*loaded\[_xblade\]*' || exit 1
zpty -w -n shell "$2"$'\t'
zpty -r -m shell seen "*$3 *" || exit 1
print -r -- "$3"
zpty -d shell
"#;

const FISH: &str = "source $argv[1]; complete -C $argv[2]";

fn run(command: &mut Command) -> Result<String> {
    let output: Output = command
        .output()
        .with_context(|| format!("starting {command:?}"))?;
    ensure!(
        output.status.success() && output.stderr.is_empty(),
        "{command:?}: {output:?}"
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Writes what `xblade completions SHELL` prints.
fn write_completions(shell: &str, file: &Path) -> Result<()> {
    let text = run(Command::new(target::binary()?).args(["completions", shell]))?;
    Ok(std::fs::write(file, text)?)
}

/// Each of what is typed becomes what it should, and nothing else.
fn completes(complete: impl Fn(&str, &str) -> Result<String>) -> Result<()> {
    for (typed, expected) in TYPED {
        let found = complete(typed, expected).with_context(|| typed.to_owned())?;
        let words: Vec<&str> = found
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        ensure!(words == [expected], "{typed}: {found:?}");
    }
    Ok(())
}

#[test]
fn bash_completes() -> Result<()> {
    needs!(Need::Tool("bash"));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("xblade");
    write_completions("bash", &file)?;
    completes(|typed, _| {
        let mut bash = packages::command("bash");
        bash.args(["--norc", "-c", BASH, "bash"]).arg(&file);
        run(bash.args(typed.split(' ')))
    })
}

#[test]
fn zsh_completes() -> Result<()> {
    needs!(
        Need::File("/usr/share/zsh/functions/Completion/compinit"),
        Need::Tool("zsh")
    );
    let folder = tempfile::tempdir()?;
    write_completions("zsh", &folder.path().join("_xblade"))?;
    completes(|typed, expected| {
        // One that does not complete says nothing more.
        let mut zsh = Command::new("timeout");
        zsh.args(["60", "zsh", "-f", "-c", ZSH, "zsh"]).arg(folder.path());
        run(zsh.args([typed, expected]))
    })
}

#[test]
fn fish_completes() -> Result<()> {
    needs!(Need::Tool("fish"));
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("xblade.fish");
    write_completions("fish", &file)?;
    completes(|typed, _| {
        let mut fish = packages::command("fish");
        // It would write into the user's home.
        fish.env("HOME", folder.path());
        run(fish.args(["--no-config", "-c", FISH]).arg(&file).arg(typed))
    })
}
