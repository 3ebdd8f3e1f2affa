//! Where settings come from, and in which order they are laid over each other.

use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Map, Value, ValueKind};
use serde_json::Value as Json;

use super::document::Document;
use super::problem::{Origins, Problems};
use super::rest::Rest;
use super::schema::{Child, Node, Schema, unknown_key};
use super::words::plain;
use super::{Settings, path};
use crate::model::Name;

/// Where settings come from. Later ones win: built-in defaults, the file, the pair files of this relay's
/// Geo in the order of their names, the environment, flags. Lists are replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The configuration file. `pairs/<geo>--<geo>.toml` next to it are the pair files.
    pub file: Option<PathBuf>,
    /// Environment variables; only names that start with `STRAIT__` matter, as in
    /// `STRAIT__RELAY__SHARDS=2` for `relay.shards`.
    pub environment: Vec<(String, String)>,
    /// Values given on the command line: path and value, as in `relay.shards` and `2`.
    pub flags: Vec<(String, String)>,
}

/// Settings that could be read, and where each value came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Where they came from.
    pub origins: Origins,
}

impl Source {
    /// The folder that relative paths start at: that of the configuration file.
    pub fn base(&self) -> &Path {
        let folder = self.file.as_deref().and_then(Path::parent);
        folder
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Reads all sources. Does not check whether values fit together; `Settings::check` does.
    ///
    /// # Errors
    /// Everything that is wrong, each with key, file and line.
    pub fn load(&self) -> Result<Loaded, Problems> {
        let mut loader = Loader::default();
        loader.layers.push(defaults());
        if let Some(file) = &self.file {
            loader.file(file);
        }
        let last = [loader.environment(&self.environment), loader.flags(&self.flags)];
        let geo = geo_of(loader.layers.iter().chain(&last));
        for pair in self.pair_files(geo.as_ref(), &mut loader.problems) {
            loader.file(&pair);
        }
        loader.layers.extend(last);
        loader.origins.0.extend(std::mem::take(&mut loader.late));
        loader.finish(self.base())
    }

    /// Pair files that name this relay's Geo, in the order of their names.
    fn pair_files(&self, geo: Option<&Name>, problems: &mut Problems) -> Vec<PathBuf> {
        let folder = self.base().join("pairs");
        let (Some(_), Ok(entries)) = (&self.file, std::fs::read_dir(&folder)) else {
            return Vec::new();
        };
        let mut files = Vec::new();
        for file in entries.filter_map(Result::ok).map(|entry| entry.path()) {
            if file.extension().is_none_or(|extension| extension != "toml") {
                continue;
            }
            let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            match pair_of(stem) {
                Some(pair) if pair.iter().any(|name| Some(name) == geo) => files.push(file),
                Some(_) => {}
                None => {
                    let text = "the name of a pair file is <geo>--<geo>.toml".to_owned();
                    problems.add(Some(file.display().to_string()), "", text);
                }
            }
        }
        files.sort();
        files
    }
}

fn pair_of(stem: &str) -> Option<[Name; 2]> {
    let (first, second) = stem.split_once("--")?;
    Some([Name::new(first).ok()?, Name::new(second).ok()?])
}

/// One source, as the `config` crate wants it.
#[derive(Clone, Debug, Default)]
struct Layer(Map<String, Value>);

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

#[derive(Default)]
struct Loader {
    schema: Schema,
    layers: Vec<Layer>,
    origins: Origins,
    /// Places of values that win over all files, whenever those are read.
    late: Vec<(String, String)>,
    problems: Problems,
}

impl Loader {
    fn file(&mut self, file: &Path) {
        let name = file.display().to_string();
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) => return self.problems.add(Some(name), "", format!("cannot be read: {error}")),
        };
        let document = Document::read(&name, &text, &self.schema, &mut self.problems);
        self.origins.0.extend(document.places);
        self.layers.push(Layer(document.values));
    }

    fn environment(&mut self, variables: &[(String, String)]) -> Layer {
        let mut layer = Layer::default();
        for (name, text) in variables {
            let Some(keys) = name.strip_prefix("STRAIT__") else {
                continue;
            };
            let keys: Vec<_> = keys.split("__").map(str::to_ascii_lowercase).collect();
            self.single(&mut layer, &format!("environment variable {name}"), &keys, text);
        }
        layer
    }

    fn flags(&mut self, flags: &[(String, String)]) -> Layer {
        let mut layer = Layer::default();
        for (key, text) in flags {
            let keys = split_path(key);
            self.single(&mut layer, &format!("flag --set {key}"), &keys, text);
        }
        layer
    }

    /// Adds one value that was given as text.
    fn single(&mut self, layer: &mut Layer, place: &str, keys: &[String], text: &str) {
        let mut node = self.schema.root();
        let mut path = String::new();
        for key in keys {
            path = path::join(&path, key);
            match node.child(key) {
                Child::Known(child) => node = child,
                Child::Unknown(known) => {
                    let text = unknown_key(key, &known);
                    return self.problems.add(Some(place.to_owned()), path, text);
                }
            }
        }
        let value = Value::new(Some(&place.to_owned()), from_text(node, text));
        self.late.push((path, place.to_owned()));
        let Some((last, tables)) = keys.split_last() else {
            return;
        };
        let mut table = &mut layer.0;
        for key in tables {
            let entry = table
                .entry(key.clone())
                .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
            match &mut entry.kind {
                ValueKind::Table(inner) => table = inner,
                // Another variable gave a value to this table; serde reports it.
                _ => return,
            }
        }
        table.insert(last.clone(), value);
    }

    fn finish(mut self, base: &Path) -> Result<Loaded, Problems> {
        let merged = match merge(&self.layers) {
            Ok(merged) => merged,
            Err(error) => {
                self.problems.add(None, "", error.to_string());
                return Err(self.problems);
            }
        };
        let fallback = defaults_json();
        let mut json = to_json(&ValueKind::Table(merged));
        // Each mistake is taken out and the rest tried again, so that all are found at once.
        let mut removed: Vec<String> = Vec::new();
        for _ in 0..MISTAKES_MAX {
            let error = match serde_path_to_error::deserialize::<_, Settings>(&json) {
                Ok(settings) => {
                    self.check_rest(&settings, base);
                    let origins = self.origins;
                    return self.problems.or(Loaded { settings, origins });
                }
                Err(error) => error,
            };
            let key = path::render(error.path());
            // What was wrong and is required is missing now; that it was wrong has been said.
            let is_said = removed.iter().any(|field| path::parent(field) == Some(key.as_str()));
            if !(is_said && error.inner().to_string().starts_with("missing field")) {
                let place = self.origins.nearest(&key);
                let words = self.schema.at(error.path()).map(Node::words).unwrap_or_default();
                self.problems
                    .add(place, key.clone(), plain(&error.inner().to_string(), &words));
            }
            match reset(&mut json, &fallback, error.path()) {
                Reset::Nothing => break,
                Reset::Default => {}
                Reset::Removed => removed.push(key),
            }
        }
        Err(self.problems)
    }
}

