//! Understands config files (TOML): `[defaults]` and any number of `[[export]]`, in one file or in several.

mod settings;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::access_lists::NamedLists;
use super::ceph;
use super::failover::Groups;
use super::overlays::Machines;
use super::problem::{Problem, Problems, TextPlace};
use super::reader::{Keys, Mistake, Spans, Value, number, read_element, text, text_or_number};
use super::source::Source;
use super::sources;
use super::values::{self, CPU, LENGTH, OFFSET, SHELF, SLOT};
#[cfg(test)]
use super::{Access, AccessEntry, ImageFormat, Mode, OnLostWrite, StoreKind, Vlan};
use super::{Config, ExportConfig, Machine, Overlay};
use crate::store::RemotePath;
use settings::{read_path, read_settings};

/// Keys of one export only.
const OWN_KEYS: [&str; 7] = [
    "shelf",
    "slot",
    "path",
    "offset",
    "length",
    "serial",
    "state_name",
];

/// A configuration as read, with what is needed to point at its lines later.
#[derive(Debug)]
pub struct ConfigFile {
    /// What it says. State directory and force come from the command line.
    pub config: Config,
    /// Where it says so.
    pub origin: Origin,
}

/// Where the values of a config came from.
#[derive(Debug)]
pub struct Origin {
    /// The files; the first has the defaults.
    sources: Vec<Arc<Source>>,
    defaults: Spans,
    exports: Vec<ExportPlace>,
}

/// Where an export stands.
#[derive(Debug)]
struct ExportPlace {
    /// Which file.
    source: usize,
    heading: Range<usize>,
    spans: Spans,
}

impl Origin {
    /// The place of a setting: in the export itself, else in the defaults, else the export's heading.
    pub fn place(&self, export: usize, key: &str) -> Option<TextPlace> {
        let at = self.exports.get(export)?;
        let (source, span) = match (at.spans.get(key), self.defaults.get(key)) {
            (Some(span), _) => (at.source, span),
            (None, Some(span)) => (0, span),
            (None, None) => (at.source, at.heading.clone()),
        };
        Some(TextPlace::new(self.sources.get(source)?, span))
    }

    /// The file that an export stands in.
    pub(crate) fn source(&self, export: usize) -> Option<&Source> {
        let at = self.exports.get(export)?;
        self.sources.get(at.source).map(Arc::as_ref)
    }

    /// The place of an export, as in `x.toml:3:1`.
    pub(crate) fn export(&self, export: usize) -> Option<String> {
        let at = self.exports.get(export)?;
        let source = self.sources.get(at.source)?;
        Some(TextPlace::new(source, at.heading.clone()).name())
    }
}

/// Reads and understands a config file, and those in [its folder](super::sources::folder). Looks at nothing else: see [`super::validate`].
///
/// # Errors
/// All mistakes that the files have, each with line and column.
pub fn load(file: &Path) -> Result<ConfigFile, Problems> {
    understand(sources::read(file)?)
}

/// Understands the text of a config file; `file` names it in messages and is where relative paths start.
///
/// # Errors
/// All mistakes that the text has, each with line and column.
pub fn parse(file: &Path, text: String) -> Result<ConfigFile, Problems> {
    understand(vec![Arc::new(Source::new(file, text))])
}

/// Understands the text of one more file, and gives the exports that it has. What the files before it say of defaults, lists, groups and
/// machines holds for these, too.
///
/// # Errors
/// All mistakes that the text has, each with line and column.
pub fn parse_further(
    before: &[Arc<Source>],
    file: &Path,
    text: String,
) -> Result<Vec<ExportConfig>, Problems> {
    let further = Arc::new(Source::new(file, text));
    let sources: Vec<Arc<Source>> = before.iter().cloned().chain([further]).collect();
    let ConfigFile { config, origin } = understand(sources)?;
    let is_further = |place: &ExportPlace| place.source == before.len();
    let exports = config.exports.into_iter().zip(&origin.exports);
    Ok(exports
        .filter(|(_, place)| is_further(place))
        .map(|(export, _)| export)
        .collect())
}

/// All files as one configuration; the first has what holds for all exports.
pub(super) fn understand(sources: Vec<Arc<Source>>) -> Result<ConfigFile, Problems> {
    let mut mistakes: Vec<Vec<Mistake>> = sources.iter().map(|_| Vec::new()).collect();
    let (config, defaults, exports) = read_documents(&sources, &mut mistakes);
    if mistakes.iter().all(Vec::is_empty) {
        let origin = Origin {
            sources,
            defaults,
            exports,
        };
        return Ok(ConfigFile { config, origin });
    }
    let mut problems = Vec::new();
    for (source, mut mistakes) in sources.iter().zip(mistakes) {
        mistakes.sort_by_key(|mistake| mistake.span.start);
        problems.extend(mistakes.into_iter().map(|Mistake { span, message }| Problem {
            message,
            place: Some(TextPlace::new(source, span)),
        }));
    }
    Err(Problems(problems))
}

