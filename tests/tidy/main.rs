//! Checks rules of the source tree: arrows between crates and modules, module comments, sizes, and
//! restricted names.

mod imports;
mod prose;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;
use toml::Table;

/// Longest source file in lines.
const FILE_LINES_MAX: usize = 600;

/// Modules of a crate, each with those that it may need.
type Modules = &'static [(&'static str, &'static [&'static str])];

/// Crates of which each module may only need some others; cargo keeps the crates apart.
const MODULES: &[(&str, Modules)] = &[(
    "src/server",
    &[
        ("linger", &[]),
        ("sequencer", &[]),
        ("coordinator", &["linger", "sequencer"]),
        ("zone", &["linger", "sequencer"]),
        ("http", &["zone"]),
    ],
)];

/// Words that only files below some folders may name.
const OWNED: &[(&str, &[&str])] = &[
    ("openraft::", &["src/server/coordinator"]),
    ("axum::", &["src/server/http"]),
    ("tokio_postgres::", &["src/postgres", "src/dev", "src/lab"]),
];

struct Source {
    /// Below the root of the repository.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Whether the file is in one of our crates and no test of its own.
    fn is_product(&self) -> bool {
        let is_test = |part: &OsStr| {
            ["build.rs", "tests", "tests.rs", "tampering.rs"].iter().any(|it| part == *it)
        };
        self.path.starts_with("src") && !self.path.iter().any(is_test)
    }

    /// The code without its comments and its tests.
    fn code(&self) -> String {
        code(self.text.split("#[cfg(test)]").next().unwrap_or_default())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for folder in ["src", "api/src", "tests", "examples", "benches"] {
        walk(&root().join(folder), &mut found);
    }
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("readable");
        Source { path: path.strip_prefix(root()).expect("below the root").to_owned(), text }
    };
    found.into_iter().map(source).collect()
}

/// Folders of the crates below `src/`, and the crates of ours that each needs, by its manifest.
fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let mut crates = BTreeMap::new();
    for entry in fs::read_dir(root().join("src")).expect("readable") {
        let folder = entry.expect("readable").path();
        let Ok(manifest) = fs::read_to_string(folder.join("Cargo.toml")) else { continue };
        let manifest: Table = manifest.parse().expect("TOML");
        let needed = manifest["dependencies"].as_table().expect("a table").keys();
        let needed = needed.filter_map(|name| name.strip_prefix("pghc-")).map(str::to_owned);
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        crates.insert(name, needed.collect());
    }
    crates
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            walk(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code without its comments.
fn code(text: &str) -> String {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Modules named after `crate::`, in groups too.
fn imports(code: &str) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            let mut taken = false;
            for letter in group.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 1 => break,
                    '}' => depth -= 1,
                    ',' if depth == 1 => taken = false,
                    _ if depth == 1 && !taken && (letter.is_alphanumeric() || letter == '_') => {
                        word.push(letter);
                        continue;
                    }
                    _ => {}
                }
                if !word.is_empty() {
                    named.insert(std::mem::take(&mut word));
                    taken = letter != ',';
                }
            }
            named.extend((!word.is_empty()).then_some(word));
        } else {
            named.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    named
}

#[test]
fn no_files_need_each_other() {
    let sources = sources();
    let mut roots: Vec<String> = crates().keys().map(|name| format!("src/{name}")).collect();
    roots.extend(["src".to_owned(), "api/src".to_owned()]);
    for root in &roots {
        // The crate of `src/` itself is the files that lie in no other.
        let is_inside = |path: &Path| match root.as_str() {
            "src" => roots.iter().filter(|it| *it != "src").all(|it| !path.starts_with(it)),
            _ => true,
        };
        let files = sources.iter().filter(|source| is_inside(&source.path));
        let files = files.map(|source| (source.path.as_path(), source.text.as_str()));
        let files = Crate::read(Path::new(root), files);
        let circles = files.circles();
        assert!(circles.is_empty(), "{} circles below {root}: {circles:#?}", circles.len());
    }
}

