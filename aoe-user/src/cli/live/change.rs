//! `xblade reload`, `export`, `log`: what changes a running target.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::DEGRADED;
use super::args::{Ask, ChosenExports, ExportAction, LogArgs, ReloadArgs};
use super::client::ControlClient;
use super::save::{NewFile, OldFiles};
use crate::cli::output;
use crate::config::device;
use crate::control::api::reloaded::{Reloaded, Replaced};
use crate::control::api::types::{ControlRequest, LogLine, LogLines, SCHEMA};
use crate::store::RemotePath;

pub(in crate::cli) fn reload(args: &ReloadArgs) -> Result<ExitCode> {
    let request = ControlRequest::Reload {
        dry_run: args.dry_run,
    };
    let reloaded = ControlClient::new(&args.target)?.ask(&request)?;
    tell(&reloaded, Kept::Reloaded, args.json)
}

/// Whether a change outlives the next reload.
#[derive(Debug)]
enum Kept {
    /// It came from the file.
    Reloaded,
    /// It does not.
    No,
    /// What was done to these files.
    Files(&'static str, Result<Vec<String>>),
}

impl Kept {
    fn of(what: &'static str, files: Option<Result<Vec<String>>>) -> Kept {
        files.map_or(Kept::No, |files| Kept::Files(what, files))
    }
}

/// Says what changed; exit code 3 where something of it cannot be served.
fn tell(reloaded: &Reloaded, kept: Kept, json: bool) -> Result<ExitCode> {
    let mut value = json!(reloaded);
    value["schema"] = json!(SCHEMA);
    let mut text = text(reloaded);
    let mut failure = None;
    match kept {
        Kept::Reloaded => {}
        Kept::No => text += "not saved: the next reload or restart forgets it (--save keeps it)\n",
        Kept::Files(what, Ok(files)) => {
            files.iter().for_each(|file| text += &format!("{what} {file}\n"));
            value[what] = json!(files);
        }
        Kept::Files(_, Err(error)) => failure = Some(error),
    }
    if json {
        output::line(value)?;
    } else {
        output::print(text)?;
    }
    if let Some(error) = failure {
        return Err(error);
    }
    Ok(if reloaded.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DEGRADED)
    })
}

fn text(reloaded: &Reloaded) -> String {
    let mut text = String::new();
    for (key, before, after) in &reloaded.settings {
        let _ = writeln!(text, "~ {key} {before} → {after}");
    }
    for name in &reloaded.added {
        let _ = writeln!(text, "+ {name}");
    }
    for changed in &reloaded.changed {
        let keys = changed
            .keys
            .iter()
            .map(|(key, before, after)| format!("{key} {before} → {after}"));
        let keys: Vec<String> = keys.collect();
        let _ = writeln!(text, "~ {}  {}", changed.export, keys.join(", "));
    }
    for Replaced { export, path } in &reloaded.renewed {
        let _ = writeln!(text, "~ {export}  {} was replaced", path.display());
    }
    for name in &reloaded.removed {
        let _ = writeln!(text, "- {name}");
    }
    let _ = writeln!(text, "= {} unchanged", reloaded.unchanged);
    for name in &reloaded.opening {
        let _ = writeln!(text, "{name}: still being opened");
    }
    for failed in &reloaded.failed {
        let _ = writeln!(text, "FAILED {}: {}", failed.export, failed.reason);
    }
    text
}

pub(in crate::cli) fn export(action: ExportAction) -> Result<ExitCode> {
    match action {
        ExportAction::Add {
            shelf,
            slot,
            interfaces,
            file,
            set,
            save,
            ask,
        } => {
            let toml = table(shelf, slot, &interfaces, &file, &set)?;
            let new = save.then(|| NewFile::write(shelf, slot, &toml, &ask));
            let new = new.transpose()?;
            let reloaded =
                ControlClient::new(&ask.target)?.ask(&ControlRequest::Add { toml, served: save })?;
            let files = new.map(|new| Ok(vec![new.keep()?]));
            tell(&reloaded, Kept::of("saved", files), ask.json)
        }
        ExportAction::Rm {
            save,
            chosen: ChosenExports { exports, ask },
        } => {
            let old = save.then(|| OldFiles::of(&exports, &ask)).transpose()?;
            let request = ControlRequest::Remove { exports, gone: save };
            let reloaded = ControlClient::new(&ask.target)?.ask(&request)?;
            let files = old.map(OldFiles::delete);
            tell(&reloaded, Kept::of("deleted", files), ask.json)
        }
        ExportAction::Pause {
            limit,
            chosen: ChosenExports { exports, ask },
        } => {
            let for_ms = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
            named(&ControlRequest::Pause { exports, for_ms }, &ask)
        }
        ExportAction::Resume(ChosenExports { exports, ask }) => {
            named(&ControlRequest::Resume { exports }, &ask)
        }
    }
}

