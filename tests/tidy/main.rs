//! Checks rules of the source tree: layers, module comments, sizes, and restricted names.

mod imports;
mod prose;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imports::Crate;

/// Longest source file in lines.
const FILE_LINES_MAX: usize = 600;

/// Modules from the lowest layer up; ARCHITECTURE.md shows the same table.
const LAYERS: &[(usize, &[&str])] = &[
    (
        1,
        &[
            "config",
            "connections",
            "failpoint",
            "geo",
            "http_client",
            "linger",
            "output",
            "private",
            "rpc",
            "sabotage",
            "task",
            "telemetry",
        ],
    ),
    (2, &["postgres", "sequencer", "wan"]),
    (3, &["coordinator", "zone"]),
    (4, &["http", "verify"]),
    (5, &["dev", "virtual_parade"]),
    (6, &["lab"]),
    (7, &["cli"]),
];

/// Modules that deal with processes, not with their insides: what they may import beside layer 1.
const OUTSIDERS: &[(&str, &[&str])] =
    &[("dev", &["wan"]), ("lab", &["wan", "dev", "virtual_parade"])];

/// Words that only some modules may name.
const OWNED: &[(&str, &[&str])] = &[
    ("openraft::", &["coordinator"]),
    ("axum::", &["http"]),
    ("tokio_postgres::", &["postgres", "dev", "lab"]),
];

struct Source {
    path: PathBuf,
    module: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "api/src", "tests", "examples"] {
        walk(&root.join(folder), &mut found);
    }
    let source = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("readable");
        let short = path.strip_prefix(root).expect("below the root").to_owned();
        let inside = short.strip_prefix("src").ok().and_then(|path| path.iter().next());
        let module = inside.map(|name| name.to_string_lossy().replace(".rs", ""));
        Source { path: short, module: module.unwrap_or_default(), text }
    };
    found.into_iter().map(source).collect()
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
    for root in ["src", "api/src"] {
        let files = sources.iter().map(|source| (source.path.as_path(), source.text.as_str()));
        let files = Crate::read(Path::new(root), files);
        let circles = files.circles();
        assert!(circles.is_empty(), "{} circles below {root}: {circles:#?}", circles.len());
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().find(|(_, modules)| modules.contains(&module)).map(|(layer, _)| *layer)
}

fn may_import(from: &str, to: &str) -> bool {
    if from == to {
        return true;
    }
    let (Some(low), Some(high)) = (layer(to), layer(from)) else { return true };
    let outsider = OUTSIDERS.iter().find(|(module, _)| *module == from);
    match outsider {
        Some((_, allowed)) => low == 1 || allowed.contains(&to),
        // Layer 1 is flat: its members may lean on each other.
        None => low < high || (low == 1 && high == 1),
    }
}

#[test]
fn imports_are_read_from_single_or_grouped_uses() {
    let code = "use crate::a::B;\nuse crate::{c::{D, E}, f, g::H};\nlet x = crate::i::j();";
    let expected = ["a", "c", "f", "g", "i"].map(str::to_owned);
    assert_eq!(imports(code), BTreeSet::from(expected));
}

#[test]
fn no_module_imports_from_beside_or_above() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.module.is_empty() || ["main", "bin", "lib"].contains(&source.module.as_str()) {
            continue;
        }
        assert!(layer(&source.module).is_some(), "{} has no layer", source.path.display());
        for named in imports(&code(&source.text)) {
            if layer(&named).is_some() && !may_import(&source.module, &named) {
                wrong.push(format!("{} imports {named}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_layers_here_are_those_of_the_architecture_page() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("the page");
    for (layer, modules) in LAYERS {
        let rows: String =
            page.lines().filter(|line| line.starts_with(&format!("| {layer} |"))).collect();
        for module in *modules {
            assert!(rows.contains(&format!("`{module}`")), "{module} is missing in layer {layer}");
        }
    }
}

#[test]
fn external_crates_are_named_only_in_their_modules() {
    let mut wrong = Vec::new();
    for source in sources().into_iter().filter(|source| !source.module.is_empty()) {
        if source.path.iter().any(|part| part == "tests" || part == "tests.rs") {
            continue;
        }
        let code = code(source.text.split("#[cfg(test)]").next().unwrap_or_default());
        for (word, modules) in OWNED {
            if code.contains(word) && !modules.contains(&source.module.as_str()) {
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
        if !["coordinator", "zone", "task", "virtual_parade"].contains(&source.module.as_str()) {
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
    for source in sources().into_iter().filter(|source| !source.module.is_empty()) {
        let tests = ["tests", "tests.rs", "tampering.rs"];
        let is_test = source.path.iter().any(|part| tests.iter().any(|name| part == *name));
        if is_test || ["output", "bin"].contains(&source.module.as_str()) {
            continue;
        }
        let code = code(source.text.split("#[cfg(test)]").next().unwrap_or_default());
        for word in words.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{} has {word}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "print by crate::output: {wrong:#?}");
}
