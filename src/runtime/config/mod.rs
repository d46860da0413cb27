//! Settings of the processes: command line, environment `PGHC_…`, TOML file, in this order of
//! precedence.
//!
//! The command line parser knows flags and environment. A file's keys are flags without dashes
//! (`data = "/var/lib/pghc"`, lists for repeated flags). They are inserted before the command
//! line's own arguments unless flag or variable is set, so an unknown key is refused like an
//! unknown flag.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why a configuration file cannot be used. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read the configuration file {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// Not TOML.
    #[error("{} is not TOML: line {line}: {problem}", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// Line of the fault, from 1.
        line: usize,
        /// The problem in that place.
        problem: String,
    },
    /// Not a flag's value.
    #[error("{}: key {key:?} must be a text, a number, true or a list of texts, not {got}", .path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type that was found.
        got: &'static str,
    },
}

/// A command line with the settings of a file in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Words {
    /// Program, subcommand and arguments.
    pub words: Vec<OsString>,
    /// The file, and the keys that were taken from it.
    file: Option<(PathBuf, Vec<String>)>,
}

impl Words {
    /// File and key that gave this flag, for people; `None` when it was not the file.
    #[must_use]
    pub fn origin(&self, flag: &str) -> Option<String> {
        let (path, keys) = self.file.as_ref()?;
        let key = keys.iter().find(|key| flag_of(key) == flag)?;
        Some(format!("{}: key {key:?}", path.display()))
    }
}

/// Which settings of a file a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Every key is a flag of it.
    All,
    /// These; `--config` itself is no flag of it.
    Only(&'static [&'static str]),
    /// None: it reads the file itself.
    None,
}

/// The arguments with those of the file named by `--config` put in. `args` begin with the program
/// and `subcommand` words, `environment` tells whether a variable is set.
///
/// # Errors
/// See [`ConfigError`].
pub fn with_file(
    mut args: Vec<OsString>,
    wanted: &Keys,
    environment: impl Fn(&str) -> bool,
) -> Result<Words, ConfigError> {
    let named = file_named(&args).filter(|_| *wanted != Keys::None);
    let Some((path, place)) = named else { return Ok(Words { words: args, file: None }) };
    if matches!(wanted, Keys::Only(_)) {
        args.drain(place);
    }
    let text =
        std::fs::read_to_string(&path).map_err(|error| ConfigError::Read(path.clone(), error))?;
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| not_toml(&path, &text, &error))?;
    let words = args.iter().take_while(|arg| !arg.to_string_lossy().starts_with('-')).count();
    let mut merged = args[..words].to_vec();
    let mut keys = Vec::new();
    let is_wanted = |key: &str| match wanted {
        Keys::Only(keys) => keys.contains(&key.replace('_', "-").as_str()),
        Keys::All | Keys::None => true,
    };
    for (key, value) in table.iter().filter(|(key, _)| is_wanted(key)) {
        let flag = flag_of(key);
        let variable = format!("PGHC_{}", key.replace('-', "_").to_uppercase());
        if !is_given(&args, &flag) && !environment(&variable) {
            push(&mut merged, &path, key, &flag, value)?;
            keys.push(key.clone());
        }
    }
    merged.extend_from_slice(&args[words..]);
    Ok(Words { words: merged, file: Some((path, keys)) })
}

fn flag_of(key: &str) -> String {
    format!("--{}", key.replace('_', "-"))
}

fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    ConfigError::Toml { path: path.to_owned(), line, problem: error.message().replace('\n', " ") }
}

/// The file of `--config`, and the position of the arguments that name it.
fn file_named(args: &[OsString]) -> Option<(PathBuf, std::ops::Range<usize>)> {
    for (place, arg) in args.iter().map(|arg| arg.to_string_lossy()).enumerate() {
        if arg == "--config" {
            return args.get(place + 1).map(|path| (PathBuf::from(path), place..place + 2));
        }
        if let Some(path) = arg.strip_prefix("--config=") {
            return Some((path.into(), place..place + 1));
        }
    }
    None
}

