//! `pghc export`: the chain of a zone as a file, for `chain-verify --file` and for others.
//!
//! Exit codes: 0 written, or the reader of standard output has gone; 1 the chain is bad; 2 wrong usage, not
//! readable, or not writable.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use pghc_api::id::WriteId;
use pghc_runtime::output;
use pghc_runtime::program::{USAGE, with_causes};
use pghc_runtime::task::Tasks;
use pghc_verify::{Begun, Extract, ExtractError, Extracted, Place, begun, extract};

use super::verify::place;
use super::view;

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// Write the chain of a zone as an export: a header line, then one link with its payload a line, in
/// id order.
///
/// Every link is checked as it is written, and payloads keep their bytes. `chain-verify --file` takes
/// the file as a witness. Exit code 0: written, 1: the chain is bad, 2: not readable or not writable.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An API node of the zone
    #[arg(long, value_name = "URL", value_parser = api, required_unless_present = "database")]
    api: Option<Place>,
    /// The zone's PostgreSQL
    #[arg(long, value_name = "DSN", value_parser = database, conflicts_with = "api")]
    database: Option<Place>,
    /// First id to write
    #[arg(long, value_name = "ID", default_value = "1")]
    from: WriteId,
    /// Last id to write [default: the zone's frontier]
    #[arg(long, value_name = "ID")]
    to: Option<WriteId>,
    /// File to write, which must not exist [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on with a file that an export before was cut off in
    #[arg(long, requires = "output", conflicts_with_all = ["from", "to"])]
    resume: bool,
}

fn api(text: &str) -> Result<Place, String> {
    match place(text)? {
        Place::Api(url) => Ok(Place::Api(url)),
        _ => Err("want http://host:port".to_owned()),
    }
}

fn database(text: &str) -> Result<Place, String> {
    match place(text)? {
        Place::Database(dsn) => Ok(Place::Database(dsn)),
        _ => Err("want postgres://user@host:port/database".to_owned()),
    }
}

/// Writes an export.
pub async fn run(arguments: Arguments) -> ExitCode {
    let tasks = Tasks::default();
    let written = write(arguments, &tasks).await;
    tasks.shut_down().await;
    match written {
        Ok(Some(Extracted { cluster, from, to })) => {
            view::complain(&format!("links {from} to {to} of cluster {cluster} were exported"));
            ExitCode::SUCCESS
        }
        Ok(None) => {
            view::complain("the export is whole: nothing was left to write");
            ExitCode::SUCCESS
        }
        // Either the reader has gone and wants no more, or the end of the program says what failed.
        Err(ExtractError::Output(_)) if output::has_ended() => ExitCode::SUCCESS,
        Err(error) => {
            view::complain(&format!("pghc: {}", with_causes(&error)));
            ExitCode::from(if matches!(error, ExtractError::Violation(_)) { 1 } else { USAGE })
        }
    }
}

async fn write(arguments: Arguments, tasks: &Tasks) -> Result<Option<Extracted>, ExtractError> {
    let place = arguments.api.or(arguments.database).expect("clap wants one of them");
    let request = Extract { place, from: arguments.from, to: arguments.to };
    if request.to.is_some_and(|to| to < request.from) {
        let text = format!("--from {} is above --to", request.from);
        return Err(ExtractError::Unreadable(text));
    }
    let Some(path) = &arguments.output else {
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, output::Stdout);
        return extract(&request, None, &mut out, tasks).await.map(Some);
    };
    let earlier = if arguments.resume { Some(begun(path).await?) } else { None };
    if earlier.as_ref().is_some_and(|begun| begun.is_whole) {
        return Ok(None);
    }
    let file = open(path, earlier.as_ref()).map_err(|error| {
        let name = path.display();
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => ExtractError::Unreadable(format!(
                "{name} is there already: --resume goes on with it, another name begins anew"
            )),
            _ => ExtractError::Unreadable(format!("cannot write {name}: {error}")),
        }
    })?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, file);
    let extracted = extract(&request, earlier.as_ref(), &mut out, tasks).await;
    // The part written before an error is kept, and the export can continue from it.
    let synced = out.flush().and_then(|()| out.get_ref().sync_all());
    let extracted = extracted?;
    synced.map_err(ExtractError::Output)?;
    Ok(Some(extracted))
}

/// Opens a new file, or an earlier one behind its last whole link.
fn open(path: &Path, earlier: Option<&Begun>) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    // Payloads are private to the user.
    options.write(true).mode(0o600);
    let Some(Begun { bytes, .. }) = earlier else {
        return options.create_new(true).open(path);
    };
    let mut file = options.open(path)?;
    file.set_len(*bytes)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}
