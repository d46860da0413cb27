//! What a machine can check of the prose: openings of comments, names of tests, lines of Markdown.

use std::fs;
use std::path::{Path, PathBuf};

use super::{root, sources};

/// Longest name of a test, in characters.
const TEST_NAME_MAX: usize = 60;

/// Longest line of Markdown outside of tables and blocks of code, in characters.
const MARKDOWN_LINE_MAX: usize = 100;

/// Words that begin a sentence without a subject of the field.
const OPENERS: &[&str] = &["What", "Who", "Whoever", "That", "Nobody", "Somebody"];

#[test]
fn no_comment_begins_without_a_subject() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("src")) {
        for (number, line) in source.text.lines().enumerate() {
            let Some(comment) = line.trim_start().strip_prefix("//") else { continue };
            let comment = comment.trim_start_matches(['/', '!']).trim_start();
            let first = comment.split([' ', ',']).next().unwrap_or_default();
            if OPENERS.contains(&first) {
                wrong.push(format!("{}:{}: {comment}", source.path.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} comments: {wrong:#?}", wrong.len());
}

/// Folders of the repository whose files pages name by their path.
const FOLDERS: &[&str] = &["api/", "deploy/", "docs/", "scripts/", "sql/", "src/", "tests/"];

#[test]
fn files_that_pages_name_exist() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        let words = text.split(|c: char| c.is_whitespace() || "`()[]|,;:#".contains(c));
        for word in words.map(|word| word.trim_end_matches(['.', '\''])) {
            let is_path = FOLDERS.iter().any(|folder| word.starts_with(folder));
            let is_pattern = word.contains(['*', '<', '{', '…']);
            let is_there =
                [root(), page.parent().expect("a folder")].iter().any(|it| it.join(word).exists());
            if is_path && !is_pattern && !is_there {
                wrong.push(format!("{}: {word}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn relative_links_of_pages_lead_to_a_file() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let is_elsewhere = link.is_empty() || link.contains("://");
            if !is_elsewhere && !page.parent().expect("a folder").join(link).exists() {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A command whose package has moved runs no test and succeeds.
#[test]
fn cargo_test_commands_name_their_package() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("readable");
    let texts =
        pages().into_iter().map(|page| (fs::read_to_string(&page).expect("readable"), page));
    let texts = texts.chain(sources().into_iter().map(|source| (source.text, source.path)));
    let mut wrong = Vec::new();
    for (text, path) in texts {
        // Put together so that this file does not find itself.
        for (at, _) in text.match_indices(&["cargo ", "test "].concat()) {
            let command = text[at..].split(['`', '"', '\n', '#']).next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().collect();
            let has_package = words.iter().any(|word| ["-p", "--workspace"].contains(word));
            let test = words.iter().position(|word| *word == "--test").map(|at| words.get(at + 1));
            let is_ours = test.flatten().is_none_or(|name| {
                *name == "NAME" || manifest.contains(&format!("[[test]]\nname = \"{name}\""))
            });
            if !has_package && (words.contains(&"--lib") || !is_ours) {
                wrong.push(format!("{}: {command}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn test_names_fit() {
    let mut wrong = Vec::new();
    for source in sources() {
        let mut is_test = false;
        for line in source.text.lines().map(str::trim_start) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if is_test && let Some((_, rest)) = line.split_once("fn ") {
                let name = rest.split('(').next().unwrap_or_default();
                if name.len() > TEST_NAME_MAX {
                    wrong.push(format!("{}: {name}", source.path.display()));
                }
                is_test = false;
            }
        }
    }
    assert!(wrong.is_empty(), "{} names are longer than {TEST_NAME_MAX}: {wrong:#?}", wrong.len());
}

#[test]
fn markdown_lines_fit() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).expect("readable");
        let mut is_code = false;
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("```") {
                is_code = !is_code;
            }
            let is_table = line.trim_start().starts_with('|');
            let is_block = is_code || is_table || line.starts_with("    ") || line.starts_with('[');
            if !is_block && line.chars().count() > MARKDOWN_LINE_MAX {
                let short = page.strip_prefix(root()).expect("below the root").display();
                wrong.push(format!("{short}:{}", number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{} lines are too long: {wrong:#?}", wrong.len());
}

/// Every page of Markdown in the repository.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for folder in ["", "api", "deploy", "docs", "src", "tests"] {
        walk(&root().join(folder), folder.is_empty(), &mut pages);
    }
    pages
}

fn walk(folder: &Path, is_flat: bool, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("readable").path()) {
        if path.is_dir() {
            if !is_flat {
                walk(&path, false, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}
