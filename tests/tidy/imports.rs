//! Which file of a crate needs which: read from the paths in its code, through re-exports.
//!
//! Enough of Rust for this tree: `use` trees, paths that begin with `crate`, `self`, `super` or a child module, and
//! names that a `mod.rs` re-exports, which count as an arrow to the file that defines them. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A module path without `crate`: `["zone", "node"]`.
type Module = Vec<String>;

/// The files of one crate.
pub(crate) struct Crate {
    files: BTreeMap<Module, File>,
}

struct File {
    path: PathBuf,
    /// Every path of a `use`, with the name it is known by here, and whether it is passed on.
    uses: Vec<Use>,
    /// Paths in the rest of the code.
    paths: BTreeSet<Vec<String>>,
    /// Words of the rest of the code.
    words: BTreeSet<String>,
}

struct Use {
    path: Vec<String>,
    name: String,
    is_public: bool,
}

impl Crate {
    /// Reads the files, each with its path below `root`, the folder of `lib.rs`.
    pub(crate) fn read<'a>(
        root: &Path,
        sources: impl Iterator<Item = (&'a Path, &'a str)>,
    ) -> Self {
        let files = sources
            .filter_map(|(path, text)| {
                let module = module_of(path.strip_prefix(root).ok()?)?;
                Some((module, File::read(path, text)))
            })
            .collect();
        Self { files }
    }

    /// Sets of files that need each other, the largest first: of each file, which others of the set.
    pub(crate) fn circles(&self) -> Vec<BTreeMap<&Path, Vec<&Path>>> {
        let arrows: BTreeMap<&Module, BTreeSet<&Module>> =
            self.files.keys().map(|module| (module, self.needs(module))).collect();
        let reach: BTreeMap<&Module, BTreeSet<&Module>> =
            arrows.keys().map(|module| (*module, reached(&arrows, module))).collect();
        let mut circles = BTreeSet::new();
        for (module, reached) in &reach {
            let circle: BTreeSet<&Module> =
                reached.iter().copied().filter(|other| reach[other].contains(module)).collect();
            if circle.len() > 1 {
                circles.insert(circle);
            }
        }
        let path = |module: &Module| self.files[module].path.as_path();
        let shown = |circle: BTreeSet<&Module>| {
            let inside = |module: &&Module| {
                let needed = arrows[module].intersection(&circle).map(|it| path(it));
                (path(module), needed.collect())
            };
            circle.iter().map(inside).collect()
        };
        let mut circles: Vec<BTreeMap<_, _>> = circles.into_iter().map(shown).collect();
        circles.sort_by_key(|circle| usize::MAX - circle.len());
        circles
    }

    /// The files that a file names, itself not among them.
    fn needs(&self, module: &Module) -> BTreeSet<&Module> {
        let file = &self.files[module];
        let used = file.uses.iter().filter(|it| !it.is_public || file.words.contains(&it.name));
        let paths = used.map(|it| &it.path).chain(&file.paths);
        paths.filter_map(|path| self.find(module, path, 0)).filter(|it| *it != module).collect()
    }

    /// The file that defines what `path` names in `module`.
    fn find(&self, module: &Module, path: &[String], depth: usize) -> Option<&Module> {
        let mut at = module.clone();
        let mut rest = path;
        let mut is_rooted = false;
        while let Some((first, more)) = rest.split_first() {
            match first.as_str() {
                "crate" => at.clear(),
                "super" => drop(at.pop()),
                "self" => {}
                _ => break,
            }
            (rest, is_rooted) = (more, true);
        }
        let first = rest.first()?;
        at.push(first.clone());
        let is_module = self.files.contains_key(&at);
        at.pop();
        if !is_rooted && !is_module {
            return None;
        }
        for (place, segment) in rest.iter().enumerate() {
            at.push(segment.clone());
            if !self.files.contains_key(&at) {
                at.pop();
                return self.defined(&at, segment, &rest[place + 1..], depth);
            }
        }
        self.files.get_key_value(&at).map(|(module, _)| module)
    }

    /// The file that defines `name`, looked for in `module` and where that re-exports it from.
    fn defined(
        &self,
        module: &Module,
        name: &str,
        more: &[String],
        depth: usize,
    ) -> Option<&Module> {
        let (module, file) = self.files.get_key_value(module)?;
        let passed = file.uses.iter().find(|it| it.is_public && it.name == name);
        match passed {
            Some(passed) if depth < 8 => {
                let path = [&passed.path[..], more].concat();
                Some(self.find(module, &path, depth + 1).unwrap_or(module))
            }
            _ => Some(module),
        }
    }
}

