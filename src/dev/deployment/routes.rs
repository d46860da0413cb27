//! How a process of one zone reaches the coordinator of another: directly, or late.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pghc_api::id::ZoneName;
use pghc_runtime::task::Tasks;
use pghc_wan::{Matrix, Wan};

use super::Error;
use super::plan::ZonePlan;

/// The coordinators as each zone reaches them.
#[derive(Debug)]
pub(super) struct Routes {
    zones: Vec<Seen>,
    emulator: Option<Wan>,
    control: Option<String>,
}

/// How one zone reaches every coordinator, in the order of the zones.
#[derive(Debug)]
struct Seen {
    from: ZoneName,
    addresses: Vec<(ZoneName, SocketAddr)>,
}

impl Routes {
    /// Opens the routes; with a matrix, everything between two zones goes through a listener that
    /// delays it. They end with `tasks`.
    pub(super) async fn open(
        zones: &[ZonePlan],
        matrix: Option<Matrix>,
        seed: u64,
        tasks: &Tasks,
    ) -> Result<Self, Error> {
        let start =
            |matrix| Wan::start(matrix, seed, tasks).map_err(Error::io("start", "WAN emulator"));
        let emulator = matrix.map(start).transpose()?;
        let mut control = None;
        if let Some(wan) = &emulator {
            wan.check().await.map_err(Error::io("check", "WAN emulator"))?;
            let address = wan.serve().await.map_err(Error::io("serve", "WAN emulator"))?;
            control = Some(format!("http://{address}"));
        }
        let mut seen = Vec::new();
        for from in zones {
            let mut addresses = Vec::new();
            for to in zones {
                let address = address_of(emulator.as_ref(), &from.name, to).await?;
                addresses.push((to.name.clone(), address));
            }
            seen.push(Seen { from: from.name.clone(), addresses });
        }
        Ok(Self { zones: seen, emulator, control })
    }

    /// URL at which the emulator takes orders.
    pub(super) fn control(&self) -> Option<String> {
        self.control.clone()
    }

    /// The emulator, if there are distances.
    pub(super) fn emulator(&self) -> Option<&Wan> {
        self.emulator.as_ref()
    }

    /// URLs of all coordinators with their zones, as `from` reaches them, in the order of the zones.
    pub(super) fn coordinators(&self, from: &ZoneName) -> Vec<(ZoneName, String)> {
        let seen = self.zones.iter().find(|seen| seen.from == *from);
        let seen = seen.expect("routes are opened for every zone");
        let url =
            |(zone, address): &(ZoneName, SocketAddr)| (zone.clone(), format!("http://{address}"));
        seen.addresses.iter().map(url).collect()
    }

    /// The same, nearest first; the own zone's is the nearest.
    pub(super) fn nearest_first(&self, from: &ZoneName) -> Vec<String> {
        let mut coordinators = self.coordinators(from);
        coordinators.sort_by_key(|(to, _)| match &self.emulator {
            _ if to == from => (false, Duration::ZERO),
            Some(wan) => (true, wan.matrix().round_trip(from, to)),
            None => (true, Duration::ZERO),
        });
        coordinators.into_iter().map(|(_, url)| url).collect()
    }
}

/// The address under which the coordinator of `to` is reached from `from`.
async fn address_of(
    emulator: Option<&Wan>,
    from: &ZoneName,
    to: &ZonePlan,
) -> Result<SocketAddr, Error> {
    let direct = SocketAddr::from((Ipv4Addr::LOCALHOST, to.coordinator));
    match emulator {
        Some(wan) if *from != to.name => {
            wan.route(from, &to.name, direct).await.map_err(Error::io("route to", to.name.as_str()))
        }
        _ => Ok(direct),
    }
}
