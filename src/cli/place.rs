//! `pghc place`: which zones should vote, and which should lead, for given distances.
//!
//! Nothing is changed. Exit codes: 0 answered, 1 cannot be answered, 2 wrong usage or nothing answers.

use std::process::ExitCode;

use clap::Args;
use pghc_runtime::geo::choose::{self, Choice};
use pghc_runtime::geo::model::{Commit, Model};
use pghc_runtime::geo::topology::Topology;
use pghc_runtime::program::USAGE;
use pghc_server::coordinator::topology;
use pghc_wan::Matrix;

use super::reach::{Failure, Reach};
use super::view;

/// Number of voter sets shown of each size, with a given size and without.
const SHOWN: usize = 5;
const SHOWN_OF_EACH: usize = 2;

/// Arguments of `pghc place`.
#[derive(Debug, Args)]
pub struct Arguments {
    /// aws3, aws5, aws9, azure48, or a CSV file of round trips in ms; without it the group that is
    /// named is measured
    #[arg(long, value_name = "MATRIX", conflicts_with_all = ["against", "coordinator", "config", "context"])]
    matrix: Option<String>,
    /// How many zones vote [default: 3, 5 and all]
    #[arg(long, value_name = "N")]
    voters: Option<usize>,
    /// How much a zone's writes count, such as eu-west-1=8,us-east-1=1 [default: 1 each for a
    /// matrix, what is measured for a group]
    #[arg(long, value_name = "ZONE=WEIGHT", value_delimiter = ',', value_parser = weight)]
    weights: Vec<(String, f64)>,
    #[command(flatten)]
    reach: Reach,
}

fn weight(text: &str) -> Result<(String, f64), String> {
    let (zone, weight) = text.split_once('=').ok_or("want ZONE=WEIGHT")?;
    let number = weight.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    Ok((zone.to_owned(), number.ok_or_else(|| format!("{weight:?} is not a number from 0 on"))?))
}

/// Input of a placement: distances, weights and names.
struct Question {
    names: Vec<String>,
    model: Model,
    weights: Vec<f64>,
}

/// Answers.
pub async fn run(arguments: Arguments) -> ExitCode {
    let (why, code) = match question(&arguments).await.and_then(|it| answer(it, &arguments)) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Refused(why)) => (why, 1),
        Err(Failure::Unreached(why)) => (why, USAGE),
    };
    view::complain(&format!("pghc: {why}"));
    ExitCode::from(code)
}

async fn question(arguments: &Arguments) -> Result<Question, Failure> {
    let mut question = match &arguments.matrix {
        Some(name) => {
            let matrix =
                Matrix::find(name).map_err(|error| Failure::Refused(view::error(&error)))?;
            let names: Vec<String> = matrix.zones().iter().map(ToString::to_string).collect();
            let weights = vec![1.0; names.len()];
            Question { model: Model::new(&matrix), names, weights }
        }
        None if !arguments.reach.is_named() && arguments.reach.named().is_err() => {
            let why =
                "say which distances: --matrix aws9, or --against DIR for a running deployment";
            return Err(Failure::Unreached(why.to_owned()));
        }
        None => measured(&topology(&arguments.reach.view().await?.1).0)?,
    };
    for (zone, weight) in &arguments.weights {
        let place = question.names.iter().position(|name| name == zone);
        let place = place.ok_or_else(|| Failure::Refused(format!("there is no zone {zone:?}")))?;
        question.weights[place] = *weight;
    }
    if question.weights.iter().sum::<f64>() <= 0.0 {
        return Err(Failure::Refused("all weights are 0".to_owned()));
    }
    question.model = question.model.with_weights(question.weights.clone());
    Ok(question)
}