type Parsed = (Config, Spans, Vec<ExportPlace>);

/// A file that is being read.
struct Document<'t, 'i, 'm> {
    source: &'t Arc<Source>,
    keys: Keys<'t, 'i, 'm>,
}

fn read_documents(sources: &[Arc<Source>], mistakes: &mut [Vec<Mistake>]) -> Parsed {
    let mut config = Config {
        exports: Vec::new(),
        sources: sources.to_vec(),
        state_dir: None,
        state_required: false,
        cpus: Vec::new(),
        force: false,
    };
    let parsed: Vec<_> = sources
        .iter()
        .map(|source| DeTable::parse_recoverable(source.text()))
        .collect();
    for ((_, errors), mistakes) in parsed.iter().zip(&mut *mistakes) {
        mistakes.extend(errors.iter().map(|error| Mistake {
            span: error.span().unwrap_or(0..0),
            message: format!("not TOML: {}", error.message()),
        }));
    }
    if mistakes.iter().any(|mistakes| !mistakes.is_empty()) {
        return (config, Spans::default(), Vec::new());
    }
    let files = parsed.iter().zip(sources).zip(mistakes);
    let mut documents: Vec<Document<'_, '_, '_>> = files
        .map(|(((document, _), source), mistakes)| Document {
            source,
            keys: Keys::new(document.get_ref(), mistakes),
        })
        .collect();
    let mut tables = Tables::default();
    for Document { source, keys } in &mut documents {
        tables.read(keys, source);
    }
    let mut template = ExportConfig::new(0, 0, PathBuf::new());
    let mut defaults = Spans::default();
    for (index, document) in documents.iter_mut().enumerate() {
        if index == 0 {
            defaults = read_shared(document, &mut template, &mut config.cpus, &tables);
        } else {
            refuse_shared(document, &sources[0]);
        }
    }
    let exports = read_exports(&mut documents, &mut config, (&template, &tables));
    let machines: Arc<[Machine]> = tables.machines.all.into();
    let with_overlay = |export: &&mut ExportConfig| export.overlay != Overlay::None;
    for export in config.exports.iter_mut().filter(with_overlay) {
        export.machines = Arc::clone(&machines);
    }
    for document in documents {
        document.keys.finish(&[]);
    }
    (config, defaults, exports)
}

/// What holds for all exports.
fn read_shared(
    Document { source, keys }: &mut Document<'_, '_, '_>,
    template: &mut ExportConfig,
    cpus: &mut Vec<usize>,
    tables: &Tables,
) -> Spans {
    let file = source.file();
    if let Some(value) = keys.raw("ceph") {
        match value.get_ref() {
            DeValue::Table(table) => template.ceph = Arc::new(ceph::read(file, table, keys.mistakes())),
            _ => keys.mistake(value.span(), "`ceph` is a table: write [ceph]"),
        }
    }
    if let Some(value) = keys.raw("defaults") {
        match value.get_ref() {
            DeValue::Table(table) => {
                return read_defaults(table, template, cpus, (file, tables), keys.mistakes());
            }
            _ => keys.mistake(value.span(), "`defaults` is a table: write [defaults]"),
        }
    }
    Spans::default()
}

/// It would depend on the order of the files whom it holds for.
fn refuse_shared(Document { keys, .. }: &mut Document<'_, '_, '_>, main: &Source) {
    for key in ["defaults", "ceph"] {
        if let Some(value) = keys.raw(key) {
            let message = format!(
                "[{key}] holds for the exports of all files, and belongs in {}",
                main.file().display()
            );
            keys.mistake(value.span(), message);
        }
    }
}

