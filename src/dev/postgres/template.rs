//! One fresh data directory that temporary servers copy.
//!
//! `initdb` takes ten times the processor time of a copy. Servers whose data may be lost share one
//! template of the process; every other server runs its own `initdb` and has its own system
//! identifier.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::{fs, io};

use pghc_runtime::private;
use tokio::sync::Mutex;

use super::error::Error;
use super::install::Owner;
use crate::scratch::Scratch;

/// The newest; gone with the last server that was made from it.
static TEMPLATE: Mutex<Weak<Template>> = Mutex::const_new(Weak::new());

/// A data directory that no server ever ran on.
#[derive(Debug)]
pub(super) struct Template {
    scratch: Scratch,
    owner: Option<Owner>,
    version: u32,
}

impl Template {
    /// The template of this process, for servers of this user and version; made by `initdb` when there
    /// is none.
    pub(super) async fn of(
        owner: Option<Owner>,
        version: u32,
        initdb: impl AsyncFnOnce(PathBuf) -> Result<(), Error>,
    ) -> Result<Arc<Self>, Error> {
        let mut newest = TEMPLATE.lock().await;
        let fits = |it: &Arc<Self>| it.owner == owner && it.version == version;
        if let Some(template) = newest.upgrade().filter(fits) {
            return Ok(template);
        }
        let scratch = Scratch::new("initdb").map_err(Error::io("create a directory"))?;
        let data = scratch.path().join("data");
        if let Some(owner) = owner {
            owner.open_path(&data)?;
        }
        initdb(data).await?;
        let template = Arc::new(Self { scratch, owner, version });
        *newest = Arc::downgrade(&template);
        Ok(template)
    }

    /// Copies it to `to`, which must not be there.
    pub(super) async fn copy(self: &Arc<Self>, to: &Path) -> Result<(), Error> {
        let (template, to) = (Arc::clone(self), to.to_owned());
        let copy = move || copy_tree(&template.scratch.path().join("data"), &to, template.owner);
        let copied = pghc_runtime::task::blocking(copy).await;
        copied.and_then(|copied| copied).map_err(Error::io("copy a fresh data directory"))
    }
}

/// Copies a directory of directories and files with their modes, for an owner.
fn copy_tree(from: &Path, to: &Path, owner: Option<Owner>) -> io::Result<()> {
    private::create_dir(to)?;
    take(to, owner)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to, owner)?;
        } else {
            fs::copy(entry.path(), &to)?;
            take(&to, owner)?;
        }
    }
    Ok(())
}

fn take(path: &Path, owner: Option<Owner>) -> io::Result<()> {
    owner.map_or(Ok(()), |owner| owner.take(path))
}