/// The coordinators that reach each other, with the writes that enter there.
fn measured(topology: &Topology) -> Result<Question, Failure> {
    let count = topology.sites().len();
    let reached = |place: &usize| {
        (0..count).any(|other| other != *place && topology.round_trip_ms(*place, other).is_some())
    };
    let kept: Vec<usize> = (0..count).filter(reached).collect();
    let sites: Vec<_> = kept.iter().map(|place| topology.sites()[*place].clone()).collect();
    for site in topology.sites().iter().filter(|site| sites.iter().all(|kept| kept.id != site.id)) {
        view::print(&format!("coordinator {} in {} is silent and left out", site.id, site.zone));
    }
    let place = |id: u64| topology.sites().iter().position(|site| site.id == id);
    let cut = Topology::new(sites, |a, b| topology.round_trip_ms(place(a)?, place(b)?));
    let missing =
        (0..kept.len()).any(|a| (0..kept.len()).any(|b| cut.round_trip_ms(a, b).is_none()));
    if kept.is_empty() || missing {
        let why = "not every round trip is measured yet; ask again in some seconds";
        return Err(Failure::Refused(why.to_owned()));
    }
    let names = cut.sites().iter().map(|site| site.zone.clone()).collect();
    let weights = match cut.is_weighted() {
        true => cut.sites().iter().map(|site| site.writes_per_s).collect(),
        false => vec![1.0; kept.len()],
    };
    Ok(Question { names, model: Model::new(&cut), weights })
}

fn answer(question: Question, arguments: &Arguments) -> Result<(), Failure> {
    let Question { names, model, weights } = question;
    let limit_ms = model.mean(|zone| model.limit(zone));
    let mut sizes = match arguments.voters {
        Some(count) => vec![count],
        None => vec![3, 5, names.len()],
    };
    sizes.retain(|size| arguments.voters.is_some() || *size <= names.len());
    sizes.dedup();
    let shown = if sizes.len() == 1 { SHOWN } else { SHOWN_OF_EACH };
    let mut table = view::table(&[
        "voters",
        "survives",
        "zones (> leads)",
        "mean",
        "worst",
        "x limit",
        "without acks",
    ]);
    for size in sizes {
        let found = choose::voters(&model, Commit::AcksToAll, size, shown);
        let (choices, is_whole) = found.map_err(Failure::Refused)?;
        if !is_whole {
            view::print(&format!(
                "there are more than {} sets of {size} voters: searched in steps",
                choose::SETS_MAX
            ));
        }
        for choice in choices {
            table.add_row(row(&choice, &names, &model, limit_ms));
        }
    }
    view::print(&table.to_string());
    view::print(&format!(
        "limit with all {} zones voting: mean {limit_ms:.1} ms; ms of network alone, by weight, voters \
         telling all zones of commits; survives so many lost zones",
        names.len()
    ));
    if weights.iter().any(|weight| (weight - weights[0]).abs() > 1e-9) {
        let weight = |(name, weight): (&String, &f64)| format!("{name}={weight:.1}");
        let all: Vec<String> = names.iter().zip(&weights).map(weight).collect();
        view::print(&format!("weights: {}", all.join(", ")));
    }
    Ok(())
}

fn row(choice: &Choice, names: &[String], model: &Model, limit_ms: f64) -> [String; 7] {
    let name = |place: &usize| {
        let mark = if *place == choice.leader { ">" } else { "" };
        format!("{mark}{}", names[*place])
    };
    let zones: Vec<String> = choice.voters.iter().map(name).collect();
    let pushed = model.clone().with_voters(choice.voters.clone());
    let push_leader = pushed.best_leader(Commit::LeaderPush);
    let (push_ms, _) = pushed.score(Commit::LeaderPush, push_leader);
    let ratio = if limit_ms > 0.0 { choice.mean_ms / limit_ms } else { 1.0 };
    [
        choice.voters.len().to_string(),
        choice.survives().to_string(),
        zones.join(" "),
        format!("{:.1}", choice.mean_ms),
        format!("{:.1}", choice.worst_ms),
        format!("{ratio:.2}"),
        format!("{push_ms:.1} ({} leads)", names[push_leader]),
    ]
}
