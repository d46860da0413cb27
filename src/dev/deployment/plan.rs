//! `cluster.json`: what a deployment's data directory is: cluster, zones, ports. Kept over restarts.

use std::fs;
use std::path::Path;

use pghc_api::id::{ClusterId, ZoneName};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::ports::Ports;
use crate::record::replace;

const FILE: &str = "cluster.json";

/// Content of `cluster.json`.
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

    /// Every port of it.
    pub(super) fn ports(&self) -> impl Iterator<Item = u16> {
        let of = |zone: &ZonePlan| [&[zone.postgres, zone.coordinator], &zone.api[..]].concat();
        self.zones.iter().flat_map(of)
    }

    pub(super) fn write(&self, data: &Path) -> Result<(), Error> {
        let file = data.join(FILE);
        replace(&file, self).map_err(Error::io("write", file))
    }
}

fn join<'a>(zones: impl IntoIterator<Item = &'a ZoneName>) -> String {
    zones.into_iter().map(ZoneName::as_str).collect::<Vec<_>>().join(", ")
}
