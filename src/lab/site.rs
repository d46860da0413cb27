//! The deployment of a run: one of its own, started for it and stopped after it, or one that runs
//! already and is left as it is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use pghc_api::id::ZoneName;
use pghc_dev::deployment::{
    Acks, Deployment, DeploymentOptions, Profile, ZONES_MAX, default_zones, zones_of,
};
use pghc_dev::record::DeploymentRecord;
use pghc_wan::{Matrix, Wan};

use super::net::Remote;
use super::target::Target;

/// Longest wait until a new deployment serves.
const READY_MAX: Duration = Duration::from_secs(90);

/// Zones when nothing says how many.
const ZONES_DEFAULT: usize = 3;

/// Where a run takes place.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// `parade.json` of a running deployment, or the directory that holds it; `None`: an own one.
    pub against: Option<PathBuf>,
    /// Zones of an own deployment; `None`: those its data is of, else three.
    pub zones: Option<usize>,
    /// Latency matrix of an own deployment, a built-in name or a file; its zones give their names.
    pub wan: Option<String>,
    /// Data directory of an own deployment, kept; `None`: a temporary one, removed.
    pub data: Option<PathBuf>,
    /// First port of an own deployment; `None`: any.
    pub base_port: Option<u16>,
    /// Zones of any deployment and the URLs of their API nodes; empty: as the rest says.
    pub targets: Vec<(String, String)>,
}

/// A deployment to start for a run, as its scenario says.
#[derive(Debug, Clone)]
pub struct OwnSite {
    /// Its zones.
    pub zones: Vec<ZoneName>,
    /// The voting zones; `None`: all.
    pub voters: Option<Vec<ZoneName>>,
    /// Their distances.
    pub matrix: Option<Matrix>,
    /// API nodes in each zone.
    pub api_nodes: usize,
    /// How its coordinators know that writes are committed.
    pub acks: Acks,
    /// Throws the emulator's dice.
    pub seed: u64,
}

/// A deployment to drive.
#[derive(Debug)]
pub struct Site {
    target: Target,
    own: Option<Deployment>,
    /// Of a deployment that is found by its `parade.json`.
    record: Option<DeploymentRecord>,
}

impl Site {
    /// Starts a deployment or finds the running one, and waits until it serves.
    ///
    /// # Errors
    /// When there is none to drive; what was started is stopped again.
    pub async fn open(options: &SiteOptions) -> anyhow::Result<Self> {
        if let Some(found) = Self::find(options).await? {
            return Ok(found);
        }
        Self::start(deployment_options(options)?).await
    }

    /// A running deployment known only by its zones.
    #[must_use]
    pub fn of(target: Target) -> Self {
        Self { target, own: None, record: None }
    }

    /// The running deployment that the options name, if they do.
    ///
    /// # Errors
    /// When it is not there.
    pub async fn find(options: &SiteOptions) -> anyhow::Result<Option<Self>> {
        if !options.targets.is_empty() {
            let target = Target::of_urls(&options.targets).await?;
            return Ok(Some(Self::of(target)));
        }
        let Some(path) = &options.against else { return Ok(None) };
        let record = DeploymentRecord::find(path)?;
        Ok(Some(Self { target: Target::of(&record).await?, own: None, record: Some(record) }))
    }

    /// Starts a deployment for a scenario and waits until it serves.
    ///
    /// # Errors
    /// When it does not; what was started is stopped again.
    pub async fn open_own(options: &SiteOptions, own: OwnSite) -> anyhow::Result<Self> {
        Self::start(DeploymentOptions {
            zones: own.zones,
            voters: own.voters,
            data: options.data.clone(),
            base_port: options.base_port,
            api_nodes: own.api_nodes,
            acks: own.acks,
            profile: if own.matrix.is_some() { Profile::Wan } else { Profile::Lan },
            wan: own.matrix,
            wan_seed: own.seed,
            ..DeploymentOptions::default()
        })
        .await
    }

