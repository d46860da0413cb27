//! `geo-load predict`: what the distances alone allow, before anything is started.

pub mod model;

use std::fmt;

use anyhow::{Context as _, ensure};
use comfy_table::{Cell, CellAlignment, Table, presets};
use pghc_wan::Matrix;
use serde::Serialize;

use self::model::{Commit, Model};

/// The voting zones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Voters {
    /// Every zone.
    #[default]
    All,
    /// The best set of this size.
    Count(usize),
    /// These zones.
    Named(Vec<String>),
}

/// Input of a prediction.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// Only this leader; `None`: every voter.
    pub leader: Option<String>,
    /// The voting zones.
    pub voters: Voters,
    /// Weights of the zones whose writes do not count 1.
    pub weights: Vec<(String, f64)>,
}

/// A row of the answer: a protocol and what it takes in each zone, in ms.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The protocol.
    pub protocol: String,
    /// The leader, if any.
    pub leader: Option<String>,
    /// In each zone.
    pub zones_ms: Vec<f64>,
    /// Over all zones by weight.
    pub mean_ms: f64,
    /// The mean against the limit's.
    pub ratio: f64,
    /// Least mean among the leaders of this protocol.
    pub best: bool,
}

/// The answer.
#[derive(Debug, Clone, Serialize)]
pub struct Prediction {
    /// The zones, in the order of the matrix.
    pub zones: Vec<String>,
    /// The voting zones.
    pub voters: Vec<String>,
    /// How many of them may be lost.
    pub survives: usize,
    /// The limit first, then pghc under each leader, then other protocols for comparison.
    pub rows: Vec<Row>,
}

/// Predicts.
///
/// # Errors
/// When a zone is not in the matrix, the leader does not vote, or there are too many sets of voters.
pub fn predict(matrix: &Matrix, question: &Question) -> anyhow::Result<Prediction> {
    let names: Vec<String> = matrix.zones().iter().map(ToString::to_string).collect();
    let place = |name: &String| {
        let found = names.iter().position(|zone| zone == name);
        found.with_context(|| format!("zone {name} is not in the latency matrix"))
    };
    let mut weights = vec![1.0; names.len()];
    for (name, weight) in &question.weights {
        ensure!(weight.is_finite() && *weight >= 0.0, "a weight of {weight} is not possible");
        weights[place(name)?] = *weight;
    }
    ensure!(weights.iter().sum::<f64>() > 0.0, "all weights are 0");
    let mut model = Model::new(matrix).with_weights(weights);
    let voters = match &question.voters {
        Voters::All => model.voters().to_vec(),
        Voters::Named(zones) => zones.iter().map(place).collect::<anyhow::Result<_>>()?,
        Voters::Count(count) => {
            let chosen = model.best_voters(Commit::AcksToAll, *count);
            chosen.map_err(anyhow::Error::msg)?
        }
    };
    ensure!(!voters.is_empty(), "a group needs a voter");
    // The limit is that of all zones voting: fewer voters are not a faster network.
    let limit = model.clone();
    model = model.with_voters(voters);
    let leaders = match &question.leader {
        Some(name) => vec![place(name)?],
        None => model.voters().to_vec(),
    };
    ensure!(leaders.iter().all(|leader| model.voters().contains(leader)), "a leader must vote");
    let rows = rows(&limit, &model, &leaders, &names);
    let voters = model.voters().iter().map(|voter| names[*voter].clone()).collect();
    Ok(Prediction { voters, survives: model.survives(), rows, zones: names })
}

fn rows(limit: &Model, model: &Model, leaders: &[usize], names: &[String]) -> Vec<Row> {
    let least = limit.mean(|zone| limit.limit(zone));
    let row = |protocol: &str, leader: Option<usize>, best: bool, of: &dyn Fn(usize) -> f64| Row {
        protocol: protocol.to_owned(),
        leader: leader.map(|leader| names[leader].clone()),
        zones_ms: (0..names.len()).map(of).collect(),
        mean_ms: model.mean(of),
        ratio: if least > 0.0 { model.mean(of) / least } else { 1.0 },
        best,
    };
    let mut rows =
        vec![row("limit: a majority of all zones has it", None, false, &|zone| limit.limit(zone))];
    for (commit, name) in [(Commit::LeaderPush, "leader tells"), (Commit::AcksToAll, "acks to all")]
    {
        let best = model.best_leader(commit);
        for leader in leaders {
            let time = |zone| model.raft(commit, *leader, zone);
            rows.push(row(name, Some(*leader), *leader == best, &time));
        }
    }
    rows.push(row("Clock-RSM, clocks in step", None, false, &|zone| model.clock_rsm(zone)));
    rows.push(row("Mencius, all zones busy", None, false, &|zone| model.mencius(zone)));
    rows
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        let heads = self.zones.iter().cloned().chain(["mean".to_owned(), "x limit".to_owned()]);
        let left = [Cell::new("protocol"), Cell::new("leader")];
        table.set_header(left.into_iter().chain(heads.map(right)));
        for row in &self.rows {
            let star = if row.best { " *" } else { "" };
            let leader = format!("{}{star}", row.leader.as_deref().unwrap_or("-"));
            let figures = row.zones_ms.iter().chain([&row.mean_ms]).map(|ms| format!("{ms:.1}"));
            let figures = figures.chain([format!("{:.2}", row.ratio)]).map(right);
            let left = [Cell::new(&row.protocol), Cell::new(leader)];
            table.add_row(left.into_iter().chain(figures));
        }
        writeln!(f, "{}", table.trim_fmt())?;
        writeln!(f, "voters {}; survives the loss of {}", self.voters.join(", "), self.survives)?;
        write!(
            f,
            "ms of network alone from accepted to applied in order in the writer's own zone; * best leader"
        )
    }
}

#[cfg(test)]
mod tests {
    use pghc_wan::Matrix;

    use super::{Question, Voters, predict};

    #[test]
    fn prediction_names_best_leader_with_limit_ratio() {
        let matrix = Matrix::find("aws3").expect("a built-in matrix");
        let answer = predict(&matrix, &Question::default()).expect("a good question");
        let best: Vec<_> = answer.rows.iter().filter(|row| row.best).collect();
        assert_eq!(best.len(), 2);
        assert!(best.iter().all(|row| row.leader.as_deref() == Some("us-east-1")));
        let ratios: Vec<String> = best.iter().map(|row| format!("{:.2}", row.ratio)).collect();
        assert_eq!(ratios, ["1.48", "1.00"]);
        let text = answer.to_string();
        assert!(text.contains("us-east-1 *") && text.contains("survives the loss of 1"), "{text}");
    }

    #[test]
    fn impossible_questions_are_refused() {
        let matrix = Matrix::find("aws5").expect("a built-in matrix");
        let ask = |leader: Option<&str>, voters: Voters, weights: &[(&str, f64)]| {
            let weights = weights.iter().map(|(zone, weight)| ((*zone).to_owned(), *weight));
            let leader = leader.map(str::to_owned);
            predict(&matrix, &Question { leader, voters, weights: weights.collect() })
        };
        let three = ask(None, Voters::Count(3), &[]).expect("three of five");
        assert_eq!(three.voters, ["us-west-1", "us-west-2", "us-east-1"]);
        assert!(ask(Some("eu-west-1"), Voters::Count(3), &[]).is_err(), "it does not vote");
        assert!(ask(Some("mars"), Voters::All, &[]).is_err());
        assert!(ask(None, Voters::Count(6), &[]).is_err());
        assert!(ask(None, Voters::All, &[("us-west-1", -1.0)]).is_err());
    }
}
