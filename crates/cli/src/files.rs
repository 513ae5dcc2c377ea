//! Reading `-f`: a file, a folder, or standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use margay_api::yaml::{self, Located, YamlError};
use margay_api::{Key, Resource};
use margay_control::explain::RuleAt;

/// The `-f` and `-R` flags.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct FileArgs {
    /// YAML or JSON: a file, a folder, or - for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|FOLDER|-")]
    pub(crate) filename: Vec<PathBuf>,
    /// Also read the folders inside a folder
    #[arg(short = 'R', long, requires = "filename")]
    pub(crate) recursive: bool,
}

/// A resource and where it was read, for messages.
#[derive(Debug)]
pub(crate) struct FromFile {
    pub(crate) resource: Resource,
    /// `pools.yaml: document 2, line 14`
    pub(crate) place: String,
}

impl FileArgs {
    /// Every resource of every file, or everything that is wrong with them.
    pub(crate) fn read(&self) -> anyhow::Result<Result<Vec<FromFile>, Vec<YamlError>>> {
        self.resources(&self.texts()?)
    }

    /// The files' names and texts.
    pub(crate) fn texts(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut paths = Vec::new();
        for path in &self.filename {
            self.collect(path, true, &mut paths)?;
        }
        if paths.is_empty() {
            bail!("no .yaml, .yml or .json file found in {}", self.names());
        }
        paths.iter().map(|path| load(path)).collect()
    }

    /// What [`Self::read`] makes of the texts.
    pub(crate) fn resources(
        &self,
        texts: &[(String, String)],
    ) -> anyhow::Result<Result<Vec<FromFile>, Vec<YamlError>>> {
        let (mut resources, mut errors) = (Vec::new(), Vec::new());
        for (name, text) in texts {
            match yaml::parse(name, text) {
                Ok(found) => resources.extend(found.into_iter().map(|located| from_file(name, located))),
                Err(found) => errors.extend(found),
            }
        }
        if errors.is_empty() && resources.is_empty() {
            bail!("no resource found in {}", self.names());
        }
        Ok(if errors.is_empty() { Ok(resources) } else { Err(errors) })
    }

    fn names(&self) -> String {
        self.filename.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Files in the order of their names; of a folder only those that look like ours.
    fn collect(&self, path: &Path, named: bool, into: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        if path == Path::new("-") {
            into.push(path.to_path_buf());
            return Ok(());
        }
        let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        if !metadata.is_dir() {
            let ours =
                path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
            if named || ours {
                into.push(path.to_path_buf());
            }
            return Ok(());
        }
        if !named && !self.recursive {
            return Ok(());
        }
        let mut entries = std::fs::read_dir(path)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect::<Result<Vec<_>, _>>())
            .with_context(|| format!("cannot read {}", path.display()))?;
        entries.sort();
        entries.iter().try_for_each(|entry| self.collect(entry, false, into))
    }
}

fn load(path: &Path) -> anyhow::Result<(String, String)> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(("standard input".to_owned(), text));
    }
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    Ok((name, text))
}

/// `guard.yaml:9`, where a rule begins in one of the files.
pub(crate) fn place_of(rule: &RuleAt, texts: &[(String, String)]) -> Option<String> {
    let is_it = |key: &Key| {
        key.name == rule.name && key.namespace == rule.namespace && key.kind.to_string() == rule.kind
    };
    texts.iter().find_map(|(name, text)| {
        yaml::locate(text, is_it, &rule.field).map(|at| format!("{name}:{}", at.line))
    })
}

fn from_file(name: &str, located: Located<Resource>) -> FromFile {
    let place = format!("{name}: document {}, line {}", located.document, located.at.line);
    FromFile { resource: located.value, place }
}