impl Loader {
    /// Whether what could be read fits together, besides the mistakes there are: with defaults in their places. What is only said
    /// because of those is left out.
    fn check_rest(&mut self, settings: &Settings, base: &Path) {
        if self.problems.0.is_empty() {
            return;
        }
        let found = settings.check(base).err().unwrap_or_default().0;
        let mistakes = self.problems.0.iter().map(|mistake| mistake.key.as_str());
        let rest = Rest::new(mistakes.collect());
        let further: Vec<_> = found.into_iter().filter(|problem| rest.may_say(&problem.key)).collect();
        for problem in further {
            let place = self.origins.nearest(&problem.key);
            self.problems.add(place, problem.key, problem.text);
        }
    }
}

const MISTAKES_MAX: usize = 100;

fn merge<'a>(layers: impl IntoIterator<Item = &'a Layer>) -> Result<Map<String, Value>, ConfigError> {
    let mut builder = Config::builder();
    for layer in layers {
        builder = builder.add_source(layer.clone());
    }
    config::Source::collect(&builder.build()?)
}

fn geo_of<'a>(layers: impl Iterator<Item = &'a Layer>) -> Option<Name> {
    let merged = merge(layers).ok()?;
    let relay = merged.get("relay")?.clone().into_table().ok()?;
    Name::new(&relay.get("geo")?.clone().into_string().ok()?).ok()
}