/// The exports of all files, and where they stand.
fn read_exports(
    documents: &mut [Document<'_, '_, '_>],
    config: &mut Config,
    shared: (&ExportConfig, &Tables),
) -> Vec<ExportPlace> {
    let mut places = Vec::new();
    let mut list_at = None;
    for (index, Document { source, keys }) in documents.iter_mut().enumerate() {
        let Some(value) = keys.raw("export") else { continue };
        if !value.get_ref().is_array() {
            keys.mistake(value.span(), "`export` is a list of tables: write [[export]]");
        } else {
            let list = keys.list("export", |value, mistakes| {
                let (export, spans) = read_export(source.file(), value, shared, mistakes)?;
                let place = ExportPlace {
                    source: index,
                    heading: value.span(),
                    spans,
                };
                Some((export, place))
            });
            for (export, place) in list.unwrap_or_default() {
                config.exports.push(export);
                places.push(place);
            }
        }
        list_at = Some((index, value.span()));
    }
    let is_clean = |document: &mut Document<'_, '_, '_>| document.keys.mistakes().is_empty();
    match list_at {
        None => documents[0]
            .keys
            .mistake(0..0, "nothing to serve: there is no [[export]]"),
        Some((index, span)) if config.exports.is_empty() && documents.iter_mut().all(is_clean) => documents
            [index]
            .keys
            .mistake(span, "nothing to serve: the list of exports is empty"),
        Some(_) => {}
    }
    places
}

/// What exports name.
#[derive(Default)]
struct Tables {
    lists: NamedLists,
    groups: Groups,
    machines: Machines,
}

impl Tables {
    /// Those of one file more.
    fn read(&mut self, keys: &mut Keys<'_, '_, '_>, source: &Arc<Source>) {
        if let Some(value) = keys.raw("acl") {
            match value.get_ref() {
                DeValue::Table(table) => self.lists.read(table, source, keys.mistakes()),
                _ => keys.mistake(value.span(), "`acl` is a table of lists: write [acl]"),
            }
        }
        self.groups.read(keys, source);
        self.machines.read(keys, source);
    }
}

fn read_defaults(
    table: &DeTable<'_>,
    template: &mut ExportConfig,
    cpus: &mut Vec<usize>,
    shared: (&Path, &Tables),
    mistakes: &mut Vec<Mistake>,
) -> Spans {
    let mut keys = Keys::new(table, mistakes);
    read_settings(&mut keys, template, shared);
    *cpus = read_cpus(&mut keys);
    keys.finish(&OWN_KEYS.map(|key| (key, "it is each export's own; put it under [[export]]")))
}

/// A list of numbers, or the kernel's way to write one: `"0-3,5"`.
fn read_cpus(keys: &mut Keys<'_, '_, '_>) -> Vec<usize> {
    let is_text = keys.raw("cpus").is_some_and(|value| value.get_ref().is_str());
    if is_text {
        return keys.get("cpus", text(values::cpus)).unwrap_or_default();
    }
    let list = keys.list("cpus", |value, mistakes| {
        read_element("cpus", value, number(CPU), mistakes)
    });
    list.unwrap_or_default()
}

/// Reads one `[[export]]`. With a mistake in its identity there is no export.
fn read_export(
    file: &Path,
    value: &Value<'_>,
    (template, tables): (&ExportConfig, &Tables),
    mistakes: &mut Vec<Mistake>,
) -> Option<(ExportConfig, Spans)> {
    let mut keys = Keys::of(
        value,
        ("export", "an export"),
        &["shelf", "slot", "path"],
        mistakes,
    )?;
    let table = keys.table();
    let mut export = template.clone();
    keys.set("shelf", &mut export.shelf, number(SHELF));
    keys.set("slot", &mut export.slot, number(SLOT));
    keys.set("path", &mut export.path, text(|text| read_path(file, text)));
    keys.set(
        "offset",
        &mut export.offset,
        text_or_number(values::sectors(OFFSET)),
    );
    keys.set(
        "length",
        &mut export.length,
        text_or_number(values::sectors(LENGTH)),
    );
    export.serial = keys.get("serial", text(values::serial));
    export.state_name = keys.get("state_name", text(values::state_name));
    read_settings(&mut keys, &mut export, (file, tables));
    if let Some(Ok(remote)) = RemotePath::of(&export.path) {
        if export.store != remote.store
            && let Some(value) = keys.raw("store")
        {
            let message = format!(
                "the path is an address, which needs store = \"{}\"; a file of such a name is written ./{}",
                remote.store,
                export.path.display()
            );
            keys.mistake(value.span(), message);
        }
        export.settle_path();
    }
    if export.interfaces.is_empty() && !table.contains_key("interfaces") {
        keys.mistake(
            value.span(),
            "the export has no `interfaces`, here or in [defaults]",
        );
    }
    let spans = keys.finish(&[("cpus", "the workers serve every export; put it under [defaults]")]);
    Some((export, spans))
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "file_mistakes_tests.rs"]
mod mistakes_tests;