/// The export as a table of the config file.
fn table(shelf: u16, slot: u8, interfaces: &[String], file: &Path, set: &[String]) -> Result<String> {
    // What stands for itself wherever it is said.
    let is_name = |text: &str| RemotePath::of(file).is_some() || device::named(text).is_some();
    let path = match file.to_str() {
        Some(text) if is_name(text) => file.to_owned(),
        _ => std::path::absolute(file).with_context(|| format!("{} is no path", file.display()))?,
    };
    let Some(path) = path.to_str() else {
        bail!("{}: a path in the config file is UTF-8", path.display());
    };
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let interfaces: Vec<String> = interfaces.iter().map(|name| quoted(name)).collect();
    let mut text = format!(
        "[[export]]\nshelf = {shelf}\nslot = {slot}\npath = {}\ninterfaces = [{}]\n",
        quoted(path),
        interfaces.join(", ")
    );
    for word in set {
        let Some((key, value)) = word.split_once('=') else {
            bail!("{word}: write KEY=VALUE, as in read_only=true");
        };
        // Numbers, booleans and lists as they are; all else is text.
        let is_toml = toml::from_str::<toml::Table>(&format!("value = {value}")).is_ok();
        let value = if is_toml { value.to_owned() } else { quoted(value) };
        let _ = writeln!(text, "{key} = {value}");
    }
    Ok(text)
}

/// Asks for a change whose result has a name and a list of exports.
fn named(request: &ControlRequest, ask: &Ask) -> Result<ExitCode> {
    let result: Value = ControlClient::new(&ask.target)?.ask(request)?;
    if ask.json {
        let mut result = result;
        result["schema"] = json!(SCHEMA);
        output::line(result)?;
        return Ok(ExitCode::SUCCESS);
    }
    for line in told(&result) {
        output::line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done, each with the exports that it was done to: `paused e1.2, e1.3`.
pub(in crate::cli) fn told(result: &Value) -> Vec<String> {
    let all = result.as_object().into_iter().flatten();
    let line = |(what, names): (&String, &Value)| {
        let names = names.as_array().into_iter().flatten().filter_map(Value::as_str);
        format!("{what} {}", names.collect::<Vec<_>>().join(", "))
    };
    all.map(line).collect()
}

pub(in crate::cli) fn log(args: &LogArgs) -> Result<ExitCode> {
    let Some(filter) = args.filter.clone() else {
        return lines(args);
    };
    let request = ControlRequest::Log { filter };
    let result: Value = ControlClient::new(&args.ask.target)?.ask(&request)?;
    if args.ask.json {
        let mut result = result;
        result["schema"] = json!(SCHEMA);
        output::line(result)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(args: &LogArgs) -> Result<ExitCode> {
    let log: LogLines = ControlClient::new(&args.ask.target)?.ask(&ControlRequest::LogLines { after: 0 })?;
    if args.ask.json {
        let mut value = json!(log);
        value["schema"] = json!(SCHEMA);
        output::line(value)?;
        return Ok(ExitCode::SUCCESS);
    }
    for LogLine {
        time, level, text, ..
    } in log.lines
    {
        let time = UNIX_EPOCH + Duration::try_from_secs_f64(time).unwrap_or_default();
        let time = humantime::format_rfc3339_seconds(time);
        output::line(format_args!("{time} {:>5} {text}", level.to_uppercase()))?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::parse;
    use crate::control::api::reloaded::{Changed, FailedExport};

    #[test]
    fn an_export_on_the_command_line_is_one_of_the_config_file() {
        let words = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<_>>();
        let set = words(&["read_only=true", "buffers=32", "flush_interval=70ms", "vlan=5"]);
        let text = table(
            1,
            2,
            &words(&["eth1", "eth\"2"]),
            Path::new("/srv/a \"b\".raw"),
            &set,
        )
        .unwrap();
        let config = parse(Path::new("x"), text).unwrap().config;
        let export = &config.exports[0];
        assert_eq!((export.shelf, export.slot, export.buffers), (1, 2, 32));
        assert_eq!(export.path, Path::new("/srv/a \"b\".raw"));
        assert_eq!(export.interfaces, ["eth1", "eth\"2"]);
        assert!(export.read_only);
        assert!(table(1, 2, &[], Path::new("/a"), &words(&["sync"])).is_err());
        for name in ["rbd:pool/image", "UUID=ABCD-1234"] {
            let text = table(1, 2, &words(&["eth1"]), Path::new(name), &[]).unwrap();
            assert!(text.contains(&format!("path = {name:?}\n")), "{text}");
        }
    }

    #[test]
    fn a_reload_is_told_line_by_line() {
        let reloaded = Reloaded {
            added: vec!["e1.3".into()],
            changed: vec![Changed {
                export: "e1.2".into(),
                keys: vec![("read_only".into(), "false".into(), "true".into())],
            }],
            settings: vec![("cpus".into(), "all".into(), "2,3".into())],
            renewed: vec![Replaced {
                export: "e1.4".into(),
                path: "/srv/golden.raw".into(),
            }],
            removed: vec!["e1.9".into()],
            unchanged: 37,
            failed: vec![FailedExport {
                export: "e1.3".into(),
                reason: "no such file".into(),
            }],
            ..Reloaded::default()
        };
        let told = "~ cpus all → 2,3\n+ e1.3\n~ e1.2  read_only false → true\n~ e1.4  /srv/golden.raw was replaced\n- e1.9\n\
                    = 37 unchanged\nFAILED e1.3: no such file\n";
        assert_eq!(text(&reloaded), told);
    }
}