#[test]
fn imports_are_read_from_single_or_grouped_uses() {
    let code = "use crate::a::B;\nuse crate::{c::{D, E}, f, g::H};\nlet x = crate::i::j();";
    let expected = ["a", "c", "f", "g", "i"].map(str::to_owned);
    assert_eq!(imports(code), BTreeSet::from(expected));
}

#[test]
fn modules_of_a_crate_import_only_lower_ones() {
    let mut wrong = Vec::new();
    let sources = sources();
    for (folder, modules) in MODULES {
        for source in sources.iter().filter(|source| source.path.starts_with(folder)) {
            let inside = source.path.strip_prefix(folder).expect("it begins so");
            let module = inside.iter().next().expect("a file").to_string_lossy();
            let Some(module) = module.strip_suffix(".rs").or(Some(&*module)) else { continue };
            if module == "lib" || module == "Cargo.toml" {
                continue;
            }
            let lower = modules.iter().find(|(name, _)| *name == module);
            let Some((_, lower)) = lower else { panic!("{module} of {folder} has no row here") };
            for named in imports(&code(&source.text)) {
                let is_known = modules.iter().any(|(name, _)| *name == named);
                if is_known && named != module && !lower.contains(&named.as_str()) {
                    wrong.push(format!("{} imports {named}", source.path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn architecture_page_shows_the_arrows_of_the_crates() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("the page");
    for (name, needed) in crates() {
        let row = page.lines().find(|line| line.starts_with(&format!("| `src/{name}` |")));
        let row = row.unwrap_or_else(|| panic!("ARCHITECTURE.md has no row of src/{name}"));
        let shown = row.trim_end_matches(" |").rsplit(" | ").next().expect("a cell");
        let needed: Vec<String> = needed.into_iter().collect();
        assert_eq!(shown, needed.join(" "), "what src/{name} needs, in ARCHITECTURE.md");
    }
}

#[test]
fn external_crates_are_named_only_in_their_folders() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is_product()) {
        let code = source.code();
        for (word, folders) in OWNED {
            if code.contains(word) && !folders.iter().any(|it| source.path.starts_with(it)) {
                wrong.push(format!("{} names {word}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_file_has_module_doc_within_length_limit() {
    for source in sources() {
        let path = source.path.display();
        assert!(source.text.starts_with("//!"), "{path} opens without saying what it is for");
        let lines = source.text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "{path} has {lines} lines");
    }
}

#[test]
fn nothing_unfinished_is_left_lying_about() {
    // Put together so that this file does not find itself.
    let leftovers = [["TO", "DO"], ["FIX", "ME"], ["todo", "!("], ["unimple", "mented!("]];
    for source in sources() {
        for leftover in leftovers.map(|parts| parts.concat()) {
            assert!(!source.text.contains(&leftover), "{leftover} in {}", source.path.display());
        }
    }
}

/// The simulation replays a run from its seed: an unbiased `select!` throws dice of its own.
#[test]
fn every_select_in_simulated_code_is_biased() {
    let mut wrong = Vec::new();
    for source in sources() {
        let simulated =
            ["src/server/coordinator", "src/server/zone", "src/runtime/task", "src/sim"];
        if !simulated.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (place, rest) in source.text.match_indices("select! {") {
            let body = source.text[place + rest.len()..].trim_start();
            if !body.starts_with("biased;") {
                let line = source.text[..place].lines().count();
                wrong.push(format!("{}:{line}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A print macro panics when its reader has gone, and is believed when a write fails.
#[test]
fn everything_that_is_printed_goes_through_one_module() {
    let words = ["print!(", "println!(", "stdout().lock", "stdout(), ", "stderr(), ", ".print()"];
    let mut wrong = Vec::new();
    let printer = Path::new("src/runtime/output.rs");
    for source in sources().iter().filter(|it| it.is_product() && it.path != printer) {
        let code = source.code();
        for word in words.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{} has {word}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "print by pghc_runtime::output: {wrong:#?}");
}
