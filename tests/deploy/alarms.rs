//! The alarms use existing metrics, have a paragraph in the runbook, and fire only in their own
//! case: `promtool test rules` where Prometheus is installed (`scripts/prepare --guide`).

use std::collections::BTreeSet;
use std::process::Command;

use pghc_runtime::telemetry::Metrics;

use super::deploy;

fn names_of_alarms(alerts: &str) -> Vec<&str> {
    alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn every_metric_that_an_alarm_stands_on_exists() {
    let (node, coordinator) = (Metrics::for_api_node(&["other"]), Metrics::for_coordinator());
    // These metrics exist once a zone is known.
    node.zone.can_read_of("us").set(1);
    coordinator.coordinator.detached("us").set(0);
    let exposed = node.exposition() + &coordinator.exposition();
    let exists = |name: &str| {
        let sample = |line: &str| line.split([' ', '{']).next() == Some(name);
        exposed.lines().any(sample)
    };
    let alerts = deploy("prometheus/alerts.yaml");
    let runbook = deploy("README.md");
    let word = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
    let names: BTreeSet<&str> =
        alerts.split(word).filter(|word| word.starts_with("pghc_")).collect();
    assert!(names.len() > 10, "{names:?}");
    let unit = deploy("systemd/pghc-verify.service");
    for name in names {
        assert!(exists(name) || unit.contains(name), "{name} is not among\n{exposed}");
    }
    for alert in names_of_alarms(&alerts) {
        assert!(runbook.contains(&format!("**{alert}**")), "the runbook says nothing of {alert}");
    }
}

#[test]
fn alarm_has_a_firing_case_besides_a_silent_one() {
    let (alerts, cases) = (deploy("prometheus/alerts.yaml"), deploy("prometheus/alerts.test.yaml"));
    for alert in names_of_alarms(&alerts) {
        let silent = |line: &str| {
            line.contains(&format!("alertname: {alert},")) && line.contains("exp_alerts: []")
        };
        assert!(cases.lines().any(silent), "{alert} has no silent case");
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          - exp_labels");
        assert!(cases.contains(&fires), "{alert} has no firing case");
    }
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus");
    let promtool =
        |words: &[&str]| Command::new("promtool").args(words).current_dir(folder).output();
    let Ok(output) = promtool(&["test", "rules", "alerts.test.yaml"]) else {
        eprintln!("not run: promtool is not installed (scripts/prepare --guide)");
        return;
    };
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    let output = promtool(&["check", "config", "prometheus.yml"]).expect("it ran just now");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}
