//! `geo-load net`: looking at and changing the distances of a running deployment.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use pghc_lab::net::{NetTable, Remote};
use pghc_runtime::output;
use pghc_wan::conditions::{Bandwidth, Change, Jitter, parse_duration};
use pghc_wan::line::How;
use pghc_wan::{Cut, Way};

/// Arguments of `geo-load net`.
#[derive(Debug, Args)]
pub(crate) struct Net {
    /// The running deployment: its parade.json or the directory that holds it
    #[arg(long, value_name = "FILE", env = "PGHC_LOAD_AGAINST", global = true)]
    against: Option<PathBuf>,
    /// URL of the emulator, instead of --against; `pghc dev` and parade.json name it
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Show every direction, the cuts, and how exact the emulator is
    Show,
    /// Change the conditions from one zone to another; `*` means all zones
    Set {
        /// Zone, or *
        from: String,
        /// Zone, or *
        to: String,
        /// One-way delay in ms
        #[arg(long)]
        delay_ms: Option<f64>,
        /// `none`, `uniform 2ms` or `lognormal 0.5ms` (its median)
        #[arg(long)]
        jitter: Option<Jitter>,
        /// Share of TCP segments that are lost, 0 to 0.5
        #[arg(long)]
        loss: Option<f64>,
        /// `unlimited`, or a rate such as 100Mbit, for all connections together
        #[arg(long)]
        bandwidth: Option<Bandwidth>,
    },
    /// Cut everything between two groups of zones
    Cut {
        /// Zones, with commas
        #[arg(value_delimiter = ',', required = true)]
        from: Vec<String>,
        /// Zones, with commas [default: all others]
        #[arg(long, value_delimiter = ',')]
        to: Vec<String>,
        /// Which way
        #[arg(long, value_enum, default_value_t = WayArg::Both)]
        way: WayArg,
        /// Silence, or reset: connections break and new ones are refused
        #[arg(long, value_enum, default_value_t = HowArg::Silence)]
        how: HowArg,
        /// Heal it after this long, waiting here
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        lasting: Option<Duration>,
    },
    /// Heal a cut
    Heal {
        /// Its number [default: all]
        number: Option<u64>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum WayArg {
    Both,
    Out,
    In,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum HowArg {
    Silence,
    Reset,
}

impl Net {
    pub(crate) async fn run(&self) -> anyhow::Result<bool> {
        let remote = match (&self.url, &self.against) {
            (Some(url), _) => Remote::at(url),
            (None, Some(path)) => Remote::of(path)?,
            (None, None) => {
                anyhow::bail!("name the deployment by --against or its emulator by --url")
            }
        };
        match &self.act {
            Act::Show => output::print(&NetTable(remote.show().await?).to_string()),
            Act::Set { from, to, delay_ms, jitter, loss, bandwidth } => {
                let change = Change {
                    delay_ms: *delay_ms,
                    jitter: *jitter,
                    loss: *loss,
                    bandwidth: *bandwidth,
                };
                anyhow::ensure!(!change.is_empty(), "nothing to change was named");
                remote.set(from, to, &change).await?;
                output::print(&format!("changed {from} to {to}"));
            }
            Act::Cut { from, to, way, how, lasting } => {
                let to = if to.is_empty() { vec!["*".to_owned()] } else { to.clone() };
                let (way, how) = (Way::from(*way), How::from(*how));
                let number = remote.cut(&Cut { from: from.clone(), to, way, how }).await?;
                output::print(&format!("cut {number} is made"));
                if let Some(lasting) = lasting {
                    // Interrupted or not, the cut does not outlive this command.
                    tokio::select! {
                        () = tokio::time::sleep(*lasting) => {}
                        _ = tokio::signal::ctrl_c() => {}
                    }
                    remote.heal(Some(number)).await?;
                    output::print(&format!("cut {number} is healed"));
                }
            }
            Act::Heal { number } => {
                let healed = remote.heal(*number).await?;
                if let Some(number) = number.filter(|_| healed == 0) {
                    anyhow::bail!("there is no cut {number}; `geo-load net show` lists them");
                }
                output::print(&format!("{healed} healed"));
            }
        }
        Ok(true)
    }
}

impl From<WayArg> for Way {
    fn from(way: WayArg) -> Self {
        match way {
            WayArg::Both => Self::Both,
            WayArg::Out => Self::Out,
            WayArg::In => Self::In,
        }
    }
}

impl From<HowArg> for How {
    fn from(how: HowArg) -> Self {
        match how {
            HowArg::Silence => Self::Silence,
            HowArg::Reset => Self::Reset,
        }
    }
}