    async fn start(options: DeploymentOptions) -> anyhow::Result<Self> {
        let deployment = Deployment::start(options).await?;
        let ready = async {
            deployment.ready(READY_MAX).await?;
            Target::of(&deployment.record()).await
        };
        match ready.await {
            Ok(target) => Ok(Self { target, own: Some(deployment), record: None }),
            Err(error) => {
                deployment.stop().await;
                Err(error.context("the deployment started for this run does not serve"))
            }
        }
    }

    /// The endpoints for clients.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Processes of the deployment, when this run started it.
    #[must_use]
    pub fn deployment(&self) -> Option<&Deployment> {
        self.own.as_ref()
    }

    /// The emulator between its zones, when this process runs one.
    #[must_use]
    pub fn emulator(&self) -> Option<&Wan> {
        self.own.as_ref().and_then(Deployment::wan)
    }

    /// Record of the deployment, when more than its API nodes is known.
    #[must_use]
    pub fn record(&self) -> Option<DeploymentRecord> {
        self.own.as_ref().map(Deployment::record).or_else(|| self.record.clone())
    }

    /// Control of the distances between its zones, if the deployment has an emulator.
    #[must_use]
    pub fn net(&self) -> Option<Remote> {
        self.record()?.wan.map(|url| Remote::at(&url))
    }

    /// Stops an own deployment; leaves another alone.
    pub async fn close(self) {
        if let Some(deployment) = &self.own {
            deployment.stop().await;
        }
    }
}

fn deployment_options(options: &SiteOptions) -> anyhow::Result<DeploymentOptions> {
    let matrix = options.wan.as_deref().map(Matrix::find).transpose()?;
    let held = options.data.as_deref().map(zones_of).transpose()?.flatten();
    Ok(DeploymentOptions {
        zones: choose_zones(matrix.as_ref(), options.zones, held)?,
        data: options.data.clone(),
        base_port: options.base_port,
        profile: if matrix.is_some() { Profile::Wan } else { Profile::Lan },
        wan: matrix,
        wan_seed: rand::random(),
        ..DeploymentOptions::default()
    })
}

/// The zones of the matrix, or its first ones, else those the data is of, else the usual ones; three
/// when nothing says how many.
fn choose_zones(
    matrix: Option<&Matrix>,
    wanted: Option<usize>,
    held: Option<Vec<ZoneName>>,
) -> anyhow::Result<Vec<ZoneName>> {
    let count = wanted.or(held.as_ref().map(Vec::len));
    let Some(matrix) = matrix else {
        let held = held.filter(|held| count == Some(held.len()));
        return Ok(held.unwrap_or_else(|| default_zones(count.unwrap_or(ZONES_DEFAULT))));
    };
    let names = matrix.zones();
    let count = count.unwrap_or(names.len().min(ZONES_MAX));
    ensure!(count <= names.len(), "the matrix has {} zones, not {count}", names.len());
    Ok(names[..count].to_vec())
}

#[cfg(test)]
mod tests {
    use pghc_wan::Matrix;

    use super::choose_zones;

    fn check(matrix: Option<&Matrix>, wanted: Option<usize>, held: Option<&str>) -> String {
        let held = held.map(|zone| vec![zone.parse().expect("a plain name")]);
        match choose_zones(matrix, wanted, held) {
            Ok(zones) => zones.iter().map(|zone| zone.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn zones_come_from_matrix_then_data_then_default() {
        let rows = "a,0,1,1,1\nb,1,0,1,1\nc,1,1,0,1\nd,1,1,1,0";
        let matrix: Matrix = format!("zone,a,b,c,d\n{rows}").parse().expect("a good matrix");
        assert_eq!(check(Some(&matrix), None, None), "a b c d");
        assert_eq!(check(Some(&matrix), Some(3), None), "a b c");
        assert_eq!(check(Some(&matrix), Some(4), None), "a b c d");
        assert_eq!(check(Some(&matrix), Some(5), None), "the matrix has 4 zones, not 5");
        assert_eq!(check(Some(&matrix), None, Some("x")), "a");
        assert_eq!(check(None, None, None), "eu us ap");
        assert_eq!(check(None, Some(2), None), "eu us");
        assert_eq!(check(None, None, Some("x")), "x");
        // The deployment itself refuses another number of zones than its data is of.
        assert_eq!(check(None, Some(2), Some("x")), "eu us");
    }
}
