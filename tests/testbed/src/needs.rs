//! What a test needs of the machine; without it the test says so and is skipped, it does not fail.

use std::io::Write;

use crate::packages::find_file;

/// Something a machine may lack.
#[derive(Debug, Clone, Copy)]
pub enum Need {
    /// The rights to make namespaces and load programs.
    Root,
    /// A program, found in `PATH` or in a system directory.
    Tool(&'static str),
    /// A file.
    File(&'static str),
}

impl Need {
    /// Why the need is not met, if it is not.
    pub fn missing(self) -> Option<String> {
        match self {
            Need::Root if !nix::unistd::geteuid().is_root() => Some("needs root".to_owned()),
            Need::Tool(name) if find(name).is_none() => Some(format!(
                "needs the program {name} (`cargo xtask setup` installs it)"
            )),
            Need::File(path) if find_file(path).is_none() => {
                Some(format!("needs {path} (`cargo xtask setup` installs it)"))
            }
            _ => None,
        }
    }
}

pub use crate::packages::find_program as find;

/// Says that a test is skipped and why, on the real standard error: `cargo xtask test` counts these lines.
pub fn skip(test: &str, why: &str) {
    // In one piece: other tests write there, too.
    let line = format!("skipped {test}: {why}\n");
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Returns from the test unless every [`Need`] is met.
#[macro_export]
macro_rules! needs {
    ($($need:expr),+ $(,)?) => {
        let missing: Vec<String> = [$($need),+].into_iter().filter_map($crate::needs::Need::missing).collect();
        if !missing.is_empty() {
            fn here() {}
            let test = std::any::type_name_of_val(&here).trim_end_matches("::here");
            $crate::needs::skip(test, &missing.join(", "));
            return Ok(());
        }
    };
}
