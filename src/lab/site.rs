//! The parade of a run: one of its own, started for it and stopped after it, or one that runs
//! already and is left as it is.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use pghc_api::id::ZoneName;

use super::target::Target;
use crate::dev::parade::{Parade, ParadeOptions, Profile, ZONES_MAX, default_zones, zones_of};
use crate::wan::{Matrix, Wan};

/// Longest wait until a new parade serves.
const READY_MAX: Duration = Duration::from_secs(90);

/// Zones when nothing says how many.
const ZONES_DEFAULT: usize = 3;

/// Where a run takes place.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// `parade.json` of a running parade, or the directory that holds it; `None`: an own one.
    pub against: Option<PathBuf>,
    /// Zones of an own parade; `None`: those its data is of, else three.
    pub zones: Option<usize>,
    /// Latency matrix of an own parade, a built-in name or a file; its zones give their names.
    pub wan: Option<String>,
    /// Data directory of an own parade, kept; `None`: a temporary one, removed.
    pub data: Option<PathBuf>,
    /// First port of an own parade; `None`: any.
    pub base_port: Option<u16>,
}

/// A parade to drive.
#[derive(Debug)]
pub struct Site {
    target: Target,
    own: Option<Parade>,
}

impl Site {
    /// Starts a parade or finds the running one, and waits until it serves.
    ///
    /// # Errors
    /// When there is none to drive; what was started is stopped again.
    pub async fn open(options: &SiteOptions) -> anyhow::Result<Self> {
        if let Some(path) = &options.against {
            return Ok(Self { target: Target::read(path).await?, own: None });
        }
        let parade = Parade::start(parade_options(options)?).await?;
        let ready = async {
            parade.ready(READY_MAX).await?;
            Target::of(&parade.record()).await
        };
        match ready.await {
            Ok(target) => Ok(Self { target, own: Some(parade) }),
            Err(error) => {
                parade.stop().await;
                Err(error.context("the parade started for this run does not serve"))
            }
        }
    }

    /// What clients see of it.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The emulator between its zones, when this process runs one.
    #[must_use]
    pub fn emulator(&self) -> Option<&Wan> {
        self.own.as_ref().and_then(Parade::wan)
    }

    /// Stops an own parade; leaves another alone.
    pub async fn close(self) {
        if let Some(parade) = &self.own {
            parade.stop().await;
        }
    }
}

fn parade_options(options: &SiteOptions) -> anyhow::Result<ParadeOptions> {
    let matrix = options.wan.as_deref().map(Matrix::find).transpose()?;
    let held = options.data.as_deref().map(zones_of).transpose()?.flatten();
    Ok(ParadeOptions {
        zones: choose_zones(matrix.as_ref(), options.zones, held)?,
        data: options.data.clone(),
        base_port: options.base_port,
        profile: if matrix.is_some() { Profile::Wan } else { Profile::Lan },
        wan: matrix,
        ..ParadeOptions::default()
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
    use super::choose_zones;
    use crate::wan::Matrix;

    fn check(matrix: Option<&Matrix>, wanted: Option<usize>, held: Option<&str>) -> String {
        let held = held.map(|zone| vec![zone.parse().expect("a plain name")]);
        match choose_zones(matrix, wanted, held) {
            Ok(zones) => zones.iter().map(|zone| zone.as_str()).collect::<Vec<_>>().join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn zones_are_those_of_the_matrix_else_of_the_data_else_the_usual() {
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
        // The parade itself refuses another number of zones than its data is of.
        assert_eq!(check(None, Some(2), Some("x")), "eu us");
    }
}