/// Whether the file of `--config` is the record of a deployment (`parade.json`) rather than TOML.
#[must_use]
pub fn is_record(args: &[OsString]) -> bool {
    file_named(args).is_some_and(|(path, _)| path.extension().is_some_and(|end| end == "json"))
}

fn is_given(args: &[OsString], flag: &str) -> bool {
    args.iter().map(|arg| arg.to_string_lossy()).any(|arg| {
        arg.strip_prefix(flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

fn push(
    merged: &mut Vec<OsString>,
    path: &Path,
    key: &str,
    flag: &str,
    value: &toml::Value,
) -> Result<(), ConfigError> {
    let refused = |got| ConfigError::Value { path: path.to_owned(), key: key.to_owned(), got };
    match value {
        toml::Value::Boolean(true) => merged.push(flag.into()),
        toml::Value::Boolean(false) => {}
        toml::Value::String(text) => merged.push(format!("{flag}={text}").into()),
        toml::Value::Integer(number) => merged.push(format!("{flag}={number}").into()),
        toml::Value::Array(items) => {
            for item in items {
                let toml::Value::String(text) = item else {
                    return Err(refused("a list of other things"));
                };
                merged.push(format!("{flag}={text}").into());
            }
        }
        other => return Err(refused(other.type_str())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{ConfigError, Keys, with_file};

    fn merged(file: &str, args: &[&str], set: &str) -> Result<Vec<String>, ConfigError> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pghc.toml");
        std::fs::write(&path, file).expect("written");
        let mut all: Vec<OsString> = ["pghc", "api"].map(OsString::from).to_vec();
        all.extend(args.iter().map(OsString::from));
        all.extend([OsString::from("--config"), path.into_os_string()]);
        let merged = with_file(all, &Keys::All, |variable| variable == set)?.words;
        let text = |arg: OsString| arg.to_string_lossy().into_owned();
        let count = merged.len() - 2;
        Ok(merged.into_iter().map(text).take(count).collect())
    }

    #[test]
    fn option_precedence_is_command_line_environment_file() {
        let file = "zone = 'eu'\nlisten = 'a:1'\ncoordinator = ['x', 'y']\nlifeline = true\n";
        let args = merged(file, &["--zone=us"], "PGHC_LISTEN").expect("merged");
        let expected =
            ["pghc", "api", "--coordinator=x", "--coordinator=y", "--lifeline", "--zone=us"];
        assert_eq!(args, expected);
    }

    #[test]
    fn command_reads_only_its_own_keys_of_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("coordinator.toml");
        std::fs::write(&path, "data = '/d'\nid = 7\nzone = 'eu'\n").expect("written");
        let args = || {
            let args = ["pghc", "recover", "--config"].map(OsString::from).into_iter();
            args.chain([path.clone().into_os_string(), OsString::from("--write")]).collect()
        };
        let of = |keys| with_file(args(), &keys, |_| false).expect("merged").words;
        assert_eq!(of(Keys::Only(&["data"])), ["pghc", "recover", "--data=/d", "--write"]);
        let all: Vec<OsString> = args();
        assert_eq!(of(Keys::None), all);
    }

    #[test]
    fn a_file_that_is_not_toml_or_holds_a_table_is_refused_by_name() {
        for (file, wanted) in
            [("a = 1\nzone = ", "pghc.toml is not TOML: line 2"), ("[zone]\na = 1", "key \"zone\"")]
        {
            let error = merged(file, &[], "").expect_err(file);
            assert!(error.to_string().contains(wanted), "{error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }

    #[test]
    fn value_from_file_is_traced_to_its_key() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("pghc.toml");
        std::fs::write(&path, "cluster_id = 'x'\nzone = 'eu'\n").expect("written");
        let args = ["pghc", "api", "--zone=us", "--config"].map(OsString::from);
        let args = args.into_iter().chain([path.clone().into_os_string()]).collect();
        let words = with_file(args, &Keys::All, |_| false).expect("merged");
        let origin = format!("{}: key \"cluster_id\"", path.display());
        assert_eq!(words.origin("--cluster-id"), Some(origin));
        assert_eq!(words.origin("--zone"), None, "the command line gave it");
    }
}
