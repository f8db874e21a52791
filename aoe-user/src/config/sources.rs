//! The files that a configuration consists of: the one that is named, and those in the folder beside it.

use std::fs::{DirEntry, read_dir};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::problem::{Problem, Problems, TextPlace};
use super::source::{self, Source};

/// Files in the folder at most: more than there are exports that one process can serve.
const FILES_MAX: usize = 16_384;
/// Bytes of all files together.
const BYTES_MAX: usize = 16 << 20;

/// The folder whose `*.toml` belong to a config file: `conf.d` beside `xblade.toml`, and `NAME.d` beside any other `NAME.toml`, so that
/// several targets on a host have one each. `conf.toml` has none, and neither has what is called otherwise.
pub(crate) fn folder(file: &Path) -> Option<PathBuf> {
    let name = file.file_name()?.to_str()?.strip_suffix(".toml")?;
    let folder = match name {
        "xblade" => "conf.d".to_owned(),
        // That folder is another target's.
        "conf" => return None,
        name => format!("{name}.d"),
    };
    Some(file.with_file_name(folder))
}

/// Reads a config file, and after it those of its folder by their names.
///
/// # Errors
/// Every file that cannot be read, and why.
pub(super) fn read(file: &Path) -> Result<Vec<Arc<Source>>, Problems> {
    let mut all = vec![read_one(file).map_err(|problem| Problems(vec![problem]))?];
    let mut problems = Vec::new();
    let mut bytes = 0;
    for part in parts(file).map_err(|problem| Problems(vec![problem]))? {
        match read_one(&part) {
            Ok(source) => {
                bytes += source.text().len();
                all.push(source);
            }
            Err(problem) => problems.push(problem),
        }
        if bytes > BYTES_MAX {
            let folder = part.parent().unwrap_or(&part).display();
            let message = format!(
                "the files in {folder} have more than {} MiB together",
                BYTES_MAX >> 20
            );
            problems.push(Problem { message, place: None });
            break;
        }
    }
    if problems.is_empty() {
        return Ok(all);
    }
    Err(Problems(problems))
}

/// The files in the folder, by name; none where there is no folder.
fn parts(file: &Path) -> Result<Vec<PathBuf>, Problem> {
    let Some(folder) = folder(file) else {
        return Ok(Vec::new());
    };
    let refused = |reason: &dyn std::fmt::Display| Problem {
        message: format!("cannot read the folder {}: {reason}", folder.display()),
        place: None,
    };
    let entries = match read_dir(&folder) {
        Err(error) if error.kind() == ErrorKind::NotFound && folder.symlink_metadata().is_err() => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(|error| refused(&error))?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let part = part(entry).map_err(|error| refused(&error))?;
        parts.extend(part);
        if parts.len() > FILES_MAX {
            return Err(refused(&format_args!("it has more than {FILES_MAX} files")));
        }
    }
    parts.sort_unstable();
    Ok(parts)
}

/// Its path, if it belongs to the configuration: what editors, dpkg and rpm leave behind is called otherwise, or hidden.
fn part(entry: io::Result<DirEntry>) -> io::Result<Option<PathBuf>> {
    let entry = entry?;
    let name = entry.file_name();
    let name = name.as_encoded_bytes();
    let is_part = name.ends_with(b".toml") && !name.starts_with(b".");
    Ok(is_part.then(|| entry.path()))
}

fn read_one(file: &Path) -> Result<Arc<Source>, Problem> {
    let refused = |reason: &str| {
        let message = format!("cannot read the config file {}: {reason}", file.display());
        Problem { message, place: None }
    };
    let bytes = source::read(file).map_err(|reason| match file.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => refused(&format!(
            "{reason}; --config names another, and the example that comes with xblade is a start for one"
        )),
        _ => refused(&reason),
    })?;
    if bytes.contains(&0) {
        return Err(refused(
            "it holds no text; is it a disk image? (one in UTF-16 is to be saved as UTF-8)",
        ));
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Arc::new(Source::new(file, text))),
        Err(error) => {
            let end = error.utf8_error().valid_up_to();
            let good = String::from_utf8_lossy(&error.as_bytes()[..end]).into_owned();
            let end = good.len();
            Err(Problem {
                message: "not UTF-8 text from here on".into(),
                place: Some(TextPlace::new(&Arc::new(Source::new(file, good)), end..end)),
            })
        }
    }
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