fn reached<'a>(
    arrows: &BTreeMap<&'a Module, BTreeSet<&'a Module>>,
    from: &'a Module,
) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&Module> = vec![from];
    while let Some(module) = left.pop() {
        for next in &arrows[module] {
            if reached.insert(*next) {
                left.push(next);
            }
        }
    }
    reached
}

/// The module of a file; `None` for tests and binaries.
fn module_of(path: &Path) -> Option<Module> {
    let mut module: Module =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let is_left_out = |part: &String| ["tests", "main", "bin"].contains(&part.as_str());
    if module.iter().any(is_left_out) {
        return None;
    }
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    Some(module)
}

impl File {
    fn read(path: &Path, text: &str) -> Self {
        let tokens = tokens(text);
        let mut file = Self {
            path: path.to_owned(),
            uses: Vec::new(),
            paths: BTreeSet::new(),
            words: BTreeSet::new(),
        };
        let mut at = 0;
        while at < tokens.len() {
            if tokens[at] == "use" {
                let is_public = before_use(&tokens[..at]);
                let end =
                    tokens[at..].iter().position(|it| it == ";").map_or(tokens.len(), |n| at + n);
                tree(&tokens[at + 1..end], &mut Vec::new(), &mut |path, name| {
                    file.uses.push(Use { path, name, is_public });
                });
                at = end;
            } else if is_word(&tokens[at]) {
                let mut path = vec![tokens[at].clone()];
                while tokens.get(at + 1).is_some_and(|it| it == "::")
                    && tokens.get(at + 2).is_some_and(|it| is_word(it))
                {
                    path.push(tokens[at + 2].clone());
                    at += 2;
                }
                file.words.insert(path[0].clone());
                if path.len() > 1 {
                    file.paths.insert(path);
                }
                at += 1;
            } else {
                at += 1;
            }
        }
        file
    }
}

/// Whether the `use` behind these tokens has a `pub` or `pub(…)`.
fn before_use(before: &[String]) -> bool {
    let open = before.iter().rposition(|it| it == "pub");
    open.is_some_and(|open| before[open..].iter().all(|it| is_word(it) || it == "(" || it == ")"))
}

/// Calls `found` with every path of a `use` tree and the name it is known by.
fn tree(tokens: &[String], path: &mut Vec<String>, found: &mut impl FnMut(Vec<String>, String)) {
    let own = path.len();
    let mut at = 0;
    while at < tokens.len() && tokens[at] != "{" {
        match tokens[at].as_str() {
            "::" => {}
            "as" => {
                found(path.clone(), tokens[at + 1].clone());
                path.truncate(own);
                return;
            }
            "self" if own > 0 => {}
            word => path.push(word.to_owned()),
        }
        at += 1;
    }
    if at < tokens.len() {
        let inside = &tokens[at + 1..tokens.len() - 1];
        let mut depth = 0;
        let mut from = 0;
        for place in 0..=inside.len() {
            match inside.get(place).map(String::as_str) {
                Some("{") => depth += 1,
                Some("}") => depth -= 1,
                Some(",") | None if depth == 0 => {
                    if place > from {
                        tree(&inside[from..place], path, found);
                    }
                    from = place + 1;
                }
                _ => {}
            }
        }
    } else {
        found(path.clone(), path.last().cloned().unwrap_or_default());
    }
    path.truncate(own);
}

fn is_word(token: &str) -> bool {
    token.starts_with(|letter: char| letter.is_alphabetic() || letter == '_' || letter == '*')
}

/// Words, `::` and single signs of the code in front of its tests, without comments and literals.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = code.replace("#[cfg(test)]\nmod tests;", "");
    let letters: Vec<char> = code.chars().collect();
    let mut at = 0;
    while at < letters.len() {
        let letter = letters[at];
        let next = letters.get(at + 1).copied().unwrap_or(' ');
        if letter == '/' && next == '/' {
            while at < letters.len() && letters[at] != '\n' {
                at += 1;
            }
        } else if letter == '"' {
            at += 1;
            while at < letters.len() && letters[at] != '"' {
                at += 1 + usize::from(letters[at] == '\\');
            }
            at += 1;
        } else if letter == '\'' && (next == '\\' || letters.get(at + 2) == Some(&'\'')) {
            at += 2 + usize::from(next == '\\');
            while at < letters.len() && letters[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if letter.is_alphanumeric() || letter == '_' {
            let from = at;
            while at < letters.len() && (letters[at].is_alphanumeric() || letters[at] == '_') {
                at += 1;
            }
            tokens.push(letters[from..at].iter().collect());
        } else if letter == ':' && next == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !letter.is_whitespace() {
                tokens.push(letter.to_string());
            }
            at += 1;
        }
    }
    tokens
}
