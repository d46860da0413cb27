//! The parade of a run: one of its own, started for it and stopped after it, or one that runs
//! already and is left as it is.

use std::path::PathBuf;
use std::time::Duration;

use super::target::Target;
use crate::dev::parade::{Parade, ParadeOptions, Profile, default_zones};
use crate::wan::{Matrix, Wan};

/// Longest wait until a new parade serves.
const READY_MAX: Duration = Duration::from_secs(90);

/// Where a run takes place.
#[derive(Debug, Clone, Default)]
pub struct SiteOptions {
    /// `parade.json` of a running parade, or the directory that holds it; `None`: an own one.
    pub against: Option<PathBuf>,
    /// Zones of an own parade; `None`: all of the matrix, three without one.
    pub zones: Option<usize>,
    /// Latency matrix of an own parade; its zones give their names.
    pub wan: Option<PathBuf>,
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
        self.own.as_ref().and_then(Parade::emulator)
    }

    /// Stops an own parade; leaves another alone.
    pub async fn close(self) {
        if let Some(parade) = &self.own {
            parade.stop().await;
        }
    }
}

fn parade_options(options: &SiteOptions) -> anyhow::Result<ParadeOptions> {
    let mut own = ParadeOptions {
        data: options.data.clone(),
        base_port: options.base_port,
        ..ParadeOptions::default()
    };
    match &options.wan {
        Some(path) => {
            let matrix = Matrix::read(path)?;
            let wanted = options.zones.unwrap_or(matrix.zones().len());
            let cut = matrix.first(wanted);
            anyhow::ensure!(
                cut.zones().len() == wanted,
                "{} has {} zones, not {wanted}",
                path.display(),
                matrix.zones().len()
            );
            own.zones = cut.zones().to_vec();
            own.profile = Profile::Wan;
            own.wan = Some(cut);
        }
        None => own.zones = default_zones(options.zones.unwrap_or(3)),
    }
    Ok(own)
}
