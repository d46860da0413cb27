//! Claims about scenarios: what is read, and what is refused before anything starts.

use super::Scenario;

const SMALL: &str = r#"
    name = "small"
    duration = "10s"
    [matrix]
    file = "aws3"
    [[clients]]
    zone = "*"
    rate = 10
"#;

#[test]
fn built_in_scenario_round_trips_through_toml() {
    for name in Scenario::built_in() {
        let scenario = Scenario::find(name, &[]).expect(name);
        assert_eq!(scenario.name, name);
        assert!(!scenario.about.is_empty(), "{name} says what it shows");
        let text = toml::to_string(&scenario).expect("a scenario is a TOML file");
        assert_eq!(Scenario::parse(&text, &[]).expect(&text), scenario, "{text}");
    }
}

#[test]
fn keys_can_be_set_from_outside() {
    let changes =
        ["duration=3s", "clients.0.rate=20", "cluster.leader=eu-west-1", "matrix.loss=0.01"];
    let scenario = Scenario::parse(SMALL, &changes.map(str::to_owned)).expect("good changes");
    assert_eq!(scenario.duration.0.as_secs(), 3);
    assert!((scenario.clients[0].rate - 20.0).abs() < 1e-9);
    assert_eq!(scenario.cluster.leader.as_deref(), Some("eu-west-1"));
    assert!((scenario.matrix.loss - 0.01).abs() < 1e-9);
}

#[test]
fn impossible_scenario_is_refused_before_start() {
    for (bad, says) in [
        ("duration=0s", "above 0"),
        ("duration=fast", "not a duration"),
        ("speed=1", "unknown field"),
        ("clients.0.zone=mars", "no zone"),
        ("clients.0.rate=0", "rate"),
        ("clients.0.users=4", "no users"),
        ("clients.3.users=4", "no item"),
        ("clients.0.arrival=closed", "users"),
        ("cluster.leader=mars", "no zone"),
        ("matrix.loss=2", "loss"),
        ("fault=[{at='1s', kill='coordinator@leader'}]", "an end"),
        ("fault=[{at='1s', for='1s'}]", "exactly one"),
        ("fault=[{at='9s', for='2s', kill='api@leader'}]", "after the run"),
        ("phase=[{at='1s', step=1, burst=2}]", "a phase is one of"),
        ("phase=[{at='1s', sine=[1, 2]}]", "a phase is one of"),
        ("cluster.voters=['mars']", "no zone"),
        ("cluster={leader='us-east-1', voters=['eu-west-1']}", "does not vote"),
    ] {
        let error = Scenario::parse(SMALL, &[bad.to_owned()]).expect_err(bad);
        assert!(format!("{error:#}").contains(says), "{bad}: {error:#}");
    }
}
