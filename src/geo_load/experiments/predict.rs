//! `geo-load predict`: limits and predictions for a matrix; nothing is started.

use clap::Args;
use pghc_lab::predict::{Question, Voters, predict};
use pghc_runtime::output;
use pghc_wan::Matrix;

/// Arguments of `geo-load predict`.
#[derive(Debug, Args)]
pub(crate) struct Predict {
    /// aws3, aws5, aws9, azure48, or a CSV file of round trips in ms
    matrix: String,
    /// Only this leader [default: every voter]
    #[arg(long, value_name = "ZONE")]
    leader: Option<String>,
    /// How many voters, the best ones, or which zones, with commas [default: all]
    #[arg(long, value_name = "N|ZONES")]
    voters: Option<String>,
    /// How much a zone's writes count, such as eu-west-1=8,us-east-1=1 [default: 1 each]
    #[arg(long, value_name = "ZONE=WEIGHT", value_delimiter = ',', value_parser = weight)]
    weights: Vec<(String, f64)>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

fn weight(text: &str) -> Result<(String, f64), String> {
    let (zone, weight) = text.split_once('=').ok_or("want ZONE=WEIGHT")?;
    let weight = weight.parse().map_err(|_| format!("{weight:?} is not a number"))?;
    Ok((zone.to_owned(), weight))
}

impl Predict {
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let matrix = Matrix::find(&self.matrix)?;
        let voters = match self.voters.as_deref().map(|text| (text, text.parse())) {
            None => Voters::All,
            Some((_, Ok(count))) => Voters::Count(count),
            Some((text, Err(_))) => Voters::Named(text.split(',').map(str::to_owned).collect()),
        };
        let question =
            Question { leader: self.leader.clone(), voters, weights: self.weights.clone() };
        let answer = predict(&matrix, &question)?;
        if self.json {
            output::print(&serde_json::to_string_pretty(&answer)?);
        } else {
            output::print(&answer.to_string());
        }
        Ok(true)
    }
}
