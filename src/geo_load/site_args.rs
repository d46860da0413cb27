//! Arguments of `geo-load` that say which deployment is driven, and how the report is printed.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use pghc_lab::site::SiteOptions;
use pghc_runtime::output;

#[derive(Debug, Args)]
pub(super) struct SiteArgs {
    /// Drive the running deployment of this parade.json (or the directory that holds it) instead of an
    /// own one
    #[arg(long, value_name = "FILE", env = "PGHC_LOAD_AGAINST",
          conflicts_with_all = ["zones", "wan", "data", "base_port"])]
    pub(super) against: Option<PathBuf>,
    /// Drive the running deployment of these API nodes, one or more for each zone, instead of an own one
    #[arg(long, value_name = "ZONE=URL", value_parser = target,
          conflicts_with_all = ["against", "zones", "wan", "data", "base_port"])]
    pub(super) target: Vec<(String, String)>,
    /// Zones of the own deployment [default: those of --data, else 3]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=9), env = "PGHC_LOAD_ZONES")]
    pub(super) zones: Option<u8>,
    /// Emulate the distances of this matrix, and use its zones: aws3, aws5, aws9, or a CSV file of
    /// round trips in ms with a header `zone,<z1>,<z2>,…`
    #[arg(long, value_name = "MATRIX", env = "PGHC_LOAD_WAN")]
    pub(super) wan: Option<String>,
    /// Keep the own deployment's data in this directory [default: a temporary one]
    #[arg(long, value_name = "DIR", env = "PGHC_LOAD_DATA")]
    data: Option<PathBuf>,
    /// First port of the own deployment [default: any free ones]
    #[arg(long, value_name = "PORT", env = "PGHC_LOAD_BASE_PORT")]
    base_port: Option<u16>,
    /// How the report is printed
    #[arg(long, value_enum, default_value_t = Format::Table, env = "PGHC_LOAD_FORMAT")]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

fn target(text: &str) -> Result<(String, String), String> {
    let (zone, url) = text.split_once('=').ok_or("want ZONE=http://host:port")?;
    Ok((zone.to_owned(), url.to_owned()))
}

impl SiteArgs {
    pub(super) fn options(&self) -> SiteOptions {
        SiteOptions {
            against: self.against.clone(),
            zones: self.zones.map(usize::from),
            wan: self.wan.clone(),
            data: self.data.clone(),
            base_port: self.base_port,
            targets: self.target.clone(),
        }
    }

    /// A scenario says itself which zones there are and how far apart.
    pub(super) fn refuse_shape(&self) -> anyhow::Result<()> {
        if self.zones.is_some() || self.wan.is_some() {
            bail!(
                "the scenario says which zones there are; use --set matrix.zones=N or matrix.file"
            );
        }
        Ok(())
    }

    pub(super) fn print(
        &self,
        report: &(impl std::fmt::Display + serde::Serialize),
    ) -> anyhow::Result<()> {
        self.format.print(report)
    }
}

impl Format {
    pub(super) fn print(
        self,
        report: &(impl std::fmt::Display + serde::Serialize),
    ) -> anyhow::Result<()> {
        match self {
            Self::Table => output::print(&report.to_string()),
            Self::Json => output::print(&serde_json::to_string_pretty(report)?),
        }
        Ok(())
    }
}
