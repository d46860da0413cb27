//! `cluster.json`: what a parade's data directory is: cluster, zones, ports. Kept over restarts.
//!
//! Also the lock that lets one supervisor at a time have the directory; the kernel frees it when
//! the supervisor dies, however it dies.

use std::fs::{self, File, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use pghc_api::id::{ClusterId, ZoneName};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::dev::ports::Ports;
use crate::dev::record::replace;

const FILE: &str = "cluster.json";
const LOCK: &str = "supervisor.pid";

/// What `cluster.json` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) cluster_id: ClusterId,
    pub(super) zones: Vec<ZonePlan>,
}

/// The ports of one zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ZonePlan {
    pub(super) name: ZoneName,
    pub(super) postgres: u16,
    pub(super) coordinator: u16,
    pub(super) api: Vec<u16>,
}

impl Plan {
    /// Reads the plan of `data`; `None` when nothing was ever started there.
    pub(super) fn read(data: &Path) -> Result<Option<Self>, Error> {
        let file = data.join(FILE);
        match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|source| Error::BadPlan { file, source }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("read", file)(error)),
        }
    }

    /// Refuses zones that are not those of this plan: a coordinator's or a zone's data belongs to
    /// one place in one group.
    pub(super) fn check_zones(&self, data: &Path, wanted: &[ZoneName]) -> Result<(), Error> {
        let held: Vec<&ZoneName> = self.zones.iter().map(|zone| &zone.name).collect();
        if held.iter().copied().eq(wanted) {
            return Ok(());
        }
        Err(Error::OtherZones { data: data.to_owned(), held: join(held), wanted: join(wanted) })
    }

    /// Gives every server its port: the one of `before` where that is free.
    pub(super) fn with_ports(
        before: Option<&Self>,
        zones: &[ZoneName],
        api_nodes: usize,
        base_port: Option<u16>,
    ) -> Result<Self, Error> {
        let mut ports = Ports::new(base_port);
        let mut port = |before: Option<u16>| match before {
            Some(port) => ports.again(port),
            None => ports.next(),
        };
        let cluster_id = match before {
            Some(plan) => plan.cluster_id.clone(),
            None => {
                let uuid = uuid::Uuid::new_v4().hyphenated().to_string();
                uuid.parse().expect("a hyphenated UUID is a cluster id")
            }
        };
        let mut planned = Vec::new();
        for name in zones {
            let zone = before.and_then(|plan| plan.zones.iter().find(|zone| zone.name == *name));
            let api = |node: usize| zone.and_then(|zone| zone.api.get(node).copied());
            planned.push(ZonePlan {
                name: name.clone(),
                postgres: port(zone.map(|zone| zone.postgres))?,
                coordinator: port(zone.map(|zone| zone.coordinator))?,
                api: (0..api_nodes).map(|node| port(api(node))).collect::<Result<_, _>>()?,
            });
        }
        Ok(Self { cluster_id, zones: planned })
    }

    pub(super) fn write(&self, data: &Path) -> Result<(), Error> {
        let file = data.join(FILE);
        replace(&file, self).map_err(Error::io("write", file))
    }
}

fn join<'a>(zones: impl IntoIterator<Item = &'a ZoneName>) -> String {
    zones.into_iter().map(ZoneName::as_str).collect::<Vec<_>>().join(", ")
}

/// Creates the data directory if there is none and takes it for this process until the file that is
/// answered is dropped. The path is answered without symbolic links.
pub(super) fn take_directory(data: &Path) -> Result<(PathBuf, File), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o711).create(data).map_err(Error::io("create", data))?;
    let data = data.canonicalize().map_err(Error::io("find", data))?;
    let path = data.join(LOCK);
    let mut options = File::options();
    let lock = options.create(true).truncate(false).read(true).write(true).open(&path);
    let mut lock = lock.map_err(Error::io("open", &path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            lock.read_to_string(&mut text).map_err(Error::io("read", &path))?;
            return Err(Error::AlreadyRuns { data, supervisor: text.trim().to_owned() });
        }
        Err(TryLockError::Error(error)) => return Err(Error::io("lock", &path)(error)),
    }
    lock.set_len(0).map_err(Error::io("write", &path))?;
    lock.rewind().map_err(Error::io("write", &path))?;
    writeln!(lock, "{}", std::process::id()).map_err(Error::io("write", &path))?;
    Ok((data, lock))
}
