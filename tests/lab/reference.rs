//! The reference pages below `docs/reference`, generated from the command line's definition and the metrics.
//!
//! After a change that is meant: `PGHC_REGENERATE=1 cargo test -p geo-load reference`.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use ::pghc::cli::{pghc, verify};
use clap::{Arg, ArgAction, Command, CommandFactory as _};
use geo_load::load;
use pghc_runtime::telemetry::Metrics;

const GENERATED: &str = "Generated from the code; `PGHC_REGENERATE=1 cargo test -p geo-load reference` writes this page anew.";

/// Compares a page with what the code generates, or writes it.
fn check(name: &str, generated: &str) {
    let path = format!("{}/../../docs/reference/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("PGHC_REGENERATE").is_some() {
        std::fs::write(&path, generated).expect("the repository can be written");
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = stored.lines().zip(generated.lines()).find(|(stored, new)| stored != new);
    assert!(
        stored == generated,
        "docs/reference/{name} is out of date, first at {differs:?}; regenerate it: \
         PGHC_REGENERATE=1 cargo test -p geo-load reference"
    );
}

/// Text in a cell of a table: one line, with its bars escaped.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// Appends a command and those below it. A global argument stands at the command that declares it;
/// `inherited` holds the names of those above.
fn describe(command: &Command, path: &str, inherited: &BTreeSet<String>, page: &mut String) {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "\n## {path}\n\n{}\n", wrapped(&about));
    let arguments: Vec<&Arg> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set())
        .filter(|argument| !inherited.contains(argument.get_id().as_str()))
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .collect();
    if !arguments.is_empty() {
        page.push_str("\n| argument | variable | default | meaning |\n|---|---|---|---|\n");
    }
    for argument in arguments {
        let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
        let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
        let defaults = argument.get_default_values();
        let default = (!defaults.is_empty() && takes_value(argument)).then(|| {
            let values: Vec<_> = defaults.iter().map(|it| it.to_string_lossy()).collect();
            format!("`{}`", values.join(","))
        });
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            cell(&spelling(argument)),
            variable.unwrap_or_default(),
            default.unwrap_or_default(),
            cell(&help),
        );
    }
    let global = command.get_arguments().filter(|argument| argument.is_global_set());
    let mut inherited = inherited.clone();
    inherited.extend(global.map(|argument| argument.get_id().to_string()));
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        describe(sub, &format!("{path} {}", sub.get_name()), &inherited, page);
    }
}

fn takes_value(argument: &Arg) -> bool {
    matches!(argument.get_action(), ArgAction::Set | ArgAction::Append)
}

/// The argument as it is typed: `--flag VALUE`, or `VALUE` in its place.
fn spelling(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let values = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(" ");
    match argument.get_long() {
        Some(long) if takes_value(argument) => format!("--{long} {values}"),
        Some(long) => format!("--{long}"),
        None => values,
    }
}

/// Prose in lines of at most 100 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("never empty");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= 100 {
            let _ = write!(last, " {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}

#[test]
fn command_line_page_matches_the_code() {
    let intro = format!(
        "# Command line\n\n{}\n\nEvery setting of `pghc coordinator` and `pghc api` is a flag, a variable \
         and a key of the file of `--config`: the\nflag without its dashes. A flag wins over a \
         variable, a variable over the file.\n",
        wrapped(GENERATED)
    );
    let mut page = intro.replace("the\nflag", "the flag");
    page = page.lines().map(wrapped_line).collect::<Vec<_>>().join("\n") + "\n";
    for (name, mut command) in [
        ("pghc", pghc::Arguments::command()),
        ("chain-verify", verify::Args::command()),
        ("geo-load", load::Cli::command()),
    ] {
        command.build();
        describe(&command, name, &BTreeSet::new(), &mut page);
    }
    check("command-line.md", &page);
}

fn wrapped_line(line: &str) -> String {
    if line.starts_with('#') { line.to_owned() } else { wrapped(line) }
}

#[test]
fn metrics_page_matches_the_code() {
    let mut page = format!("# Metrics\n\n{}\n", wrapped(GENERATED));
    let (api_node, coordinator) =
        (Metrics::for_api_node(&["/v1/chain"]), Metrics::for_coordinator());
    // A family without a sample is not exposed.
    let _ = api_node.zone.can_read_of("us");
    let _ = coordinator.coordinator.detached("us");
    for (title, metrics) in [("API node", api_node), ("coordinator", coordinator)] {
        let exposition = metrics.exposition();
        let mut rows = BTreeSet::new();
        for line in exposition.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let (name, help) = line.split_once(' ').expect("a name and its help");
            let kind = format!("# TYPE {name} ");
            let kind = exposition.lines().find_map(|line| line.strip_prefix(&kind));
            rows.insert(format!("| `{name}` | {} | {} |", kind.unwrap_or_default(), cell(help)));
        }
        let _ = write!(page, "\n## {title}\n\n| metric | type | meaning |\n|---|---|---|\n");
        rows.iter().for_each(|row| page.push_str(&format!("{row}\n")));
    }
    check("metrics.md", &page);
}