fn defaults() -> Layer {
    match from_json(defaults_json()) {
        ValueKind::Table(values) => Layer(values),
        _ => Layer::default(),
    }
}

fn defaults_json() -> Json {
    serde_json::to_value(Settings::default()).unwrap_or_default()
}

/// What was done about a wrong value.
enum Reset {
    Nothing,
    Default,
    Removed,
}

/// Puts the default in place of a wrong value, or removes it where there is none: from an entry of an open table, such as a unit. An
/// entry that is wrong as a whole goes.
fn reset(json: &mut Json, fallback: &Json, path: &serde_path_to_error::Path) -> Reset {
    use serde_path_to_error::Segment;
    let (mut value, mut default) = (json, Some(fallback));
    let mut keys = path.iter().map_while(|segment| match segment {
        Segment::Map { key } => Some(key),
        _ => None,
    });
    let mut next = keys.next();
    while let Some(key) = next {
        next = keys.next();
        default = default.and_then(|default| default.get(key));
        if default.is_none() && next.is_none() {
            let removed = value.as_object_mut().and_then(|table| table.remove(key));
            return removed.map_or(Reset::Nothing, |_| Reset::Removed);
        }
        let Some(inner) = value.get_mut(key) else {
            return Reset::Nothing;
        };
        value = inner;
    }
    match default {
        Some(default) if value != default => {
            value.clone_from(default);
            Reset::Default
        }
        _ => Reset::Nothing,
    }
}

/// A value given as text, by what the key may hold.
fn from_text(node: Node<'_>, text: &str) -> ValueKind {
    let only_text = node.may_be("string") && !node.may_be("integer");
    if only_text {
        return ValueKind::String(text.to_owned());
    }
    let parsed = toml::from_str::<toml::Table>(&format!("v = {text}")).ok();
    match parsed.and_then(|table| table.get("v").cloned()) {
        Some(value) => serde_json::to_value(value).map_or(ValueKind::Nil, from_json),
        None if node.may_be("array") => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(
                items
                    .map(|item| Value::new(None, ValueKind::String(item.to_owned())))
                    .collect(),
            )
        }
        None => ValueKind::String(text.to_owned()),
    }
}

/// Splits `services."im.Echo".timeout`.
fn split_path(path: &str) -> Vec<String> {
    let mut keys = vec![String::new()];
    let mut quoted = false;
    for character in path.chars() {
        match character {
            '"' => quoted = !quoted,
            '.' if !quoted => keys.push(String::new()),
            character => keys.last_mut().into_iter().for_each(|key| key.push(character)),
        }
    }
    keys
}

fn from_json(json: Json) -> ValueKind {
    match json {
        Json::Null => ValueKind::Nil,
        Json::Bool(value) => ValueKind::Boolean(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(number), _) => ValueKind::I64(number),
            (None, Some(number)) => ValueKind::Float(number),
            (None, None) => ValueKind::Nil,
        },
        Json::String(text) => ValueKind::String(text),
        Json::Array(list) => ValueKind::Array(
            list.into_iter()
                .map(|value| Value::new(None, from_json(value)))
                .collect(),
        ),
        Json::Object(table) => {
            let values = table
                .into_iter()
                .map(|(key, value)| (key, Value::new(None, from_json(value))));
            ValueKind::Table(values.collect())
        }
    }
}

fn to_json(kind: &ValueKind) -> Json {
    match kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => Json::from(*value),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::U64(number) => Json::from(*number),
        ValueKind::Float(number) => Json::from(*number),
        ValueKind::String(text) => Json::from(text.as_str()),
        ValueKind::Array(list) => list.iter().map(|value| to_json(&value.kind)).collect(),
        ValueKind::Table(table) => {
            let values = table.iter().map(|(key, value)| (key.clone(), to_json(&value.kind)));
            Json::Object(values.collect())
        }
        // Neither TOML nor the defaults have wider numbers.
        ValueKind::I128(_) | ValueKind::U128(_) => Json::from(kind.to_string()),
    }
}
